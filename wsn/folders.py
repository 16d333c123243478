"""The folder for data and programs that are kept between runs."""

import os
from pathlib import Path

from wsn.errors import UserError

DEFAULT_CACHE_DIR = "~/.cache/wsn"


def cache(cache_dir: str | None = None) -> Path:
    """The folder `cache_dir`, else `$WSN_CACHE_DIR`, else `~/.cache/wsn`. Raises UserError if there is no home."""
    try:
        return Path(cache_dir or os.environ.get("WSN_CACHE_DIR") or DEFAULT_CACHE_DIR).expanduser()
    except RuntimeError as error:
        raise UserError("WSN_CACHE_DIR: there is no home folder; set it to a folder for the cache") from error
