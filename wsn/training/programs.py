"""How the steps between two evaluations run: as one compiled program, or as a Python loop over a compiled step.

One program is faster, since nothing waits for the host. But XLA does not thread the convolutions inside loops on a CPU
(up to 23 times slower), so there convolutional networks run step by step, one network after the other.
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
from wsn.tasks import Carry
from wsn.training.state import LANES, Members


class Program(NamedTuple):
    """Compiled functions of (stacked members, rows, data)."""

    advance: Callable  # → (members, totals over the rows); reuses the memory of its members
    evaluate: Callable  # → (totals over the rows, reads)


def compile_program(
    step: Callable,
    evaluation: Callable,
    reads: Callable,
    placement: Placement,
    feed: Feed,
    carry: Callable[[int], Carry],
    *,
    shared: bool,
    together: bool,
    step_by_step: bool,
) -> Program:
    """The program of functions of one member.

    step: (member, batch) → (member, totals); evaluation: (member, carry, batch) → (carry, totals); reads: (params,
    start) → numbers; carry: lanes → what the first batch starts from. `shared`: all members see the same batches;
    `together`: they share each step by `vmap`, else run one after another by `lax.map`. Step by step, rows may also be
    an iterator, as streamed data are.
    """
    start = carry(devices.lanes_of_device(placement, feed.held_out_lanes))
    if step_by_step:
        return loop_over_steps(step, evaluation, reads, placement, feed, start, shared)
    advance = scan_steps(step, feed.make_training_batch)
    evaluate = scan_split(evaluation, reads, feed.make_held_out_batch, start)
    return Program(
        devices.compile_program(
            placement,
            map_members(advance, together=together, shared_rows=shared),
            donate=True,
            batches_of_members=not shared,
            lanes=LANES,
            lanes_out=(LANES, None),
        ),
        devices.compile_program(
            placement, map_members(evaluate, together=together, shared_rows=True), lanes=LANES
        ),
    )


def scan_steps(step: Callable, make_batch: MakeBatch) -> Callable:
    """The steps of one member: (member, rows, data) → (member, totals)."""

    def advance(member: Members, rows: Any, data: Any) -> Any:
        def body(state: Any, row: Any) -> Any:
            after, totals = step(member._replace(state=state), make_batch(data, row))
            return after.state, totals

        state, totals = jax.lax.scan(body, member.state, rows)
        return member._replace(state=state), jax.tree.map(lambda x: x.sum(0), totals)

    return advance


def scan_split(evaluation: Callable, reads: Callable, make_batch: MakeBatch, start: Carry) -> Callable:
    """The evaluation of one member: (member, rows, data) → (totals, reads)."""

    def evaluate(member: Members, rows: Any, data: Any) -> Any:
        def body(carry: Carry, row: Any) -> tuple[Carry, Any]:
            return evaluation(member, carry, make_batch(data, row))

        totals = jax.lax.scan(body, start, rows)[1]
        return jax.tree.map(lambda x: x.sum(0), totals), reads(member.state.params, member.start)

    return evaluate


def map_members(function: Callable, *, together: bool, shared_rows: bool) -> Callable:
    """Map a function of (member, rows, data) over stacked members, all at once or one after another."""
    if together:
        return jax.vmap(function, in_axes=(0, None if shared_rows else 0, None))

    def one_after_another(members: Any, rows: Any, data: Any) -> Any:
        if shared_rows:
            return jax.lax.map(lambda member: function(member, rows, data), members)
        return jax.lax.map(lambda pair: function(*pair, data), (members, rows))

    return one_after_another


def loop_over_steps(
    step: Callable,
    evaluation: Callable,
    reads: Callable,
    placement: Placement,
    feed: Feed,
    start: Carry,
    shared: bool,
) -> Program:
    """Python loops over batches and members; `placement` is `single` or `batch`.

    Where a stream stacks batches, the program of a call scans them.
    """

    def train_batch(member: Members, row: Any, data: Any) -> Any:
        return step(member, feed.make_training_batch(data, row))

    def evaluate_batch(pair: tuple[Members, Carry], row: Any, data: Any) -> Any:
        return evaluation(*pair, feed.make_held_out_batch(data, row))

    run_step = devices.compile_program(
        placement,
        scan_steps(step, feed.make_training_batch) if feed.together > 1 else train_batch,
        donate=True,
        lanes=LANES,
        lanes_out=(LANES, None),
    )
    run_evaluation = devices.compile_program(placement, evaluate_batch, lanes=(LANES, 0), lanes_out=(0, None))
    run_reads = jax.jit(jax.vmap(reads))
    start = devices.copy_to_devices(placement, start)
    axis = 1 if placement.kind == "batch" else 0  # of members, in the carry

    def split(members: Members) -> list[Members]:
        return [
            with_carry(member, devices.return_lanes(placement, member.state.carry))
            for member in unstack_members(members, axis)
        ]

    def advance(members: Members, rows: Any, data: Any) -> Any:
        def run(member: Members, i: int, row: Any) -> Any:
            return run_step(member, row if shared else jax.tree.map(lambda x: x[..., i, :], row), data)

        states, totals = loop(run, split(members), rows)
        return stack_members(states, axis), totals

    def evaluate(members: Members, rows: Any, data: Any) -> Any:
        states = split(members)

        def run(carry: Carry, i: int, row: Any) -> Any:
            return run_evaluation((states[i], carry), row, data)

        return loop(run, [start] * len(states), rows)[1], run_reads(members.state.params, members.start)

    return Program(advance, evaluate)


def loop(run: Callable[[Any, int, Any], Any], states: list[Any], rows: Any) -> tuple[list[Any], Any]:
    """For every row and member, run: (state, member, row) → (state, totals). Returns the states, and stacked sums."""
    totals: list[Any] = [None] * len(states)
    for row in iterate(rows):
        for i, state in enumerate(states):
            states[i], new = run(state, i, row)
            totals[i] = new if totals[i] is None else add(totals[i], new)
    return states, stack(totals)


def iterate(rows: Any) -> Iterator[Any]:
    """Rows one by one, of an iterator or of arrays (…, steps, lanes)."""
    if isinstance(rows, Iterator):
        yield from rows
        return
    for at in range(jax.tree.leaves(rows)[0].shape[-2]):
        yield jax.tree.map(lambda x, at=at: x[..., at, :], rows)


# Compiled: as single operations, each new shape would take XLA 50 ms, and a ResNet has many shapes.


@jax.jit
def add(left: Any, right: Any) -> Any:
    return jax.tree.map(jnp.add, left, right)


@jax.jit
def stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@partial(jax.jit, static_argnums=1)
def stack_members(members: list[Members], carry_axis: int) -> Members:
    """Stack members along the leading axis, and their carries along `carry_axis`."""
    carry = jax.tree.map(lambda *x: jnp.stack(x, carry_axis), *(m.state.carry for m in members))
    return with_carry(stack([with_carry(member, ()) for member in members]), carry)


@partial(jax.jit, static_argnums=1)
def unstack_members(members: Members, carry_axis: int) -> list[Members]:
    """The inverse of `stack_members`."""

    def member(i: int) -> Members:
        carry = jax.tree.map(lambda x: jnp.take(x, i, carry_axis), members.state.carry)
        return with_carry(jax.tree.map(lambda x: x[i], with_carry(members, ())), carry)

    return [member(i) for i in range(len(members.key))]


def with_carry(members: Members, carry: Carry) -> Members:
    return members._replace(state=members.state._replace(carry=carry))
