"""What comes from others, looked at before it is read: whether it claims more than it holds, or than memory does.

Each function raises OSError or ValueError that say what is wrong; nothing is unpacked to disk, nothing unpickled, and
what is no regular file (a FIFO, a device) is not opened. Links are followed, as they may be the user's own.
"""

import errno
import math
import mmap
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wsn import machine, stored

MUCH = 2**30  # bytes, from which it is asked whether there is memory
LARGEST_RECORD = 2**28  # bytes of a record: a photograph or some minutes of sound
LARGEST_IMAGE = 2**27  # pixels of an image; ImageNet's largest has 61 million
FEATURES = "tensorflow_datasets.core.features."  # where the classes that a copy may name are defined

_BLOCK, _BLOCK_HEADER, _CHUNK_HEADER = 2**16, 24, 40  # bytes


def check_regular(path: Path) -> int:
    """The size of a file in bytes."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return status.st_size


def check_size(what: str, size: float) -> None:
    """Half of the memory may be taken: what is read is copied once."""
    if size > machine.memory_limit() / 2:
        raise ValueError(
            f"{what} claims {machine.gib(size)}, and there are {machine.gib(machine.memory_limit())} of memory"
        )


def arrays_of_npz(path: Path, leave_out: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`, read one by one once their headers agree with the sizes that the archive states."""
    check_regular(path)
    found = {}
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if info.filename.removesuffix(".npy") not in leave_out]
        check_size(path.name, sum(info.file_size for info in members))  # no more than this is unpacked
        for info in members:
            with archive.open(info) as file:
                claimed = _claimed_of_npy(file)
                if claimed != info.file_size:
                    raise ValueError(f"{info.filename} claims {claimed} bytes and has {info.file_size}")
            with archive.open(info) as file:
                found[info.filename.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
    return found


def _claimed_of_npy(file: Any) -> int:
    """The bytes of an array and its header, as the header says."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format {version} of NumPy")
    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("objects, which would be unpickled")
    return file.tell() + math.prod(shape) * dtype.itemsize


def check_records(path: Path) -> None:
    """What the chunks of an array_record file claim to hold, from their headers alone.

    The container is Riegeli's: blocks of 64 KiB, each after a header of 24 bytes; chunks across them, each after a
    header of 40: hash, bytes stored, hash, records with the kind, bytes decoded.
    """
    size, total = check_regular(path), 0
    if not size:
        raise ValueError(f"{path.name} is empty")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for held, records, decoded in _chunks(content, size):
            if held > size or decoded > max(LARGEST_RECORD, records * LARGEST_RECORD):
                raise ValueError(f"{path.name} has a chunk that claims {max(held, decoded)} bytes")
            total += decoded
            if total > MUCH:
                check_size(path.name, total)


def _chunks(content: mmap.mmap | bytes, size: int) -> Iterator[tuple[int, int, int]]:
    """(bytes stored, records, bytes decoded) of every chunk."""
    at = 0
    while at < size:
        header = _without_block_headers(content, at)
        if len(header) < _CHUNK_HEADER:
            return  # cut off, which the reader finds
        _, held, _, kind, decoded = struct.unpack("<5Q", header)
        records = kind >> 8
        yield held, records, decoded
        at = max(_after(at, _CHUNK_HEADER + held), _boundary(at + records))


def _without_block_headers(content: mmap.mmap | bytes, at: int) -> bytes:
    into = at % _BLOCK
    if into < _BLOCK_HEADER:
        start = at - into + _BLOCK_HEADER
        return content[start : start + _CHUNK_HEADER]
    left = min(_BLOCK - into, _CHUNK_HEADER)
    rest = at + left + _BLOCK_HEADER
    return content[at : at + left] + content[rest : rest + _CHUNK_HEADER - left]


def _after(at: int, length: int) -> int:
    """The place so many bytes on, block headers not counted."""
    usable = _BLOCK - _BLOCK_HEADER
    return at + length + (length + (at + usable - 1) % _BLOCK) // usable * _BLOCK_HEADER


def _boundary(at: int) -> int:
    """The first place from there where a chunk may begin."""
    return at + max(0, -at % _BLOCK - (_BLOCK - _BLOCK_HEADER - 1))


def check_copy(folder: Path) -> None:
    """The descriptions of a copy that tensorflow-datasets prepared: files inside its folder, classes of its own.

    A description names the Python class of every feature, which is imported by that name.
    """
    info = _description(folder / "dataset_info.json")
    for split in info.get("splits", []):
        for name in (split.get("name", ""), split.get("filepathTemplate", "")):
            if Path(name).name != name and name:
                raise ValueError(f"dataset_info.json names files outside of the folder: {name}")
    if os.path.lexists(folder / "features.json"):
        for name in _classes(_description(folder / "features.json")):
            if not str(name).startswith(FEATURES):
                raise ValueError(f"features.json names the class {name}, which is no feature")


def _description(path: Path) -> dict[str, Any]:
    found = stored.parse(stored.read(path))
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is no object")
    return found


def _classes(value: Any) -> Iterator[Any]:
    for name, item in value.items() if isinstance(value, dict) else enumerate(value):
        if name in ("pythonClassName", "type"):
            yield item
        if isinstance(item, dict | list):
            yield from _classes(item)


def check_image(width: int, height: int, shape: tuple[int, ...] | None = None) -> None:
    """The size that an encoded image claims: that of its data set, or any that is not too large to decode."""
    if shape is not None and (height, width) != shape[:2]:
        raise ValueError(f"an image of {width}×{height} pixels among those of {shape[1]}×{shape[0]}")
    if width * height > LARGEST_IMAGE:
        raise ValueError(f"an image claims {width}×{height} pixels")
