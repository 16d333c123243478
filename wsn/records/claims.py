"""Claims: at most one process works on a group, and a killed owner blocks nobody.

`flock` where the file system has it: the kernel releases it with the process. Elsewhere a lease: a file whose
modification time the owner refreshes, and which anyone may take over once it is stale.
"""

import contextlib
import fcntl
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from wsn.stored import cannot_write

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
SETTLE_SECONDS = 1.0


@contextlib.contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Try to own `path` (a lock file) for the block; yields whether it is owned, at once.

    Raises UserError when the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not waiting, should it be a FIFO; closed below, together with its lock.
        file = open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666), "a")  # noqa: SIM115
    except OSError as error:
        raise cannot_write(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except OSError:  # this file system has no flock
            with lease(path.with_suffix(".lease")) as owned:
                yield owned
        else:
            yield True


@contextlib.contextmanager
def lease(path: Path, heartbeat: float = HEARTBEAT_SECONDS, stale: float = STALE_SECONDS) -> Iterator[bool]:
    """Own the file `path` while a thread keeps its modification time fresh; yields whether it is owned.

    Times are compared on the file system's clock, so machines need not agree on the time.
    """
    owner = f"{os.uname().nodename} {os.getpid()} {uuid.uuid4().hex}"
    if not _create(path, owner) and not (_age(path) > stale and _take_over(path, owner)):
        yield False
        return
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(heartbeat):
            with contextlib.suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield True
    finally:
        stop.set()
        thread.join()
        if _owned(path, owner):
            path.unlink(missing_ok=True)


def _create(path: Path, owner: str) -> bool:
    """Create the lease, or fail because it exists: one process wins."""
    try:
        with open(path, "x") as file:
            file.write(owner)
        return True
    except FileExistsError:
        return False


def _take_over(path: Path, owner: str) -> bool:
    """Remove a stale lease and create our own.

    Another process may have found the old lease stale at the same moment and remove ours: the last one to create
    owns, and the others see it after a pause.
    """
    path.unlink(missing_ok=True)
    if not _create(path, owner):
        return False
    time.sleep(SETTLE_SECONDS)
    return _owned(path, owner)


def _owned(path: Path, owner: str) -> bool:
    try:
        return path.read_text() == owner
    except OSError:
        return False


def _age(path: Path) -> float:
    """Seconds since the last heartbeat, by the clock of the file system."""
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:  # released meanwhile, and perhaps created anew: the next try will tell
        return 0.0
    finally:
        probe.unlink(missing_ok=True)
