"""How the steps between two evaluations are run: as one compiled program, or step by step from Python.

One program is fastest where it can be: nothing waits for the host. XLA runs the bodies of loops without its threaded
convolutions on a CPU, up to 23 times slower, so there convolutional networks go step by step, member by member.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wsn import devices
from wsn.data.batches import MakeBatch
from wsn.data.feeds import Feed
from wsn.devices import Placement
from wsn.networks.layers import Model
from wsn.tasks import Carry
from wsn.training.state import LANES, Members
from wsn.training.strategy import goes_step_by_step


class Program(NamedTuple):
    """Functions of (stacked members, rows, data): → (members, totals over the rows), and → (totals, reads)."""

    advance: Callable
    evaluate: Callable


def compile_program(
    model: Model,
    step: Callable,
    evaluation: Callable,
    reads: Callable,
    placement: Placement,
    feed: Feed,
    *,
    carry: Callable[[int], Carry],
    shared: bool,
    together: bool,
    streamed: bool = False,
) -> Program:
    """The way that suits the network, the device and the data.

    shared: whether all members see the same batches; together: whether they share the steps of one program.
    step: (member, batch) → (member, totals); evaluation: (member, carry, batch) → (carry, totals); reads: (params,
    start) → numbers; carry: lanes → what is carried into the first batch. With `streamed`, rows are an iterator of
    what the batches are made from, one by one.
    """
    start = carry(devices.lanes_of_device(placement, feed.held_out_lanes))
    if streamed or goes_step_by_step(model):
        return step_by_step(step, evaluation, reads, placement, feed, start, shared)
    advance = over_members(scanned(step, feed.make_training_batch), together=together, shared_rows=shared)
    evaluate = over_members(
        scanned_totals(evaluation, reads, feed.make_held_out_batch, start),
        together=together,
        shared_rows=True,
    )
    return Program(
        devices.compile_program(
            placement,
            advance,
            donate=True,
            batches_of_members=not shared,
            lanes=LANES,
            lanes_out=(LANES, None),
        ),
        devices.compile_program(placement, evaluate, lanes=LANES),
    )


def scanned(step: Callable, make_batch: MakeBatch) -> Callable:
    """The steps of one member: (member, rows, data) → (member, totals as training went)."""

    def advance(member: Members, rows: Any, data: Any) -> Any:
        def body(state: Any, row: Any) -> Any:
            after, totals = step(member._replace(state=state), make_batch(data, row))
            return after.state, totals

        state, totals = jax.lax.scan(body, member.state, rows)
        return member._replace(state=state), jax.tree.map(lambda x: x.sum(0), totals)

    return advance


def scanned_totals(evaluation: Callable, reads: Callable, make_batch: MakeBatch, start: Carry) -> Callable:
    """A split of one member: (member, rows, data) → (totals, reads)."""

    def evaluate(member: Members, rows: Any, data: Any) -> Any:
        def body(carry: Carry, row: Any) -> tuple[Carry, Any]:
            return evaluation(member, carry, make_batch(data, row))

        totals = jax.lax.scan(body, start, rows)[1]
        return jax.tree.map(lambda x: x.sum(0), totals), reads(member.state.params, member.start)

    return evaluate


def over_members(function: Callable, *, together: bool, shared_rows: bool) -> Callable:
    """Map a function of (member, rows, data) over stacked members, all at once or one after the other."""
    if together:
        return jax.vmap(function, in_axes=(0, None if shared_rows else 0, None))

    def one_by_one(members: Any, rows: Any, data: Any) -> Any:
        if shared_rows:
            return jax.lax.map(lambda member: function(member, rows, data), members)
        return jax.lax.map(lambda pair: function(*pair, data), (members, rows))

    return one_by_one


def step_by_step(
    step: Callable,
    evaluation: Callable,
    reads: Callable,
    placement: Placement,
    feed: Feed,
    start: Carry,
    shared: bool,
) -> Program:
    """Batches and members in Python loops over one compiled step; `placement` is `single` or `batch`."""

    def one_evaluation(pair: tuple[Members, Carry], row: Any, data: Any) -> Any:
        member, carry = pair
        return evaluation(member, carry, feed.make_held_out_batch(data, row))

    run_step = devices.compile_program(
        placement,
        lambda member, row, data: step(member, feed.make_training_batch(data, row)),
        donate=True,
        lanes=LANES,
        lanes_out=(LANES, None),
    )
    run_evaluation = devices.compile_program(placement, one_evaluation, lanes=(LANES, 0), lanes_out=(0, None))
    run_reads = jax.jit(jax.vmap(reads))
    first = devices.copy_to_devices(placement, start)
    axis = 1 if placement.kind == "batch" else 0  # of members, in what is carried

    def apart(members: Members) -> list[Members]:
        own = unstacked(members, axis)
        carries = (devices.return_lanes(placement, member.state.carry) for member in own)
        return [m._replace(state=m.state._replace(carry=c)) for m, c in zip(own, carries, strict=True)]

    def advance(members: Members, rows: Any, data: Any) -> Any:
        def one(member: Members, i: int, row: Any) -> Any:
            return run_step(member, row if shared else jax.tree.map(lambda x: x[..., i, :], row), data)

        own, totals = in_turn(one, apart(members), rows)
        return stacked_members(own, axis), totals

    def evaluate(members: Members, rows: Any, data: Any) -> Any:
        own = apart(members)
        _, totals = in_turn(
            lambda carry, i, row: run_evaluation((own[i], carry), row, data), [first] * len(own), rows
        )
        return totals, run_reads(members.state.params, members.start)

    return Program(advance, evaluate)


def in_turn(one: Callable[[Any, int, Any], Any], states: list[Any], rows: Any) -> tuple[list[Any], Any]:
    """Row by row, member by member: (state, member, row) → (state, sums); the last states, and the sums stacked."""
    totals: list[Any] = [None] * len(states)
    for row in rows_of(rows):
        for i, state in enumerate(states):
            states[i], sums = one(state, i, row)
            totals[i] = added(totals[i], sums)
    return states, stacked(totals)


def rows_of(rows: Any) -> Iterator[Any]:
    """Rows one by one: of arrays with steps and lanes on the last axes, or as they stream in."""
    if isinstance(rows, Iterator):
        yield from rows
        return
    for at in range(jax.tree.leaves(rows)[0].shape[-2]):
        yield jax.tree.map(lambda x, at=at: x[..., at, :], rows)


# Compiled, since each operation of each shape on its own takes XLA 50 ms to compile, and a ResNet has many.


def added(total: Any, sums: Any) -> Any:
    return sums if total is None else _add(total, sums)


@jax.jit
def _add(left: Any, right: Any) -> Any:
    return jax.tree.map(jnp.add, left, right)


@jax.jit
def stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@partial(jax.jit, static_argnums=1)
def stacked_members(members: list[Members], carry_axis: int) -> Members:
    """Members one by one → along the leading axis; what is carried, along `carry_axis`."""
    carry = jax.tree.map(lambda *x: jnp.stack(x, carry_axis), *(m.state.carry for m in members))
    whole = jax.tree.map(lambda *x: jnp.stack(x), *(_without_carry(m) for m in members))
    return whole._replace(state=whole.state._replace(carry=carry))


@partial(jax.jit, static_argnums=1)
def unstacked(members: Members, carry_axis: int) -> list[Members]:
    """The inverse of `stacked_members`."""

    def member(i: int) -> Members:
        one = jax.tree.map(lambda x: x[i], _without_carry(members))
        carry = jax.tree.map(lambda x: jnp.take(x, i, carry_axis), members.state.carry)
        return one._replace(state=one.state._replace(carry=carry))

    return [member(i) for i in range(len(members.key))]


def _without_carry(members: Members) -> Members:
    return members._replace(state=members.state._replace(carry=()))
