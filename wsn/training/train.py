"""Training a group: (group, source) → an iterator over its evaluations. Every network trains in one program.

The members of a group are stacked along a leading axis and the steps between two evaluations are mapped over it.
Where all of them see the same batches (`order="shared"`) their first layers meet in one large matrix product, which is
what makes a family of narrow networks fast. Masks are applied once per step, as trees: model(mask ⊙ params).
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from wsn import devices
from wsn.data.feeds import Feed, Source
from wsn.devices import Placement
from wsn.errors import choose
from wsn.networks import models
from wsn.spec import Group
from wsn.tasks import TASKS, Task
from wsn.training import history as histories
from wsn.training import optimizers, probes, programs, registries, strategy
from wsn.training.halting import STOPS
from wsn.training.history import History, Measured, Snapshot
from wsn.training.state import Members, State, initial_members, stored_as
from wsn.training.step import make_evaluation, make_step

PARAMS = ".params"  # how the places of parameters begin in a snapshot


class EvalPoint(NamedTuple):
    """Training after an evaluation.

    The snapshot must be taken before the next moment: training on gives up the memory of the state.
    """

    step: int  # steps taken
    steps: int  # of the whole training, or the most of it
    last: bool  # whether training ends here
    history: History
    snapshot: Callable[[], Snapshot]
    sparse: tuple[str, ...] = ()  # layers that run sparse

    @property
    def fraction_done(self) -> float:
        """Of the training that is done: exactly 1 at the end, however early that is."""
        return 1.0 if self.last else self.step / self.steps


class Prepared(NamedTuple):
    """A group ready to be trained: its networks at step 0, and the program that takes them on."""

    placement: Placement
    task: Task
    feed: Feed
    members: Members
    program: programs.Program
    steps: int  # of the whole training, or the most of it
    sparse: tuple[str, ...]  # layers that run sparse


def train(
    group: Group,
    source: Source,
    *,
    resume: Snapshot | None = None,
    placement: Placement | None = None,
    execution: str = "masked",
    reference: Mapping[str, np.ndarray] | None = None,
) -> Iterator[EvalPoint]:
    """Train a group; yields after every evaluation: every epoch, or every `eval_every` steps and at the end.

    It ends where `stop` of the spec is true of every member, or after all epochs.

    The history has `train_<metric>` (over the batches since the evaluation before, as training went) and
    `test_<metric>` (`validation_…` where the spec holds examples out) of the task's metrics, and the columns of the
    probes; with clipping `all/clipped`, the steps so far at which it acted. `execution` says how layers that lose
    weights are run (`strategy.EXECUTIONS`), which changes rounding alone, and may differ from that before a resume. A
    member whose loss is not finite has diverged: its values are NaN from then on.
    Where a `reference` is given, parameters of all members as a snapshot has them, probes measure from there and not
    from the start. A snapshot of the end gives no moment. Raises UserError for a name that no registry has, and for
    data that do not fit; ValueError for a reference that no probe reads.
    """
    spec, count = group.specs[0], len(group.members)
    placement, task, feed, members, program, steps, sparse = prepare(group, source, placement, execution)
    history = histories.EMPTY
    if resume is not None:
        members, history = resumed(members, resume, feed.steps)
    if reference is not None:
        if not spec.probes:
            raise ValueError("a reference is what probes measure from, and the spec has none")
        members = members._replace(start=restored(reference, PARAMS, members.start, members.mask))
    members = scattered(placement, members)
    split = "validation" if spec.validation_samples else "test"
    done, log = int(history.step[-1]) if history.rows else 0, histories.Log(history)
    over = stopped(spec.stop, history, split)  # what was resumed may be at its end
    for first, last in periods(done, steps, spec.eval_every or feed.steps):
        if over:
            return
        members, training = program.advance(members, feed.training(first, last), feed.training_data)
        held_out, reads = program.evaluate(members, feed.held_out(), feed.held_out_data)
        measured = Measured(
            *(devices.gather_members(placement, x, count) for x in (training, held_out, reads))
        )
        history = log.add(last, task, split, measured)
        over = last == steps or stopped(spec.stop, history, split)
        take = partial(snapshot, placement, group, feed.lanes, members.state, history)
        yield EvalPoint(last, steps, over, history, take, sparse)


def prepare(
    group: Group, source: Source, placement: Placement | None = None, execution: str = "masked"
) -> Prepared:
    """Everything of training but the steps. Raises UserError as `train` does."""
    spec = group.specs[0]
    registries.check(spec)
    model = models.build(spec, source.input_shape, source.classes)
    task = choose(TASKS, "task", spec.task)(model)
    by_batch = source.streamed or strategy.goes_step_by_step(model)
    placement = placement or devices.place(len(group.members), by_batch=by_batch)
    feed = source.feed(group, placement)
    steps = spec.epochs * feed.steps
    transformation = optimizers.build(spec, optimizers.Horizon(feed.steps, steps))
    sparse = strategy.sparse_layers(group, model, execution)
    members = initial_members(group, model, transformation, task.carry(feed.lanes), sparse)
    sums, reads = probes.measured(spec.probes, model.groups)
    program = programs.compile_program(
        model,
        make_step(
            task,
            transformation,
            placement.axis,
            lambda step: sums(step) | optimizers.clipped(spec, step.gradient),
        ),
        make_evaluation(task, placement.axis),
        reads,
        placement,
        feed,
        carry=task.carry,
        shared=spec.order == "shared",
        together=strategy.trains_together(
            model, spec.width, strategy.multiplied_weights(group, model, sparse)
        ),
        streamed=source.streamed,
    )
    return Prepared(placement, task, feed, members, program, steps, sparse)


def stopped(rule: str, history: History, split: str) -> bool:
    """Whether every member may stop: the last one keeps all of them. A function of the history, so a resume agrees."""
    may_stop = STOPS[rule]
    return history.rows > 0 and all(may_stop(history.step, x) for x in history.curves[f"{split}_loss"].T)


def periods(done: int, total: int, every: int) -> Iterator[tuple[int, int]]:
    """(first step, step after the last) between evaluations: at multiples of `every`, and at the end."""
    while done < total:
        last = min(done - done % every + every, total)
        yield done, last
        done = last


def scattered(placement: Placement, members: Members) -> Members:
    """Members as the compiled program holds them."""
    carry = devices.scatter_lanes(placement, members.state.carry)
    whole = devices.scatter_members(placement, members._replace(state=members.state._replace(carry=())))
    return whole._replace(state=whole.state._replace(carry=carry))


def snapshot(placement: Placement, group: Group, lanes: int, state: State, history: History) -> Snapshot:
    """Copy a state to the host."""
    count = len(group.members)
    whole = devices.gather_members(placement, state._replace(carry=()), count)
    whole = whole._replace(carry=devices.gather_lanes(placement, state.carry, count, lanes))
    return Snapshot({jax.tree_util.keystr(path): x for path, x in jax.tree.leaves_with_path(whole)}, history)


def resumed(members: Members, saved: Snapshot, epoch: int) -> tuple[Members, History]:
    """The members of a snapshot in the shape of freshly initialised ones, and its history.

    Snapshots of before 0.2 have a row an epoch (of `epoch` steps) and count no steps.
    """
    history = saved.history
    if not history.rows:
        rows = len(next(iter(history.curves.values())))
        history = history._replace(step=epoch * np.arange(1, rows + 1, dtype=np.int64))
    leaves = {".step": np.full_like(members.state.step, history.step[-1])} | saved.state
    return members._replace(state=restored(leaves, "", members.state, members.mask)), history


def restored(saved: Mapping[str, np.ndarray], place: str, fresh: Any, mask: Mapping[str, Any]) -> Any:
    """What is saved at a place of a snapshot, in the shape of a fresh tree.

    What was saved of a sparse kernel and is masked now, or the other way round, changes its storage.
    """

    def leaf(path: Any, now: Any) -> np.ndarray:
        found = saved[place + jax.tree_util.keystr(path)]
        if found.ndim == now.ndim:
            return found
        # of its kernel, and of what the optimiser keeps of it
        layer = "/".join(str(part.key) for part in path[-2:])
        return stored_as(found, now.shape, mask.get(layer))

    return jax.tree.map_with_path(leaf, fresh)
