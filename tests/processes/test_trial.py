"""A little of the trial; all of it is `python tests/trial.py --minutes=60`."""

import subprocess
import sys
from pathlib import Path

import pytest

TRIAL = Path(__file__).parents[1] / "trial.py"


@pytest.mark.slow
def test_nothing_hostile_ends_badly(tmp_path):
    """Kills, damages and nonsense on the command line: told, mended or unmoved."""
    ended = subprocess.run(
        [sys.executable, str(TRIAL), "--minutes=1"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    counted = ended.stdout.splitlines()
    for kind in ("lines", "damages", "kills"):
        assert any(line.startswith(f"{kind}: ") for line in counted)
    assert counted[-1].endswith(" 0 bad (seed 0)")
