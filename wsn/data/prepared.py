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

from wsn import folders
from wsn.data import untrusted
from wsn.errors import UserError, one_line

DEFAULT_DATA_DIR = "~/tensorflow_datasets"


def data_folder(data_dir: str | None) -> str:
    """`data_dir`, else `$TFDS_DATA_DIR`, else the folder that tensorflow-datasets uses by itself; `~` is the home."""
    name = "data_dir" if data_dir else "TFDS_DATA_DIR"
    return str(folders.local(name, data_dir or os.environ.get("TFDS_DATA_DIR") or DEFAULT_DATA_DIR))


def located(name: str, data_dir: str | None, what: Any, instead: str) -> str:
    """A name for what is decoded from the copy of `name:version`, which changes whenever its files or `what` do.

    A missing copy is prepared first. Raises UserError, which proposes the data set `instead`.
    """
    from etils import epath

    root = epath.Path(data_folder(data_dir)).resolve()
    prepared = root / name.replace(":", "/")
    if not (prepared / "dataset_info.json").exists():
        prepare(name, os.fspath(root), instead)
    files = sorted((path.name, path.stat().length, path.stat().mtime) for path in prepared.iterdir())
    digest = hashlib.sha256(repr((what, os.fspath(prepared), files)).encode()).hexdigest()
    return f"{name.replace('/', '-').replace(':', '-')}-{digest[:12]}"


def check(name: str, data_dir: str | None) -> None:
    """What the copy of `name:version` claims of itself. Raises OSError or ValueError where it cannot be so."""
    folder = Path(data_folder(data_dir)) / name.replace(":", "/")
    untrusted.check_copy(folder)
    for path in sorted(folder.glob("*.array_record-*")):
        untrusted.check_records(path)


def prepare(name: str, data_dir: str, instead: str) -> None:
    """Downloads and writes array_record files, or raises UserError at once where there is no network."""
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


def unreadable(name: str, data_dir: str, error: Exception) -> UserError:
    """What to raise for a copy that cannot be read."""
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
    """Drops array_record's line at level ERROR about the group size of a file, which is only about speed."""
    logger = std_logging.getLogger("absl")

    def keep(record: std_logging.LogRecord) -> bool:
        return "group size" not in record.getMessage()

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
