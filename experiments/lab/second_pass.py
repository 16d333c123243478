"""The second pass: the angle between the gradient and the way to the end, which is known only once it is reached.

In: curves of runs with the probe `path`, and their folder. Out: the same with columns of W* = W(T) in the place of the
start. A replay repeats a run bit for bit on the machine that trained it; T is rounded up to an evaluation.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.lab import output
from experiments.lab.halting import LOSS, Curve, Halted, evaluations
from experiments.lab.launch import Run
from wsn.data.feeds import Source
from wsn.errors import UserError
from wsn.records import runs
from wsn.spec import Group, Spec
from wsn.training import train
from wsn.training.history import History, Snapshot

# Columns of the probe, and what they are called where W* is in the place of W(0).
NAMES = {
    "cosine_start": "cosine_end",
    "angle_start": "angle_end",
    "angles": "angles_end",
    "projection_start": "projection_end",
}
SAME = 1e-3  # a replay whose loss is as near as that at the halting time is one


def with_ends(curves: Sequence[Curve], run: Run) -> list[Curve]:
    """Train every network twice more, up to its halting time. Raises UserError where it is not what was recorded."""
    points = [point for curve in curves for point in curve.points]
    found: dict[tuple[Spec, int], Halted] = {}
    with output.progress(len(points), "second pass") as bar:
        for point in points:
            own = {(one.result.spec, one.result.seed): one for one in point.runs}
            spec = point.runs[0].result.spec
            for group in runs.cover(run.folder, [[spec]], [seed for _, seed in own]):
                found |= of_group(group, run.source_of(spec), own)
            bar.update()

    def again(halted: Halted) -> Halted:
        return found[halted.result.spec, halted.result.seed]

    return [
        Curve([point._replace(runs=[again(one) for one in point.runs]) for point in curve.points])
        for curve in curves
    ]


def of_group(
    group: Group, source: Source, own: Mapping[tuple[Spec, int], Halted]
) -> dict[tuple[Spec, int], Halted]:
    """The runs of `own` that are of that group, with their columns."""
    ends = [end_of(own[member]) if member in own else 0 for member in group.members]
    history = to_end(group, source, ends)
    found = {}
    for i, member in enumerate(group.members):
        if member in own:
            halted = own[member]
            check(halted, history, i)
            found[member] = halted._replace(
                result=dataclasses.replace(halted.result, curves=added(halted, history, i))
            )
    return found


def end_of(run: Halted) -> int:
    """The first evaluation at or after the halting time; 0 for a run that diverged, which has none."""
    steps = evaluations(run.result)
    return 0 if np.isnan(run.halting.step) else int(steps[np.searchsorted(steps, run.halting.step)])


def to_end(group: Group, source: Source, ends: Sequence[int]) -> History:
    """The history up to the last of those steps, one for each member; W* in the place of W(0) in the probes."""
    reference = at_ends(group, source, ends)
    for moment in train.train(group, source, reference=reference):
        if moment.last or moment.step >= max(ends):
            return moment.history
    raise AssertionError("a group trains at least one step")


def at_ends(group: Group, source: Source, ends: Sequence[int]) -> Snapshot:
    """The state of every member at its own step; of one whose step is 0, that of the first evaluation."""
    states: dict[int, Mapping[str, np.ndarray]] = {}
    for moment in train.train(group, source):
        if moment.step in ends or not states:
            states[moment.step] = (last := moment.snapshot()).state
        if moment.last or moment.step >= max(ends):
            break
    first = next(iter(states))
    own = [states[end or first] for end in ends]
    state = {name: np.stack([state[name][i] for i, state in enumerate(own)]) for name in own[0]}
    return Snapshot(state, last.history)


def check(run: Halted, history: History, member: int) -> None:
    """Raises UserError where the replay is another run."""
    row = int(np.searchsorted(history.step, end_of(run)))
    replayed, recorded = (x[row] for x in (history.curves[LOSS][:, member], run.result.curves[LOSS]))
    if not abs(replayed - recorded) <= SAME * abs(recorded) and end_of(run):
        spec, seed = run.result.spec, run.result.seed
        raise UserError(
            f"--second_pass: width {spec.width}, seed {seed} does not repeat its record, which was made by another"
            " machine or version: train it anew with --resume=false"
        )


def added(run: Halted, history: History, member: int) -> dict[str, np.ndarray]:
    """The curves of a run with those of the second pass, which do not change after the halting time."""
    curves = dict(run.result.curves)
    rest = len(evaluations(run.result)) - history.rows
    for column, values in history.curves.items():
        group, _, name = column.partition("/")
        if name in NAMES:
            curves[f"{group}/{NAMES[name]}"] = np.pad(values[:, member], (0, rest), mode="edge")
    return curves
