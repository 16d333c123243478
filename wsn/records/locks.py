"""Locks: at most one process trains a group. The kernel releases a lock with its process, however that ends."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from wsn import machine
from wsn.errors import UserError
from wsn.stored import writing


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` during the block; yields at once whether it is held, or another process has it.

    Raises UserError where it cannot be written, and where the file system has no locks.
    """
    machine.check_platform()
    import fcntl  # not at the top: Windows has none

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # O_NONBLOCK: opening a FIFO would block.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except OSError as error:
            raise UserError(
                f"`workdir`: {path.parent} is on a file system without locks ({error.strerror}): choose another folder"
            ) from error
        else:
            yield True
    finally:
        os.close(descriptor)  # releases the lock
