"""Progress of a list of groups, as a bar on a terminal and as a line now and then elsewhere; text for tables."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

import numpy as np
from tqdm import tqdm

from wsn.spec import Group
from wsn.training.history import History

LINE_SECONDS = 15.0


class Progress:
    """A `runs.Watch` that counts FLOPs, so that the time left is right for groups of very different size.

    `costs`: the FLOPs of every group by name, from start to end.
    """

    def __init__(self, costs: Mapping[str, float], stream: TextIO = sys.stderr) -> None:
        self.costs = dict(costs)
        self.total = sum(self.costs.values())
        self.done = dict.fromkeys(self.costs, 0.0)
        self.resumed_flops = 0.0  # computed before this run, so no part of its speed
        self.stream = stream
        self.start = self.last_line = time.monotonic()
        self.bar = tqdm(
            total=100.0,
            file=stream,
            disable=not stream.isatty(),
            bar_format="{percentage:3.0f}%|{bar}| {elapsed} elapsed, {postfix}",
            leave=False,
        )

    def __call__(self, group: Group, fraction: float, history: History | None) -> None:
        """After an evaluation, with the fraction of the group's training done; no history: another process did it."""
        before, now = self.done[group.name], self.costs[group.name] * fraction
        if history is None or (before == 0.0 and history.rows > 1):  # from a record or a checkpoint
            self.resumed_flops += now - before
        self.done[group.name] = now
        done = sum(self.done.values())
        percent = 100.0 * done / self.total
        speed = (done - self.resumed_flops) / max(time.monotonic() - self.start, 1e-9)
        remaining = self.total - done
        left = duration(remaining / speed) if speed > 0 else "?" if remaining else "0 s"
        text = f"{left} left; {described(group, fraction, history)}"
        self.bar.n = min(percent, 100.0)
        self.bar.set_postfix_str(text)
        if self.bar.disable and (time.monotonic() - self.last_line >= LINE_SECONDS or done == self.total):
            self.last_line = time.monotonic()
            print(f"{percent:3.0f} % {text}", file=self.stream, flush=True)

    def close(self) -> None:
        self.bar.close()


def described(group: Group, fraction: float, history: History | None) -> str:
    """Which network is training, how far it is, and its last held-out metric, as a mean over members."""
    spec = group.specs[0]
    text = f"width {spec.width}{' sparse' if spec.kept else ''}"
    if spec.stop == "epochs":
        text += f", epoch {round(fraction * spec.epochs, 2):g}/{spec.epochs}"
    if history is None:
        return text
    if spec.stop != "epochs":  # the number of steps is not known in advance
        text += f", step {history.step[-1]}"
    held_out = "validation" if spec.validation_samples else "test"
    name = [n for n in history.curves if n.startswith(f"{held_out}_")][-1]
    if np.isfinite(history.curves[name][-1]).any():
        text += f", {name.replace('_', ' ')} {np.nanmean(history.curves[name][-1]):.3f}"
    return text


def duration(seconds: float) -> str:
    """A time to read: 45 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of one length as lines with columns aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)
