"""Checkpoints of a group, by orbax: the newest two, so that one may be damaged.

FOLDER/STEPS          what orbax writes beside its place and renames when it is whole
FOLDER/STEPS.sha256   the digest of its files, and whose they are, written last: orbax does not notice a flipped bit
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
from wsn.stored import cannot_write, replacing
from wsn.training.history import EMPTY, History, Snapshot


def save(folder: Path, steps: int, snapshot: Snapshot, owner: str = "") -> None:
    """Write the checkpoint after that many steps; keep the one before it, remove everything else in the folder.

    `owner` is the name of the group: nobody else will go on from it.

    Raises UserError when the folder cannot be written or the disk is full; earlier checkpoints are left then.
    """
    path = folder / str(steps)
    try:
        with _silent():
            _checkpointer().save(path.absolute(), _tree(snapshot), force=True)
    except (OSError, ValueError, RuntimeError) as error:  # TensorStore raises its own kinds of the last two
        raise cannot_write(path, error) from error
    with replacing(_digest_path(path)) as file:
        file.write(" ".join(filter(None, (_digest(path), owner))))
    before = [number for number in _written(folder) if number < steps][:1]
    keep = {file.name for number in (steps, *before) for file in _files(folder, number)}
    for other in folder.iterdir():
        if other.name not in keep:
            shutil.rmtree(other) if other.is_dir() else other.unlink()


def load(folder: Path, owner: str = "") -> Snapshot | None:
    """The newest whole checkpoint of that group, or None; a warning says which ones are damaged or another's."""
    numbers = _written(folder)
    for number in numbers:
        path = folder / str(number)
        try:
            digest, _, whose = stored.read(_digest_path(path)).partition(" ")
            if digest == _digest(path) and whose in ("", owner):  # older versions did not say whose
                return _snapshot(_checkpointer().restore(path.absolute()))
            reason = "its digest is another" if whose in ("", owner) else f"it is of {whose}"
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
        logging.warning("%s: damaged checkpoint, going on from the one before (%s)", path, reason)
    if numbers:
        logging.warning("%s: no checkpoint is whole, starting from the first step", folder)
    return None


def _tree(snapshot: Snapshot) -> dict[str, Any]:
    return {"state": snapshot.state, "history": snapshot.history.curves, "step": snapshot.history.step}


def _snapshot(tree: dict[str, Any]) -> Snapshot:
    """The inverse of `_tree`; before 0.2 a checkpoint did not say the steps of its rows."""
    return Snapshot(tree["state"], History(tree.get("step", EMPTY.step), tree["history"]))


def _written(folder: Path) -> list[int]:
    """Steps of the checkpoints, newest first."""
    return sorted((int(path.stem) for path in folder.glob("*.sha256") if path.stem.isdecimal()), reverse=True)


def _files(folder: Path, number: int) -> tuple[Path, Path]:
    path = folder / str(number)
    return path, _digest_path(path)


def _digest_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _digest(path: Path) -> str:
    """SHA-256 over the names and contents of the files of a checkpoint."""
    total = hashlib.sha256()
    for place in sorted(place for place in path.rglob("*") if place.is_file()):
        with open(place, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{place.relative_to(path)} {content}\n".encode())
    return total.hexdigest()


@cache
def _checkpointer() -> Any:
    """Orbax, used by one process alone: it does not wait for the others of a run over several hosts."""
    import orbax.checkpoint as ocp  # here, since half a second of imports is too much for a dry run

    alone = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="wsn"
    )
    _ignore_abandoned_writes()
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _ignore_abandoned_writes() -> None:
    """When one write of orbax fails, those under way find their event loop closed, and each prints a traceback."""
    otherwise = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            otherwise(unraisable)

    sys.unraisablehook = hook


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the tracebacks that orbax logs before it raises."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
