"""TensorBoard's event files: the curves of every network, while it trains, in a folder of its own.

WORKDIR/tensorboard/EXPERIMENT/KIND_base_B/width_W_…_HASH/seed_N: the dashboard shows such paths as a tree of runs, so a
family is one branch, and it groups curves by what stands before the slash of their names (`train`, `test`, a group of
layers). The events of a network are a function of its history: they are written anew whenever its training begins or
goes on, so a resume doubles none.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from wsn import stored
from wsn.errors import UserError
from wsn.records import record
from wsn.records.record import SPLITS, Label, Labels
from wsn.spec import Group, Spec
from wsn.training.history import History

FOLDER = "tensorboard"
PREFIX = "events"  # of the files, before TensorBoard's own `.out.tfevents.`


def library() -> Any:
    """tensorboardX, which writes events without TensorFlow. Raises UserError where it is not installed."""
    try:
        import tensorboardX.event_file_writer
        import tensorboardX.proto.event_pb2
        import tensorboardX.proto.summary_pb2
    except ImportError as error:
        raise UserError('`tensorboard` needs tensorboardX: pip install "wsn[tensorboard]"') from error
    return tensorboardX


def folder_of(workdir: Path, spec: Spec, seed: int, label: Label) -> Path:
    """Where the events of a network are; the hash tells specs apart that the names do not."""
    base = "" if label.base_width is None else f"_base_{label.base_width}"
    kept = f"_kept_{sum(count for _, count in spec.kept)}" if spec.kept else ""
    own = f"width_{spec.width}{kept}_rate_{spec.learning_rate:g}_{Group((spec,), (0,)).name[:6]}"
    family = Path(label.experiment or "networks", f"{label.kind or 'networks'}{base}")
    return workdir / FOLDER / family / own / f"seed_{seed}"


def tag(curve: str) -> str:
    """The name of a curve on the dashboard: test_loss is test/loss; those of probes have their slash already."""
    split, _, metric = curve.partition("_")
    return f"{split}/{metric}" if split in SPLITS else curve


class Network:
    """The event file of one network, empty at the start. Raises UserError where it cannot be written."""

    def __init__(self, folder: Path) -> None:
        tensorboard = library()
        self._event = tensorboard.proto.event_pb2.Event
        self._summary = tensorboard.proto.summary_pb2.Summary
        self._rows = 0
        self._folder = folder
        start = tensorboard.proto.event_pb2.SessionLog.START
        with self._told():
            folder.mkdir(parents=True, exist_ok=True)
            for old in existing(folder):
                old.unlink()
            self._writer = tensorboard.event_file_writer.EventsWriter(str(folder / PREFIX))
            # A dashboard that is open forgets what it has read of the file before.
            self._writer.write_event(
                self._event(wall_time=time.time(), step=0, session_log={"status": start})
            )

    def extend(
        self, steps: Int64[np.ndarray, " rows"], curves: dict[str, Float[np.ndarray, " rows"]]
    ) -> None:
        """Write the rows of its history that are not written yet; a diverged network's are NaN."""
        with self._told():
            for row in range(self._rows, len(steps)):
                values = [{"tag": tag(name), "simple_value": float(x[row])} for name, x in curves.items()]
                summary = self._summary(value=values)
                self._writer.write_event(
                    self._event(wall_time=time.time(), step=int(steps[row]), summary=summary)
                )
            self._writer.flush()
        self._rows = len(steps)

    def close(self) -> None:
        with self._told():
            self._writer.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise stored.cannot_write(self._folder, error) from error


def existing(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{PREFIX}.out.tfevents.*"))


class Events:
    """A `runs.Watch`: writes what is new after every evaluation, and what a finished group has in its record."""

    def __init__(self, workdir: Path, labels: Labels | None) -> None:
        self.workdir = workdir
        self.labels = labels or {}
        self.began = time.time()
        self.networks: dict[str, list[Network]] = {}  # of the group that trains

    def __call__(self, group: Group, share: float, history: History | None) -> None:
        if history is None:
            self._recorded(group)
            return
        if group.name not in self.networks:
            self.networks[group.name] = [Network(folder) for folder in self._folders(group)]
        for i, network in enumerate(self.networks[group.name]):
            network.extend(history.step, {name: x[:, i] for name, x in history.curves.items()})
        if share == 1.0:
            self.close()

    def close(self) -> None:
        """What was trained to its end, or stopped; what is written can be read before."""
        for networks in self.networks.values():
            for network in networks:
                network.close()
        self.networks.clear()

    def _folders(self, group: Group) -> list[Path]:
        return [
            folder_of(self.workdir, spec, seed, self.labels.get(spec, Label()))
            for spec, seed in group.members
        ]

    def _recorded(self, group: Group) -> None:
        """From the record, but for what a colleague has written since we began."""
        results = record.read(self.workdir / "runs" / group.name / "record.jsonl").results
        for folder, result in zip(self._folders(group), results, strict=True):
            if not any(old.stat().st_mtime >= self.began for old in existing(folder)):
                rows = len(next(iter(result.curves.values())))
                network = Network(folder)
                network.extend(
                    np.arange(1, rows + 1) if result.steps is None else result.steps, result.curves
                )
                network.close()
