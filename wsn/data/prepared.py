"""Copies of data sets that tensorflow-datasets (TFDS) prepared as array_record, read without TensorFlow."""

import contextlib
import hashlib
import logging as std_logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wsn import folders
from wsn.data import untrusted
from wsn.errors import UserError, one_line

DEFAULT_DATA_DIR = "~/tensorflow_datasets"


def data_folder(data_dir: str | None) -> str:
    """`data_dir`, else `$TFDS_DATA_DIR`, else the default folder of tensorflow-datasets; `~` is expanded."""
    name = "data_dir" if data_dir else "TFDS_DATA_DIR"
    return str(folders.local(name, data_dir or os.environ.get("TFDS_DATA_DIR") or DEFAULT_DATA_DIR))


def entry_name(name: str, data_dir: str | None, settings: Any, instead: str) -> str:
    """The cache entry of the copy of `name:version`; it changes whenever its files or the settings do.

    A missing copy is prepared first. Raises UserError, which proposes the data set `instead`.
    """
    from etils import epath

    root = epath.Path(data_folder(data_dir)).resolve()
    folder = root / name.replace(":", "/")
    if not (folder / "dataset_info.json").exists():
        prepare(name, os.fspath(root), instead)
    files = sorted((path.name, path.stat().length, path.stat().mtime) for path in folder.iterdir())
    digest = hashlib.sha256(repr((settings, os.fspath(folder), files)).encode()).hexdigest()
    return f"{name.replace('/', '-').replace(':', '-')}-{digest[:12]}"


def check(name: str, data_dir: str | None) -> None:
    """Checks what the copy of `name:version` claims before it is read. Raises OSError or ValueError."""
    folder = Path(data_folder(data_dir)) / name.replace(":", "/")
    untrusted.check_copy(folder)
    for path in sorted(folder.glob("*.array_record-*")):
        untrusted.check_records(path)


def check_features(features: Any, settings: Any) -> None:
    """Raises ValueError unless a copy has 8-bit images, and as many classes as `settings` declares."""
    dtype = np.dtype(features[settings.image].np_dtype).name
    if dtype != "uint8":
        raise ValueError(f"its images are {dtype}, only uint8 is supported")
    classes = getattr(features[settings.label], "num_classes", None)
    if classes not in (None, settings.classes):
        raise ValueError(f"it has {classes} classes and not {settings.classes}")


def ends_of_file(path: Path) -> tuple[str, int, bytes, bytes]:
    """Name, size, and the first and last 16 KiB of a file: what tells large data sets apart without reading them."""
    untrusted.check_regular(path)
    size = 2**14
    with open(path, "rb") as file:
        first, length = file.read(size), file.seek(0, os.SEEK_END)
        file.seek(max(length - size, 0))
        return path.name, length, first, file.read()


def prepare(name: str, data_dir: str, instead: str) -> None:
    """Downloads and writes array_record files, or raises UserError at once if there is no network."""
    try:
        import tensorflow_datasets as tfds

        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        # TFDS alone would retry for minutes before it gave up.
        require_network(next(iter(builder.url_infos)))
        builder.download_and_prepare()
    except Exception as error:  # network, disk, a missing package, a version that TFDS no longer has
        needs = '; to download: pip install -e ".[download]"' if isinstance(error, ImportError) else ""
        raise UserError(
            f"`dataset={re.split('[/:]', name)[0]}`: no prepared copy of {name} under "
            f"`data_dir={data_dir}` (TFDS_DATA_DIR), preparing one failed ({one_line(error)}{needs}); "
            f"point `data_dir` at a folder that holds it, or use `dataset={instead}`, which needs none"
        ) from error


@contextlib.contextmanager
def reading(name: str, data_dir: str | None) -> Iterator[Path]:
    """The folder of the copy of `name:version`, checked, to read in the block. Raises UserError if it is damaged."""
    folder = data_folder(data_dir)
    try:
        check(name, folder)
        yield Path(folder) / name.replace(":", "/")
    except Exception as error:  # TFDS, array_record and the decoders each raise their own kinds
        raise unreadable(name, folder, error) from error


def source(name: str, split: str, data_dir: str | None, **settings: Any) -> Any:
    """A split of a prepared copy, example by example."""
    import tensorflow_datasets as tfds

    return tfds.data_source(name, split=split, data_dir=data_folder(data_dir), download=False, **settings)


def unreadable(name: str, data_dir: str, error: Exception) -> UserError:
    """The error to raise for a copy that cannot be read."""
    return UserError(
        f"`data_dir={data_dir}` (TFDS_DATA_DIR): the copy of {name} there cannot be read as "
        f"array_record ({one_line(error)}); prepare it again or point `data_dir` at a good copy"
    )


def require_network(url: str) -> None:
    """Raises OSError unless the host of `url` answers; any answer, even a refusal, will do."""
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()


def in_batches(source: Any, size: int = 1024) -> Iterator[list[Any]]:
    """The examples of a source: one request for a batch is up to five times faster than one for each example."""
    with without_group_size_notice():
        for start in range(0, len(source), size):
            yield source.__getitems__(list(range(start, min(start + size, len(source)))))


@contextlib.contextmanager
def without_group_size_notice() -> Iterator[None]:
    """Drops array_record's line at level ERROR about the group size of a file, which only concerns speed."""
    logger = std_logging.getLogger("absl")

    def keep(record: std_logging.LogRecord) -> bool:
        return "group size" not in record.getMessage()

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
