"""What a list of groups will cost, before any of it is computed: networks, weights, FLOPs, memory, time."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp

from wsn import devices, machine
from wsn.data.feeds import Source
from wsn.data.language.vocabulary import TOKENIZERS
from wsn.errors import choose
from wsn.networks import models
from wsn.networks.layers import Model
from wsn.networks.tokens import EMBEDDING
from wsn.records.progress import duration
from wsn.records.record import Label, Labels
from wsn.sparsity.family import kept_weights
from wsn.spec import Group
from wsn.tasks import TASKS, Context
from wsn.training import optimizers, registries, strategy
from wsn.training.optimizers import Horizon

PRODUCTS = "dot_general", "conv_general_dilated"


class Cost(NamedTuple):
    """Estimates for a group: training from start to end."""

    members: int
    weights: tuple[int, ...]  # of each spec
    flops: float  # dense arithmetic: masked weights are multiplied too
    bytes: float  # on the device, at the peak


def cost(group: Group, source: Source, execution: str = "masked") -> Cost:
    """Count the FLOPs of the loss and its gradient from XLA's own analysis; memory from the shapes.

    Of a sparse layer its kept weights count, as if they were multiplied at the rate of the others.
    """
    spec = group.specs[0]
    registries.check(spec)
    model = models.build(spec, source.input_shape, source.classes)
    task = choose(TASKS, "task", spec.task)(model)
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    examples, held_out = source.num_examples(spec)
    batch_size = min(spec.batch_size, examples)
    batch, carry = source.batch_shapes(batch_size), jax.eval_shape(lambda: task.carry(batch_size))
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
    dense = spec.epochs * train_flops * examples + evaluations * test_flops * held_out
    trained = dense * multiplied(group, model, execution, testing)

    moments = sum(
        x.size for x in jax.tree.leaves(jax.eval_shape(optimizers.build(spec, horizon).init, params))
    )
    entries = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
    outputs = 4 * activations(training, testing, source.held_out_lanes(spec) / batch_size)
    networks = of_networks(group, model, execution, entries, moments / max(entries, 1), outputs)
    members = len(group.members)
    weights = tuple(kept_weights(s, model.shapes) for s in group.specs)
    return Cost(members, weights, members * trained, networks + source.nbytes(spec))


def multiplied(group: Group, model: Model, execution: str, program: Any) -> float:
    """The share of the arithmetic that is left where layers are sparse, on average over the specs.

    A kernel is multiplied once for every position of what its product puts out; those inside scans, which are not seen,
    as often as the last layer.
    """
    sparse = strategy.sparse_layers(group, model, execution)
    meets = {}
    for equation in equations(program, *PRODUCTS):
        shape = equation.invars[1].aval.shape
        meets[shape] = sizes_of(equation)[0] // shape[-1]
    last = meets.get(next(reversed(model.shapes.values())), 1)
    whole = left = 0.0
    for layer, shape in model.shapes.items():
        if layer == EMBEDDING:
            continue
        size = math.prod(shape)
        kept = sum(dict(spec.kept).get(layer, size) for spec in group.specs) / len(group.specs)
        whole += size * meets.get(shape, last)
        left += (kept if layer in sparse else size) * meets.get(shape, last)
    return left / whole


def of_networks(
    group: Group, model: Model, execution: str, entries: int, moments: float, outputs: float
) -> float:
    """Bytes of all networks of a group, of so many parameters each, so many moments of one, and `outputs` of layers.

    Parameters, masked parameters, gradients and moments in float32, masks in bytes; of a sparse layer what is kept, and
    its lists. Networks that take turns put out what one does.
    """
    sparse = strategy.sparse_layers(group, model, execution)
    shapes = {layer: model.shapes[layer] for layer in sparse}
    each = 4 * (3 + moments)
    kept = max(
        sum(dict(spec.kept).get(k, math.prod(of)) * (each + lists_bytes(of)) for k, of in shapes.items())
        for spec in group.specs
    )
    own = (each + 1) * (entries - sum(map(math.prod, shapes.values()))) + kept
    multiplied = strategy.multiplied_weights(group, model, sparse)
    turns = strategy.goes_step_by_step(model) or not strategy.trains_together(
        model, group.specs[0].width, multiplied
    )
    return len(group.members) * own + (1 if turns else len(group.members)) * outputs


def lists_bytes(shape: Sequence[int]) -> int:
    """Of a kept weight in the lists of a sparse layer: place and plane from both sides, of convolutions the tap."""
    return 2 * 4 * (3 if len(shape) > 2 else 2)


def activations(training: Any, testing: Any, larger: float) -> float:
    """How many numbers a network holds at the peak, beside its parameters.

    A step holds what every product puts out, and every scan: there that is what the way back needs of each turn; beside
    them of the largest layer its activation and the gradient of that. An evaluation, whose batch is so many times
    `larger`, lets go of all but two layers.
    """
    outputs = [size for equation in equations(testing, *PRODUCTS) for size in sizes_of(equation)]
    saved = [size for equation in equations(training, "scan") for size in sizes_of(equation)]
    largest = max(outputs, default=0)
    return max(sum(outputs) + sum(saved) + 2 * largest, 2 * larger * largest)


def check(groups: Iterable[Group], costs: Iterable[Cost]) -> None:
    """Raises UserError for a group that needs more memory than all devices have."""
    have = devices.memory()
    for group, c in zip(groups, costs, strict=True):
        spec = group.specs[0]
        flags = f"`batch_size`{', `sequence`' if spec.task in TOKENIZERS else ''}, `seeds`, `widths`"
        machine.check_memory(
            f"{flags}: {c.members} networks of width {spec.width}: training them", c.bytes, have
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


def describe(
    groups: Iterable[Group],
    costs: Iterable[Cost],
    finished: Iterable[bool],
    labels: Labels | None = None,
) -> str:
    """The plan as a table, a row per group, and the totals; `finished` says which have a record already.

    Times are those of the arithmetic at the rate of this machine's matrix product.
    """
    rate = matrix_rate() * jax.device_count()
    rows: list[tuple[str, ...]] = [
        ("kind", "base", "width", "networks", "weights", "epochs", "TFLOP", "time", "GiB", "state"),
    ]
    remaining, members, peak = 0.0, 0, 0.0
    for group, c, done in zip(groups, costs, finished, strict=True):
        rows.append(row_of(group, c, done, labels or {}, rate))
        remaining += 0.0 if done else c.flops
        members += c.members
        peak = max(peak, c.bytes)
    total = (
        f"{members} networks; {remaining / 1e12:.1f} TFLOP to train, about {remaining / rate / 3600:.2g} hours at the"
        f" {rate / 1e9:.0f} GFLOP/s of this machine's matrix product (narrow networks run below it);"
        f" about {peak / 2**30:.2g} GiB at the peak"
    )
    return f"{drawn(rows)}\n{total}"


def row_of(group: Group, cost: Cost, done: bool, labels: Labels, rate: float) -> tuple[str, ...]:
    """What trains as one program; where its networks differ in kind, all kinds."""
    spec = group.specs[0]
    own = [labels.get(spec, Label()) for spec in group.specs]
    least, most = min(cost.weights), max(cost.weights)
    return (
        "+".join(dict.fromkeys(label.kind or "network" for label in own)),
        str(own[0].base_width or ""),
        str(spec.width),
        str(cost.members),
        f"{least}" if least == most else f"{least}–{most}",
        str(spec.epochs),
        f"{cost.flops / 1e12:.2f}",
        duration(cost.flops / rate),
        f"{cost.bytes / 2**30:.2f}",
        "done" if done else "to train",
    )


def drawn(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as an aligned table, the first of them its head; first and last columns of words to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    lines = [
        "  ".join(
            x.ljust(width) if i in (0, last) else x.rjust(width)
            for i, (x, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "─" * (sum(widths) + 2 * last)
    return "\n".join([lines[0], rule, *lines[1:], rule])
