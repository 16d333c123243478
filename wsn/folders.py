"""Folders of this machine: those that arguments and variables name, and the one that is kept between runs."""

import os
import re
from pathlib import Path

from wsn.errors import UserError

DEFAULT_CACHE_DIR = "~/.cache/wsn"


def local(name: str, path: str | os.PathLike[str]) -> Path:
    """The path that an argument or variable `name` has, with `~` expanded. Raises UserError for URLs, unknown homes."""
    text = os.fspath(path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise UserError(
            f"`{name}={text}`: folders and files are local: give a path of this machine, such as of a mounted bucket"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"`{name}={text}`: there is no such home folder: give a full path") from error


def cache(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder `cache_dir`, else `$WSN_CACHE_DIR`, else `~/.cache/wsn`. Raises UserError."""
    if cache_dir:
        return local("cache_dir", cache_dir)
    return local("WSN_CACHE_DIR", os.environ.get("WSN_CACHE_DIR") or DEFAULT_CACHE_DIR)
