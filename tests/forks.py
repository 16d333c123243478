"""For the trial: work in processes of its own, how they ended, and corruptions of files.

The work runs in a fork of a process that has imported everything and has not initialized JAX. It has lost root's right
to read and write what file modes forbid.
"""

import contextlib
import ctypes
import dataclasses
import importlib
import os
import random
import re
import shutil
import signal
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mocks

from experiments.lab import contents, endings, flags, launch
from experiments.width import mlp_grid
from wsn import stored
from wsn.errors import UserError
from wsn.records import plan, record
from wsn.training import train

PATIENCE = 900.0  # seconds, after which an attempt hangs: the machine may have other work
NAMES = list(contents.files())
COMMANDS = {name: contents.command(name) for name in NAMES}
for late in ("matplotlib.backends.backend_agg", "orbax.checkpoint", "sklearn.datasets", "optax", "flax"):
    importlib.import_module(late)  # which commands import when they need it
record._commit()  # runs git once
assert threading.active_count() == 1  # a fork would lose other threads


@dataclasses.dataclass
class Ended:
    """How a process ended: its exit code (negative: the signal), stderr, and whether it had to be killed."""

    code: int
    errors: str
    hung: bool = False


class Bad(Exception):
    """An attempt that did not end well."""


def fork(work: Callable[[], object], home: Path, *, alone: bool = True) -> tuple[int, Path]:
    """A process that does some work in the folder `home`, with a cache there: its id and the file of its stderr.

    A UserError ends it as it ends a command. If it is `alone`, it removes at once what killed processes left.
    """
    errors = home / f"errors.{time.monotonic_ns()}"
    early = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    if pid := os.fork():
        signal.pthread_sigmask(signal.SIG_SETMASK, early)
        return pid, errors
    os.chdir(home)
    os.environ["WSN_CACHE_DIR"] = str(home / "cache")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    code = 70
    try:
        obey_modes()
        endings.begin()
        signal.pthread_sigmask(signal.SIG_SETMASK, early)
        if alone:
            stored.ABANDONED_SECONDS = 0.0
        work()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
        if isinstance(ended.code, str):
            os.write(2, f"{ended.code}\n".encode(errors="backslashreplace"))
    except UserError as error:
        code = 1
        os.write(2, f"error: {flags.as_flags(str(error))}\n".encode(errors="backslashreplace"))
    except BaseException:
        os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(code)


def command(line: str, *more: str, stub: bool = True) -> Callable[[], None]:
    """The work of `python -m experiments.LINE`; with `stub`, training, its costs and drawing are stubbed."""

    def work() -> None:
        name, *arguments = [*line.split(), *more]
        if stub:
            train.train = mocks.stub_train
            plan.cost = lambda group, *_: plan.Cost(len(group.members), (1,), 1.0, 1.0)
            mlp_grid.draw = lambda rows, *_: Drawn(rows)
        sys.argv = [f"{name}.py", *arguments]
        launch.run(COMMANDS[name])

    return work


@dataclasses.dataclass
class Drawn:
    """In place of a figure."""

    rows: Any

    def savefig(self, file: Any, **_: Any) -> None:
        for row in self.rows:
            file.write(f"{row}\n".encode())


def obey_modes() -> None:
    """Take root's right to ignore the modes of files from this process (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH)."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) == 0:
        for kind in range(3):  # effective, permitted, inheritable
            sets[kind] &= ~0b110
        libc.capset(header, sets)


def finish(process: tuple[int, Path], patience: float = PATIENCE, number: int = signal.SIGKILL) -> Ended:
    """Wait for a process; after `patience` it gets the signal, and is killed if that does not end it."""
    pid, file = process
    for wait, then in ((patience, number), (PATIENCE, signal.SIGKILL), (PATIENCE, signal.SIGKILL)):
        end = time.monotonic() + wait
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                errors = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
                file.unlink(missing_ok=True)
                hung = wait == PATIENCE and time.monotonic() >= end
                return Ended(os.waitstatus_to_exitcode(status), errors, hung)
            if time.monotonic() >= end:
                break
            time.sleep(min(0.005, max(end - time.monotonic(), 0.0)))
        os.kill(pid, then)
    raise Bad("a process that nothing ends")


def judge(ended: Ended, right: bool) -> str:
    """How an attempt ended; `right`: its files are those of an undisturbed run. Raises Bad."""
    lines = [line for line in ended.errors.splitlines() if line and not _is_progress(line)]
    warned = any("WARNING" in line or re.match(r"W\d{4}", line) for line in ended.errors.splitlines())
    if ended.hung or "Traceback" in ended.errors:
        raise Bad("hang" if ended.hung else f"traceback: {ended.errors[-600:]}")
    if ended.code == 0 and right:
        return "recovers" if warned else "unaffected"
    one_line = len(lines) == 1 and lines[0].startswith("error: ")
    if ended.code == 1 and (one_line or "FATAL Flags parsing error" in ended.errors):
        return "fails cleanly"
    raise Bad(f"exit code {ended.code}{'' if right else ', another result'}: {ended.errors[-600:]}")


def _is_progress(line: str) -> bool:
    return bool(re.match(r"[IW]\d{4} |WARNING:|.* left; |a worker was", line)) or "%" in line[:5]


def half_written(home: Path) -> list[str]:
    """What a process that ended by itself should have removed."""
    return [str(path.relative_to(home)) for path in home.rglob(".*")]


def make_readable(home: Path) -> None:
    """Undo what corruptions did to modes."""
    for folder, names, others in os.walk(home):
        for name in names:
            os.chmod(os.path.join(folder, name), 0o755)
        for name in others:
            with contextlib.suppress(FileNotFoundError):  # of a link to nothing
                os.chmod(os.path.join(folder, name), 0o644)


# Corruptions.


def _swap(path: Path, rng: random.Random) -> None:
    """Put another file of its kind in its place, if there is one."""
    top = next(parent for parent in path.parents if parent.name in ("out", "cache"))
    kind = f"*{path.suffix}" if path.suffix in (".npy", ".sha256") else path.name
    others = sorted(other for other in top.rglob(kind) if other != path and other.is_file())
    if others:
        path.write_bytes(rng.choice(others).read_bytes())


def _flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    make(path)


Corruption = Callable[[Path, random.Random], object]
OF_FILES: dict[str, Corruption] = {
    "emptied": lambda path, rng: path.write_bytes(b""),
    "halved": lambda path, rng: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "with a flipped bit": _flip,
    "as a directory": lambda path, rng: _replace(path, Path.mkdir),
    "as a FIFO": lambda path, rng: _replace(path, os.mkfifo),
    "as garbage": lambda path, rng: path.write_bytes(rng.randbytes(64)),
    "swapped": _swap,
    "removed": lambda path, rng: path.unlink(),
    "unreadable": lambda path, rng: path.chmod(0),
    "as a link to nothing": lambda path, rng: _replace(path, lambda place: place.symlink_to("nothing")),
}
OF_FOLDERS: dict[str, Corruption] = {
    "removed": lambda path, rng: shutil.rmtree(path),
    "emptied": lambda path, rng: _replace(path, Path.mkdir),
    "as garbage": lambda path, rng: _replace(path, lambda place: place.write_bytes(rng.randbytes(64))),
    "unreadable": lambda path, rng: path.chmod(0),
    "without listing": lambda path, rng: path.chmod(stat.S_IXUSR),
    "without writing": lambda path, rng: path.chmod(stat.S_IXUSR | stat.S_IRUSR),
    "with another folder": lambda path, rng: (path / "ipynb_checkpoints").mkdir(),
}
