"""The angle to the end of the way: what is known only when training is over, by training the same once more.

In: runs whose halting time is known. Out: per group of layers the mean cosine and angle between the gradient and
W(t) − W*, where W* are the parameters at the first evaluation at which the loss is within 1 % of its minimum. A replay
has the same bits: the first finds W*, the second measures from there.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from experiments.convergence.halting import LOSS, Curve, Halted, evaluations
from experiments.convergence.path import ratio
from experiments.lab.families import Row
from experiments.lab.launch import Run
from wsn.data.feeds import Source
from wsn.errors import UserError
from wsn.records import runs
from wsn.spec import Group, Spec
from wsn.training import train
from wsn.training.history import History
from wsn.training.train import PARAMS

COLUMNS = ["cosine_end", "angle_end", "projection_end"]


def ends(curves: Sequence[Curve], run: Run) -> dict[tuple[Spec, int, str], Row]:
    """What it adds to the runs of all curves whose time is certain, by network, seed and group of layers."""
    return {
        (point.runs[0].result.spec, row["seed"], row["group"]): {name: row[name] for name in COLUMNS}
        for curve in curves
        for point in curve.points
        for row in angles(run, point.runs)
    }


def angles(run: Run, halted: Sequence[Halted]) -> Iterator[Row]:
    """A row for every seed and group of layers of one network, of the runs whose time is certain."""
    ends = {one.result.seed: end(one) for one in halted if one.counts}
    if ends:
        spec = halted[0].result.spec
        for group in runs.plan_groups(run.folder, [[spec]], ends):
            yield from of_group(group, run.source_of(spec), ends, run.execution, halted)


def end(run: Halted) -> int:
    """The step of the first evaluation at or after the halting time."""
    steps = evaluations(run.result)
    return int(steps[np.searchsorted(steps, run.halting.step)])


def check(history: History, places: Iterable[int], recorded: Mapping[int, Halted], group: Group) -> None:
    """Raises UserError where a replay has other losses than its record: then it ends somewhere else."""
    for place in places:
        one = recorded.get(group.members[place][1])
        losses = history.curves[LOSS][:, place]
        if one and not np.array_equal(losses, one.result.curves[LOSS][: len(losses)]):
            raise UserError(
                "`second_pass`: this machine does not repeat the bits of these records; train them here, in a `workdir`"
                " of their own"
            )


def of_group(
    group: Group,
    source: Source,
    ends: Mapping[int, int],
    execution: str = "masked",
    recorded: Sequence[Halted] = (),
) -> Iterator[Row]:
    """Two replays of a group; `ends` has the last step of every seed that is asked for.

    Exactly 2·projection_end = −distance² − sum_squared_steps, those being of the way up to that step and not up to T.
    """
    places = {place: ends[seed] for place, (_, seed) in enumerate(group.members) if seed in ends}
    last = max(places.values())
    found: dict[str, np.ndarray] = {}
    for moment in train.train(group, source, execution=execution):
        state = moment.snapshot().state if moment.step in places.values() or not found else {}
        for key, leaf in state.items():
            if key.startswith(PARAMS):
                known = found.setdefault(key, leaf.copy())  # of members that are not asked for: any
                for place, step in places.items():
                    if step == moment.step:
                        known[place] = leaf[place]
        if moment.step >= last:
            break
    check(moment.history, places, {one.result.seed: one for one in recorded}, group)
    for moment in train.train(group, source, execution=execution, reference=found):
        if moment.step >= last:
            break
    history = moment.history
    parts = [name.partition("/")[0] for name in history.curves if name.endswith("/angles")]
    for place, step in places.items():
        at = int(np.searchsorted(history.step, step))
        for part in parts:
            sums = {name: history.curves[f"{part}/{name}_start"][at, place] for name in ("cosine", "angle")}
            count = history.curves[f"{part}/angles"][at, place]
            yield {
                "seed": group.members[place][1],
                "group": part,
                "cosine_end": ratio(sums["cosine"], count),
                "angle_end": ratio(sums["angle"], count),
                "projection_end": float(history.curves[f"{part}/projection_start"][at, place]),
            }
