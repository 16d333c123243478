"""Training a group: (group, source) → an iterator over its evaluations. All networks train in one program.

The members of a group are stacked along a leading axis, over which the steps between two evaluations are mapped. If all
see the same batches (`order="shared"`), their first layers become one large matrix product, (batch × inputs) ·
(inputs × members·width): that makes a family of narrow networks fast. Masks are applied once per step.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from wsn import devices
from wsn.data.feeds import Feed, Source
from wsn.devices import Placement
from wsn.errors import UserError, choose
from wsn.networks import models
from wsn.spec import Group
from wsn.tasks import TASKS, Task
from wsn.training import history as histories
from wsn.training import optimizers, probes, programs, registries, strategy
from wsn.training.halting import STOPS
from wsn.training.history import History, Measured, Snapshot
from wsn.training.programs import with_carry
from wsn.training.state import Members, State, initial_members, stored_as, undrawn_members
from wsn.training.step import make_evaluation, make_step

PARAMS = ".params"  # prefix of the paths of parameters in a snapshot


class EvalPoint(NamedTuple):
    """Training after an evaluation.

    Call `snapshot` before the next point, since training reuses the memory of the state; in a run over several
    processes, in all of them, since the state is cut over them.
    """

    step: int  # steps taken
    steps: int  # total, or the maximum if `stop` can end training earlier
    last: bool  # whether training ends here
    history: History
    snapshot: Callable[[], Snapshot]
    sparse: tuple[str, ...] = ()  # layers that run sparse

    @property
    def fraction_done(self) -> float:
        """Fraction of training that is done: exactly 1 at the end, however early."""
        return 1.0 if self.last else self.step / self.steps


class Prepared(NamedTuple):
    """A group before its first step, and the program that trains it."""

    placement: Placement
    task: Task
    feed: Feed
    members: Members
    program: programs.Program
    steps: int  # total, or the maximum
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
    """Train a group; yields after every evaluation: each epoch, or every `eval_every` steps and at the end.

    Training ends when `stop` of the spec holds for every member, or after all epochs. The history has the metrics of
    the task as `train_<metric>` (mean since the last evaluation, as trained) and `test_<metric>` (`validation_<metric>`
    if the spec holds examples out), the columns of the probes, and with clipping `all/clipped`, the number of clipped
    steps. Curves of a member are NaN once its loss is not finite.

    `resume` continues a snapshot, bit for bit; one of the end yields nothing. `execution` (`strategy.EXECUTIONS`) says
    how layers that lose weights run; it changes only rounding, and may change at a resume. `reference`: parameters, as
    in a snapshot, from which probes measure instead of the initial ones.
    Raises UserError for unknown names, for data that do not fit, and for a snapshot of another state; ValueError for a
    reference without probes.
    """
    spec, count = group.specs[0], len(group.members)
    placement, task, feed, members, program, steps, sparse = prepare(group, source, placement, execution)
    history = histories.EMPTY
    if resume is not None:
        members, history = resumed(members, resume, feed.steps)
    if reference is not None:
        if not spec.probes:
            raise ValueError("a reference needs a spec with probes, which measure from it")
        members = members._replace(start=restored(reference, PARAMS, members.start, members.mask))
    members = scattered(placement, members)
    split = "validation" if spec.validation_samples else "test"
    done, log = int(history.step[-1]) if history.rows else 0, histories.Log(history)
    ended = may_stop(spec.stop, history, split)  # a resumed run may have ended
    for first, last in periods(done, steps, spec.eval_every or feed.steps):
        if ended:
            return
        members, training = program.advance(members, feed.training(first, last), feed.training_data)
        held_out, reads = program.evaluate(members, feed.held_out(), feed.held_out_data)
        measured = Measured(
            *(devices.gather_members(placement, x, count) for x in (training, held_out, reads))
        )
        history = log.add(last, task, split, measured)
        ended = last == steps or may_stop(spec.stop, history, split)
        take = partial(snapshot, placement, group, feed.lanes, members.state, history)
        yield EvalPoint(last, steps, ended, history, take, sparse)


def prepare(
    group: Group, source: Source, placement: Placement | None = None, execution: str = "masked"
) -> Prepared:
    """Initialize and compile everything. Raises UserError as `train` does."""
    spec = group.specs[0]
    registries.check(spec)
    devices.initialize()
    model = models.build(spec, source.input_shape, source.classes)
    models.check_kept(group.specs, model.shapes)
    task = choose(TASKS, "task", spec.task)(model)
    step_by_step = source.streamed or strategy.goes_step_by_step(model)
    sparse = strategy.sparse_layers(group, model, execution)
    weights = strategy.multiplied_weights(group, model, sparse)
    by_batch = step_by_step or strategy.cuts_batch(group, model, weights)
    placement = placement or devices.place(len(group.members), by_batch=by_batch)
    batch_norm = bool(jax.eval_shape(model.init, jax.random.key(0))[1])
    feed = source.feed(group, placement, spread=batch_norm)
    steps = spec.epochs * feed.steps
    transformation = optimizers.build(spec, optimizers.Horizon(feed.steps, steps))
    draw = undrawn_members if devices.targets.current() else initial_members
    members = draw(group, model, transformation, task.carry(feed.lanes), sparse)
    sums, reads = probes.measured(spec.probes, model.groups)
    program = programs.compile_program(
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
        task.carry,
        shared=spec.order == "shared",
        together=strategy.trains_together(model, spec.width, weights),
        step_by_step=step_by_step,
    )
    return Prepared(placement, task, feed, members, program, steps, sparse)


def may_stop(rule: str, history: History, split: str) -> bool:
    """Whether every member may stop."""
    losses = history.curves[f"{split}_loss"].T if history.rows else ()
    return history.rows > 0 and all(STOPS[rule](history.step, x) for x in losses)


def periods(done: int, total: int, every: int) -> Iterator[tuple[int, int]]:
    """(first step, step after the last) of each period: evaluations are at multiples of `every` and at the end."""
    while done < total:
        last = min(done - done % every + every, total)
        yield done, last
        done = last


def scattered(placement: Placement, members: Members) -> Members:
    """Members in the layout of the compiled program."""
    carry = devices.scatter_lanes(placement, members.state.carry)
    return with_carry(devices.scatter_members(placement, with_carry(members, ())), carry)


def snapshot(placement: Placement, group: Group, lanes: int, state: State, history: History) -> Snapshot:
    """Copy a state to the host."""
    count = len(group.members)
    whole = devices.gather_members(placement, state._replace(carry=()), count)
    whole = whole._replace(carry=devices.gather_lanes(placement, state.carry, count, lanes))
    return Snapshot({jax.tree_util.keystr(path): x for path, x in jax.tree.leaves_with_path(whole)}, history)


def resumed(members: Members, saved: Snapshot, epoch: int) -> tuple[Members, History]:
    """The members and the history of a snapshot; `members` are initial ones.

    Snapshots before 0.2 have one row per epoch (of `epoch` steps) and no step numbers.
    """
    history = saved.history
    if not history.rows:
        rows = len(next(iter(history.curves.values())))
        history = history._replace(step=epoch * np.arange(1, rows + 1, dtype=np.int64))
    leaves = {".step": np.full_like(members.state.step, history.step[-1])} | saved.state
    return members._replace(state=restored(leaves, "", members.state, members.mask)), history


def restored(saved: Mapping[str, np.ndarray], prefix: str, tree: Any, mask: Mapping[str, Any]) -> Any:
    """The saved leaves below a prefix of their paths, in the structure of `tree`.

    Kernels that were saved sparse and run masked now, or the other way round, change their storage. Raises UserError
    where the leaves are others.
    """

    def leaf(path: Any, fresh: Any) -> np.ndarray:
        name = prefix + jax.tree_util.keystr(path)
        value = saved.get(name)
        if value is None or (value.ndim == fresh.ndim and value.shape != fresh.shape):
            raise UserError(
                f"`resume`: the checkpoint has no {name} of shape {fresh.shape}, so it is of another version of wsn or"
                " its packages: start afresh with `resume=false`"
            )
        if value.ndim == fresh.ndim:
            return value
        kernel = "/".join(str(part.key) for part in path[-2:])  # also inside the state of the optimizer
        return stored_as(value, fresh.shape, mask.get(kernel))

    return jax.tree.map_with_path(leaf, tree)
