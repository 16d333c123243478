"""What is stored and read back: regular files alone, JSON with a digest.

The digest is the SHA-256 of the values as JSON, keys sorted, so it sees every change of what is read, and none of how
it is spaced. It stands in the first object, under the name `digest`, and covers all others that belong to it.
"""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsn import memory
from wsn.errors import one_line

DIGEST = "digest"
LARGE = 2**24  # bytes, from which it is asked whether there is memory
PARSED = 10  # bytes of Python for one of JSON


def read(path: Path) -> str:
    """The text of a file. Raises OSError for what is no regular one (a FIFO would wait for ever) and ValueError."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), encoding="utf-8") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > LARGE and status.st_size * PARSED > memory.limit():
            raise OSError(errno.EFBIG, "too large for the memory of this machine", str(path))
        return file.read()


def parse(text: str) -> Any:
    """A JSON value. Raises ValueError for what is none, NaN and infinities and too deep a nesting among it."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def sealed(first: Mapping[str, Any], *rest: Any) -> dict[str, Any]:
    """The first object with the digest of itself and of the others."""
    return {**first, DIGEST: _digest(first, *rest)}


def is_sealed(first: Mapping[str, Any], *rest: Any) -> bool:
    """Whether there is a digest, as older versions wrote none. Raises ValueError when it is another."""
    if DIGEST not in first:
        return False
    if first[DIGEST] != _digest({name: value for name, value in first.items() if name != DIGEST}, *rest):
        raise ValueError("its digest is another")
    return True


def reading_error(path: Path, error: Exception) -> str:
    """What is wrong with a file that was given, in one line: FILE (cause)."""
    return f"{path} cannot be read ({getattr(error, 'strerror', None) or one_line(error)})"


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
