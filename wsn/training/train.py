"""Training: (members, batches) → members. One small pure step; every network of a group trains in one program.

The members of a group are stacked along a leading axis and an epoch is mapped over it. Where all of them see the same
batches (`order="shared"`) their first layers meet in one large matrix product, which is what makes a family of narrow
networks fast. Masks are applied once per step, as trees: model(keep ⊙ params).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Shaped

from wsn import devices
from wsn.data import feeds
from wsn.data.feeds import Source
from wsn.data.stream import Stream
from wsn.devices import Placement
from wsn.networks import models
from wsn.networks.layers import Model, Params, Stats
from wsn.sparsity import patterns
from wsn.sparsity.keep import apply_masks, keep_array
from wsn.spec import Group, Spec
from wsn.tasks.classification import Batch, Sums, Task, classification
from wsn.training import programs


class State(NamedTuple):
    """What a step changes: nothing else needs to be saved to resume."""

    params: Params
    stats: Stats
    optimizer: optax.OptState


class Members(NamedTuple):
    """The networks of a group; every leaf has the leading axis of members."""

    state: State
    keep: dict[str, Shaped[Array, "..."]]  # parameter path → 1 = kept, 0 = removed
    rates: Params  # learning rate of each parameter, scalars


# (epochs, members); the number of epochs is `_` since `extend` takes one and returns another.
History = dict[str, Float[np.ndarray, "_ members"]]


class Snapshot(NamedTuple):
    """Training after some number of epochs, on the host: all that a resumed run needs beside its group."""

    state: dict[str, Shaped[np.ndarray, "members ..."]]  # by place in the tree of `State`
    history: History


def optimizer(spec: Spec, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD with momentum and weight decay (as PyTorch's), for learning rate 1: the step applies the rates."""
    schedules: dict[str, Callable[[], optax.Schedule]] = {
        "constant": lambda: optax.constant_schedule(1.0),
        "steps": lambda: optax.piecewise_constant_schedule(
            1.0, {epoch * steps_per_epoch: spec.decay_factor for epoch in spec.decay_epochs}
        ),
        "cosine": lambda: optax.cosine_decay_schedule(1.0, spec.epochs * steps_per_epoch),
    }
    parts = []
    if spec.weight_decay:
        parts.append(optax.add_decayed_weights(spec.weight_decay))
    if spec.momentum:
        parts.append(optax.trace(spec.momentum))
    parts.append(optax.scale_by_learning_rate(schedules[spec.schedule]()))
    return optax.chain(*parts)


def make_step(
    task: Task, transformation: optax.GradientTransformation, axis: str | None = None
) -> Callable[[Members, Batch], tuple[Members, Sums]]:
    """One step of one member on one batch: gradient of the mean loss, mean across `axis`, update."""

    def step(member: Members, batch: Batch) -> tuple[Members, Sums]:
        params, stats, opt_state = member.state

        def loss(params: Params) -> tuple[Array, tuple[Sums, Stats]]:
            sums, updated = task.training(apply_masks(params, member.keep), stats, batch, axis)
            return sums.loss, (sums, updated)

        gradient, (sums, stats) = jax.grad(loss, has_aux=True)(params)
        if axis is not None:
            gradient, sums = jax.lax.psum((gradient, sums), axis)
        gradient = jax.tree.map(lambda g: g / sums.weight, gradient)
        updates, opt_state = transformation.update(gradient, opt_state, params)
        updates = jax.tree.map(jnp.multiply, updates, member.rates)
        return member._replace(state=State(optax.apply_updates(params, updates), stats, opt_state)), sums

    return step


def make_evaluation(task: Task, axis: str | None = None) -> Callable[[Members, Batch], Sums]:
    """One batch of one member, evaluated; summed across `axis`."""

    def evaluate(member: Members, batch: Batch) -> Sums:
        masked = apply_masks(member.state.params, member.keep)
        sums = task.evaluation(masked, member.state.stats, batch)
        return sums if axis is None else jax.lax.psum(sums, axis)

    return evaluate


def initial_members(group: Group, model: Model, transformation: optax.GradientTransformation) -> Members:
    """Draw masks and weights of every member; removed weights start at 0, and stay there."""
    shapes = {models.kernel_path(layer): shape for layer, shape in model.shapes.items()}
    keys = {seed: jax.random.key(seed) for seed in group.seeds}
    # A loop, since a mapped draw takes XLA five times as long to compile; and on a CPU the many draws of a ResNet
    # without optimisation (2 s instead of 30), which keeps the bits of uniform draws, but not those of normal ones.
    quickly = {"xla_backend_optimization_level": 0} if programs.goes_step_by_step(model) else None
    init = jax.jit(model.init, compiler_options=quickly)
    units = {seed: jax.tree.map(np.asarray, init(jax.random.fold_in(key, 0))) for seed, key in keys.items()}

    drawn = []
    for spec, seed in group.members:
        counts = {models.kernel_path(layer): kept for layer, kept in spec.kept}
        drawn.append(
            patterns.draw(jax.random.fold_in(keys[seed], 1), shapes, counts, spec.mask) if counts else {}
        )
    sparse = [path for path in shapes if any(path in positions for positions in drawn)]

    params, stats, keep, rates = [], [], [], []
    for (spec, seed), positions in zip(group.members, drawn, strict=True):
        everything = {path: np.arange(np.prod(shapes[path])) for path in sparse}
        member_keep = {p: keep_array((everything | positions)[p], shapes[p]) for p in sparse}
        unit_params, unit_stats = units[seed]
        rule = models.scalings(spec, model.shapes, unit_params)
        leaves = flatten_dict(unit_params, sep="/")
        scaled = {p: np.float32(rule[p].initial) * x * member_keep.get(p, True) for p, x in leaves.items()}
        params.append(unflatten_dict(scaled, sep="/"))
        stats.append(unit_stats)
        keep.append(member_keep)
        rates.append(
            unflatten_dict(
                {p: np.float32(spec.learning_rate * rule[p].learning_rate) for p in leaves}, sep="/"
            )
        )
    stacked_params = stack(params)
    state = State(stacked_params, stack(stats), jax.jit(jax.vmap(transformation.init))(stacked_params))
    return Members(state, stack(keep), stack(rates))


def stack(trees: list[Any]) -> Any:
    """Trees of equal structure → one tree with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def train(
    group: Group, source: Source, *, resume: Snapshot | None = None, placement: Placement | None = None
) -> Iterator[tuple[int, History, Callable[[], Snapshot]]]:
    """Train a group; yields after every epoch (epochs done, history so far, a function that takes a snapshot).

    The snapshot must be taken before the next epoch starts: that gives up the memory of the state.
    The history has `train_loss`, `train_accuracy` (over the batches of the epoch, as training went) and `test_loss`,
    `test_accuracy` (at its end; `validation_…` where the spec holds examples out). Losses in nats, accuracies as
    fractions. A member whose loss is not finite has diverged: its values are NaN from then on.
    """
    spec = group.specs[0]
    count = len(group.members)
    model = models.build(spec, source.image_shape, source.classes)
    streamed = isinstance(source, Stream)
    placement = placement or devices.place(count, by_batch=streamed or programs.goes_step_by_step(model))
    task = classification(model)
    examples, _ = feeds.examples(source, spec)
    transformation = optimizer(spec, -(-examples // spec.batch_size))
    members = initial_members(group, model, transformation)
    history: History = {}
    if resume is not None:
        members, history = members._replace(state=restored(members.state, resume.state)), resume.history
    done = len(next(iter(history.values()))) if history else 0
    members = devices.scatter_members(placement, members)

    feed = feeds.feed(group, source, placement)
    program = programs.compile_epochs(
        model,
        make_step(task, transformation, placement.axis),
        make_evaluation(task, placement.axis),
        placement,
        take_training=feed.take_training,
        take_held_out=feed.take_held_out,
        shared=spec.order == "shared",
        streamed=streamed,
    )
    name = "validation" if spec.validation_samples else "test"
    for epoch in range(done, spec.epochs):
        members, train_sums = program.epoch(members, feed.training(epoch), feed.training_data)
        test_sums = program.evaluate(members, feed.held_out(), feed.held_out_data)
        history = extend(history, placement, count, {"train": train_sums, name: test_sums})
        yield epoch + 1, history, partial(snapshot, placement, count, members.state, history)


def snapshot(placement: Placement, members: int, state: State, history: History) -> Snapshot:
    """Copy a state to the host."""
    leaves = jax.tree.leaves_with_path(devices.gather_members(placement, state, members))
    return Snapshot({jax.tree_util.keystr(path): leaf for path, leaf in leaves}, history)


def restored(initial: State, leaves: dict[str, np.ndarray]) -> State:
    """The state whose leaves are given, in the shape of a freshly initialised one."""
    return jax.tree.map_with_path(lambda path, _: leaves[jax.tree_util.keystr(path)], initial)


def extend(history: History, placement: Placement, members: int, sums: dict[str, Sums]) -> History:
    """Add one epoch's row of means; a member that has diverged stays NaN."""
    row = {}
    for split, total in sums.items():
        total = devices.gather_members(placement, total, members)
        lost = ~np.isfinite(total.loss)
        if history:
            lost |= np.isnan(history[f"{split}_loss"][-1])
        row[f"{split}_loss"] = np.where(lost, np.nan, total.loss / total.weight)
        row[f"{split}_accuracy"] = np.where(lost, np.nan, total.correct / total.weight)
    return {
        name: np.concatenate(
            [history.get(name, np.empty((0, members), np.float32)), values[None]], dtype=np.float32
        )
        for name, values in row.items()
    }
