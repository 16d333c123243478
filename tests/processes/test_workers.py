"""One command with worker processes, with real training: stopped, killed or interrupted, its results are those of one.

tests/records/test_workers.py has the same with stubbed training.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wsn.devices import shares
from wsn.machine import usable_cores

# Three groups, as in the test of kills: width 4, and width 8 sparse and dense.
COMMAND = [
    *(sys.executable, "-m", "experiments.kernel_distance", "--base_width=4", "--widths=4,8", "--seeds=2"),
    *("--learning_rate=8", "--pairs=3", "--initialisations=2", "--epochs=60", "--checkpoint_seconds=1000"),
]
ENVIRONMENT = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}

pytestmark = pytest.mark.skipif(usable_cores() < 2, reason="two workers need two cores")


def start(workdir: Path, workers: int) -> subprocess.Popen:
    """The command in a process group of its own, as a terminal's."""
    return subprocess.Popen(
        [*COMMAND, f"--workers={workers}", f"--workdir={workdir}"],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen) -> tuple[int, list[str]]:
    """Exit code and lines of stderr, but for those of the progress; in the end nothing of its group is left."""
    with process:
        _, errors = process.communicate(timeout=200)
    wait_for(lambda: not members(process))
    return process.returncode, [line for line in errors.splitlines() if " % " not in line]


def members(process: subprocess.Popen) -> list[int]:
    """The other processes of its session that run Python's workers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            session = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[3])
            command = (folder / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if session == process.pid and "workers.work(" in command:
            found.append(int(folder.name))
    return found


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def begin(workdir: Path) -> subprocess.Popen:
    """Start two workers and wait until one of them trains."""
    begun, process = time.time(), start(workdir, 2)
    groups = workdir / "runs"
    wait_for(
        lambda: (
            process.poll() is not None
            or any(path.stat().st_mtime > begun for path in groups.glob("*/group.json"))
        )
    )
    return process


def outcome(workdir: Path) -> dict[str, bytes]:
    """The table, and every record but its header."""
    paths = [workdir / "kernel_distance.csv", *workdir.glob("runs/*/*.jsonl")]
    contents = {str(path.relative_to(workdir)): path.read_bytes() for path in paths}
    return {name: x.split(b"\n", 1)[1] if name.endswith(".jsonl") else x for name, x in contents.items()}


@pytest.fixture
def alone(tmp_path) -> dict[str, bytes]:
    """What one process leaves that has one core, as each worker has."""
    with shares.pinned(shares.shares(2)[0].cores):
        process = start(tmp_path / "alone", 1)
    assert ended(process) == (0, [])
    return outcome(tmp_path / "alone")


@pytest.mark.slow
def test_two_workers_that_were_stopped_give_what_one_process_does(tmp_path, alone):
    """Bit for bit, and a worker that is killed on the way is replaced."""
    place = tmp_path / "shared"
    process = begin(place)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (75, ["stopped by SIGTERM; the same command resumes it (exit code 75)"])
    assert list(place.glob("runs/*/checkpoints/*.sha256"))

    process = begin(place)
    os.kill(members(process)[0], signal.SIGKILL)
    assert ended(process) == (0, ["a worker was killed (signal 9): other processes take over its networks"])
    assert outcome(place) == alone


@pytest.mark.slow
def test_two_workers_that_were_interrupted_or_orphaned_give_what_one_process_does(tmp_path, alone):
    place = tmp_path / "shared"
    process = begin(place)
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C goes to all processes of a terminal
    assert ended(process) == (130, [])

    process = begin(place)
    process.kill()
    assert ended(process)[0] == -signal.SIGKILL
    assert ended(begin(place)) == (0, [])
    assert outcome(place) == alone
