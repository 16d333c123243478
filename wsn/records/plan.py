"""What a list of groups will cost, before any of it is computed: networks, weights, FLOPs, memory, time."""

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp

from wsn import devices
from wsn.data.feeds import EVALUATION_BATCH, Source
from wsn.data.text import EVALUATION_LANES, Text
from wsn.data.vocabulary import TOKENS
from wsn.errors import UserError, choose
from wsn.networks import models
from wsn.sparsity.family import kept_weights
from wsn.spec import Group
from wsn.tasks import TASKS, Context
from wsn.training import optimizers, registries
from wsn.training.optimizers import Horizon
from wsn.training.strategy import goes_step_by_step, trains_together

PRODUCTS = "dot_general", "conv_general_dilated"


class Cost(NamedTuple):
    """Estimates for a group: training from start to end."""

    members: int
    weights: tuple[int, ...]  # of each spec
    flops: float  # dense arithmetic: masked weights are multiplied too
    bytes: float  # on the device, at the peak


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
    training, testing = (jax.make_jaxpr(f)(*shapes) for f in (jax.grad(loss), evaluation))
    train_flops, test_flops = (counted(program) / batch_size for program in (training, testing))
    horizon = Horizon(-(-examples // batch_size), -(-examples // batch_size) * spec.epochs)
    evaluations = -(-horizon.total // (spec.eval_every or horizon.epoch))
    trained = spec.epochs * train_flops * examples + evaluations * test_flops * held_out

    # Parameters, masked parameters, gradients in float32, masks in bytes; the optimiser; what layers put out; data.
    entries = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
    optimizer = jax.eval_shape(optimizers.build(spec, horizon).init, params)
    larger = (EVALUATION_LANES if isinstance(source, Text) else EVALUATION_BATCH) / batch_size
    own = (3 * 4 + 1) * entries + 4 * sum(x.size for x in jax.tree.leaves(optimizer))
    members = len(group.members)
    at_once = (
        members
        if trains_together(model, sum(map(math.prod, model.shapes.values()))) and not goes_step_by_step(model)
        else 1
    )
    weights = tuple(kept_weights(s, model.shapes) for s in group.specs)
    held = members * own + at_once * 4 * activations(training, testing, larger)
    return Cost(members, weights, members * trained, held + resident(source, examples + held_out))


def activations(training: Any, testing: Any, larger: float) -> float:
    """How many numbers a network holds at the peak, beside its parameters.

    A step holds what every product puts out, and every scan: there that is what the way back needs of each turn. An
    evaluation, whose batch is so many times `larger`, lets go of all but two layers.
    """
    outputs = [size for equation in equations(testing, *PRODUCTS) for size in sizes_of(equation)]
    saved = [size for equation in equations(training, "scan") for size in sizes_of(equation)]
    return max(sum(outputs) + sum(saved), 2 * larger * max(outputs, default=0))


def resident(source: Source, examples: int) -> int:
    """Bytes of the data on the device."""
    if isinstance(source, Text):
        return source.train.nbytes + source.held_out.nbytes
    return 0 if source.streamed else 4 * math.prod(source.input_shape) * examples


def check_memory(groups: Iterable[Group], costs: Iterable[Cost]) -> None:
    """Raises UserError for a group that needs more memory than all devices have."""
    there = devices.memory()
    for group, c in zip(groups, costs, strict=True):
        if there is not None and c.bytes > there:
            spec = group.specs[0]
            window = f", a shorter --sequence than {spec.sequence}" if spec.task in TOKENS else ""
            raise UserError(
                f"--batch_size={spec.batch_size}: {c.members} networks of width {spec.width} take about"
                f" {c.bytes / 2**30:.3g} GiB of {there / 2**30:.3g}: take a smaller batch{window}, or fewer --seeds"
            )


def counted(program: Any) -> float:
    """FLOPs by XLA's analysis, which counts the body of a scan once; its other turns are added here.

    Where a backend has no analysis, all programs count alike.
    """
    lowered = jax.jit(jax.extend.core.jaxpr_as_fun(program)).lower(*program.in_avals)
    flops = (lowered.cost_analysis() or {}).get("flops", 1.0)
    scans = (scan.params for scan in equations(program, "scan"))
    return flops + sum((scan["length"] - 1) * counted(scan["jaxpr"]) for scan in scans)


def equations(program: Any, *primitives: str) -> Iterator[Any]:
    """Of those kinds in a program and its inner programs, but not inside a scan."""
    for equation in program.eqns:
        if equation.primitive.name in primitives:
            yield equation
        elif equation.primitive.name != "scan":
            for inner in equation.params.values():
                yield from equations(inner, *primitives) if hasattr(inner, "eqns") else ()


def sizes_of(equation: Any) -> list[int]:
    """How many numbers each of its results has."""
    return [math.prod(variable.aval.shape) for variable in equation.outvars]


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
