"""A little of the trial; all of it is `python tests/trial.py --minutes=60`."""

import subprocess
import sys
from pathlib import Path

TRIAL = Path(__file__).parents[1] / "trial.py"


def test_no_attempt_ends_badly(tmp_path):
    """Each fails cleanly, recovers or is unaffected."""
    command = [sys.executable, str(TRIAL), "--attempts=26"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    *counted, summary = ended.stdout.splitlines()
    kinds = "flags", "corruptions", "kills", "stops", "data", "environments", "trees", "signals"
    assert {line.partition(":")[0] for line in counted} == set(kinds)
    assert summary == "26 attempts, 0 bad (seed 0)"
