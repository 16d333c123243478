"""TensorBoard events: the curves of every network, while it trains.

They are in WORKDIR/tensorboard/EXPERIMENT/KIND_base_B/width_W_…_HASH/seed_N, which TensorBoard shows as a tree of runs,
with the curves grouped by the part of their name before the slash (`train`, `test`, a group of layers). The file of a
network is a function of its history and is written from the start whenever training begins or resumes: no duplicates.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from wsn.errors import UserError
from wsn.records import record
from wsn.records.record import SPLITS, Label, Labels
from wsn.spec import Group, Spec
from wsn.stored import writing
from wsn.training.history import History

FOLDER = "tensorboard"
PREFIX = "events"  # of the files, before TensorBoard's `.out.tfevents.`


def library() -> Any:
    """tensorboardX, which writes events without TensorFlow. Raises UserError if it is not installed."""
    try:
        import tensorboardX.event_file_writer
        import tensorboardX.proto.event_pb2
        import tensorboardX.proto.summary_pb2
    except ImportError as error:
        raise UserError('`tensorboard` needs tensorboardX: pip install "wsn[tensorboard]"') from error
    return tensorboardX


def folder_of(workdir: Path, spec: Spec, seed: int, label: Label) -> Path:
    """The folder of a network's events; its hash separates specs whose other names agree."""
    base = "" if label.base_width is None else f"_base_{label.base_width}"
    kept = f"_kept_{sum(count for _, count in spec.kept)}" if spec.kept else ""
    network = f"width_{spec.width}{kept}_rate_{spec.learning_rate:g}_{Group((spec,), (0,)).name[:6]}"
    family = Path(label.experiment or "networks", f"{label.kind or 'networks'}{base}")
    return workdir / FOLDER / family / network / f"seed_{seed}"


def tag(curve: str) -> str:
    """The name of a curve in TensorBoard: test_loss is test/loss; those of probes have a slash already."""
    split, _, metric = curve.partition("_")
    return f"{split}/{metric}" if split in SPLITS else curve


class Network:
    """The event file of one network, empty at the start. Raises UserError if it cannot be written."""

    def __init__(self, folder: Path) -> None:
        tensorboard = library()
        self._event = tensorboard.proto.event_pb2.Event
        self._summary = tensorboard.proto.summary_pb2.Summary
        self._rows = 0
        self._folder = folder
        start = tensorboard.proto.event_pb2.SessionLog.START
        with writing(self._folder):
            folder.mkdir(parents=True, exist_ok=True)
            for old in event_files(folder):
                old.unlink()
            self._writer = tensorboard.event_file_writer.EventsWriter(str(folder / PREFIX))
            self._write(0, session_log={"status": start})  # an open TensorBoard discards the old file

    def extend(
        self, steps: Int64[np.ndarray, " rows"], curves: dict[str, Float[np.ndarray, " rows"]]
    ) -> None:
        """Write the rows of the history that are not written yet; those of a diverged network are NaN."""
        with writing(self._folder):
            for row in range(self._rows, len(steps)):
                values = [{"tag": tag(name), "simple_value": float(x[row])} for name, x in curves.items()]
                self._write(int(steps[row]), summary=self._summary(value=values))
            self._writer.flush()
        self._rows = len(steps)

    def close(self) -> None:
        with writing(self._folder):
            self._writer.close()

    def _write(self, step: int, **content: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), step=step, **content))


def event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{PREFIX}.out.tfevents.*"))


class Events:
    """A `runs.Watch` that writes the new rows of a group after every evaluation, and of finished ones the record."""

    def __init__(self, workdir: Path, labels: Labels | None) -> None:
        self.workdir = workdir
        self.labels = labels or {}
        self.began = time.time()
        self.networks: dict[str, list[Network]] = {}  # of the group that trains

    def __call__(self, group: Group, fraction: float, history: History | None) -> None:
        if history is None:
            self._write_record(group)
            return
        if group.name not in self.networks:
            self.networks[group.name] = [Network(folder) for folder in self._folders(group)]
        for i, network in enumerate(self.networks[group.name]):
            network.extend(history.step, {name: x[:, i] for name, x in history.curves.items()})
        if fraction == 1.0:
            self.close()

    def close(self) -> None:
        for networks in self.networks.values():
            for network in networks:
                network.close()
        self.networks.clear()

    def _folders(self, group: Group) -> list[Path]:
        return [
            folder_of(self.workdir, spec, seed, self.labels.get(spec, Label()))
            for spec, seed in group.members
        ]

    def _write_record(self, group: Group) -> None:
        """Write what the record has, except where another process has written events since we began."""
        results = record.read(self.workdir / "runs" / group.name / "record.jsonl").results
        for folder, result in zip(self._folders(group), results, strict=True):
            if not any(file.stat().st_mtime >= self.began for file in event_files(folder)):
                network = Network(folder)
                network.extend(result.steps, result.curves)
                network.close()
