"""Where things are kept between runs."""

import os
from pathlib import Path

DEFAULT_CACHE_DIR = "~/.cache/wsn"


def cache(cache_dir: str | None = None) -> Path:
    """The folder of everything that is kept between runs: given, `$WSN_CACHE_DIR`, or `~/.cache/wsn`."""
    return Path(cache_dir or os.environ.get("WSN_CACHE_DIR") or DEFAULT_CACHE_DIR).expanduser()
