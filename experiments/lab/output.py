"""What an experiment writes and prints: its table, its figure, the command beside them; progress.

In: rows (mappings of columns to values), figures, a folder. Out: files that are never half-written.
"""

import contextlib
import csv
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from matplotlib.figure import Figure
from tqdm import tqdm

from wsn import stored
from wsn.machine import usable_cores
from wsn.records import record
from wsn.records.progress import LINE_SECONDS
from wsn.stored import replacing

SAID = ".said.json"  # beside a figure: what the command printed, and with what it was made


class Transcript:
    """A standard output that keeps what is printed, tables apart, and notes the figures that are written."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.text: list[str] = []
        self.figures: list[Path] = []

    def write(self, text: str) -> int:
        self.text.append(text)
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def transcript() -> Iterator[None]:
    """Beside every figure that is written in the block: what the block prints, once it has ended well.

    FIGURE.said.json has the command, the lines, the code, the packages and the device: the same run, the same bytes.
    """
    said = Transcript(sys.stdout)
    with contextlib.redirect_stdout(said):  # type: ignore[type-var]
        yield
    lines = [line for line in "".join(said.text).splitlines() if not line.startswith("wrote ")]
    for figure in said.figures:
        with replacing(figure.with_suffix(SAID)) as file:
            told = {"command": command(), "said": lines} | record.made_with()
            json.dump(stored.add_checksum(told), file, indent=1)


def write_table(
    folder: Path, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], digits: int = 6
) -> Path:
    """FOLDER/NAME.csv, and the command that made it beside it. Floats with so many significant digits."""
    path = folder / f"{name}.csv"
    with replacing(path) as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {
                    column: f"{value:.{digits}g}" if isinstance(value, float) else value
                    for column, value in row.items()
                }
            )
    with replacing(path.with_suffix(".command")) as file:
        file.write(command() + "\n")
    return path


def write_figure(folder: Path, name: str, figure: Figure) -> Path:
    """FOLDER/NAME.png; the same figure gives the same bytes."""
    path = folder / f"{name}.png"
    with replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None, "Description": command()})
    if isinstance(sys.stdout, Transcript):
        sys.stdout.figures.append(path)
    return path


def command() -> str:
    """The command line of this process, as one would type it."""
    text = shlex.join(["python", "-m", f"experiments.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    return text.encode(errors="backslashreplace").decode()  # of names of files that are no text


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """The columns of the rows, aligned."""
    cells = [[_shown(row.get(name, "")) for name in columns] for row in rows]
    widths = [max([len(name), *(len(line[i]) for line in cells)]) for i, name in enumerate(columns)]
    apart = sys.stdout.stream if isinstance(sys.stdout, Transcript) else None  # it is in the table's file
    for line in [list(columns), *cells]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), file=apart)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def progress(total: float, what: str) -> tqdm:
    """Time gone and left: a bar on a terminal, a line now and then elsewhere; nothing for what is quick."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=what,
        leave=False,
        delay=1,
        mininterval=0.1 if terminal else LINE_SECONDS,
        bar_format="{l_bar}{bar}| {elapsed} elapsed, {remaining} left" + ("" if terminal else "\n"),
    )


def machine() -> str:
    """The device in a few words, for captions."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"{usable_cores()} CPU cores"
    return f"{jax.device_count()} × {device.device_kind}"
