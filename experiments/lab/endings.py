"""How a command ends, whatever happens: by its exit code and at most one line, never by a traceback.

Exit codes: 0; 1 with a line that says what to do; 75 (try again) after SIGTERM; 130 after Ctrl-C. Imports nothing of
wsn's, so that it is in force while that is imported.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import IO, Any, NoReturn

STOPPED = f"stopped by SIGTERM; the same command goes on (exit code {os.EX_TEMPFAIL})"
INTERRUPTED = 130
GRACE = 20  # seconds for what unwinds


def begin() -> None:
    """From here on both signals end the process in order."""
    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, terminated)
    sys.unraisablehook = unraisable


def unraisable(found: Any) -> None:
    """An end that came while a callback ran, of the garbage collector's say, whose exceptions Python passes over."""
    if isinstance(found.exc_value, SystemExit):
        os._exit(int(found.exc_value.code or 0))
    sys.__unraisablehook__(found)


def terminated(*_: Any) -> NoReturn:
    """On SIGTERM where nothing is to be saved: unwind, so that no half-written file stays, and end."""
    os.write(2, f"{STOPPED}\n".encode())  # print may be what it interrupts
    _within_grace(os.EX_TEMPFAIL)
    raise SystemExit(os.EX_TEMPFAIL)


def interrupted(*_: Any) -> NoReturn:
    """On Ctrl-C: unwind and end; no library takes it for an error of its own."""
    _within_grace(INTERRUPTED)
    raise SystemExit(INTERRUPTED)


def _within_grace(code: int) -> None:
    """C code that called back may drop an exception, and the command would go on as if nothing had been said."""
    signal.signal(signal.SIGALRM, lambda *_: os._exit(code))
    signal.alarm(GRACE)


def ended() -> None:
    """All is written: from here on a signal changes nothing. Python would take its handlers away while it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def streams() -> Iterator[None]:
    """In the block, output that nobody takes (closed, `| head -1`, a full disk) is dropped, and ends nothing.

    What is asked for is in files. A reader that has gone is no news; that a disk is full is told.
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
    """A text stream whose errors are not those of who writes."""

    def __init__(self, stream: IO[str] | None, descriptor: int) -> None:
        self._stream: Any = stream or open(os.devnull, "w")  # noqa: SIM115 - none where it was closed from the start
        self._descriptor = descriptor
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="backslashreplace")  # folders may have names that are no text

    def write(self, text: str) -> int:
        self._tried(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._tried(self._stream.flush)

    def _tried(self, work: Any) -> None:
        try:
            work()
        except OSError as error:
            with open(os.devnull, "w") as nowhere:  # also for what is in the buffer
                os.dup2(nowhere.fileno(), self._descriptor)
            if self._descriptor == 1 and not isinstance(error, BrokenPipeError):
                print(
                    f"standard output: {error.strerror}; the files are written all the same", file=sys.stderr
                )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
