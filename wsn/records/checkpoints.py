"""Checkpoints of a group, by orbax: the state and the history after some steps; the newest two are kept.

FOLDER/STEPS          written by orbax, renamed into place when it is complete
FOLDER/STEPS.sha256   the checksum of its files and the name of its group, written last: orbax misses a flipped bit
"""

import contextlib
import hashlib
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from absl import logging

from wsn import stored
from wsn.stored import replacing, writing
from wsn.training.history import EMPTY, History, Snapshot


def save(folder: Path, steps: int, snapshot: Snapshot, group: str = "") -> None:
    """Write the checkpoint of a group after that many steps; keep the one before, and remove everything else.

    Raises UserError if the folder cannot be written or the disk is full; then earlier checkpoints stay.
    """
    path = folder / str(steps)
    history = snapshot.history
    tree = {"state": snapshot.state, "history": history.curves, "step": history.step}
    with (
        writing(path, (OSError, ValueError, RuntimeError)),
        _without_logs(),
    ):  # TensorStore raises the last two
        _checkpointer().save(path.absolute(), tree, force=True)
    with replacing(_checksum_path(path)) as file:
        file.write(f"{_checksum(path)} {group}".strip())
    keep = [path, *(folder / str(number) for number in _steps(folder) if number < steps)][:2]
    names = {name for path in keep for name in (path.name, _checksum_path(path).name)}
    for other in folder.iterdir():
        if other.name not in names:
            shutil.rmtree(other) if other.is_dir() else other.unlink()


def load(folder: Path, group: str = "") -> Snapshot | None:
    """The newest intact checkpoint of the group, or None. Warns of checkpoints that are corrupt or another group's."""
    numbers = _steps(folder)
    for number in numbers:
        path = folder / str(number)
        try:
            checksum, _, owner = stored.read(_checksum_path(path)).partition(" ")
            if owner not in ("", group):  # wsn 0.1 did not write it
                raise ValueError(f"it is of the group {owner}")
            if checksum != _checksum(path):
                raise ValueError("checksum mismatch")
            tree = _checkpointer().restore(path.absolute())
            # In wsn 0.1 the history had no steps.
            return Snapshot(tree["state"], History(tree.get("step", EMPTY.step), tree["history"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
        logging.warning("%s: corrupt checkpoint, resuming from the one before (%s)", path, reason)
    if numbers:
        logging.warning("%s: no checkpoint is intact, starting from the first step", folder)
    return None


def _steps(folder: Path) -> list[int]:
    """Steps of the checkpoints, newest first."""
    return sorted((int(path.stem) for path in folder.glob("*.sha256") if path.stem.isdecimal()), reverse=True)


def _checksum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _checksum(path: Path) -> str:
    """SHA-256 of the names and contents of the files of a checkpoint."""
    total = hashlib.sha256()
    for place in sorted(place for place in path.rglob("*") if place.is_file()):
        with open(place, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{place.relative_to(path)} {content}\n".encode())
    return total.hexdigest()


@cache
def _checkpointer() -> Any:
    """Orbax for this process alone: in a run over several processes it waits for no other."""
    import orbax.checkpoint as ocp  # here: it takes half a second, too long for a dry run

    options = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="wsn"
    )
    _hide_abandoned_writes()
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _hide_abandoned_writes() -> None:
    """When one write of orbax fails, the others find their event loop closed, and each would print a traceback."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook


@contextlib.contextmanager
def _without_logs() -> Iterator[None]:
    """Orbax logs a traceback before it raises an exception."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
