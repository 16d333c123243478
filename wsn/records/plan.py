"""What a list of groups will cost, before any of it is computed: networks, weights, FLOPs, memory, time."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp

from wsn import memory
from wsn.data import feeds
from wsn.data.feeds import Source
from wsn.errors import choose
from wsn.networks import models
from wsn.sparsity.family import kept_weights
from wsn.spec import Group
from wsn.tasks import TASKS, Context
from wsn.training import optimizers, registries
from wsn.training.optimizers import Horizon


class Cost(NamedTuple):
    """Estimates for a group: training from start to end."""

    members: int
    weights: tuple[int, ...]  # of each spec
    flops: float  # dense arithmetic: masked weights are multiplied too
    bytes: float  # on the device, at the peak
    held: float = 0.0  # of these, what is there all the time: parameters, masks, the optimiser, the data


def cost(group: Group, source: Source) -> Cost:
    """Count the FLOPs of the loss and its gradient from XLA's own analysis; memory from the shapes."""
    spec = group.specs[0]
    registries.check(spec)
    model = models.build(spec, source.input_shape, source.classes)
    task = choose(TASKS, "task", spec.task)(model)
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    examples, held_out = source.examples(spec)
    batch_size = min(spec.batch_size, examples)
    batch, carry = source.example(batch_size), jax.eval_shape(lambda: task.carry(batch_size))
    context = Context(jax.random.key(0), None)

    def evaluation(params: Any, stats: Any, carry: Any, batch: Any) -> Any:
        return task.evaluation(params, stats, carry, batch, context)

    def loss(params: Any, stats: Any, carry: Any, batch: Any) -> Any:
        return task.training(params, stats, carry, batch, context)[0]["loss"]

    shapes = params, stats, carry, batch
    train_flops, test_flops = (_flops(f, *shapes) / batch_size for f in (jax.grad(loss), evaluation))
    horizon = Horizon(-(-examples // batch_size), -(-examples // batch_size) * spec.epochs)
    evaluations = -(-horizon.total // (spec.eval_every or horizon.epoch))
    trained = spec.epochs * train_flops * examples + evaluations * test_flops * held_out

    # Parameters, masked parameters, gradients in float32, masks in bytes; the optimiser; what layers put out; data.
    entries = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
    optimizer = jax.eval_shape(optimizers.build(spec, horizon).init, params)
    outputs = sum(
        math.prod(variable.aval.shape)
        for equation in jax.make_jaxpr(evaluation)(*shapes).eqns
        if equation.primitive.name in ("dot_general", "conv_general_dilated")
        for variable in equation.outvars
    )
    hidden = 4 * outputs * max(1, feeds.EVALUATION_BATCH // batch_size)
    state = (4 + 1) * entries + 4 * sum(x.size for x in jax.tree.leaves(optimizer))
    resident = 0 if source.streamed else 4 * math.prod(source.input_shape) * (examples + held_out)
    members = len(group.members)
    weights = tuple(kept_weights(s, model.shapes) for s in group.specs)
    held = members * state + resident
    return Cost(members, weights, members * trained, held + members * (8 * entries + hidden), held)


def check(groups: Iterable[Group], costs: Iterable[Cost]) -> None:
    """Raises UserError for a group that needs more memory all the time than the devices have."""
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in jax.local_devices()]
    have = sum(limits) if all(limits) else None  # None: the machine's
    for group, c in zip(groups, costs, strict=True):
        what = f"--seeds, --widths: {c.members} networks of width {group.specs[0].width}: training them"
        memory.check(what, c.held, have)


def _flops(function: Callable, *shapes: Any) -> float:
    """FLOPs of one call."""
    return counted(jax.make_jaxpr(function)(*shapes))


def counted(program: Any) -> float:
    """FLOPs by XLA's analysis, which counts the body of a scan once; its other turns are added here.

    Where a backend has no analysis, all programs count alike.
    """
    lowered = jax.jit(jax.extend.core.jaxpr_as_fun(program)).lower(*program.in_avals)
    flops = (lowered.cost_analysis() or {}).get("flops", 1.0)
    return flops + sum((scan["length"] - 1) * counted(scan["jaxpr"]) for scan in scans(program))


def scans(program: Any) -> Iterator[dict[str, Any]]:
    """The parameters of every scan of a program, those of inner programs included, but not those inside a scan."""
    for equation in program.eqns:
        if equation.primitive.name == "scan":
            yield equation.params
        else:
            for inner in equation.params.values():
                yield from scans(inner) if hasattr(inner, "eqns") else ()


def matrix_rate(seconds: float = 0.5) -> float:
    """FLOP/s of this device's own float32 matrix product, 1024 × 1024 × 1024: the best of a few tries."""
    a = jnp.ones((1024, 1024))
    product = jax.jit(jnp.dot)
    product(a, a).block_until_ready()
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        product(a, a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best


def describe(groups: Iterable[Group], costs: Iterable[Cost], finished: Iterable[bool]) -> str:
    """The plan as text: a line per group and the totals; `finished` says which have a record already."""
    lines = [f"{'width':>6} {'networks':>8} {'weights':>18} {'epochs':>7} {'TFLOP':>9} {'GiB':>7}  state"]
    remaining, members, peak = 0.0, 0, 0.0
    for group, c, done in zip(groups, costs, finished, strict=True):
        spec = group.specs[0]
        span = f"{min(c.weights)}" if len(set(c.weights)) == 1 else f"{min(c.weights)}–{max(c.weights)}"
        lines.append(
            f"{spec.width:>6} {c.members:>8} {span:>18} {spec.epochs:>7} {c.flops / 1e12:>9.2f}"
            f" {c.bytes / 2**30:>7.2f}  {'done' if done else 'to train'}"
        )
        remaining += 0.0 if done else c.flops
        members += c.members
        peak = max(peak, c.bytes)
    rate = matrix_rate() * jax.device_count()
    lines.append(
        f"{members} networks; {remaining / 1e12:.1f} TFLOP to train, about {remaining / rate / 3600:.2g} hours at the"
        f" {rate / 1e9:.0f} GFLOP/s of this machine's matrix product (narrow networks run below it);"
        f" about {peak / 2**30:.2g} GiB at the peak"
    )
    return "\n".join(lines)
