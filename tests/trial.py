"""The program, tried as a hostile user would: killed, corrupted, given nonsense. Seeded; prints what ends badly.

    python tests/trial.py                        # a minute
    python tests/trial.py --minutes=60 --seed=1
    python tests/trial.py --attempts=500 --kinds=data,environments,trees
    python tests/trial.py --again=corruptions/17 # one attempt of that seed

An attempt ends well in three ways: it fails cleanly (one line of error, nothing half-written), recovers (a warning, and
the result of an undisturbed run), or is unaffected (that result). Everything else is printed, with what was tried, and
the exit code is 1. In kills and corruptions training and drawing are stubbed, all else is real.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
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
os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")  # threads do not survive a fork

import inputs  # noqa: E402
from forks import (  # noqa: E402
    COMMANDS,
    NAMES,
    OF_FILES,
    OF_FOLDERS,
    PATIENCE,
    Bad,
    Ended,
    command,
    finish,
    fork,
    half_written,
    judge,
    make_readable,
)

from experiments.lab import endings, flags  # noqa: E402

# Networks of two groups, with a table and a figure.
LINE = (
    "mlp_grid --dataset=digits --base_width=3 --widths=3,12 --activations=relu --last_connectivity=1,0.5"
    " --epochs=4 --seeds=2 --checkpoint_seconds=0 --workdir=out"
)
WRITTEN = "mlp_grid.csv", "mlp_grid.png"
# In environments nothing is stubbed.
REAL = (
    "mlp_grid --dataset=digits --base_width=3 --widths=3 --activations=relu --last_connectivity=1 --epochs=1"
)
DRAWN_SECONDS = 3.0  # of a command line that is valid after all, before it is stopped
VALUES = (
    *("x", "nan", "inf", "-inf", "-1", "0", "0.5", "1e400", "1000000000000", "9" * 40, "", "1,1", ",", "é"),
    *("\udcff", "--dry_run", "1e-300", "a" * 300, "true", "1/0", "../..", "/dev/null", "/dev/full", __file__),
    *("~/x", "~nobody", "gs://bucket", "file:///x", "1.0000001", " 1"),
)
CODES = {
    signal.SIGKILL: -signal.SIGKILL,
    signal.SIGTERM: endings.TRY_AGAIN,
    signal.SIGINT: endings.INTERRUPTED,
}
KINDS = "flags", "corruptions", "kills", "stops", "data", "environments", "trees"
ROUND = (
    *("flags", "corruptions", "kills", "data", "trees", "corruptions", "flags", "corruptions", "kills"),
    *("stops", "data", "trees", "environments"),
)


class Trial:
    """Attempts, in a folder; each is a function of (seed, kind, number) except for the speed of the machine."""

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
        process = fork(command(LINE), self.unfinished)
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
            make_readable(home)
            shutil.rmtree(home)
        shutil.copytree(like, home, symlinks=True) if like else home.mkdir()
        return home

    def _undisturbed(self, home: Path) -> Ended:
        begun = time.monotonic()
        ended = finish(fork(command(LINE), home))
        self.seconds += 0.2 * (time.monotonic() - begun - self.seconds)  # the machine has other work too
        return ended

    def _written(self, home: Path) -> list[bytes | None]:
        paths = [home / "out" / name for name in WRITTEN]
        return [path.read_bytes() if path.is_file() else None for path in paths]

    def _right(self, home: Path) -> bool:
        return self._written(home) == self.written

    def kills(self) -> Iterator[str]:
        """One process or two in one folder, ended by signals at random moments; then one runs to its end."""
        home = self._home("attempt", self.random.choice([self.finished, self.unfinished]))
        for part, chance in (("out", 0.7), ("cache", 0.3)):
            if self.random.random() < chance:
                shutil.rmtree(home / part)
        several = self.random.random() < 0.3
        moments = [(self.random.choice(list(CODES)), self.random.random() * self.seconds) for _ in range(3)]
        listed = ", ".join(f"{number.name} after {seconds:.2f} s" for number, seconds in moments)
        yield f"{LINE} ({2 if several else 1} processes; {listed})"
        for number, seconds in moments:
            other = fork(command(LINE), home, alone=False) if several else None
            ended = finish(fork(command(LINE), home, alone=not several), seconds, number)
            self._signalled(ended, number, {0})
            if other is not None:
                judge(finish(other), self._right(home))
        outcome = judge(self._undisturbed(home), self._right(home))
        self._check_clean(home)
        yield outcome

    def stops(self) -> Iterator[str]:
        """A signal at a random moment of the first seconds of any experiment, in which nothing is stubbed."""
        home, name = self._home("attempt"), self.random.choice(NAMES)
        number, seconds = self.random.choice(list(CODES)), self.random.random() * DRAWN_SECONDS
        yield f"{name} ({number.name} after {seconds:.2f} s)"
        ended = finish(fork(command(name, "--workdir=out", stub=False), home), seconds, number)
        self._signalled(ended, number, {0, 1})
        if number != signal.SIGKILL:
            self._check_clean(home)
        yield judge(ended, True) if ended.code in (0, 1) else "unaffected"

    def _signalled(self, ended: Ended, number: signal.Signals, also: set[int]) -> None:
        if ended.code not in {CODES[number]} | also or ended.hung or "Traceback" in ended.errors:
            raise Bad(f"exit code {ended.code} after {number.name}: {ended.errors[-600:]}")
        self.signals[number.name] += ended.code == CODES[number]

    def corruptions(self) -> Iterator[str]:
        """A file or folder of a finished or unfinished run, or of its cache, is corrupted; then the same command."""
        home = self._home("attempt", self.random.choice([self.finished, self.unfinished]))
        path = self.random.choice(sorted(path for path in home.rglob("*") if path.parent != home))
        corruptions = OF_FOLDERS if path.is_dir() else OF_FILES
        name = self.random.choice(list(corruptions))
        yield f"{LINE} ({path.relative_to(home)} {name})"
        corruptions[name](path, self.random)
        ended = self._undisturbed(home)
        make_readable(home)
        self._check_clean(home)
        yield judge(ended, self._right(home))

    def flags(self) -> Iterator[str]:
        """Flags of an experiment with values that they hardly take."""
        name = self.random.choice(NAMES)
        classes = type(COMMANDS[name].run), flags.settings_type(COMMANDS[name])
        fields = [flag.name for cls in classes for flag in flags.table(cls)]
        given = [
            f"--{self.random.choice(fields)}={self.random.choice(VALUES)}"
            for _ in range(self.random.choice([1, 1, 2]))
        ]
        if self.random.random() < 0.1:  # the same flag twice
            given.append(f"{given[0].partition('=')[0]}={self.random.choice(VALUES)}")
        plain = ["--dry_run"] if "dry_run" in fields else []
        yield repr(" ".join([name, *given, *plain]))
        home = self._home("attempt")
        process = fork(command(name, "--workdir=out", *plain, *given, stub=False), home)
        ended = finish(process, DRAWN_SECONDS, signal.SIGTERM)
        self._check_clean(home)
        if ended.code == endings.TRY_AGAIN and endings.STOPPED in ended.errors and not ended.hung:
            yield "unaffected"  # it takes the value, and was stopped
        yield judge(ended, True)

    def data(self) -> Iterator[str]:
        """Own images, texts and utterances with a defect."""
        home, choice = self._home("attempt"), self.random.choice
        work: Callable[[], object]
        match choice(["images", "images", "images", "text", "utterances"]):
            case "images":
                field = choice(list(inputs.FIELDS))
                defect, normalization = (
                    choice(list(inputs.FIELDS[field])),
                    choice(["scalar", "pixel", "imagenet"]),
                )
                yield f"{field}: {defect}, normalization={normalization}"
                work = partial(inputs.check_images, field, defect, normalization)
            case "text":
                split, defect = choice(["train", "valid", "test"]), choice(list(inputs.OF_TEXTS))
                task, vocabulary = choice(["characters", "words"]), choice([3, 4, 10_000])
                yield f"{split}.txt: {defect}, task={task}, vocabulary={vocabulary}"
                work = partial(inputs.check_text, home, split, defect, task, vocabulary)
            case _:
                defect, normalization = choice(list(inputs.OF_UTTERANCES)), choice(["scalar", "pixel"])
                yield f"utterances: {defect}, normalization={normalization}"
                work = partial(inputs.check_utterances, home, defect, normalization)
        yield judge(finish(fork(work, home)), True)

    def trees(self) -> Iterator[str]:
        """Trees of odd leaves, budgets and names for the library of sparsity."""
        seed = self.random.randrange(2**31)
        yield f"inputs.check_tree(random.Random({seed}))"
        yield judge(
            finish(fork(partial(inputs.check_tree, random.Random(seed)), self._home("attempt"))), True
        )

    def environments(self) -> Iterator[str]:
        """A command that trains and draws, in the environment of a notebook, scheduler or container.

        All share compiled programs and the prepared data, so that an attempt is not mostly compilation.
        """
        home, variables = self._home("attempt"), inputs.environment(self.random)
        yield f"{variables} {REAL}"
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        kept |= {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "WSN_CACHE_DIR": str(self.folder / "shared"),
        }
        real = [sys.executable, "-m", *f"experiments.{REAL}".split(), "--workdir=out"]
        try:
            ended = subprocess.run(
                real, env=kept | variables, cwd=home, capture_output=True, timeout=PATIENCE
            )
        except subprocess.TimeoutExpired as hung:
            raise Bad(f"hang: {(hung.stderr or b'')[-600:].decode(errors='replace')}") from None
        written = all((home / "out" / name).exists() for name in WRITTEN)
        yield judge(Ended(ended.returncode, ended.stderr.decode(errors="replace")), written)

    def _check_clean(self, home: Path) -> None:
        if left := half_written(home):
            raise Bad(f"left behind: {left}")


def attempts(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Kinds and numbers, until the time is over or there were enough."""
    end = time.monotonic() + 60 * options.minutes
    if options.again is not None:
        kind, _, number = options.again.partition("/")
        yield kind, int(number)
        return
    kinds = [kind for kind in ROUND if kind in options.kinds.split(",")]
    numbers: Counter[str] = Counter()
    while True:
        for kind in kinds:
            over = numbers.total() >= options.attempts if options.attempts else time.monotonic() >= end
            if over:
                return
            yield kind, numbers[kind]
            numbers[kind] += 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/trial.py", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--attempts", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), metavar="KIND,…")
    parser.add_argument("--again", metavar="KIND/NUMBER")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "os.fork")
    counts: Counter[str] = Counter()
    bad = 0
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where syncing a file takes no time
    with tempfile.TemporaryDirectory(prefix="wsn-trial-", dir=memory) as folder:
        trial = Trial(Path(folder), options.seed)
        for kind, number in attempts(options):
            attempt, what = trial.attempt(kind, number), ""
            try:
                what = next(attempt)
                counts[f"{kind}: {next(attempt)}"] += 1
            except Bad as error:
                bad += 1
                print(f"BAD {kind}/{number}: {what}: {error}", flush=True)
            if (counts.total() + bad) % 100 == 0:
                report(trial, counts, bad)
        make_readable(Path(folder))
    report(trial, counts, bad)
    return min(bad, 1)


def report(trial: Trial, counts: Counter[str], bad: int) -> None:
    for name, count in sorted((counts | {f"signals: {k}": n for k, n in trial.signals.items()}).items()):
        print(f"{name} {count}")
    print(f"{counts.total() + bad} attempts, {bad} bad (seed {trial.seed})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
