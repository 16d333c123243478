"""After SIGKILL at random moments, or SIGTERM, the same command gives an uninterrupted run's files, bit for bit."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

WORKDIR = "out"
# A checkpoint after every epoch. Of MLPs two groups, width 8 sparse and dense, each a program an epoch; of ResNet one
# group, which goes step by step and has batch normalization, momentum and augmentation.
COMMANDS = {
    "kernel_distance": [
        *("--base_width=4", "--widths=8", "--learning_rate=8", "--seeds=2"),
        *("--pairs=3", "--initialisations=2"),
    ],
    "resnet_width": ["--base_width=2", "--widths=3", "--dense_seeds=0", "--learning_rate=0.05"],
}
GROUPS = {"kernel_distance": 2, "resnet_width": 1}


class Runner:
    """The command with a number of epochs; every folder below `root` is one place to run it in."""

    def __init__(self, root: Path, experiment: str, epochs: int, devices: int) -> None:
        self.root, self.experiment = root, experiment
        self.command = [sys.executable, "-m", f"experiments.{experiment}", f"--workdir={WORKDIR}"]
        self.command += [*COMMANDS[experiment], "--checkpoint_seconds=0", f"--epochs={epochs}"]
        # Programs that a killed process compiled are taken from a cache, in a fraction of the time.
        self.environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_COMPILATION_CACHE_DIR": str(root / "compiled"),
        }

    def place(self, name: str) -> Path:
        (self.root / name).mkdir()
        return self.root / name

    def start(self, place: Path) -> subprocess.Popen:
        return subprocess.Popen(
            self.command,
            cwd=place,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, place: Path) -> None:
        with self.start(place) as process:
            _, errors = process.communicate()
        assert process.returncode == 0, errors


def outcome(place: Path) -> dict[str, bytes]:
    """Every file that a finished run leaves; of a record all but its header, which has the time."""
    workdir = place / WORKDIR
    paths = [path for path in workdir.rglob("*") if path.is_file() and path.suffix != ".lock"]
    contents = {str(path.relative_to(workdir)): path.read_bytes() for path in paths}
    return {name: x.split(b"\n", 1)[1] if name.endswith(".jsonl") else x for name, x in contents.items()}


def wait_for(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.0001)


def begin(runner: Runner, place: Path) -> subprocess.Popen:
    """Start the command and wait until it trains."""
    begun, process = time.time(), runner.start(place)
    groups = place / WORKDIR / "runs"
    wait_for(process, lambda: any(path.stat().st_mtime > begun for path in groups.glob("*/group.json")))
    return process


def kill_at_random(process: subprocess.Popen, workdir: Path, moment: random.Random) -> bool:
    """Kill it soon, sometimes just as a file is being written; False if it ended before."""
    while_writing, end = moment.random() < 0.4, time.monotonic() + moment.uniform(0, 1.5)
    wait_for(process, lambda: time.monotonic() > end)
    if while_writing:
        writing = "runs/*/.*", "runs/*/checkpoints/*orbax*"
        wait_for(process, lambda: any(path for pattern in writing for path in workdir.glob(pattern)))
    process.kill()
    with process:
        return process.wait() == -9


def kill_and_compare(runner: Runner, kills: int, seed: int) -> None:
    uninterrupted = runner.place("uninterrupted")
    runner.finish(uninterrupted)
    expected = outcome(uninterrupted)
    groups = GROUPS[runner.experiment]
    assert {
        f"{runner.experiment}.{kind}" for kind in ("csv", "png", "command", "said.json")
    } <= expected.keys()
    assert sum(name.endswith("record.jsonl") for name in expected) == groups
    assert len(expected) == 4 + 2 * groups
    rows = csv.DictReader(expected[f"{runner.experiment}.csv"].decode().splitlines())
    assert all(float(row["best_test_accuracy_mean"]) > 0.5 for row in rows), "the networks learn"
    moment, place, done = random.Random(seed), runner.place("0"), 0
    while done < kills:
        if kill_at_random(begin(runner, place), place / WORKDIR, moment):
            done += 1
        else:  # it came to its end: compare, and go on elsewhere
            runner.finish(place)
            assert outcome(place) == expected
            place = runner.place(str(done + 1))
    runner.finish(place)
    assert outcome(place) == expected


@pytest.mark.parametrize(
    ("experiment", "epochs"),
    [("kernel_distance", 20), pytest.param("resnet_width", 8, marks=pytest.mark.slow)],
)
def test_two_kills_change_nothing(tmp_path, experiment, epochs):
    kill_and_compare(Runner(tmp_path, experiment, epochs, devices=1), kills=2, seed=0)


@pytest.mark.parametrize(
    ("experiment", "epochs", "signals"),
    [("kernel_distance", 30, 1), pytest.param("resnet_width", 6, 2, marks=pytest.mark.slow)],
)
def test_sigterm_saves_and_asks_to_be_resumed(tmp_path, experiment, epochs, signals):
    """A checkpoint is made after the epoch, though none is due."""
    runner = Runner(tmp_path, experiment, epochs, devices=1)
    runner.command.append("--checkpoint_seconds=1000")
    uninterrupted, place = runner.place("uninterrupted"), runner.place("stopped")
    runner.finish(uninterrupted)
    last = 0
    for _ in range(signals):
        with begin(runner, place) as process:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=400)
        assert process.returncode == 75, errors
        assert errors.splitlines()[-1] == "stopped by SIGTERM; the same command resumes it (exit code 75)"
        saved = max(int(path.stem) for path in place.glob("out/runs/*/checkpoints/*.sha256"))
        assert saved > last, "it goes on from what was saved"
        last = saved
    runner.finish(place)
    assert outcome(place) == outcome(uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "epochs"), [("kernel_distance", 60), ("resnet_width", 20)])
@pytest.mark.parametrize(("devices", "kills"), [(1, 20), (4, 5)])
def test_many_kills_change_nothing(tmp_path, experiment, epochs, devices, kills):
    kill_and_compare(Runner(tmp_path, experiment, epochs, devices), kills=kills, seed=devices)
