"""Copies of data sets that tensorflow-datasets (TFDS) prepared as array_record, read without TensorFlow."""

import contextlib
import logging as std_logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator

DEFAULT_DATA_DIR = "~/tensorflow_datasets"


def data_folder(data_dir: str | None) -> str:
    """`data_dir`, else `$TFDS_DATA_DIR`, else the folder that tensorflow-datasets uses by itself."""
    return data_dir or os.environ.get("TFDS_DATA_DIR") or DEFAULT_DATA_DIR


def require_network(url: str) -> None:
    """Raises OSError unless the host of `url` answers; any answer, even a refusal, will do."""
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()


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
