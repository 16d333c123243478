"""Where things are kept between runs."""

import os
from pathlib import Path

from wsn.errors import UserError

DEFAULT_CACHE_DIR = "~/.cache/wsn"


def cache(cache_dir: str | None = None) -> Path:
    """The folder of everything that is kept between runs: given, `$WSN_CACHE_DIR`, or `~/.cache/wsn`.

    Raises UserError where there is none of these, as for a user without a home.
    """
    try:
        return Path(cache_dir or os.environ.get("WSN_CACHE_DIR") or DEFAULT_CACHE_DIR).expanduser()
    except RuntimeError as error:
        raise UserError(
            "WSN_CACHE_DIR: there is no home folder; let it name the folder of the cache"
        ) from error
