"""Figures drawn again from their records, which lie in experiments/records/FIGURE as the program writes them.

A figure whose records are there is `experiments/figures/FIGURE.csv` and `.png`; its `.command`, with `--draw_only` on a
copy of the records, writes both. Hundreds of records are an archive, FIGURE.zip. A family that is still in training is
drawn as far as it has records.
"""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from wsn.errors import UserError

EXPERIMENTS = Path(__file__).parents[1]
RECORDS, FIGURES = EXPERIMENTS / "records", EXPERIMENTS / "figures"


def figures() -> list[str]:
    """The figures that have records."""
    return sorted(path.stem for path in RECORDS.iterdir())


def redraw(figure: str, workdir: Path) -> Path:
    """Draw a figure from its records in a new folder; its table there, beside the picture. Raises UserError."""
    if (archive := RECORDS / f"{figure}.zip").exists():
        shutil.unpack_archive(archive, workdir)
    else:
        shutil.copytree(RECORDS / figure, workdir)
    command = shlex.split((FIGURES / f"{figure}.command").read_text(encoding="utf-8"))
    drawing = [sys.executable, *command[1:], f"--workdir={workdir}", "--draw_only"]
    done = subprocess.run(drawing, capture_output=True, encoding="utf-8", cwd=EXPERIMENTS.parent)
    if done.returncode:
        raise UserError(f"{shlex.join(drawing)} (exit code {done.returncode}): {done.stdout}{done.stderr}")
    of_figure = workdir / f"{figure}.csv"  # else a preset's figure, under the name of the experiment
    return of_figure if of_figure.exists() else workdir / f"{command[2].rpartition('.')[2]}.csv"


def update(figure: str, workdir: Path) -> None:
    """Put what is drawn from the records in the place of the committed table and picture. Raises UserError."""
    table = redraw(figure, workdir)
    for suffix in (".csv", ".png"):
        shutil.copy(table.with_suffix(suffix), FIGURES / f"{figure}{suffix}")
