"""Exceptions whose message is one line for the user."""

import contextlib
import difflib
import operator
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

Entry = TypeVar("Entry")
TRY_AGAIN = 75  # the exit code of a command that was stopped and can be resumed: EX_TEMPFAIL


class UserError(ValueError):
    """Bad input. The message is one line that names the argument or file at fault and says what to do about it.

    Arguments are in backticks, as `name` or `name=value`; commands turn them into flags (`experiments.lab.launch`),
    print the line without a traceback, and exit with a non-zero status.
    """


class Preempted(Exception):
    """Training was stopped, with a checkpoint: the same command resumes it."""


def of_system(error: OSError) -> UserError:
    """The error for an OSError that no other code has explained."""
    where = f"{error.filename}: " if error.filename else ""
    return UserError(
        f"{where}{error.strerror or one_line(error)}: check the folders of `workdir`, `data_dir` and WSN_CACHE_DIR"
    )


def one_line(error: Exception) -> str:
    """Type and message of an error, in at most 160 characters without line breaks."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 160 else text[:157] + "..."


def did_you_mean(name: str, names: Collection[str]) -> str:
    """The known name that is closest to an unknown one, as a question; empty if none is close."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    return f" (did you mean {close[0]}?)" if close else ""


def choose(registry: Mapping[str, Entry], argument: str, name: str) -> Entry:
    """The entry `name` of a registry, given as the value of `argument`. Raises UserError if it is unknown."""
    check_known(registry, argument, name)
    return registry[name]


def check_known(registry: Collection[str], argument: str, name: str) -> None:
    """Raises UserError for a name that is not in a registry."""
    if not isinstance(name, str) or name not in registry:
        raise UserError(
            f"`{argument}={name}` is unknown: choose one of {', '.join(registry)}{did_you_mean(str(name), registry)}"
        )


def whole_number(argument: str, value: Any) -> int:
    """A Python int, of whatever `operator.index` accepts, such as NumPy's. Raises UserError for other values."""
    try:
        return operator.index(value)
    except TypeError:
        raise UserError(f"`{argument}={value}` is not a whole number") from None


def real_number(argument: str, value: Any) -> float:
    """A Python float, of whatever `float` accepts but texts. Raises UserError for other values."""
    if not isinstance(value, str | bytes):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return float(value)
    raise UserError(f"`{argument}={value}` is not a number")


def truth_value(argument: str, value: Any) -> bool:
    """A Python bool, of one or of 0 or 1. Raises UserError for other values."""
    if value not in (False, True):
        raise UserError(f"`{argument}={value}` is neither true nor false")
    return bool(value)
