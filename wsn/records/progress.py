"""Progress of a list of groups: a bar with the time left on a terminal, plain lines now and then elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import TextIO

import numpy as np
from tqdm import tqdm

from wsn.spec import Group
from wsn.training.history import History

LINE_SECONDS = 15.0


class Progress:
    """Counts FLOPs, so that the time left is right for groups of very different size.

    `costs`: FLOPs of every group by name, training from start to end.
    """

    def __init__(self, costs: Mapping[str, float], stream: TextIO = sys.stderr) -> None:
        self.costs = dict(costs)
        self.total = sum(self.costs.values())
        self.done = dict.fromkeys(self.costs, 0.0)
        self.gone = 0.0  # of the total
        self.unfinished = set(self.costs)
        self.skipped = 0.0  # finished before we came: not to count in the speed
        self.stream = stream
        self.start = self.last_line = time.monotonic()
        self.bar = tqdm(
            total=100.0,
            file=stream,
            disable=not stream.isatty(),
            bar_format="{percentage:3.0f}%|{bar}| {elapsed} elapsed, {postfix}",
            leave=False,
        )

    def __call__(self, group: Group, share: float, history: History | None) -> None:
        """After an evaluation, with the share of a group's training that is done; None: it was finished elsewhere."""
        cost = self.costs[group.name] * share
        new = cost - self.done[group.name]
        if history is None or (
            self.done[group.name] == 0.0 and history.rows > 1
        ):  # a record, or a checkpoint
            self.skipped += new
        self.done[group.name] = cost
        self.gone += new
        if share >= 1.0:
            self.unfinished.discard(group.name)
        done = self.gone if self.unfinished else self.total  # to the bit, at the end
        percent = 100.0 * done / self.total
        self.bar.n = min(percent, 100.0)
        speed = (done - self.skipped) / max(time.monotonic() - self.start, 1e-9)
        remaining = self.total - done
        left = duration(remaining / speed) if speed > 0 else "?" if remaining else "0 s"
        text = f"{left} left; {described(group, share, history)}"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.refresh()
        if self.bar.disable and (time.monotonic() - self.last_line >= LINE_SECONDS or not self.unfinished):
            self.last_line = time.monotonic()
            print(f"{percent:3.0f} % {text}", file=self.stream, flush=True)

    def close(self) -> None:
        self.bar.close()


def described(group: Group, share: float, history: History | None) -> str:
    """Which network trains, how far it is, and its last held-out metric, as a mean over members."""
    spec = group.specs[0]
    text = f"width {spec.width}{' sparse' if spec.kept else ''}"
    if spec.stop == "epochs":
        text += f", epoch {round(share * spec.epochs, 2):g}/{spec.epochs}"
    if history is None:
        return text
    if spec.stop != "epochs":  # of how many is not known before the end
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
