"""How the epochs of a group are run: as one program each, or step by step from Python.

One program is fastest where it can be: nothing waits for the host. XLA runs the bodies of loops without its threaded
convolutions on a CPU, up to 23 times slower, so there convolutional networks go step by step, member by member.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wsn import devices
from wsn.data.batches import Indices, Take, take
from wsn.devices import Placement
from wsn.networks.layers import Model
from wsn.networks.models import has_convolutions
from wsn.sparsity.shapes import sizes

# Networks of more weights train one after the other: MLPs on a CPU (2 cores, step of 256 at 504,190 weights: 4.1 ms
# against 6.2 ms a network; at 171,504 weights together is better, 1.4 ms against 2.0 ms), and convolutions anywhere,
# since those of several networks become one grouped convolution, which pays only while the device is idle otherwise.
LARGEST_TOGETHER = 300_000


class Program(NamedTuple):
    """An epoch over stacked members: (members, indices, data) → (members, sums), and → sums."""

    epoch: Callable
    evaluate: Callable


def compile_epochs(
    model: Model,
    step: Callable,
    evaluation: Callable,
    placement: Placement,
    *,
    take_training: Take = take,
    take_held_out: Take = take,
    shared: bool = True,
    streamed: bool = False,
) -> Program:
    """The way that suits the network, the device and the data; `shared`: all members see the same batches.

    step: (member, batch) → (member, sums); evaluation: (member, batch) → sums. With `streamed`, indices are an
    iterator of what the batches are made from, one by one.
    """
    if streamed or goes_step_by_step(model):
        return step_by_step(step, evaluation, placement, take_training, take_held_out, shared)
    together = trains_together(model)
    return Program(
        devices.compile_program(
            placement,
            over_members(scanned(step, take_training), together=together, shared_indices=shared),
            donate=True,
            batches_of_members=not shared,
        ),
        devices.compile_program(
            placement,
            over_members(scanned_sums(evaluation, take_held_out), together=together, shared_indices=True),
        ),
    )


def goes_step_by_step(model: Model) -> bool:
    return jax.default_backend() == "cpu" and has_convolutions(model)


def trains_together(model: Model) -> bool:
    """Whether the members of a group should share each step."""
    weights = sum(sizes(model.shapes).values())
    large = weights >= LARGEST_TOGETHER
    return not large or (jax.default_backend() != "cpu" and not has_convolutions(model))


def scanned(step: Callable, take: Take) -> Callable:
    """An epoch of one member: (member, indices, data) → (member, sums as training went)."""

    def epoch(member: Any, indices: Any, data: Any) -> Any:
        def body(state: Any, row: Any) -> Any:
            after, sums = step(member._replace(state=state), take(data, row))
            return after.state, sums

        state, sums = jax.lax.scan(body, member.state, indices)
        return member._replace(state=state), jax.tree.map(lambda x: x.sum(0), sums)

    return epoch


def scanned_sums(evaluation: Callable, take: Take) -> Callable:
    """A split of one member: (member, indices, data) → sums."""

    def evaluate(member: Any, indices: Any, data: Any) -> Any:
        sums = jax.lax.scan(lambda _, row: (None, evaluation(member, take(data, row))), None, indices)[1]
        return jax.tree.map(lambda x: x.sum(0), sums)

    return evaluate


def over_members(function: Callable, *, together: bool, shared_indices: bool) -> Callable:
    """Map a function of (member, indices, data) over stacked members, all at once or one after the other."""
    if together:
        return jax.vmap(function, in_axes=(0, None if shared_indices else 0, None))

    def one_by_one(members: Any, indices: Any, data: Any) -> Any:
        if shared_indices:
            return jax.lax.map(lambda member: function(member, indices, data), members)
        return jax.lax.map(lambda pair: function(*pair, data), (members, indices))

    return one_by_one


def step_by_step(
    step: Callable,
    evaluation: Callable,
    placement: Placement,
    take_training: Take,
    take_held_out: Take,
    shared: bool,
) -> Program:
    """Batches and members in Python loops over one compiled step; `placement` is `single` or `batch`."""
    run_step = devices.compile_program(
        placement, lambda member, row, data: step(member, take_training(data, row)), donate=True
    )
    run_evaluation = devices.compile_program(
        placement, lambda member, row, data: evaluation(member, take_held_out(data, row))
    )

    def epoch(members: Any, indices: Any, data: Any) -> Any:
        states = unstacked(members)
        totals: list[Any] = [None] * len(states)
        for row in rows_of(indices):
            for i, member in enumerate(states):
                own = row if shared else jax.tree.map(lambda x, i=i: x[..., i, :], row)
                states[i], sums = run_step(member, own, data)
                totals[i] = added(totals[i], sums)
        return stacked(states), stacked(totals)

    def evaluate(members: Any, indices: Any, data: Any) -> Any:
        states = unstacked(members)
        totals: list[Any] = [None] * len(states)
        for row in rows_of(indices):
            totals = [
                added(total, run_evaluation(member, row, data))
                for total, member in zip(totals, states, strict=True)
            ]
        return stacked(totals)

    return Program(epoch, evaluate)


def rows_of(indices: Any) -> Iterator[Any]:
    """The rows of an epoch one by one: of arrays with steps and examples on the last axes, or as they stream in."""
    if not isinstance(indices, Indices):
        yield from indices
        return
    for at in range(indices.weight.shape[-2]):
        yield jax.tree.map(lambda x, at=at: x[..., at, :], indices)


# Compiled, since each operation of each shape on its own takes XLA 50 ms to compile, and a ResNet has many.


def added(total: Any, sums: Any) -> Any:
    return sums if total is None else _add(total, sums)


@jax.jit
def _add(left: Any, right: Any) -> Any:
    return jax.tree.map(jnp.add, left, right)


@jax.jit
def unstacked(members: Any) -> list[Any]:
    """The members along the leading axis, one by one."""
    count = len(jax.tree.leaves(members)[0])
    return [jax.tree.map(lambda leaf, i=i: leaf[i], members) for i in range(count)]


@jax.jit
def stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
