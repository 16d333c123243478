"""Long runs: neither memory nor the time per epoch or group may grow.

    python tests/endurance.py --epochs=10000       # of one group, trained; a checkpoint every 5 s
    python tests/endurance.py --groups=10000       # with stubbed training: locks, records, progress, and reading them
    python tests/endurance.py --programs=300       # groups of as many shapes, planned and trained

Prints the time of an epoch or a group, and the memory of the process, at ten points of the run.
"""

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import mocks  # noqa: E402

from wsn.records import plan, runs  # noqa: E402
from wsn.records.progress import Progress  # noqa: E402
from wsn.spec import Group, Spec  # noqa: E402
from wsn.training import train  # noqa: E402


class Mark(NamedTuple):
    """CPU seconds and memory (MB) of this process after `done` epochs or groups."""

    done: int
    seconds: float
    megabytes: float


class Meter:
    """Counts to `total`, with ten marks."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.marks = total, 0, [mark(0)]

    def count(self) -> None:
        self.done += 1
        if self.done * 10 // self.total > (self.done - 1) * 10 // self.total:
            self.marks.append(mark(self.done))

    def milliseconds(self) -> list[float]:
        """Time of one epoch or group, between marks."""
        pairs = zip(self.marks, self.marks[1:], strict=False)
        return [
            1e3 * (after.seconds - before.seconds) / (after.done - before.done) for before, after in pairs
        ]

    def lines(self, what: str) -> list[str]:
        return [
            f"{what} {mark.done}: {milliseconds:.2f} ms, {mark.megabytes:.0f} MB"
            for mark, milliseconds in zip(self.marks[1:], self.milliseconds(), strict=True)
        ]


def mark(done: int) -> Mark:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Mark(done, time.process_time(), pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


def spec(**changes: object) -> Spec:
    settings: dict = dict(dataset="tiny", width=5, epochs=1, batch_size=8, learning_rate=0.01)
    return Spec(**(settings | changes))


def epochs(count: int, folder: Path) -> Meter:
    """Epochs of twenty networks that train as one program."""
    import tiny

    meter = Meter(count)
    group = Group((spec(epochs=count),), tuple(range(20)))
    run([group], folder, lambda spec: tiny.SPLITS, meter, seconds=5.0)
    return meter


def groups(count: int, folder: Path) -> Meter:
    """Of two networks each, whose training is stubbed."""
    import tiny

    train.train = mocks.stub_train
    meter, every = Meter(count), [Group((spec(data_seed=i),), (0, 1)) for i in range(count)]
    run(every, folder, lambda spec: tiny.SPLITS, meter, seconds=30.0)
    return meter


def programs(count: int, folder: Path) -> Meter:
    """Groups of as many widths, planned and trained."""
    import tiny

    meter, every = Meter(count), [Group((spec(width=5 + i),), (0, 1)) for i in range(count)]

    def source_of(spec: Spec) -> object:
        plan.cost(Group((spec,), (0, 1)), tiny.SPLITS)
        return tiny.SPLITS

    run(every, folder, source_of, meter, seconds=30.0)
    return meter


def run(of: Sequence[Group], folder: Path, source_of: Callable, meter: Meter, seconds: float) -> None:
    progress = Progress({group.name: 1.0 for group in of}, io.StringIO())

    def watch(group: Group, share: float, history: object) -> None:
        progress(group, share, history)  # type: ignore[arg-type]
        meter.count()

    runs.run(of, folder, source_of, checkpoint_seconds=seconds, watch=watch)
    started = time.process_time()
    runs.check(of, folder, source_of)
    checked = time.process_time()
    runs.plan_groups(folder, [group.specs for group in of], of[0].seeds)
    covered = time.process_time()
    runs.results(of, folder)
    read = time.process_time()
    print(
        f"then {len(of)} groups: checked in {checked - started:.2f} s, covered in {covered - checked:.2f} s,"
        f" read in {read - covered:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/endurance.py", description=__doc__.splitlines()[0])
    kinds = {"epochs": epochs, "groups": groups, "programs": programs}
    for kind in kinds:
        parser.add_argument(f"--{kind}", type=int, default=0)
    asked = vars(parser.parse_args())
    for kind, measure in kinds.items():
        if asked[kind]:
            with tempfile.TemporaryDirectory(prefix="wsn-endurance-") as folder:
                print(*measure(asked[kind], Path(folder)).lines(kind.removesuffix("s")), sep="\n")


if __name__ == "__main__":
    main()
