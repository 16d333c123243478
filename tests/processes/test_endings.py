"""How a command ends: an exit code, at most one line and whole files, whatever stops it or stops reading it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.lab import endings

# No training, a table and a figure.
QUICK = [sys.executable, "-m", "experiments.layer_sparsity", "--widths=8,12"]
WRITTEN = {f"layer_sparsity{suffix}" for suffix in (".csv", ".png", ".command", ".said.json")}
ENVIRONMENT = os.environ | {"PYTHONUNBUFFERED": ""}


def shell(tmp_path: Path, line: str, *flags: str) -> tuple[str, set[str]]:
    """Standard error of a command, the files that it wrote and its exit code; `line` has the command as "$@"."""
    command = ["bash", "-c", line, "bash", *QUICK, f"--workdir={tmp_path / 'out'}", *flags]
    ended = subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True)
    return ended.stderr, {path.name for path in tmp_path.glob("out/*")} | {f"code {ended.returncode}"}


@pytest.mark.parametrize(
    ("line", "errors"),
    [
        ('"$@" | head -1 >/dev/null; exit ${PIPESTATUS[0]}', ""),
        ('"$@" >&-', ""),
        ('"$@" >/dev/full', "standard output: No space left on device; all files are written\n"),
        ('"$@" >/dev/null 2>&-', ""),
    ],
    ids=["head", "closed", "full", "no errors"],
)
def test_output_that_nobody_receives_is_dropped(tmp_path, line, errors):
    assert shell(tmp_path, line) == (errors, WRITTEN | {"code 0"})


def test_a_folder_of_too_long_a_name_is_one_line(tmp_path):
    errors, left = shell(tmp_path, '"$@" >/dev/null', f"--workdir={'x' * 300}")
    assert errors.startswith("error: --workdir") and errors.count("\n") == 1 and left == {"code 1"}


def test_a_folder_whose_name_is_no_text_is_written(tmp_path):
    errors, left = shell(tmp_path, "\"$@\" --workdir=$'out/\\xff' && ls out/* >/dev/null")
    assert errors == "" and "code 0" in left


@pytest.mark.parametrize("seconds", [0.0, 1.0])
@pytest.mark.parametrize(
    ("number", "code", "errors"),
    [(signal.SIGTERM, os.EX_TEMPFAIL, f"{endings.STOPPED}\n"), (signal.SIGINT, endings.INTERRUPTED, "")],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_signal_in_the_first_seconds_is_no_traceback(tmp_path, number, code, errors, seconds):
    """While the program imports what it needs: nothing is lost, so the promised exit codes hold."""
    process = subprocess.Popen(QUICK, env=ENVIRONMENT, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not _catches(process.pid, signal.SIGTERM):  # until then Python itself starts
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert (process.returncode, printed) in [(code, errors), (0, "")]
    assert not list(tmp_path.rglob(".*"))


def _catches(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


def test_the_help_has_the_settings_that_experiments_share():
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
    ("number", "code"),
    [(signal.SIGTERM, os.EX_TEMPFAIL), (signal.SIGINT, endings.INTERRUPTED)],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_command_ends_though_something_drops_the_exception(number, code):
    """As C code may do that called back."""
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


@pytest.mark.parametrize("variable", ["TQDM_NCOLS", "MPLBACKEND", "JAX_ENABLE_X64"])
def test_a_variable_that_a_library_refuses_while_it_is_imported_is_one_line(tmp_path, variable):
    ended = subprocess.run(
        QUICK, env=ENVIRONMENT | {variable: "x"}, cwd=tmp_path, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert ended.stderr.startswith("error: ")
    assert variable in ended.stderr.partition(": correct or unset ")[2], "beside those that tests set"
