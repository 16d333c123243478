"""The program, tried as a hostile user would: killed, damaged, told nonsense. Seeded; prints what ends badly.

    python tests/trial.py                      # a minute
    python tests/trial.py --minutes=60 --seed=1
    python tests/trial.py --attempts=16        # two rounds, however long they take
    python tests/trial.py --again=damages/17   # one attempt of that seed

An attempt ends well in three ways (BUILD.md, "The contract"): told (one line of error, nothing half-written), mended (a
warning, and the result of an undisturbed run), or unmoved (that result). Everything else is printed with the command
and the damage, and the exit code is 1. In kills and damages training and drawing are pretended, all else is real.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")  # threads do not outlive a fork

from hostile import (  # noqa: E402
    COMMANDS,
    OF_FILES,
    OF_FOLDERS,
    SCRIPTS,
    Bad,
    Ended,
    finish,
    half_written,
    judge,
    readable,
    start,
)

from experiments.lab import endings, flags  # noqa: E402

# Networks of two groups, with a table and a figure.
LINE = (
    "mlp_grid --dataset=digits --base_width=3 --widths=3,12 --activations=relu --last_connectivity=1,0.5"
    " --epochs=4 --seeds=2 --checkpoint_seconds=0"
)
WRITTEN = "mlp_grid.csv", "mlp_grid.png"
DRAWN_SECONDS = 3.0  # of a command line that is right after all, before it is stopped
VALUES = (
    *("x", "nan", "inf", "-inf", "-1", "0", "0.5", "1e400", "1000000000000", "9" * 40, "", "1,1", ",", "é"),
    *("\udcff", "--dry_run", "1e-300", "a" * 300, "true", "1/0", "../..", "/dev/null", "/dev/full", __file__),
)
CODES = {
    signal.SIGKILL: -signal.SIGKILL,
    signal.SIGTERM: os.EX_TEMPFAIL,
    signal.SIGINT: endings.INTERRUPTED,
}
ROUND = "lines", "damages", "kills", "damages", "lines", "damages", "kills", "stops"


class Trial:
    """Attempts, in a folder; each is a function of (seed, kind, number), apart from what the machine's speed does."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed, self.random = folder, seed, random.Random(seed)
        self.signals: Counter[str] = Counter()
        self.finished = self._home("finished")
        self.seconds = 0.0
        ended = self._undisturbed(self.finished)
        if ended.code:
            raise Bad(f"the undisturbed run: {ended}")
        self.written = self._written(self.finished)
        self.unfinished = self._home("unfinished", self.finished)
        shutil.rmtree(self.unfinished / "out")
        process = start(LINE, self.unfinished, "--workdir=out")
        while len(list(self.unfinished.glob("out/runs/*/checkpoints/*.sha256"))) < 2:
            time.sleep(0.001)
        os.kill(process[0], signal.SIGTERM)
        finish(process)

    def attempt(self, kind: str, number: int) -> Iterator[str]:
        """Yields what is tried, then how it ended. Raises Bad."""
        self.random = random.Random(f"{self.seed} {kind} {number}")
        return getattr(self, kind)()

    def _home(self, name: str, like: Path | None = None) -> Path:
        home = self.folder / name
        if home.exists():
            readable(home)
            shutil.rmtree(home)
        shutil.copytree(like, home, symlinks=True) if like else home.mkdir()
        return home

    def _undisturbed(self, home: Path) -> Ended:
        begun = time.monotonic()
        ended = finish(start(LINE, home, "--workdir=out"))
        self.seconds += 0.2 * (time.monotonic() - begun - self.seconds)  # the machine has other work too
        return ended

    def _written(self, home: Path) -> list[bytes | None]:
        paths = [home / "out" / name for name in WRITTEN]
        return [path.read_bytes() if path.is_file() else None for path in paths]

    def _right(self, home: Path) -> bool:
        return self._written(home) == self.written

    def kills(self) -> Iterator[str]:
        """One process or two in one folder, ended by signals at random moments; then one comes to its end."""
        home = self._home("attempt", self.random.choice([self.finished, self.unfinished]))
        for part, chance in (("out", 0.7), ("cache", 0.3)):
            if self.random.random() < chance:
                shutil.rmtree(home / part)
        several = self.random.random() < 0.3
        moments = [(self.random.choice(list(CODES)), self.random.random() * self.seconds) for _ in range(3)]
        told = ", ".join(f"{number.name} after {seconds:.2f} s" for number, seconds in moments)
        yield f"{LINE} ({2 if several else 1} processes; {told})"
        for number, seconds in moments:
            other = start(LINE, home, "--workdir=out", alone=False) if several else None
            ended = finish(start(LINE, home, "--workdir=out", alone=not several), seconds, number)
            self._signalled(ended, number, {0})
            if other is not None:
                judge(finish(other), self._right(home))
        outcome = judge(self._undisturbed(home), self._right(home))
        self._clean(home)
        yield outcome

    def stops(self) -> Iterator[str]:
        """A signal at a random moment of the first seconds of any experiment, in which nothing is pretended."""
        home, script = self._home("attempt"), self.random.choice(SCRIPTS)
        number, seconds = self.random.choice(list(CODES)), self.random.random() * DRAWN_SECONDS
        yield f"{script} ({number.name} after {seconds:.2f} s)"
        ended = finish(start(script, home, "--workdir=out", pretend=False), seconds, number)
        self._signalled(ended, number, {0, 1})
        if number != signal.SIGKILL:
            self._clean(home)
        yield judge(ended, True) if ended.code in (0, 1) else "unmoved"

    def _signalled(self, ended: Ended, number: signal.Signals, also: set[int]) -> None:
        if ended.code not in {CODES[number]} | also or ended.hung or "Traceback" in ended.said:
            raise Bad(f"exit code {ended.code} after {number.name}: {ended.said[-600:]}")
        self.signals[number.name] += ended.code == CODES[number]

    def damages(self) -> Iterator[str]:
        """A file or folder of a finished or unfinished run, or of its cache, is harmed; then the same command again."""
        home = self._home("attempt", self.random.choice([self.finished, self.unfinished]))
        path = self.random.choice(sorted(path for path in home.rglob("*") if path.parent != home))
        harms = OF_FOLDERS if path.is_dir() else OF_FILES
        name = self.random.choice(list(harms))
        yield f"{LINE} ({path.relative_to(home)} {name})"
        harms[name](path, self.random)
        ended = self._undisturbed(home)
        readable(home)
        self._clean(home)
        yield judge(ended, self._right(home))

    def lines(self) -> Iterator[str]:
        """Flags of an experiment with values that they hardly take."""
        script = self.random.choice(SCRIPTS)
        command = COMMANDS[script]
        classes = type(command.run), flags.settings_type(command)
        fields = [field.name for cls in classes for field in flags.table(cls)]
        told = [
            f"--{self.random.choice(fields)}={self.random.choice(VALUES)}"
            for _ in range(self.random.choice([1, 1, 2]))
        ]
        if self.random.random() < 0.1:  # twice, each its own
            told.append(f"{told[0].partition('=')[0]}={self.random.choice(VALUES)}")
        plain = ["--dry_run"] if "dry_run" in fields else []
        yield repr(" ".join([script, *told, *plain]))
        home = self._home("attempt")
        process = start(script, home, "--workdir=out", *plain, *told, pretend=False)
        ended = finish(process, DRAWN_SECONDS, signal.SIGTERM)
        self._clean(home)
        if ended.code == os.EX_TEMPFAIL and endings.STOPPED in ended.said and not ended.hung:
            yield "unmoved"  # it takes the value, and was stopped
        yield judge(ended, True)

    def _clean(self, home: Path) -> None:
        if left := half_written(home):
            raise Bad(f"left behind: {left}")


def attempts(asked: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Kinds and numbers, until the time is over or there were so many."""
    end = time.monotonic() + 60 * asked.minutes
    if asked.again is not None:
        kind, _, number = asked.again.partition("/")
        yield kind, int(number)
        return
    numbers: Counter[str] = Counter()
    while True:
        for kind in ROUND:
            over = numbers.total() >= asked.attempts if asked.attempts else time.monotonic() >= end
            if over:
                return
            yield kind, numbers[kind]
            numbers[kind] += 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/trial.py", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--attempts", type=int, default=0)
    parser.add_argument("--again", metavar="KIND/NUMBER")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", "os.fork")
    counts: Counter[str] = Counter()
    bad = 0
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where a file is synced in no time
    with tempfile.TemporaryDirectory(prefix="wsn-trial-", dir=memory) as folder:
        trial = Trial(Path(folder), asked.seed)
        for kind, number in attempts(asked):
            attempt, what = trial.attempt(kind, number), ""
            try:
                what = next(attempt)
                counts[f"{kind}: {next(attempt)}"] += 1
            except Bad as error:
                bad += 1
                print(f"BAD {kind}/{number}: {what}: {error}", flush=True)
            if (counts.total() + bad) % 100 == 0:
                report(trial, counts, bad)
        readable(Path(folder))
    report(trial, counts, bad)
    return min(bad, 1)


def report(trial: Trial, counts: Counter[str], bad: int) -> None:
    for name, count in sorted((counts | {f"signals: {k}": n for k, n in trial.signals.items()}).items()):
        print(f"{name} {count}")
    print(f"{counts.total() + bad} attempts, {bad} bad (seed {trial.seed})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
