"""Files on disk: written whole or not at all, and read back only where they are regular files with the right checksum.

The checksum of JSON objects is the SHA-256 of their values with sorted keys, so white space does not enter. It is
stored in the first object, as `digest`, and covers the objects after it too.
"""

import contextlib
import errno
import glob
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from wsn import machine
from wsn.errors import UserError, one_line

DIGEST = "digest"
LARGE = 2**24  # bytes; larger files must fit into memory
PARSED = 10  # bytes of Python objects for each byte of JSON
ABANDONED_SECONDS = 3600.0  # no write takes this long: its process was killed
FULL = (errno.ENOSPC, errno.EDQUOT)
CAUSES = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTDIR, errno.EISDIR, errno.EFBIG)


def read(path: Path) -> str:
    """The UTF-8 text of a regular file. Raises ValueError, and OSError also for a FIFO, which would block for ever."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), encoding="utf-8") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > LARGE and status.st_size * PARSED > machine.memory_limit():
            raise OSError(errno.EFBIG, "too large for the memory of this machine", str(path))
        return file.read()


def parse(text: str) -> Any:
    """A JSON value. Raises ValueError for anything else, including NaN, infinities and very deep nesting."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def add_checksum(first: Mapping[str, Any], *rest: Any) -> dict[str, Any]:
    """The first object with the checksum of itself and the others."""
    return {**first, DIGEST: _checksum(first, *rest)}


def verify_checksum(first: Mapping[str, Any], *rest: Any) -> bool:
    """Whether there is a checksum (wsn 0.1 wrote none). Raises ValueError on a mismatch."""
    if DIGEST not in first:
        return False
    if first[DIGEST] != _checksum({name: value for name, value in first.items() if name != DIGEST}, *rest):
        raise ValueError("checksum mismatch")
    return True


def reading_error(path: Path, error: Exception) -> str:
    """Why a file that the user named cannot be read, in one line: FILE cannot be read (cause)."""
    return f"{path} cannot be read ({getattr(error, 'strerror', None) or one_line(error)})"


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`: the file or folder written there is synced and renamed to `path` after the block.

    After an exception in the block nothing is left. Removes what killed processes left there an hour ago or earlier.
    Where another process made a folder `path` first, that one stays. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        clear(path, scratch.stat().st_mtime - ABANDONED_SECONDS)  # by the clock of the file system
        place = scratch / path.name
        yield place
        for file in (*place.rglob("*"), place):
            _sync(file)
        try:
            os.replace(place, path)
        except OSError:
            if not (place.is_dir() and path.is_dir()):
                raise
        with contextlib.suppress(OSError):  # not all file systems sync folders
            _sync(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a file that replaces `path` when the block ends without an exception. Raises UserError if it cannot.

    Text is UTF-8, with `\\n` and, for file names that are not text, backslash escapes.
    """
    text: Any = {} if "b" in mode else {"newline": "", "errors": "backslashreplace"}
    encoding = None if "b" in mode else "utf-8"
    with writing(path), staged(path) as place, open(place, mode, encoding=encoding, **text) as file:
        yield file


@contextlib.contextmanager
def writing(path: Path, errors: tuple[type[Exception], ...] = (OSError,)) -> Iterator[None]:
    """In the block an error of these types becomes a UserError that says why `path` cannot be written."""
    try:
        yield
    except errors as error:
        raise cannot_write(path, error) from error


def clear(path: Path, before: float = math.inf) -> None:
    """Remove what killed processes were writing for `path`, if last changed before that time (s since the epoch)."""
    with contextlib.suppress(OSError):
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.????????"):  # the random part of mkdtemp
            if leftover.stat().st_mtime < before:
                shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink()


def cannot_write(path: Path, error: Exception) -> UserError:
    """The error for the user, in one line; of errors of other libraries only the cause is kept."""
    number = getattr(error, "errno", None) or next((n for n in CAUSES if os.strerror(n) in str(error)), None)
    cause = os.strerror(number) if number else one_line(error)
    remedy = "free space there or choose another folder" if number in FULL else "choose another folder"
    return UserError(f"`workdir`: cannot write {path} ({cause}): {remedy}")


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk: after a crash, a file that was renamed without may be empty."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON")
