"""How a command ends: with an exit code and at most one line, never a traceback.

Exit codes: 0; 1 with a line that says what to do; 75 (try again) after SIGTERM; 130 after Ctrl-C. Imports almost
nothing, so that it is in force while everything else is imported.
"""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any, NoReturn

from wsn import machine
from wsn.errors import TRY_AGAIN, UserError, one_line

STOPPED = f"stopped by SIGTERM; the same command resumes it (exit code {TRY_AGAIN})"
INTERRUPTED = 130
GRACE = 20  # seconds to unwind


def begin(*, unwind: bool = True) -> None:
    """From now on SIGINT and SIGTERM end the process cleanly. Exits on an unsupported platform.

    Without `unwind` it exits at once: while C++ libraries are imported, an exception would abort it.
    """
    try:
        machine.check_platform()
    except UserError as error:
        sys.exit(f"error: {error}")
    signal.signal(signal.SIGINT, interrupted if unwind else lambda *_: os._exit(INTERRUPTED))
    signal.signal(signal.SIGTERM, terminated if unwind else lambda *_: os._exit(_say_stopped()))
    sys.unraisablehook = unraisable


def import_libraries() -> None:
    """Import the libraries that read variables of the environment while they are imported; exits if they refuse one."""
    try:
        import jax  # noqa: F401
        import matplotlib  # noqa: F401
        import tqdm  # noqa: F401
    except (ValueError, TypeError, KeyError) as error:
        text = one_line(error).partition(": ")[2]
        names = [
            n for n, value in os.environ.items() if re.match("JAX_|MPL|TQDM_", n) and value and value in text
        ]
        sys.exit(f"error: {text}: correct or unset {' or '.join(names) or 'the variable'}")


def unraisable(hook_arguments: Any) -> None:
    """An exit raised in a callback, such as the garbage collector's, where Python ignores exceptions."""
    if isinstance(hook_arguments.exc_value, SystemExit):
        os._exit(int(hook_arguments.exc_value.code or 0))
    sys.__unraisablehook__(hook_arguments)


def terminated(*_: Any) -> NoReturn:
    """On SIGTERM outside training: unwind, so that no half-written file stays, and exit."""
    _exit_within_grace(_say_stopped())


def _say_stopped() -> int:
    os.write(2, f"{STOPPED}\n".encode())  # it may have interrupted a print
    return TRY_AGAIN


def interrupted(*_: Any) -> NoReturn:
    """On Ctrl-C: unwind and exit. SystemExit, as libraries take KeyboardInterrupt for an error of their own."""
    _exit_within_grace(INTERRUPTED)


def _exit_within_grace(code: int) -> NoReturn:
    """C code that called back may drop the exception: then an alarm ends the process."""
    signal.signal(signal.SIGALRM, lambda *_: os._exit(code))
    signal.alarm(GRACE)
    raise SystemExit(code)


def ended() -> None:
    """Everything is written: from now on signals are ignored. (While it exits, Python removes its handlers.)"""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def streams() -> Iterator[None]:
    """In the block, output that nobody can receive (closed, `| head -1`, a full disk) is dropped: results are in files.

    A full disk is reported. Characters that the encoding of a stream lacks are escaped.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Tolerant(before[0], 1), _Tolerant(before[1], 2)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


class _Tolerant:
    """A text stream that raises no errors."""

    def __init__(self, stream: IO[str] | None, descriptor: int) -> None:
        self._stream: Any = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - None: closed from the start
        self._descriptor = descriptor
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            with open(os.devnull, "wb") as null:  # also for what is in the buffer
                os.dup2(null.fileno(), self._descriptor)
            if self._descriptor == 1 and not isinstance(error, BrokenPipeError):
                print(f"standard output: {error.strerror}; all files are written", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
