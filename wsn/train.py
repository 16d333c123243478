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
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from wsn import devices, masks, models
from wsn.data import Splits, normalise
from wsn.devices import Placement
from wsn.models import Model, Params
from wsn.shapes import sizes
from wsn.spec import Group, Spec
from wsn.tasks import Batch, Measure, Sums, classification

# The examples of one evaluation batch: large enough for the matrix product, small enough for the cache.
EVALUATION_BATCH = 1000
# On a CPU networks of more weights train one after the other (on 2 cores, step of 256 at 504,190 weights: 4.1 ms
# against 6.2 ms a network; at 171,504 weights together is better, 1.4 ms against 2.0 ms).
LARGEST_TOGETHER = 300_000


class State(NamedTuple):
    """What a step changes: nothing else needs to be saved to resume."""

    params: Params
    optimizer: optax.OptState


class Members(NamedTuple):
    """The networks of a group; every leaf has the leading axis of members."""

    state: State
    keep: dict[str, Shaped[Array, "..."]]  # parameter path → 1 = kept, 0 = removed
    rates: Params  # learning rate of each parameter, scalars


class Indices(NamedTuple):
    """Which examples make up each batch: (batches, batch), or (members, batches, batch) where members differ."""

    examples: Int[Array, "..."]
    weight: Float[Array, "..."]


class Examples(NamedTuple):
    """A split on the device."""

    inputs: Float[Array, "examples ..."]
    labels: Int[Array, " examples"]


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
    measure: Measure, transformation: optax.GradientTransformation, axis: str | None = None
) -> Callable[[Members, Batch], tuple[State, Sums]]:
    """One step of one member on one batch: gradient of the mean loss, mean across `axis`, update."""

    def step(member: Members, batch: Batch) -> tuple[State, Sums]:
        def loss(params: Params) -> tuple[Array, Sums]:
            sums = measure(masks.apply_masks(params, member.keep), batch)
            return sums.loss, sums

        params, opt_state = member.state
        gradient, sums = jax.grad(loss, has_aux=True)(params)
        if axis is not None:
            gradient, sums = jax.lax.psum((gradient, sums), axis)
        gradient = jax.tree.map(lambda g: g / sums.weight, gradient)
        updates, opt_state = transformation.update(gradient, opt_state, params)
        updates = jax.tree.map(jnp.multiply, updates, member.rates)
        return State(optax.apply_updates(params, updates), opt_state), sums

    return step


def take(data: Examples, indices: Indices) -> Batch:
    """The batch of one row of `Indices`."""
    return Batch(data.inputs[indices.examples], data.labels[indices.examples], indices.weight)


def make_epoch(step: Callable[[Members, Batch], tuple[State, Sums]]) -> Callable:
    """(member, indices, data) → (member, sums over the epoch as training went), for one member."""

    def epoch(member: Members, indices: Indices, data: Examples) -> tuple[Members, Sums]:
        def body(state: State, row: Indices) -> tuple[State, Sums]:
            return step(member._replace(state=state), take(data, row))

        state, sums = jax.lax.scan(body, member.state, indices)
        return member._replace(state=state), jax.tree.map(lambda x: x.sum(0), sums)

    return epoch


def make_evaluation(measure: Measure, axis: str | None = None) -> Callable:
    """(member, indices, data) → sums over the split, for one member."""

    def evaluate(member: Members, indices: Indices, data: Examples) -> Sums:
        masked = masks.apply_masks(member.state.params, member.keep)

        def body(_: None, row: Indices) -> tuple[None, Sums]:
            return None, measure(masked, take(data, row))

        _, sums = jax.lax.scan(body, None, indices)
        sums = jax.tree.map(lambda x: x.sum(0), sums)
        return sums if axis is None else jax.lax.psum(sums, axis)

    return evaluate


def over_members(function: Callable, *, together: bool, shared_indices: bool) -> Callable:
    """Map a function of (member, indices, data) over stacked members, all at once or one after the other."""
    if together:
        return jax.vmap(function, in_axes=(0, None if shared_indices else 0, None))

    def one_by_one(members: Members, indices: Indices, data: Examples) -> Any:
        if shared_indices:
            return jax.lax.map(lambda member: function(member, indices, data), members)
        return jax.lax.map(lambda pair: function(*pair, data), (members, indices))

    return one_by_one


def trains_together(model: Model) -> bool:
    """Whether the members of a group should share each step: always, except large networks on a CPU.

    There a network's kernel, its masked copy and its gradient fill the cache alone; ten at once wait for memory.
    """
    weights = sum(sizes(model.shapes).values())
    return jax.default_backend() != "cpu" or weights < LARGEST_TOGETHER


def batches(order: Int[Array, " examples"], batch_size: int) -> Indices:
    """Cut an order of examples into batches; the last one is filled with examples of weight 0."""
    examples = order.size
    padding = -examples % batch_size
    index = jnp.concatenate([order, jnp.zeros(padding, order.dtype)])
    weight = jnp.concatenate([jnp.ones(examples), jnp.zeros(padding)])
    return Indices(index.reshape(-1, batch_size), weight.reshape(-1, batch_size))


@partial(jax.jit, static_argnames=("examples", "batch_size"))
def shuffled(key: PRNGKeyArray, epoch: Int[Array, ""], *, examples: int, batch_size: int) -> Indices:
    """The batches of an epoch: a function of (key, epoch), so that a resumed run sees the same ones."""
    return batches(jax.random.permutation(jax.random.fold_in(key, epoch), examples), batch_size)


def initial_members(group: Group, model: Model, transformation: optax.GradientTransformation) -> Members:
    """Draw masks and weights of every member; removed weights start at 0, and stay there."""
    shapes = {models.kernel_path(layer): shape for layer, shape in model.shapes.items()}
    keys = {seed: jax.random.key(seed) for seed in group.seeds}
    # A loop, since a mapped draw takes XLA five times as long to compile.
    init = jax.jit(model.init)
    units = {seed: jax.tree.map(np.asarray, init(jax.random.fold_in(key, 0))) for seed, key in keys.items()}

    drawn = []
    for spec, seed in group.members:
        counts = {models.kernel_path(layer): kept for layer, kept in spec.kept}
        drawn.append(
            masks.draw(jax.random.fold_in(keys[seed], 1), shapes, counts, spec.mask) if counts else {}
        )
    sparse = [path for path in shapes if any(path in positions for positions in drawn)]

    params, keep, rates = [], [], []
    for (spec, seed), positions in zip(group.members, drawn, strict=True):
        everything = {path: np.arange(np.prod(shapes[path])) for path in sparse}
        member_keep = {p: masks.keep_array((everything | positions)[p], shapes[p]) for p in sparse}
        rule = models.scalings(spec, model.shapes, units[seed])
        leaves = flatten_dict(units[seed], sep="/")
        scaled = {p: np.float32(rule[p].initial) * x * member_keep.get(p, True) for p, x in leaves.items()}
        params.append(unflatten_dict(scaled, sep="/"))
        keep.append(member_keep)
        rates.append(
            unflatten_dict(
                {p: np.float32(spec.learning_rate * rule[p].learning_rate) for p in leaves}, sep="/"
            )
        )
    stacked_params, stacked_keep, stacked_rates = (stack(trees) for trees in (params, keep, rates))
    state = State(stacked_params, jax.vmap(transformation.init)(stacked_params))
    return Members(state, stacked_keep, stacked_rates)


def stack(trees: list[Any]) -> Any:
    """Trees of equal structure → one tree with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def train(
    group: Group, splits: Splits, *, resume: Snapshot | None = None, placement: Placement | None = None
) -> Iterator[tuple[int, History, Callable[[], Snapshot]]]:
    """Train a group; yields after every epoch (epochs done, history so far, a function that takes a snapshot).

    The snapshot must be taken before the next epoch starts: that gives up the memory of the state.
    The history has `train_loss`, `train_accuracy` (over the batches of the epoch, as training went) and `test_loss`,
    `test_accuracy` (at its end; `validation_…` where the spec holds examples out). Losses in nats, accuracies as
    fractions. A member whose loss is not finite has diverged: its values are NaN from then on.
    """
    spec = group.specs[0]
    count = len(group.members)
    placement = placement or devices.place(count)
    model = models.build(spec, splits.train_images.shape[1:], splits.classes)
    measure = classification(model)
    examples = len(splits.train_labels)
    transformation = optimizer(spec, -(-examples // spec.batch_size))
    shared = spec.order == "shared"

    together = trains_together(model)
    training = make_epoch(make_step(measure, transformation, placement.axis))
    run_epoch = devices.compile_program(
        placement,
        over_members(training, together=together, shared_indices=shared),
        donate=True,
        batches_of_members=not shared,
    )
    evaluation = make_evaluation(measure, placement.axis)
    evaluate = devices.compile_program(
        placement, over_members(evaluation, together=together, shared_indices=True)
    )

    members = initial_members(group, model, transformation)
    history: History = {}
    if resume is not None:
        members, history = members._replace(state=restored(members.state, resume.state)), resume.history
    done = len(next(iter(history.values()))) if history else 0
    members = devices.scatter_members(placement, members)

    name = "validation" if spec.validation_samples else "test"
    train_data, held_out = (devices.replicate(placement, x) for x in load(splits, name))
    held_out_rows = devices.scatter_batches(
        placement, batches(jnp.arange(len(held_out.labels)), min(EVALUATION_BATCH, len(held_out.labels)))
    )
    order = partial(shuffled, examples=examples, batch_size=min(spec.batch_size, examples))
    order_key = jax.random.fold_in(jax.random.key(spec.data_seed), 2)
    if not shared:
        member_keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), 2) for _, seed in group.members])
        order, order_key = jax.vmap(order, in_axes=(0, None)), member_keys

    for epoch in range(done, spec.epochs):
        rows = devices.scatter_batches(placement, order(order_key, epoch), of_members=not shared)
        members, train_sums = run_epoch(members, rows, train_data)
        test_sums = evaluate(members, held_out_rows, held_out)
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


def load(splits: Splits, held_out: str) -> tuple[Examples, Examples]:
    """The training split and the one to evaluate, normalised to float32."""

    def examples(images: np.ndarray, labels: np.ndarray) -> Examples:
        inputs = jax.jit(normalise)(np.ascontiguousarray(images), splits.mean, splits.deviation)
        return Examples(inputs, jnp.asarray(labels, jnp.int32))

    return (
        examples(splits.train_images, splits.train_labels),
        examples(getattr(splits, f"{held_out}_images"), getattr(splits, f"{held_out}_labels")),
    )
