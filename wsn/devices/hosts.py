"""One run over several processes (hosts): process 0 leads, the others follow.

The leader runs the experiment as a single process would: it alone claims, reads, decides, writes and draws. The
followers train what it tells them, so that every process launches the same programs in the same order. With one
process the leader has no followers, and the functions below cost nothing.
"""

import contextlib
import enum
import importlib.util
import os
import pickle
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from wsn.errors import UserError


def join(mode: str, coordinator: str | None, process_id: int | None, num_processes: int | None) -> None:
    """Make this process one of a run over several; call it before anything else of JAX.

    `mode` "on": what is not given is found out from Slurm, the TPU pod or Kubernetes (jax.distributed.initialize).
    "auto": the same where `srun` started several tasks or on a TPU machine, else only when all three are given.
    "off": never. Raises UserError when the processes cannot find each other.
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
    try:
        jax.distributed.initialize(
            *given,
            cluster_detection_method="deactivate" if coordinator else None,
            shutdown_timeout_seconds=60,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"`distributed={mode}`: cannot join the other processes ({str(error).splitlines()[0]}):"
            " give `coordinator=HOST:PORT`, `process_id` and `num_processes`, or `distributed=off`"
        ) from error


def is_address(coordinator: str) -> bool:
    """Whether it is HOST:PORT, with a port that there may be."""
    host, _, port = coordinator.rpartition(":")
    return bool(host) and port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 2**16


def started_as_several() -> bool:
    """Whether `srun` started several tasks, or this is a TPU machine."""
    return (
        int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 or importlib.util.find_spec("libtpu") is not None
    )


def is_leader() -> bool:
    """Whether this process leads: process 0, or the only one."""
    return _alone() or jax.process_index() == 0


def broadcast(message: Any = None) -> Any:
    """What the leader passes, on every process. Followers pass nothing, and wait for it."""
    if _alone():
        return message
    content = np.frombuffer(pickle.dumps(message), np.uint8) if is_leader() else np.empty(0, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.uint32(content.size)))
    if not is_leader():
        content = np.zeros(size, np.uint8)
    return pickle.loads(multihost_utils.broadcast_one_to_all(content).tobytes())


def any_process(flag: bool) -> bool:
    """Whether the flag is true on any process; every process calls this at the same point and gets the same."""
    return bool(_largest(int(flag)))


class Action(enum.IntEnum):
    """What to do after an evaluation."""

    CONTINUE, SAVE, STOP, ABORT = range(4)  # STOP saves, ABORT does not


def agree(action: Action) -> Action:
    """The last in the list of `Action` that any process wants; every process calls this at the same point.

    A state that is cut over processes can be saved by all of them together only.
    """
    return Action(_largest(action))


def _largest(number: int) -> int:
    return number if _alone() else int(multihost_utils.process_allgather(np.array(number)).max())


@contextlib.contextmanager
def followers_stop_on_error() -> Iterator[None]:
    """On the leader: an exception in the block answers the followers' next `agree` with ABORT, so that none waits."""
    try:
        yield
    except BaseException:
        agree(Action.ABORT)
        raise


def _alone() -> bool:
    return not jax.distributed.is_initialized() or jax.process_count() == 1
