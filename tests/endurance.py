"""Long runs: neither memory nor the time per epoch or group may grow.

    python tests/endurance.py --epochs=10000       # of one group, trained; a checkpoint every 5 s
    python tests/endurance.py --groups=10000       # with stubbed training: locks, records, progress, and reading them
    python tests/endurance.py --programs=300       # groups of as many shapes, planned and trained

Prints the CPU time of an epoch or a group, and the memory of the process, at ten points of the run.
"""

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import tiny  # noqa: E402

from wsn.records import plan, runs  # noqa: E402
from wsn.records.progress import Progress  # noqa: E402
from wsn.spec import Group, Spec  # noqa: E402
from wsn.training import train  # noqa: E402


class Meter:
    """Counts to `total`, and prints ten times: how many, milliseconds of each since the line before, megabytes."""

    def __init__(self, total: int, what: str) -> None:
        self.total, self.what, self.done, self.last = total, what, 0, (0, time.process_time())

    def count(self) -> None:
        self.done += 1
        if self.done * 10 // self.total > (self.done - 1) * 10 // self.total:
            (done, before), now = self.last, time.process_time()
            pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
            megabytes = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
            print(
                f"{self.what} {self.done}: {1e3 * (now - before) / (self.done - done):.2f} ms, {megabytes:.0f} MB"
            )
            self.last = self.done, now


def splits(spec: Spec) -> object:
    return tiny.SPLITS


def epochs(count: int, folder: Path, meter: Meter) -> None:
    """Epochs of twenty networks that train as one program."""
    run(
        [Group((tiny.spec(epochs=count, learning_rate=0.01),), tuple(range(20)))],
        folder,
        splits,
        meter,
        seconds=5.0,
    )


def groups(count: int, folder: Path, meter: Meter) -> None:
    """Of two networks each, whose training is stubbed."""
    train.train = tiny.stub_train
    run([Group((tiny.spec(epochs=1, data_seed=i),), (0, 1)) for i in range(count)], folder, splits, meter)


def programs(count: int, folder: Path, meter: Meter) -> None:
    """Groups of as many widths, planned and trained."""

    def source_of(spec: Spec) -> object:
        plan.cost(Group((spec,), (0, 1)), tiny.SPLITS)
        return tiny.SPLITS

    run([Group((tiny.spec(epochs=1, width=5 + i),), (0, 1)) for i in range(count)], folder, source_of, meter)


def run(of: Sequence[Group], folder: Path, source_of: Callable, meter: Meter, seconds: float = 30.0) -> None:
    progress = Progress({group.name: 1.0 for group in of}, io.StringIO())

    def watch(group: Group, share: float, history: object) -> None:
        progress(group, share, history)  # type: ignore[arg-type]
        meter.count()

    runs.run(of, folder, source_of, checkpoint_seconds=seconds, watch=watch)
    for name, step in {
        "checked": lambda: runs.check(of, folder, source_of),
        "covered": lambda: runs.plan_groups(folder, [group.specs for group in of], of[0].seeds),
        "read": lambda: runs.results(of, folder),
    }.items():
        begun = time.process_time()
        step()
        print(f"{len(of)} groups {name} in {time.process_time() - begun:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/endurance.py", description=__doc__.splitlines()[0])
    kinds = {"epochs": epochs, "groups": groups, "programs": programs}
    for kind in kinds:
        parser.add_argument(f"--{kind}", type=int, default=0)
    for kind, count in vars(parser.parse_args()).items():
        if count:
            with tempfile.TemporaryDirectory(prefix="wsn-endurance-") as folder:
                kinds[kind](count, Path(folder), Meter(count, kind.removesuffix("s")))


if __name__ == "__main__":
    main()
