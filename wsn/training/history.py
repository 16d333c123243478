"""The history of a group: the measurements of every evaluation so far; and the snapshot from which a run resumes."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64, Shaped

from wsn.tasks import Task

# Name → (evaluations, members). The number of rows is `_`, since `Log.add` returns one more than it was given.
# Metrics are float32, columns of probes float64.
Curves = dict[str, Float[np.ndarray, "_ members"]]
Totals = dict[str, Float[np.ndarray, " members"]]


class History(NamedTuple):
    """One row per evaluation; `step` is the number of steps taken before it."""

    step: Int64[np.ndarray, " _"]
    curves: Curves

    @property
    def rows(self) -> int:
        return len(self.step)


EMPTY = History(np.empty(0, np.int64), {})


class Snapshot(NamedTuple):
    """Training after some steps, on the host: all that is needed to resume, besides the group."""

    state: dict[str, Shaped[np.ndarray, "members ..."]]  # by path in the tree of `State`
    history: History


class Measured(NamedTuple):
    """Measurements of one evaluation and of the steps since the one before, on the host."""

    training: Totals  # totals of the task and sums of probes, over the steps
    held_out: Totals  # totals of the task
    reads: Totals  # of probes


class Log:
    """A growing history. Arrays double when they are full, so an evaluation costs the same however many there are.

    Histories returned earlier are views that never change.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self._arrays: dict[str, Shaped[np.ndarray, "_ ..."]] = {}
        self._capacity = 0

    def add(self, step: int, task: Task, split: str, measured: Measured) -> History:
        """The history with the row of an evaluation on `split` after `step` steps."""
        row = {"": np.array(step, np.int64)} | next_row(self.history, task, split, measured)
        rows = self.history.rows
        if rows >= self._capacity:
            self._grow(row, max(16, 2 * rows))
        for name, value in row.items():
            self._arrays[name][rows] = value
        curves = {name: self._arrays[name][: rows + 1] for name in row if name}
        self.history = History(self._arrays[""][: rows + 1], curves)
        return self.history

    def _grow(self, row: dict[str, np.ndarray], capacity: int) -> None:
        before = {"": self.history.step} | self.history.curves
        for name, value in row.items():
            self._arrays[name] = np.empty((capacity, *np.shape(value)), value.dtype)
            if self.history.rows:
                self._arrays[name][: self.history.rows] = before[name]
        self._capacity = capacity


def next_row(history: History, task: Task, split: str, measured: Measured) -> dict[str, np.ndarray]:
    """The values that an evaluation on `split` adds to each curve.

    Training metrics are means since the last evaluation, held-out ones over the whole split; sums of probes are over
    all steps so far. A member with a loss that is not finite has diverged: its values are NaN from then on.
    """
    row: dict[str, np.ndarray] = {}
    diverged = np.zeros(len(measured.training["weight"]), bool)
    for name, totals in (("train", measured.training), (split, measured.held_out)):
        not_finite = ~np.isfinite(totals["loss"])
        if history.rows:
            not_finite |= np.isnan(history.curves[f"{name}_loss"][-1])
        for metric in task.metrics:
            if name != "train" or metric.in_training:
                value = np.where(not_finite, np.nan, metric.of(totals))
                row[f"{name}_{metric.name}"] = value.astype(np.float32)
        diverged |= not_finite
    for name, value in measured.reads.items():
        row[name] = np.where(diverged, np.nan, value.astype(np.float64))
    for name in sorted(measured.training.keys() - measured.held_out.keys()):
        before = history.curves[name][-1] if history.rows else 0.0
        row[name] = np.where(diverged, np.nan, before + measured.training[name].astype(np.float64))
    return row
