"""A little of the trial; all of it is `python tests/trial.py --minutes=60`."""

import subprocess
import sys
from pathlib import Path

TRIAL = Path(__file__).parents[1] / "trial.py"


def test_nothing_hostile_ends_badly(tmp_path):
    """Kills, damages and nonsense on the command line: told, mended or unmoved."""
    command = [sys.executable, str(TRIAL), "--attempts=16"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    *counted, summary = ended.stdout.splitlines()
    for kind in ("lines", "damages", "kills", "stops", "signals"):
        assert any(line.startswith(f"{kind}: ") for line in counted)
    assert summary == "16 attempts, 0 bad (seed 0)"
