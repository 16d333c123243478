"""Exceptions with a message of one line, for whoever gave the input."""

import difflib
import operator
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

Entry = TypeVar("Entry")


class UserError(ValueError):
    """Bad input. The message is one line that names the argument or file at fault and says what to do about it.

    Arguments stand between backticks, as `name` or `name=value`. Commands print the line without a traceback, with
    flags in the place of arguments (`experiments.lab.launch`), and exit with a non-zero status.
    """


class Preempted(Exception):
    """Training was told to stop, and is saved: the same command goes on from there."""


def of_system(error: OSError) -> UserError:
    """An error of the system about a file or folder, of which nothing else was said."""
    where = f"{error.filename}: " if error.filename else ""
    return UserError(
        f"{where}{error.strerror or one_line(error)}: look at what `workdir`, `data_dir` and WSN_CACHE_DIR name"
    )


def one_line(error: Exception) -> str:
    """Kind and message of an error, of at most 160 characters, without line breaks."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 160 else text[:157] + "..."


def meant(name: str, names: Iterable[str]) -> str:
    """The known name that is nearest to an unknown one, as a question; nothing where none is near."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.7)
    return f" (did you mean {near[0]}?)" if near else ""


def choose(registry: Mapping[str, Entry], argument: str, name: str) -> Entry:
    """The entry called `name`, the value of `argument`. Raises UserError for an unknown one."""
    check_known(registry, argument, name)
    return registry[name]


def check_known(registry: Collection[str], argument: str, name: str) -> None:
    """Raises UserError for a name that a registry does not have."""
    if name not in registry:
        raise UserError(
            f"`{argument}={name}` is unknown: choose one of {', '.join(registry)}{meant(name, registry)}"
        )


def whole_number(argument: str, value: Any) -> int:
    """A Python int, of whatever `operator.index` accepts, such as NumPy's. Raises UserError for other values."""
    try:
        return operator.index(value)
    except TypeError:
        raise UserError(f"`{argument}={value}` is not a whole number") from None


def real_number(argument: str, value: Any) -> float:
    """A Python int or float, of whatever `operator.index` or `float` accepts but texts. Raises UserError otherwise."""
    if not isinstance(value, str | bytes):
        for convert in (operator.index, float):
            try:
                return convert(value)
            except (TypeError, ValueError):
                continue
    raise UserError(f"`{argument}={value}` is not a number")
