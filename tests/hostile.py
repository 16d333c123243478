"""For the trial: commands in processes of their own, how they ended, and what is done to files.

A command runs in a fork of a process that has imported everything and started nothing of JAX. It has lost root's right
to read and write what its mode forbids.
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

from experiments.lab import contents, endings, launch
from experiments.width import figure5
from wsn import stored
from wsn.records import plan, record
from wsn.training import train

PATIENCE = 300.0  # seconds of an attempt, before it counts as hanging: the machine may have other work
SCRIPTS = list(contents.files())
COMMANDS = {script: contents.command(script) for script in SCRIPTS}
for late in ("matplotlib.backends.backend_agg", "orbax.checkpoint", "sklearn.datasets", "optax", "flax"):
    importlib.import_module(late)  # what commands import when they need it
record._commit()  # asks git once
assert threading.active_count() == 1  # which a fork would leave behind


@dataclasses.dataclass
class Ended:
    """What a process left: its exit code (negative: the signal), what it said, and whether it had to be killed."""

    code: int
    said: str
    hung: bool


class Bad(Exception):
    """An attempt that did not end well."""


def start(line: str, home: Path, *more: str, pretend: bool = True, alone: bool = True) -> tuple[int, Path]:
    """A fork that runs a command as `python -m` does, in `home`, with a cache there: its process id and what it says.

    Where it is `alone`, what killed ones were writing may be taken away at once.
    """
    script, *arguments = [*line.split(), *more]
    said = home / f"said.{time.monotonic_ns()}"
    early = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    if pid := os.fork():
        signal.pthread_sigmask(signal.SIG_SETMASK, early)
        return pid, said
    os.chdir(home)
    os.environ["WSN_CACHE_DIR"] = str(home / "cache")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    code = 70
    try:
        obey_modes()
        endings.begin()
        signal.pthread_sigmask(signal.SIG_SETMASK, early)
        if alone:
            stored.ABANDONED_SECONDS = 0.0
        if pretend:
            pretend_all()
        sys.argv = [f"{script}.py", *arguments]
        launch.run(COMMANDS[script])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
        if isinstance(ended.code, str):
            os.write(2, f"{ended.code}\n".encode(errors="backslashreplace"))
    except BaseException:
        os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(code)


def pretend_all() -> None:
    """In this process: training, its costs and drawing, which take seconds. All else is the program."""
    train.train = mocks.stub_train
    plan.cost = lambda group, *_: plan.Cost(len(group.members), (1,), 1.0, 1.0)
    figure5.draw = lambda rows, *_: Drawn(rows)


@dataclasses.dataclass
class Drawn:
    """In the place of a figure."""

    rows: Any

    def savefig(self, file: Any, **_: Any) -> None:
        for row in self.rows:
            file.write(f"{row}\n".encode())


def obey_modes() -> None:
    """Root reads and writes what it likes; from here on this process does not (CAP_DAC_OVERRIDE, _READ_SEARCH)."""
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
    pid, said = process
    for wait, then in ((patience, number), (PATIENCE, signal.SIGKILL), (PATIENCE, signal.SIGKILL)):
        end = time.monotonic() + wait
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                text = said.read_text(errors="replace") if said.exists() else ""
                said.unlink(missing_ok=True)
                hung = wait == PATIENCE and time.monotonic() >= end
                return Ended(os.waitstatus_to_exitcode(status), text, hung)
            if time.monotonic() >= end:
                break
            time.sleep(min(0.005, max(end - time.monotonic(), 0.0)))
        os.kill(pid, then)
    raise Bad("a process that nothing ends")


def judge(ended: Ended, right: bool) -> str:
    """How an attempt ended; `right`: what it wrote is what an undisturbed run writes. Raises Bad."""
    lines = [line for line in ended.said.splitlines() if line and not _is_news(line)]
    warned = any("WARNING" in line or re.match(r"W\d{4}", line) for line in ended.said.splitlines())
    if ended.hung or "Traceback" in ended.said:
        raise Bad("hang" if ended.hung else f"traceback: {ended.said[-600:]}")
    if ended.code == 0 and right:
        return "mended" if warned else "unmoved"
    told = len(lines) == 1 and lines[0].startswith("error: ")
    if ended.code == 1 and (told or "FATAL Flags parsing error" in ended.said):
        return "told"
    raise Bad(f"exit code {ended.code}{'' if right else ', another result'}: {ended.said[-600:]}")


def _is_news(line: str) -> bool:
    return bool(re.match(r"[IW]\d{4} |.* left; |a worker was", line)) or "%" in line[:5]


def half_written(home: Path) -> list[str]:
    """What a process that ended by itself should have taken away."""
    return [str(path.relative_to(home)) for path in home.rglob(".*")]


def readable(home: Path) -> None:
    """Take back what the harms did to modes."""
    for folder, names, others in os.walk(home):
        for name in names:
            os.chmod(os.path.join(folder, name), 0o755)
        for name in others:
            with contextlib.suppress(FileNotFoundError):  # of a link to nothing
                os.chmod(os.path.join(folder, name), 0o644)


# Harms.


def _swapped(path: Path, rng: random.Random) -> None:
    """Another of its kind in its place, where there is one."""
    top = next(parent for parent in path.parents if parent.name in ("out", "cache"))
    kind = f"*{path.suffix}" if path.suffix in (".npy", ".sha256") else path.name
    others = sorted(other for other in top.rglob(kind) if other != path and other.is_file())
    if others:
        path.write_bytes(rng.choice(others).read_bytes())


def _flipped(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _replaced(path: Path, make: Callable[[Path], object]) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    make(path)


OF_FILES: dict[str, Callable[[Path, random.Random], object]] = {
    "emptied": lambda path, rng: path.write_bytes(b""),
    "halved": lambda path, rng: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "with a flipped bit": _flipped,
    "as a directory": lambda path, rng: _replaced(path, Path.mkdir),
    "as a FIFO": lambda path, rng: _replaced(path, os.mkfifo),
    "as garbage": lambda path, rng: path.write_bytes(rng.randbytes(64)),
    "swapped": _swapped,
    "removed": lambda path, rng: path.unlink(),
    "unreadable": lambda path, rng: path.chmod(0),
    "as a link to nothing": lambda path, rng: _replaced(path, lambda place: place.symlink_to("nothing")),
}
OF_FOLDERS: dict[str, Callable[[Path, random.Random], object]] = {
    "removed": lambda path, rng: shutil.rmtree(path),
    "emptied": lambda path, rng: _replaced(path, Path.mkdir),
    "as garbage": lambda path, rng: _replaced(path, lambda place: place.write_bytes(rng.randbytes(64))),
    "unreadable": lambda path, rng: path.chmod(0),
    "without its listing": lambda path, rng: path.chmod(stat.S_IXUSR),
    "without its writing": lambda path, rng: path.chmod(stat.S_IXUSR | stat.S_IRUSR),
    "with a hidden folder": lambda path, rng: (path / "ipynb_checkpoints").mkdir(),
}
