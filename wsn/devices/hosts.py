"""One run over several processes (hosts): process 0 is the leader, the others are followers.

The leader runs the experiment as a single process would: it alone locks, reads, decides, writes and draws. It sends
every group to the followers, which train it with the leader, so that all processes launch the same programs in the same
order. In a run of one process the functions below return at once.
"""

import contextlib
import enum
import importlib.util
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from wsn.errors import UserError


def join(mode: str, coordinator: str | None, process_id: int | None, num_processes: int | None) -> None:
    """Make this process part of a run over several; call it before anything else of JAX.

    `mode` "on": what is not given comes from Slurm, the TPU pod or Kubernetes (jax.distributed.initialize).
    "auto": as "on" if `srun` started several tasks or on a TPU machine, else only if all three are given.
    "off": never. Raises UserError if the processes cannot connect.
    """
    given = (coordinator, num_processes, process_id)
    if mode == "off":
        return
    if any(value is not None for value in given):
        if coordinator is None or process_id is None or num_processes is None or not is_address(coordinator):
            raise UserError(
                "`coordinator`, `process_id` and `num_processes`: give all three, as in"
                " `coordinator=HOST:PORT`, `process_id=0`, `num_processes=2` (process 0 runs on HOST)"
            )
        if process_id >= num_processes:
            raise UserError(
                f"`process_id={process_id}` is too large: give less than `num_processes={num_processes}`"
            )
    elif mode == "auto" and not started_as_several():
        return
    else:
        _check_slurm(mode)
    try:
        jax.distributed.initialize(
            *given,
            cluster_detection_method="deactivate" if coordinator else None,
            shutdown_timeout_seconds=60,
        )
    except (ValueError, RuntimeError, LookupError, OSError) as error:
        raise UserError(
            f"`distributed={mode}`: cannot join the other processes ({str(error).splitlines()[0]}):"
            " give `coordinator=HOST:PORT`, `process_id` and `num_processes`, or `distributed=off`"
        ) from error


def _check_slurm(mode: str) -> None:
    """Raises UserError for variables of Slurm that `jax.distributed` would fail on, or wait for ever."""
    if "SLURM_JOB_ID" not in os.environ:
        return
    remedy = f"start it by `srun`, or give `distributed=off` in place of `distributed={mode}`"
    numbers = {}
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"):
        numbers[name] = os.environ.get(name, "")
        if not numbers[name].isdecimal():
            raise UserError(f"{name}={numbers[name]} is not a number: {remedy}")
    if not int(numbers["SLURM_PROCID"]) < int(numbers["SLURM_NTASKS"]):
        raise UserError(f"SLURM_PROCID={numbers['SLURM_PROCID']} is not below SLURM_NTASKS: {remedy}")
    if not os.environ.get("SLURM_STEP_NODELIST", "").strip():
        raise UserError(f"SLURM_STEP_NODELIST is empty: {remedy}")


def is_address(coordinator: str) -> bool:
    """Whether it is HOST:PORT with a valid port."""
    host, _, port = coordinator.rpartition(":")
    return bool(host) and port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 2**16


def started_as_several() -> bool:
    """Whether `srun` started several tasks, or this machine has TPU chips and the library for them."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    return (tasks.isdecimal() and int(tasks) > 1) or (
        importlib.util.find_spec("libtpu") is not None and has_chips(Path("/dev"))
    )


def has_chips(dev: Path) -> bool:
    """Whether the folder of devices has TPU chips: accel0, … (to v4) or vfio/0, … (from v5)."""
    return any([*dev.glob("accel[0-9]*"), *dev.glob("vfio/[0-9]*")])


def is_leader() -> bool:
    """Whether this is process 0, or the only one."""
    return is_single_process() or jax.process_index() == 0


def broadcast(message: Any = None) -> Any:
    """The leader's message, on every process. Followers pass nothing, and wait for it."""
    if is_single_process():
        return message
    content = np.frombuffer(pickle.dumps(message), np.uint8) if is_leader() else np.empty(0, np.uint8)
    high, low = multihost_utils.broadcast_one_to_all(np.array(divmod(content.size, 2**32), np.uint32))
    if not is_leader():
        content = np.zeros(int(high) * 2**32 + int(low), np.uint8)
    return pickle.loads(multihost_utils.broadcast_one_to_all(content).tobytes())


def any_process(flag: bool) -> bool:
    """Whether the flag is true on any process. Every process must call this at the same point."""
    return bool(_maximum(int(flag)))


class Action(enum.IntEnum):
    """What to do after an evaluation."""

    CONTINUE, SAVE, STOP, ABORT = range(4)  # STOP saves, ABORT does not


def agree(action: Action) -> Action:
    """The largest `Action` of all processes, which must call this at the same point.

    Saving is agreed upon because the state is cut over the processes: gathering it needs all of them.
    """
    return Action(_maximum(action))


@contextlib.contextmanager
def followers_stop_on_error() -> Iterator[None]:
    """On the leader: an exception in the block answers the followers' next `agree` with ABORT, so that none waits."""
    try:
        yield
    except BaseException:
        agree(Action.ABORT)
        raise


def _maximum(number: int) -> int:
    return number if is_single_process() else int(multihost_utils.process_allgather(np.array(number)).max())


def is_single_process() -> bool:
    """Whether this process runs by itself."""
    return not jax.distributed.is_initialized() or jax.process_count() == 1
