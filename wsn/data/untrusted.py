"""Files from others, checked before they are read: whether they claim more than they hold, or than memory holds.

Every function raises OSError or ValueError. Nothing is unpickled, no archive is unpacked to disk, and what is no
regular file (a FIFO, a device) is not opened. Links are followed, as they may be your own. Not checked: the shards of a
streamed set, and what array_record, Pillow and OpenCV do with a file whose sizes are right.
"""

import errno
import mmap
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsn import machine, stored

LARGE = 2**30  # bytes; below, memory is not compared
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


def check_size(name: str, size: float) -> None:
    """Raises ValueError if `size` is more than half of the memory: what is read is copied once."""
    if size > machine.memory_limit() / 2:
        raise ValueError(
            f"{name} claims {machine.gib(size)}, and there are {machine.gib(machine.memory_limit())} of memory"
        )


def arrays_of_npz(path: Path, leave_out: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`, if all of them fit into memory and each has the size that its header claims."""
    check_regular(path)
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        members = {name: info for name, info in members.items() if name not in leave_out}
        check_size(
            path.name, sum(info.file_size for info in members.values())
        )  # no more than this is unpacked
        for name, info in members.items():
            with archive.open(info) as file:
                try:  # reads in pieces, so a claim of more than the archive holds takes no memory
                    arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
                except MemoryError as error:
                    raise ValueError(f"{name} claims more than it has") from error
                if file.read(1):
                    raise ValueError(f"{name} has more than it claims")
    return arrays


def check_records(path: Path) -> None:
    """Checks the sizes that the chunks of an array_record file claim, from their headers alone.

    The container is Riegeli's: blocks of 64 KiB, each after a header of 24 bytes; chunks across them, each after a
    header of 40: hash, bytes stored, hash, records with the kind, bytes decoded.
    """
    size, total = check_regular(path), 0
    if not size:
        raise ValueError(f"{path.name} is empty")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for stored_bytes, records, decoded in _chunks(content, size):
            if stored_bytes > size or decoded > max(LARGEST_RECORD, records * LARGEST_RECORD):
                raise ValueError(f"{path.name} has a chunk that claims {max(stored_bytes, decoded)} bytes")
            total += decoded
            if total > LARGE:
                check_size(path.name, total)


def _chunks(content: mmap.mmap | bytes, size: int) -> Iterator[tuple[int, int, int]]:
    """(bytes stored, records, bytes decoded) of every chunk."""
    at, usable = 0, _BLOCK - _BLOCK_HEADER
    while at < size:
        header = _without_block_headers(content, at)
        if len(header) < _CHUNK_HEADER:
            return  # cut off: array_record reports it
        _, stored_bytes, _, kind, decoded = struct.unpack("<5Q", header)
        records = kind >> 8
        yield stored_bytes, records, decoded
        length = _CHUNK_HEADER + stored_bytes
        end = at + length + (length + (at + usable - 1) % _BLOCK) // usable * _BLOCK_HEADER
        after_records = at + records
        boundary = after_records + max(0, -after_records % _BLOCK - (usable - 1))  # where a chunk may begin
        at = max(end, boundary)


def _without_block_headers(content: mmap.mmap | bytes, at: int) -> bytes:
    """The chunk header at that place; a block header may stand before or inside it."""
    into = at % _BLOCK
    if into < _BLOCK_HEADER:
        start = at - into + _BLOCK_HEADER
        return content[start : start + _CHUNK_HEADER]
    left = min(_BLOCK - into, _CHUNK_HEADER)
    rest = at + left + _BLOCK_HEADER
    return content[at : at + left] + content[rest : rest + _CHUNK_HEADER - left]


def check_copy(folder: Path) -> None:
    """Checks the descriptions of a copy that tensorflow-datasets prepared: files in its folder, feature classes.

    A description names the Python class of every feature, which is imported by that name.
    """
    for split in _description(folder / "dataset_info.json").get("splits", []):
        for name in (split.get("name", ""), split.get("filepathTemplate", "")):
            if name and Path(name).name != name:
                raise ValueError(f"dataset_info.json names files outside of the folder: {name}")
    if os.path.lexists(folder / "features.json"):
        for name in _classes(_description(folder / "features.json")):
            if not str(name).startswith(FEATURES):
                raise ValueError(f"features.json names the class {name}, which is no feature")


def _description(path: Path) -> dict[str, Any]:
    description = stored.parse(stored.read(path))
    if not isinstance(description, dict):
        raise ValueError(f"{path.name} is no object")
    return description


def _classes(value: Any) -> Iterator[Any]:
    for name, item in value.items() if isinstance(value, dict) else enumerate(value):
        if name in ("pythonClassName", "type"):
            yield item
        if isinstance(item, dict | list):
            yield from _classes(item)


def check_image(image: Image.Image, shape: tuple[int, ...] | None = None) -> None:
    """Checks an image before it is decoded: the size of its data set, or any that is not too large; 8 bits a channel.

    Pillow would clip or truncate more bits without a word.
    """
    width, height = image.size
    if shape is not None and (height, width) != shape[:2]:
        raise ValueError(f"an image of {width}×{height} pixels among those of {shape[1]}×{shape[0]}")
    if width * height > LARGEST_IMAGE:
        raise ValueError(f"an image claims {width}×{height} pixels")
    if image.mode[0] in "IF" or any(";16" in str(tile) for tile in getattr(image, "tile", ())):
        raise ValueError(f"an image of mode {image.mode} with more than 8 bits a channel: convert it to 8")
