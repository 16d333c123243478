"""The program, tried as a hostile user would: killed, damaged, told nonsense. Seeded; prints what ends badly.

    python tests/trial.py                      # a minute
    python tests/trial.py --minutes=60 --seed=1

An attempt ends well in three ways (BUILD.md, "The contract"): told (one line of error, nothing half-written), mended (a
warning, and the result of an undisturbed run), or unmoved (that result). Everything else is printed with the command
and the damage, and the exit code is 1. Attempts are forks of a process that has imported everything and started nothing
of JAX; training is pretended, all else is the program.
"""

import argparse
import contextlib
import dataclasses
import importlib
import os
import random
import re
import shutil
import signal
import stat
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import tiny  # noqa: E402

from experiments.lab import contents, endings, flags, launch  # noqa: E402
from wsn.records import plan  # noqa: E402
from wsn.training import train  # noqa: E402

# A family whose networks are trained in six groups, with a table and a figure.
LINE = "mlp_grid --dataset=digits --base_width=3 --widths=3,6,12 --epochs=6 --seeds=2 --checkpoint_seconds=0"
TABLE = "mlp_grid.csv"
PATIENCE = 60.0  # seconds of an attempt, before it counts as hanging
DRAWN_SECONDS = 5.0  # of a command line that is right after all, before it is stopped
VALUES = (
    "x|nan|inf|-inf|-1|0|1e400|1000000000000|"
    + "9" * 40
    + "||1,1|,|é|\udcff|--dry_run|"
    + str(Path(__file__))
)
SCRIPTS = contents.names()


@dataclasses.dataclass
class Ended:
    """What a process left: its exit code (negative: the signal), what it said, and whether it had to be killed."""

    code: int
    said: str
    hung: bool


class Bad(Exception):
    """An attempt that did not end well."""


# Processes.


def start(line: str, home: Path, *more: str) -> int:
    """A fork that runs a command as `python -m` does, in `home`, with a cache there; its process id."""
    script, *arguments = [*line.split(), *more]
    if pid := os.fork():
        return pid
    os.chdir(home)
    os.environ["WSN_CACHE_DIR"] = str(home / "cache")
    nowhere, said = (
        os.open(os.devnull, os.O_WRONLY),
        os.open(home / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    )
    os.dup2(nowhere, 1)
    os.dup2(said, 2)
    code = 70
    try:
        endings.begin()
        train.train = partial(tiny.pretended, seconds=0.01)
        plan.cost = lambda group, *_: plan.Cost(len(group.members), (1,), 1.0, 1.0)
        sys.argv = [f"{script}.py", *arguments]
        launch.run(importlib.import_module(f"experiments.{script}").COMMAND)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
        if isinstance(ended.code, str):
            os.write(2, f"{ended.code}\n".encode(errors="backslashreplace"))
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(code)


def finish(pid: int, home: Path, patience: float = PATIENCE, number: int = signal.SIGKILL) -> Ended:
    """Wait for a process; after `patience` it gets the signal, and is killed if that does not end it."""
    for wait, then in ((patience, number), (PATIENCE, signal.SIGKILL), (PATIENCE, signal.SIGKILL)):
        end = time.monotonic() + wait
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                said = home / "said"
                text = said.read_text(errors="replace") if said.exists() else ""
                said.unlink(missing_ok=True)
                return Ended(
                    os.waitstatus_to_exitcode(status), text, wait != patience and then == signal.SIGKILL
                )
            time.sleep(0.01)
        os.kill(pid, then)
    raise Bad("a process that nothing ends")


def judge(ended: Ended, right: bool) -> str:
    """How an attempt ended; `right`: its table is that of an undisturbed run. Raises Bad."""
    lines = [line for line in ended.said.splitlines() if line and not _is_warning(line)]
    warned = any("WARNING" in line or re.match(r"W\d{4}", line) for line in ended.said.splitlines())
    if ended.hung or "Traceback" in ended.said:
        raise Bad("hang" if ended.hung else "traceback")
    if ended.code == 0 and right:
        return "mended" if warned else "unmoved"
    if ended.code == 1 and (
        len(lines) == 1 and lines[0].startswith("error: ") or _refused_by_absl(ended.said)
    ):
        return "told"
    raise Bad(f"exit code {ended.code}" + ("" if right else ", another result"))


def _is_warning(line: str) -> bool:
    return bool(re.match(r"[IW]\d{4} |.* left; |a worker was", line)) or "%" in line[:5]


def _refused_by_absl(said: str) -> bool:
    return "FATAL Flags parsing error" in said


def half_written(home: Path) -> list[str]:
    """What a process that ended by itself should have taken away."""
    return [str(path.relative_to(home)) for path in home.rglob(".*") if path.is_file()]


# The three kinds of attempts. Each yields what it is, then says how it ended.


class Trial:
    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        begun = time.monotonic()
        self.finished = self._home("finished")
        ended = finish(start(LINE, self.finished, "--workdir=out"), self.finished, 10 * PATIENCE)
        if ended.code:
            raise Bad(f"the undisturbed run: {ended}")
        self.seconds = time.monotonic() - begun
        self.table = (self.finished / "out" / TABLE).read_bytes()
        self.unfinished = self._home("unfinished", self.finished)
        shutil.rmtree(self.unfinished / "out")
        pid = start(LINE, self.unfinished, "--workdir=out")
        while not list(self.unfinished.glob("out/runs/*/checkpoints/*.sha256")):
            time.sleep(0.001)
        os.kill(pid, signal.SIGTERM)
        finish(pid, self.unfinished)

    def _home(self, name: str, like: Path | None = None) -> Path:
        home = self.folder / name
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(like, home, symlinks=True) if like else home.mkdir()
        return home

    def _right(self, home: Path) -> bool:
        table = home / "out" / TABLE
        return table.is_file() and table.read_bytes() == self.table

    def kills(self) -> Iterator[str]:
        """One process or two in one folder, ended by signals at random moments until one comes to its end."""
        home = self._home("attempt", self.random.choice([self.finished, self.unfinished]))
        if self.random.random() < 0.7:
            shutil.rmtree(home / "out", ignore_errors=True)
        several = self.random.random() < 0.3
        plan_ = [
            (
                self.random.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]),
                self.random.random() * self.seconds,
            )
            for _ in range(3)
        ]
        yield f"{LINE} ({2 if several else 1} processes; {', '.join(f'{n.name} after {t:.2f} s' for n, t in plan_)})"
        codes = {signal.SIGKILL: {-9}, signal.SIGTERM: {os.EX_TEMPFAIL}, signal.SIGINT: {endings.INTERRUPTED}}
        for number, seconds in plan_:
            other = start(LINE, home, "--workdir=out") if several else None
            ended = finish(start(LINE, home, "--workdir=out"), home, seconds, number)
            if ended.code not in {0} | codes[number] or "Traceback" in ended.said:
                raise Bad(f"exit code {ended.code} after {number.name}: {ended.said[-300:]}")
            if other is not None:
                judge(finish(other, home), self._right(home))
        ended = finish(start(LINE, home, "--workdir=out"), home)
        yield judge(ended, self._right(home))

    def damages(self) -> Iterator[str]:
        """One file of a finished or unfinished folder, or of the cache, is harmed; then the same command again."""
        home = self._home("attempt", self.random.choice([self.finished, self.unfinished]))
        files = sorted(path for path in home.rglob("*") if path.is_file())
        path, name = self.random.choice(files), self.random.choice(list(HARMS))
        yield f"{LINE} ({path.relative_to(home)} {name})"
        HARMS[name](path, self.random)
        ended = finish(start(LINE, home, "--workdir=out"), home)
        if left := half_written(home):
            raise Bad(f"left behind: {left}")
        outcome = judge(ended, self._right(home))
        for harmed in home.rglob("*"):
            with contextlib.suppress(OSError):
                harmed.chmod(0o755 if harmed.is_dir() else 0o644)
        yield outcome

    def lines(self) -> Iterator[str]:
        """A flag of an experiment with a value that it hardly takes."""
        script = self.random.choice(SCRIPTS)
        command = importlib.import_module(f"experiments.{script}").COMMAND
        fields = [
            field.name
            for cls in (type(command.run), flags._settings(command))
            for field, *_ in flags._fields(cls)
        ]
        values = VALUES.split("|")
        told = [
            f"--{self.random.choice(fields)}={self.random.choice(values)}"
            for _ in range(self.random.choice([1, 1, 2]))
        ]
        plain = ["--dry_run"] if "dry_run" in fields else []
        yield repr(" ".join([script, *told, *plain]))
        home = self._home("attempt")
        pid = start(script, home, "--workdir=out", *plain, *told)
        ended = finish(pid, home, DRAWN_SECONDS, signal.SIGTERM)
        if ended.code == os.EX_TEMPFAIL and endings.STOPPED in ended.said and not half_written(home):
            yield "unmoved"  # it takes the value, and was stopped
        yield judge(ended, True)


def _swapped(path: Path, rng: random.Random) -> None:
    """Another file of its kind in its place, where there is one."""
    top = next(parent for parent in path.parents if parent.name in ("out", "cache"))
    others = [other for other in top.rglob(path.name) if other != path and other.is_file()]
    if others:
        path.write_bytes(rng.choice(others).read_bytes())


def _flipped(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


HARMS: dict[str, Callable[[Path, random.Random], object]] = {
    "emptied": lambda path, rng: path.write_bytes(b""),
    "halved": lambda path, rng: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "with a flipped bit": _flipped,
    "as a directory": lambda path, rng: _replaced(path, Path.mkdir),
    "as a FIFO": lambda path, rng: _replaced(path, os.mkfifo),
    "as garbage": lambda path, rng: path.write_bytes(rng.randbytes(64)),
    "swapped": _swapped,
    "removed": lambda path, rng: path.unlink(),
    "unreadable": lambda path, rng: path.chmod(0),
    "in an unreadable folder": lambda path, rng: path.parent.chmod(stat.S_IXUSR),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/trial.py", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", "os.fork")
    counts: Counter[str] = Counter()
    bad = 0
    with tempfile.TemporaryDirectory(prefix="wsn-trial-") as folder:
        trial = Trial(Path(folder), asked.seed)
        end = time.monotonic() + 60 * asked.minutes
        while time.monotonic() < end:
            for kind in ("lines", "damages", "kills"):
                attempt, what = getattr(trial, kind)(), kind
                try:
                    what = next(attempt)
                    counts[f"{kind}: {next(attempt)}"] += 1
                except Bad as error:
                    bad += 1
                    print(f"BAD {error}: {what}", flush=True)
    for name, count in sorted(counts.items()):
        print(f"{name} {count}")
    print(f"{counts.total() + bad} attempts, {bad} bad (seed {asked.seed})")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
