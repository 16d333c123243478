"""How a command ends: an exit code, at most one line and whole files, whoever stops it or stops reading it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import wsn
from experiments.lab import endings

ROOT = Path(wsn.__file__).parents[1]
QUICK = [
    sys.executable,
    "-m",
    "experiments.layer_sparsity",
    "--widths=8,12",
]  # no training, a table and a figure
WRITTEN = {"layer_sparsity.csv", "layer_sparsity.png", "layer_sparsity.command"}
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}


def shell(tmp_path: Path, line: str, *flags: str) -> tuple[str, set[str]]:
    """What a command said on standard error, and what it wrote; `line` has the command as "$@"."""
    command = ["bash", "-c", line, "bash", *QUICK, f"--workdir={tmp_path / 'out'}", *flags]
    ended = subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True)
    return ended.stderr, {path.name for path in tmp_path.glob("out/*")} | {f"code {ended.returncode}"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('"$@" | head -1 >/dev/null; exit ${PIPESTATUS[0]}', ""),
        ('"$@" >&-', ""),
        ('"$@" >/dev/full', "standard output: No space left on device; the files are written all the same\n"),
        ('"$@" >/dev/null 2>&-', ""),
    ],
    ids=["head", "closed", "full", "no errors"],
)
def test_output_that_nobody_takes_ends_nothing(tmp_path, line, told):
    assert shell(tmp_path, line) == (told, WRITTEN | {"code 0"})


def test_a_folder_of_too_long_a_name_is_one_line(tmp_path):
    said, left = shell(tmp_path, '"$@" >/dev/null', f"--workdir={'x' * 300}")
    assert said.startswith("error: --workdir") and said.count("\n") == 1 and left == {"code 1"}


def test_a_folder_whose_name_is_no_text_is_written(tmp_path):
    said, left = shell(tmp_path, "\"$@\" --workdir=$'out/\\xff' && ls out/* >/dev/null")
    assert said == "" and "code 0" in left


@pytest.mark.parametrize("seconds", [0.0, 1.0])
@pytest.mark.parametrize(
    ("number", "code", "told"),
    [(signal.SIGTERM, os.EX_TEMPFAIL, f"{endings.STOPPED}\n"), (signal.SIGINT, endings.INTERRUPTED, "")],
)
def test_a_signal_in_the_first_seconds_is_no_traceback(tmp_path, number, code, told, seconds):
    """While the program imports what it needs: nothing is lost, so the promised exit codes hold."""
    process = subprocess.Popen(QUICK, env=ENVIRONMENT, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not _catches(
        Path(f"/proc/{process.pid}/status").read_text(), signal.SIGTERM
    ):  # before, Python itself starts
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) in [(code, told), (0, "")]
    assert not list(tmp_path.rglob(".*"))


def _catches(status: str, number: int) -> bool:
    line = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


def test_the_help_has_the_settings_that_experiments_share(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "experiments.optimum", "--help"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    for flag in ("--dataset", "--data_dir", "--inputs", "--normalizations", "--seed", "--np", "--workdir"):
        assert f"  {flag}=" in ended.stdout
    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, os.EX_TEMPFAIL), (signal.SIGINT, endings.INTERRUPTED)]
)
def test_a_command_ends_though_something_drops_the_exception(number, code):
    """As C code does that asks whether an object has an attribute."""
    lines = (
        "import contextlib, os, time",
        "from experiments.lab import endings",
        "endings.GRACE = 1",
        "endings.begin()",
        f"with contextlib.suppress(SystemExit): os.kill(os.getpid(), {int(number)})",
        "time.sleep(60)",
    )
    ended = subprocess.run([sys.executable, "-c", "\n".join(lines)], env=ENVIRONMENT, capture_output=True)
    assert ended.returncode == code
