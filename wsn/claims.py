"""Claims: at most one process works on a group, and a killed owner blocks nobody.

`flock` where the file system has it: the kernel releases it with the process. Elsewhere a lease: a file whose
modification time the owner refreshes, and which anyone may take over once it is stale.
"""

import contextlib
import fcntl
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from wsn.errors import UserError

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0


@contextlib.contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Try to own `path` (a lock file) for the block; yields whether it is owned, at once.

    Raises UserError when the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")  # noqa: SIM115 - closed below, together with its lock
    except OSError as error:
        raise UserError(f"--workdir: cannot write {path} ({error.strerror}): choose another folder") from error
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
        with contextlib.suppress(OSError):
            if path.read_text() == owner:
                path.unlink()


def _create(path: Path, owner: str) -> bool:
    """Create the lease with its content in one step (a hard link), or fail because it exists."""
    own = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    own.write_text(owner)
    try:
        os.link(own, path)
        return True
    except FileExistsError:
        return False
    finally:
        own.unlink()


def _take_over(path: Path, owner: str) -> bool:
    """Remove a stale lease (one process wins the rename) and create our own."""
    with contextlib.suppress(OSError):
        grave = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        os.rename(path, grave)
        grave.unlink()
    return _create(path, owner)


def _age(path: Path) -> float:
    """Seconds since the last heartbeat, by the clock of the file system."""
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:  # released meanwhile
        return float("inf")
    finally:
        probe.unlink(missing_ok=True)
