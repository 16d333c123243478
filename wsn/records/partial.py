"""What a group has so far, for who looks on: a record in the making, which nothing is resumed from.

WORKDIR/runs/NAME/partial.jsonl is a record whose header says how far training is (`share`, None before the first
evaluation), the seconds that are left at this speed, who trains, and when it was written. It is there from the start
of training until the record is, also when training is stopped or killed.
"""

import contextlib
import datetime
import os
import time
from pathlib import Path
from typing import Any

from wsn.errors import UserError
from wsn.records import record
from wsn.records.record import Labels
from wsn.spec import Group
from wsn.training.history import EMPTY, History

NAME = "partial.jsonl"
SECONDS = 2.0  # between two writings, at least
PATIENCE = 100.0  # so many times as long as a writing takes, too: 1 % of the time
LONGEST = 30.0  # seconds; a disk or a machine that is busy for once hides nothing for long
SILENT_SECONDS = 600.0  # without news


class Partial:
    """Writes what a group has so far, now and then. A full disk ends no training: what counts are checkpoints."""

    def __init__(
        self, folder: Path, group: Group, history: History | None, labels: Labels | None, text: str | None
    ) -> None:
        self.path = folder / NAME
        self.group, self.labels, self.text = group, labels, text
        self.first: tuple[float, float] | None = (
            None  # time and share at the first evaluation of this process
        )
        self.next = 0.0
        self.write(None, history or EMPTY)

    def __call__(self, share: float, history: History) -> None:
        """After an evaluation, with the share of training that is done."""
        if self.first is None:
            self.first = time.monotonic(), share
        if time.monotonic() >= self.next:
            self.write(share, history)

    def write(self, share: float | None, history: History) -> None:
        began = time.monotonic()
        curves = {name: values for name, values in history.curves.items() if "/" not in name}  # not of probes
        told = {
            "share": share,
            "left": self._left(share),
            "owner": {"host": os.uname().nodename, "pid": os.getpid()},
            "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        with contextlib.suppress(UserError):
            record.save(self.path, self.group, history._replace(curves=curves), told, self.labels, self.text)
        ended = time.monotonic()
        self.next = ended + max(SECONDS, min(PATIENCE * (ended - began), LONGEST))

    def _left(self, share: float | None) -> float | None:
        if share is None or self.first is None or share <= self.first[1]:
            return None
        began, before = self.first
        return round((1 - share) * (time.monotonic() - began) / (share - before), 1)


def state(header: dict[str, Any]) -> str:
    """Whether who wrote it still trains: `training`, `stopped`, or `silent` for so long that nobody knows."""
    owner = header["owner"]
    if owner["host"] == os.uname().nodename and not _runs(owner["pid"]):
        return "stopped"
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(header["written"])
    return "training" if age.total_seconds() < SILENT_SECONDS else "silent"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
