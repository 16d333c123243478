"""Files that are either whole or absent: written beside their place, synced, then renamed into it."""

import contextlib
import errno
import glob
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from wsn.errors import UserError, one_line

FULL = (errno.ENOSPC, errno.EDQUOT)
CAUSES = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTDIR, errno.EISDIR, errno.EFBIG)
ABANDONED_SECONDS = 600.0  # nothing here takes so long to write


@contextlib.contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file that becomes `path` when the block ends without an exception, and vanishes otherwise.

    Raises UserError when the folder cannot be written or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=_prefix(path), dir=path.parent)
        clear(path, os.fstat(descriptor).st_mtime - ABANDONED_SECONDS)
        text: dict[str, Any] = (
            {} if "b" in mode else {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
        )
        with os.fdopen(descriptor, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def cannot_write(path: Path, error: Exception) -> UserError:
    """What to tell, in one line: of errors of other libraries the cause alone, which is all that they are read for."""
    number = getattr(error, "errno", None) or next((n for n in CAUSES if os.strerror(n) in str(error)), None)
    cause = os.strerror(number) if number else one_line(error)
    todo = "free space there or choose another folder" if number in FULL else "choose another folder"
    return UserError(f"`workdir`: cannot write {path} ({cause}): {todo}")


def clear(path: Path, before: float = math.inf) -> None:
    """Remove what killed processes were writing for `path`, last before that time of the file system's clock."""
    for leftover in path.parent.glob(f"{glob.escape(_prefix(path))}????????"):  # the random part of mkstemp
        with contextlib.suppress(OSError):
            if leftover.stat().st_mtime < before:
                leftover.unlink()


def _prefix(path: Path) -> str:
    return f".{path.name}."


def _umask() -> int:
    """The process's umask (it can only be read by setting it); mkstemp ignores it and makes files private."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
