"""Decoded data sets on disk: a folder of `.npy` files and a manifest, which later starts map read-only.

A folder appears whole or not at all and never changes, so any number of processes can map it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
import uuid
import zlib
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from absl import logging

from wsn import stored
from wsn.errors import one_line


class Origin(Protocol):
    """Where a data set comes from: an entry of a registry of images, texts or utterances."""

    def locate(self, data_dir: str | None) -> str:
        """Makes sure that the data exist; returns a file name that changes whenever they do. Raises UserError."""


@dataclasses.dataclass(frozen=True)
class Content:
    """Arrays and other values, with a digest of all of them. `sha256` is given where it is already known."""

    sha256: str | None = dataclasses.field(default=None, kw_only=True, repr=False)

    @cached_property
    def digest(self) -> str:
        """A SHA-256 that identifies the content, wherever it is stored and under whatever name."""
        return self.sha256 or digest_of([getattr(self, field.name) for field in dataclasses.fields(self)])


def digest_of(values: Any) -> str:
    """SHA-256 of a tree of arrays and other values."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(values):
        if isinstance(leaf, np.ndarray | jax.Array):  # not by the text of an array, which leaves numbers out
            leaf = np.asarray(leaf)
            digest.update(f"{leaf.dtype.str} {leaf.shape}".encode())
            digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
        else:
            digest.update(f" {leaf!r} ".encode())
    return digest.hexdigest()


Kind = TypeVar("Kind", bound=Content)
Opened = TypeVar("Opened")


@cache
def once(load: Callable[..., Opened], entry: str, *arguments: Any) -> Opened:
    """`load(*arguments)`, once a process until the files change, and with them the name of their cache entry."""
    return load(*arguments)


def entry_of_files(name: str, *paths: Path) -> str:
    """A name of a cache entry that changes whenever one of the files does. Raises OSError."""
    facts = [(os.fspath(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return f"{name}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}"


def cached(kind: type[Kind], entry: Path, decode: Callable[[], Kind]) -> Kind:
    """The content of `entry`, of the dataclass `kind`; the first call decodes and stores it.

    A damaged or outdated entry is rebuilt with a warning. If it cannot be written, the arrays stay in memory, with a
    warning. Raises what `decode` raises.
    """
    stored.clear(entry, time.time() - stored.ABANDONED_SECONDS)
    if os.path.exists(entry):  # False also if the system refuses to say
        try:
            return _map(kind, entry)
        except (OSError, ValueError) as error:
            logging.warning("%s: damaged cache, rebuilding it (%s)", entry, one_line(error))
            _discard(entry)
    content = decode()
    try:
        _store(content, entry)
        return _map(kind, entry)
    except (OSError, ValueError) as error:
        logging.warning("%s: cannot cache the decoded data, continuing without (%s)", entry, one_line(error))
        return content


def _map(kind: type[Kind], entry: Path) -> Kind:
    """Maps an entry after checking size and checksum of every file. Raises OSError or ValueError."""
    manifest = stored.parse(stored.read(entry / "manifest.json"))
    values: dict[str, Any] = {}
    try:
        if not stored.verify_checksum(manifest):
            raise ValueError("manifest.json has no digest: an older version wrote it")
        if manifest["entry"] != entry.name:
            raise ValueError(f"it is {manifest['entry']}")
        for field in dataclasses.fields(kind):
            if file := manifest["files"].get(field.name):
                path = entry / f"{field.name}.npy"
                if (file["bytes"], file["checksum"]) != _size_and_checksum(path):
                    raise ValueError(f"{path.name} differs from its manifest")
                values[field.name] = np.load(path, mmap_mode="r")
            else:
                value = manifest[field.name]
                values[field.name] = tuple(value) if isinstance(value, list) else value
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"manifest.json: {one_line(error)}") from error
    return kind(**values)


def _store(content: Content, entry: Path) -> None:
    """Writes an entry whole; if another process was first, its copy stays. Raises OSError."""
    manifest: dict[str, Any] = {"entry": entry.name, "files": {}}
    with stored.staged(entry) as scratch:
        scratch.mkdir()
        for field in dataclasses.fields(content):
            value = getattr(content, field.name)
            if not isinstance(value, np.ndarray):
                manifest[field.name] = value
                continue
            path = scratch / f"{field.name}.npy"
            np.save(path, value)
            size, checksum = _size_and_checksum(path)
            manifest["files"][field.name] = {"bytes": size, "checksum": checksum}
        manifest = stored.add_checksum(manifest | {"sha256": content.digest})
        (scratch / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def _discard(entry: Path) -> None:
    """Moves a damaged entry out of the way and deletes it; processes that have it mapped keep their pages."""
    aside = entry.with_name(f".{entry.name}.{uuid.uuid4().hex[:8]}")
    with contextlib.suppress(OSError):
        entry.rename(aside)
        _remove(aside)


def _remove(path: Path) -> None:
    """Removes a folder, or a file in its place."""
    if path.is_dir() and not path.is_symlink():
        path.chmod(0o700)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def _size_and_checksum(path: Path) -> tuple[int, int]:
    """Size and CRC-32 of a file. Raises OSError, or ValueError for an empty file."""
    if not path.is_file():  # a FIFO would block forever
        raise OSError(f"{path.name} is no file")
    raw = np.memmap(path, np.uint8, mode="r")
    return len(raw), zlib.crc32(raw.data)
