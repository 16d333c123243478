"""The cost of groups before they are trained: networks, weights, FLOPs, memory, time.

FLOPs are XLA's count of the loss and its gradient; memory follows from shapes. Networks that train one after another
hold their activations one at a time.
"""

import math
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
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
from wsn.networks.sequence.tokens import EMBEDDING
from wsn.records.progress import aligned, duration
from wsn.records.record import Label, Labels
from wsn.sparsity.family import kept_weights
from wsn.spec import Group
from wsn.tasks import TASKS, Context
from wsn.training import optimizers, registries, strategy
from wsn.training.optimizers import Horizon

PRODUCTS = "dot_general", "conv_general_dilated"


class Cost(NamedTuple):
    """Estimates for the whole training of a group."""

    members: int
    weights: tuple[int, ...]  # of each spec
    flops: float  # including the products with masked weights
    bytes: float  # on the device, at the peak
    step_flops: float = 0.0  # of a training step of one network
    evaluation_flops: float = 0.0  # of an evaluation of one network


def cost(group: Group, source: Source, execution: str = "masked") -> Cost:
    """The cost of a group; of a sparse layer only the kept weights count. Raises UserError for unknown names."""
    spec = group.specs[0]
    registries.check(spec)
    model = models.build(spec, source.input_shape, source.classes)
    models.check_kept(group.specs, model.shapes)
    task = choose(TASKS, "task", spec.task)(model)
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    examples, held_out = source.num_examples(spec)
    examples = max(1, examples)  # a text may be shorter than a window, which training refuses
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
    sparse = strategy.sparse_layers(group, model, execution)
    multiplied = multiplied_fraction(group, model, sparse, testing)
    entries, moments = (
        sum(x.size for x in jax.tree.leaves(tree))
        for tree in (params, jax.eval_shape(optimizers.build(spec, horizon).init, params))
    )
    activation_bytes = 4 * activations(training, testing, source.held_out_lanes(spec) / batch_size)
    bytes = network_bytes(group, model, sparse, entries, moments / max(entries, 1), activation_bytes)
    members = len(group.members)
    weights = tuple(kept_weights(s, model.shapes) for s in group.specs)
    of_step, of_test = multiplied * train_flops * batch_size, multiplied * test_flops * held_out
    flops = members * (spec.epochs * examples / batch_size * of_step + evaluations * of_test)
    return Cost(members, weights, flops, bytes + source.nbytes(spec), of_step, of_test)


def multiplied_fraction(group: Group, model: Model, sparse: Collection[str], program: Any) -> float:
    """The fraction of the arithmetic that is left if these layers run `sparse`, on average over the specs.

    A kernel is multiplied once for every position of its product's output; kernels in scans, whose products are not in
    the program, as often as that of the last layer. The products of attention stay.
    """
    uses = {}  # shape of a kernel → how often it is multiplied
    for equation in equations(program, *PRODUCTS):
        shape = equation.invars[1].aval.shape
        uses[shape] = output_sizes(equation)[0] // shape[-1]
    last = uses.get(next(reversed(model.shapes.values())), 1)
    whole = left = sum(map(multiplications, attention_products(program)))
    for layer, shape in model.shapes.items():
        if layer == EMBEDDING:
            continue
        size = math.prod(shape)
        kept = sum(dict(spec.kept).get(layer, size) for spec in group.specs) / len(group.specs)
        whole += size * uses.get(shape, last)
        left += (kept if layer in sparse else size) * uses.get(shape, last)
    return left / whole


def network_bytes(
    group: Group, model: Model, sparse: tuple[str, ...], entries: int, moments: float, activation_bytes: float
) -> float:
    """Bytes of all networks of a group, each of `entries` parameters with `moments` numbers of the optimizer per entry.

    Parameters, masked parameters, gradients and moments are float32, masks bytes; a sparse layer has only the kept
    weights, and its lists.
    """
    shapes = {layer: model.shapes[layer] for layer in sparse}
    entry_bytes = 4 * (3 + moments)
    sparse_bytes = max(
        sum(
            dict(spec.kept).get(layer, math.prod(shape)) * (entry_bytes + list_bytes(shape))
            for layer, shape in shapes.items()
        )
        for spec in group.specs
    )
    dense_bytes = (entry_bytes + 1) * (entries - sum(map(math.prod, shapes.values())))
    multiplied = strategy.multiplied_weights(group, model, sparse)
    one_by_one = strategy.goes_step_by_step(model) or not strategy.trains_together(
        model, group.specs[0].width, multiplied
    )
    members = len(group.members)
    return members * (dense_bytes + sparse_bytes) + (1 if one_by_one else members) * activation_bytes


def list_bytes(shape: Sequence[int]) -> int:
    """Bytes of a kept weight in a sparse layer's two lists: position and plane, for convolutions also the tap."""
    return 2 * 4 * (3 if len(shape) > 2 else 2)


def activations(training: Any, testing: Any, larger: float) -> float:
    """The numbers that a network holds at the peak, besides its parameters.

    A training step holds the outputs of all products and scans (those are what the backward pass needs of each
    iteration), and the activation of the largest layer with its gradient. An evaluation, whose batch is `larger` times
    as large, holds two layers.
    """
    products = [*equations(testing, *PRODUCTS), *attention_products(testing)]  # scores, and their softmax
    outputs = [size for equation in products for size in output_sizes(equation)]
    saved = [size for equation in equations(training, "scan") for size in output_sizes(equation)]
    largest = max(outputs, default=0)
    return max(sum(outputs) + sum(saved) + 2 * largest, 2 * larger * largest)


def check(groups: Iterable[Group], costs: Iterable[Cost]) -> None:
    """Raises UserError for a group that needs more memory than all devices have."""
    have = devices.memory()
    for group, c in zip(groups, costs, strict=True):
        spec = group.specs[0]
        arguments = f"`batch_size`{', `sequence`' if spec.task in TOKENIZERS else ''}, `seeds`, `widths`"
        machine.check_memory(
            f"{arguments}: {c.members} networks of width {spec.width}: training them", c.bytes, have
        )


def counted(program: Any) -> float:
    """FLOPs by XLA's analysis, which counts the body of a scan once; its other iterations are added here.

    Where a backend has no analysis, every program counts as one.
    """
    lowered = jax.jit(jax.extend.core.jaxpr_as_fun(program)).lower(*program.in_avals)
    flops = (lowered.cost_analysis() or {}).get("flops", 1.0)
    scans = (scan.params for scan in equations(program, "scan"))
    return flops + sum((scan["length"] - 1) * counted(scan["jaxpr"]) for scan in scans)


def equations(program: Any, *primitives: str) -> Iterator[Any]:
    """The equations of those primitives in a program and its inner programs, except inside scans."""
    for equation in program.eqns:
        if equation.primitive.name in primitives:
            yield equation
        elif equation.primitive.name != "scan":
            for inner in equation.params.values():
                yield from equations(inner, *primitives) if hasattr(inner, "eqns") else ()


def attention_products(program: Any) -> list[Any]:
    """The products of two arrays of matrices; products with a kernel have no such axes in common."""
    products = equations(program, "dot_general")
    return [equation for equation in products if equation.params["dimension_numbers"][1][0]]


def multiplications(equation: Any) -> int:
    """The multiplications of a `dot_general`."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return output_sizes(equation)[0] * math.prod(shape[axis] for axis in contracted)


def output_sizes(equation: Any) -> list[int]:
    """The size of every output of an equation."""
    return [math.prod(variable.aval.shape) for variable in equation.outvars]


def matrix_rate(seconds: float = 0.5) -> float:
    """FLOP/s of a float32 matrix product, 1024 × 1024 × 1024, on this device: the best of a few tries."""
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
    header = ("kind", "base", "width", "networks", "weights", "epochs", "TFLOP", "time", "GiB", "state")
    plan = list(zip(groups, costs, finished, strict=True))
    rows = [_row(group, c, done, labels or {}, rate) for group, c, done in plan]
    remaining = sum(c.flops for _, c, done in plan if not done)
    total = (
        f"{sum(c.members for _, c, _ in plan)} networks; {remaining / 1e12:.1f} TFLOP to train, about"
        f" {remaining / rate / 3600:.2g} hours at the {rate / 1e9:.0f} GFLOP/s of this machine's matrix product"
        f" (narrow networks run below it); about {max((c.bytes for _, c, _ in plan), default=0) / 2**30:.2g} GiB at"
        " the peak"
    )
    return f"{aligned([header, *rows])}\n{total}"


def _row(group: Group, cost: Cost, done: bool, labels: Labels, rate: float) -> tuple[str, ...]:
    """The row of a group, with every kind of network in it."""
    spec = group.specs[0]
    known = [labels.get(spec, Label()) for spec in group.specs]
    least, most = min(cost.weights), max(cost.weights)
    return (
        "+".join(dict.fromkeys(label.kind or "network" for label in known)),
        str(known[0].base_width or ""),
        str(spec.width),
        str(cost.members),
        f"{least}" if least == most else f"{least}–{most}",
        str(spec.epochs),
        f"{cost.flops / 1e12:.2f}",
        duration(cost.flops / rate),
        f"{cost.bytes / 2**30:.2f}",
        "done" if done else "to train",
    )
