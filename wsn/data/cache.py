"""What was decoded once: named arrays in a folder of `.npy` files and a manifest, mapped (read-only) by later starts.

A folder appears whole or not at all and never changes, so any number of processes can map it.
"""

import contextlib
import json
import os
import shutil
import time
import uuid
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from wsn import stored
from wsn.errors import one_line

_PAGE = 4096


class Content(NamedTuple):
    """Arrays by name, and what else belongs to them, as JSON has it."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


def cached(
    entry: Path, decode: Callable[[], Content], arrays: Collection[str], facts: Mapping[str, type]
) -> Content:
    """The content of `entry`, which the first call fills by `decode`; `arrays` and `facts` say what belongs there.

    A damaged entry is rebuilt with a warning. Where it cannot be written the arrays stay in memory, and a warning
    says so. Raises what `decode` raises.
    """
    stored.clear(entry, time.time() - stored.ABANDONED_SECONDS)
    if os.path.exists(entry):  # False for what cannot be looked at
        try:
            return _map(entry, arrays, facts)
        except (OSError, ValueError) as error:
            logging.warning("%s: damaged cache, rebuilding it (%s)", entry, one_line(error))
            _discard(entry)
    content = decode()
    try:
        _store(content, entry)
        return _map(entry, arrays, facts)
    except (OSError, ValueError) as error:
        logging.warning("%s: cannot cache the decoded data, going on without (%s)", entry, one_line(error))
        return content


def _map(entry: Path, arrays: Collection[str], facts: Mapping[str, type]) -> Content:
    """Maps an entry after checking size and checksum of every file. Raises OSError or ValueError."""
    manifest = stored.parse(stored.read(entry / "manifest.json"))
    try:
        if not stored.verify_checksum(manifest):
            raise ValueError("manifest.json has no digest: an older version wrote it")
        if manifest["entry"] != entry.name:
            raise ValueError(f"it is {manifest['entry']}")
        known = {name: kind(manifest[name]) for name, kind in facts.items()}
        files = {name: manifest["files"][name] for name in arrays}
        expected = {name: (file["bytes"], file["checksum"]) for name, file in files.items()}
    except (KeyError, TypeError) as error:
        raise ValueError(f"manifest.json: {one_line(error)}") from error
    for name, wanted in expected.items():
        if wanted != _facts(entry / f"{name}.npy"):
            raise ValueError(f"{name}.npy differs from its manifest")
    return Content({name: np.load(entry / f"{name}.npy", mmap_mode="r") for name in expected}, known)


def _store(content: Content, entry: Path) -> None:
    """Writes an entry whole; if another process was first, its copy stays. Raises OSError."""
    with stored.staged(entry) as scratch:
        scratch.mkdir()
        files = {}
        for name, array in content.arrays.items():
            path = scratch / f"{name}.npy"
            np.save(path, array)
            size, checksum = _facts(path)
            files[name] = {"bytes": size, "checksum": checksum}
        manifest = stored.add_checksum(content.facts | {"entry": entry.name, "files": files})
        (scratch / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def _discard(entry: Path) -> None:
    """Moves a damaged entry out of the way and deletes it; processes that have it mapped keep their pages."""
    aside = entry.with_name(f".{entry.name}.{uuid.uuid4().hex[:8]}")
    with contextlib.suppress(OSError):
        entry.rename(aside)
        _remove(aside)


def _remove(path: Path) -> None:
    """A folder, or whatever else lies in its place."""
    if path.is_dir() and not path.is_symlink():
        path.chmod(0o700)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def _facts(path: Path) -> tuple[int, int]:
    """Size and checksum of a file.

    The checksum is the CRC-32 of the 64-bit sums of all 4 KiB pages and of the bytes after the last page: it
    sees any single changed byte or word and any page out of place, at the speed of memory (3 to 7 ms for the
    47 MB of MNIST, where a CRC of every byte takes 26 ms). Raises OSError, or ValueError for an empty file.
    """
    if not path.is_file():  # a FIFO would wait for ever
        raise OSError(f"{path.name} is no file")
    raw = np.memmap(path, np.uint8, mode="r")
    whole = len(raw) // _PAGE * _PAGE
    pages = raw[:whole].view("<u8").reshape(-1, _PAGE // 8).sum(axis=1, dtype=np.uint64)
    return len(raw), zlib.crc32(raw[whole:].tobytes(), zlib.crc32(pages.tobytes()))
