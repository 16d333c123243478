"""One page of everything in a folder: figures to hover over, tables to sort, curves of every run, finished or not.

    python -m experiments.report                                   # results/report.html, seconds
    python -m experiments.report --workdir=results/kernel_distance --watch    # the same, until Ctrl-C

Reads every record, table and figure of WORKDIR and of the folders in it, trains nothing, and writes
WORKDIR/report.html, one file that needs no network and no other file: open it in a browser, send it to a colleague.
Charts have the axes that the experiments declare for their figures. With --watch the page is written again when
something has changed, at a cost of at most 2 % of a core, until Ctrl-C; an open page follows.
"""

import dataclasses
import time
from pathlib import Path

from experiments.lab import launch
from experiments.lab.flags import Command
from experiments.lab.launch import Output
from experiments.report.page import page
from experiments.report.read import Reader
from experiments.report.sections import sections
from wsn.spec import check_bounds, setting
from wsn.stored import replacing

NAME = "report.html"
SECONDS = 3.0  # between two checks, at least
SHARE = 0.02  # of a core, at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the page."""

    watch: bool = setting("Write the page again when something has changed, until Ctrl-C.", False)

    def __post_init__(self) -> None:
        check_bounds(self)


def write(workdir: Path, reader: Reader, seconds: float | None = None) -> Path:
    """Write WORKDIR/report.html if the folder has changed since the last time."""
    before = reader.stamp
    folders = reader.read(workdir)
    path = workdir / NAME
    if reader.stamp != before:
        text = page(sections(folders, workdir), workdir, seconds)
        with replacing(path) as file:
            file.write(text)
    return path


def main(settings: Settings, run: Output) -> None:
    reader = Reader()
    seconds = SECONDS if settings.watch else None
    print(f"open {write(run.folder, reader, seconds)} in a browser", flush=True)
    while settings.watch:
        began = time.process_time()
        write(run.folder, reader, seconds)
        time.sleep(max(SECONDS, (time.process_time() - began) / SHARE))


COMMAND = Command(main, {"default": Settings()}, Output("results"))

if __name__ == "__main__":
    launch.run(COMMAND)
