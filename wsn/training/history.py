"""The history of a group: what was measured at every evaluation so far, and the snapshot that a resume needs."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64, Shaped

from wsn.tasks import Task

# (evaluations, members); the number of rows is `_` since a log takes one and returns another. Metrics are
# float32, columns of probes float64.
Curves = dict[str, Float[np.ndarray, "_ members"]]


class History(NamedTuple):
    """A row an evaluation; `step` has the steps taken before each."""

    step: Int64[np.ndarray, " _"]
    curves: Curves

    @property
    def rows(self) -> int:
        return len(self.step)


EMPTY = History(np.empty(0, np.int64), {})


class Snapshot(NamedTuple):
    """Training after some steps, on the host: all that a resumed run needs beside its group."""

    state: dict[str, Shaped[np.ndarray, "members ..."]]  # by place in the tree of `State`
    history: History


class Measured(NamedTuple):
    """What was measured between two evaluations and at the second, on the host."""

    training: dict[
        str, Float[np.ndarray, " members"]
    ]  # totals of the task and sums of probes, over the steps
    held_out: dict[str, Float[np.ndarray, " members"]]  # totals of the task
    reads: dict[str, Float[np.ndarray, " members"]]  # of probes


class Log:
    """A history that goes on. Rows lie in arrays that double, so that an evaluation costs its own row however many
    there are; histories that it gave are views of them, and stay as they are."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._room: dict[str, Shaped[np.ndarray, "_ ..."]] = {}
        self._capacity = 0

    def add(self, step: int, task: Task, split: str, measured: Measured) -> History:
        """The history with the row of an evaluation on `split` after `step` steps."""
        row = {"": np.array(step, np.int64)} | row_of(self.history, task, split, measured)
        rows = self.history.rows
        if rows >= self._capacity:
            self._grow(row, max(16, 2 * rows))
        for name, value in row.items():
            self._room[name][rows] = value
        curves = {name: self._room[name][: rows + 1] for name in row if name}
        self.history = History(self._room[""][: rows + 1], curves)
        return self.history

    def _grow(self, row: dict[str, np.ndarray], capacity: int) -> None:
        before = {"": self.history.step} | self.history.curves
        for name, value in row.items():
            room = np.empty((capacity, *np.shape(value)), value.dtype)
            if self.history.rows:
                room[: self.history.rows] = before[name]
            self._room[name] = room
        self._capacity = capacity


def row_of(history: History, task: Task, split: str, measured: Measured) -> dict[str, np.ndarray]:
    """What an evaluation on `split` adds to each curve.

    Metrics are means since the evaluation before for training, and over the whole split. Sums of probes go on from
    the row before. A member whose loss is not finite has diverged: its values are NaN from then on.
    """
    row: dict[str, np.ndarray] = {}
    lost = np.zeros(len(measured.training["weight"]), bool)
    for name, totals in (("train", measured.training), (split, measured.held_out)):
        gone = ~np.isfinite(totals["loss"])
        if history.rows:
            gone |= np.isnan(history.curves[f"{name}_loss"][-1])
        for metric in task.metrics:
            if name == "train" and not metric.in_training:
                continue
            row[f"{name}_{metric.name}"] = np.where(gone, np.nan, metric.of(totals)).astype(np.float32)
        lost |= gone
    for name, value in measured.reads.items():
        row[name] = np.where(lost, np.nan, value.astype(np.float64))
    for name in sorted(measured.training.keys() - measured.held_out.keys()):
        before = history.curves[name][-1] if history.rows else 0.0
        row[name] = np.where(lost, np.nan, before + measured.training[name].astype(np.float64))
    return row
