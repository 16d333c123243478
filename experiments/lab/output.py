"""What an experiment writes and prints: table, figure, the command beside them, progress. Files are written whole."""

import contextlib
import csv
import json
import math
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from matplotlib.figure import Figure
from tqdm import tqdm

from experiments.lab.plots import Plot
from wsn import stored
from wsn.machine import usable_cores
from wsn.records import record
from wsn.records.progress import LINE_SECONDS, aligned
from wsn.stored import replacing

Rows = Sequence[Mapping[str, Any]]
SAID = ".said.json"  # beside a figure: the lines that were printed, the command, versions


class Transcript:
    """A standard output that keeps what is printed, except tables, and the figures that are written."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.text: list[str] = []
        self.figures: dict[Path, Plot | None] = {}

    def write(self, text: str) -> int:
        self.text.append(text)
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def transcript() -> Iterator[None]:
    """When the block ends without exception, write FIGURE.said.json beside every figure that it wrote.

    It has the command, the printed lines, the plot, the versions of code and packages, and the device, but no time: the
    same run writes the same bytes.
    """
    stream = Transcript(sys.stdout)
    with contextlib.redirect_stdout(stream):  # type: ignore[type-var]
        yield
    lines = [line for line in "".join(stream.text).splitlines() if not line.startswith("wrote ")]
    content = {"command": command(), "said": lines} | record.made_with()
    for figure, plot in stream.figures.items():
        with replacing(figure.with_suffix(SAID)) as file:
            finite = [line for line in plot.lines if math.isfinite(line[1])] if plot else []
            more = {"plot": plot._asdict() | {"lines": finite}} if plot else {}
            json.dump(stored.add_checksum(content | more), file, indent=1)


def write_table(folder: Path, name: str, rows: Rows, columns: Sequence[str], digits: int = 6) -> Path:
    """Write FOLDER/NAME.csv, floats with `digits` significant digits, and its command beside it."""
    path = folder / f"{name}.csv"
    with replacing(path) as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            cells = {name: f"{x:.{digits}g}" if isinstance(x, float) else x for name, x in row.items()}
            writer.writerow(cells)
    with replacing(path.with_suffix(".command")) as file:
        file.write(command() + "\n")
    return path


def write_figure(folder: Path, name: str, figure: Figure, plot: Plot | None = None) -> Path:
    """Write FOLDER/NAME.png; the same figure gives the same bytes. The results page draws FOLDER/NAME.csv by `plot`."""
    path = folder / f"{name}.png"
    with replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None, "Description": command()})
    if isinstance(sys.stdout, Transcript):
        sys.stdout.figures[path] = plot
    return path


def command() -> str:
    """The command line of this process, as one would type it."""
    text = shlex.join(["python", "-m", f"experiments.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    # File names need not be text, and in an ASCII locale Python escapes the bytes of those that are.
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def print_table(rows: Rows, columns: Sequence[str]) -> None:
    """Print these columns, aligned; not in the transcript, since the CSV has them."""
    cells = [[row.get(name, "") for name in columns] for row in rows]
    texts = [[f"{x:.4g}" if isinstance(x, float) else str(x) for x in line] for line in cells]
    stream = sys.stdout.stream if isinstance(sys.stdout, Transcript) else None
    print(aligned([columns, *texts]), file=stream)


def progress(total: float, what: str) -> tqdm:
    """A progress bar on a terminal, a line now and then elsewhere; nothing within the first second."""
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
    """The device, for captions."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"{usable_cores()} CPU cores"
    return f"{jax.device_count()} × {device.device_kind}"
