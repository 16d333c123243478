"""The curves of a group that is training, for the results page: WORKDIR/runs/NAME/partial.jsonl.

It is a record whose header also has the fraction of training done (`share`, None before the first evaluation), the
seconds left at this speed, the process that trains, and the time of writing. It exists from the start of training until
the record does, so it stays when training is stopped or killed. Nothing is resumed from it.
"""

import contextlib
import datetime
import os
import platform
import time
from pathlib import Path
from typing import Any

from wsn.errors import UserError
from wsn.records import record
from wsn.records.record import Labels
from wsn.spec import Group
from wsn.training.history import History

NAME = "partial.jsonl"
SECONDS = 2.0  # least time between two writes,
PATIENCE = 100.0  # and this many times the duration of a write: 1 % of the time
LONGEST = 30.0  # seconds; one slow write must not delay the next by more
SILENT_SECONDS = 600.0  # without a write, after which a process on another machine may be gone


class Partial:
    """Writes the curves so far now and then. A full disk is ignored: a resume needs checkpoints only."""

    def __init__(
        self, folder: Path, group: Group, history: History, labels: Labels | None, data: str | None
    ) -> None:
        self.path = folder / NAME
        self.group, self.labels, self.data = group, labels, data
        self.first: tuple[float, float] | None = None  # (time, fraction) of this process's first evaluation
        self.next_time = 0.0
        self.write(None, history)

    def __call__(self, fraction: float, history: History) -> None:
        """After an evaluation, with the fraction of training done."""
        if self.first is None:
            self.first = time.monotonic(), fraction
        if time.monotonic() >= self.next_time:
            self.write(fraction, history)

    def write(self, fraction: float | None, history: History) -> None:
        began = time.monotonic()
        curves = {name: x for name, x in history.curves.items() if "/" not in name}  # without probes
        with contextlib.suppress(UserError):
            record.write(
                self.path,
                self.group,
                history._replace(curves=curves),
                self.labels,
                self.data,
                share=fraction,
                left=self._seconds_left(fraction),
                owner={"host": platform.node(), "pid": os.getpid()},
                written=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            )
        ended = time.monotonic()
        self.next_time = ended + max(SECONDS, min(PATIENCE * (ended - began), LONGEST))

    def _seconds_left(self, fraction: float | None) -> float | None:
        if fraction is None or self.first is None or fraction <= self.first[1]:
            return None
        began, before = self.first
        return round((1 - fraction) * (time.monotonic() - began) / (fraction - before), 1)


def state(header: dict[str, Any]) -> str:
    """Whether the process that wrote it still trains: `training`, `stopped`, or `silent` where nobody can know."""
    owner = header["owner"]
    if owner["host"] == platform.node() and not _is_running(owner["pid"]):
        return "stopped"
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(header["written"])
    return "training" if age.total_seconds() < SILENT_SECONDS else "silent"


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        pass
    return True
