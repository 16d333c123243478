"""The angle to the end of the optimization path, which is known only after training: measured by training again.

In: runs whose halting time is known. Out: per group of layers the mean cosine and angle between the gradient and
W(t) − W*, where W* are the parameters at the first evaluation at which the loss is within 1 % of its minimum. A replay
is identical bit for bit: the first one saves W*, the second one measures the angles.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from experiments.convergence.halting import LOSS, Curve, HaltedRun, evaluations, points
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
    """The columns of the runs of all curves that are not censored, by network, seed and group of layers."""
    return {
        (point.spec, row["seed"], row["group"]): {name: row[name] for name in COLUMNS}
        for point in points(curves)
        for row in angles(run, point.runs)
    }


def angles(run: Run, halted: Sequence[HaltedRun]) -> Iterator[Row]:
    """A row per seed and group of layers of one network, for the runs that are not censored."""
    ends = {of_seed.result.seed: end(of_seed) for of_seed in halted if of_seed.certain}
    if ends:
        spec = halted[0].result.spec
        for group in runs.plan_groups(run.folder, [[spec]], ends):
            source, arguments = run.source_of(spec), (ends, run.execution, halted)
            runs.start_followers(of_group, group, source.digest, *arguments)
            yield from of_group(group, source, *arguments)


def end(run: HaltedRun) -> int:
    """The step of the first evaluation at or after the halting time."""
    steps = evaluations(run.result)
    return int(steps[np.searchsorted(steps, run.halting.step)])


def check(history: History, places: Iterable[int], recorded: Sequence[HaltedRun], group: Group) -> None:
    """Raises UserError if a replay's losses differ from its record, since it then ends elsewhere."""
    records = {run.result.seed: run.result for run in recorded}
    for place in places:
        record = records.get(group.members[place][1])
        losses = history.curves[LOSS][:, place]
        if record and not np.array_equal(losses, record.curves[LOSS][: len(losses)]):
            raise UserError(
                "`second_pass`: this machine does not reproduce these records bit for bit; train them here, in another"
                " `workdir`"
            )


def of_group(
    group: Group,
    source: Source,
    ends: Mapping[int, int],
    execution: str = "masked",
    recorded: Sequence[HaltedRun] = (),
) -> Iterator[Row]:
    """Replay a group twice, in all processes of a run; `ends` maps each seed to be measured to its last step.

    Exactly 2·projection_end = −distance² − sum_squared_steps, with the path up to that step and not up to T.
    """
    places = {place: ends[seed] for place, (_, seed) in enumerate(group.members) if seed in ends}
    last = max(places.values())
    reference: dict[str, np.ndarray] = {}
    for evaluation in train.train(group, source, execution=execution):
        state = evaluation.snapshot().state if evaluation.step in places.values() or not reference else {}
        for key, leaf in state.items():
            if key.startswith(PARAMS):
                final = reference.setdefault(
                    key, leaf.copy()
                )  # members without an end keep these values, unused
                for place, step in places.items():
                    if step == evaluation.step:
                        final[place] = leaf[place]
        if evaluation.step >= last:
            break
    check(evaluation.history, places, recorded, group)
    for evaluation in train.train(group, source, execution=execution, reference=reference):
        if evaluation.step >= last:
            break
    history = evaluation.history
    layers = [name.partition("/")[0] for name in history.curves if name.endswith("/angles")]
    for place, step in places.items():
        at = int(np.searchsorted(history.step, step))
        for name in layers:
            cosine, angle, count, projection = (
                history.curves[f"{name}/{sum_}"][at, place]
                for sum_ in ("cosine_start", "angle_start", "angles", "projection_start")
            )
            yield {
                "seed": group.members[place][1],
                "group": name,
                "cosine_end": ratio(cosine, count),
                "angle_end": ratio(angle, count),
                "projection_end": float(projection),
            }
