"""Programs that a benchmark compares: a batch through networks or one convolution, masked, sparse or in PyTorch.

In: a spec or the width of a layer, and an execution. Out: what runs it once, and the memory that it holds.
"""

from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from wsn.data.batches import Batch
from wsn.native import library
from wsn.networks import kernels, models
from wsn.sparsity import lists
from wsn.sparsity.keep import apply_masks, keep_array
from wsn.spec import Group, Spec
from wsn.tasks.classification import classification
from wsn.training import optimizers, strategy
from wsn.training.state import Members, initial_members
from wsn.training.step import make_evaluation, make_step

CONV_WEIGHTS, CONV_PIXELS = 9500, 32


class Candidate(NamedTuple):
    """A program to be timed, and the MiB that it holds."""

    run: Callable[[], None]
    mib: float = float("nan")


def compiled(function: Callable, state: Any, *arguments: Any) -> Candidate:
    """A program (state, …) → state, or anything where it keeps none; it goes on from call to call."""
    program = jax.jit(function).lower(state, *arguments).compile()
    memory: Any = program.memory_analysis()
    sizes = memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes
    held = [state]

    def run() -> None:
        result = jax.block_until_ready(program(held[0], *arguments))
        if isinstance(result, Members):
            held[0] = result

    return Candidate(run, sum(sizes) / 2**20)


def training(spec: Spec, image: tuple[int, ...], classes: int, count: int, execution: str) -> list[Candidate]:
    """(forward, step) of networks of a spec that see the same batch."""
    model = models.build(spec, image, classes)
    task, optimizer = classification(model), optimizers.build(spec, optimizers.Horizon(1, 1))
    group = Group((spec,), tuple(range(count)))
    losing, chosen = (strategy.sparse_layers(group, model, way) for way in ("sparse", "auto"))
    sparse = () if execution == "masked" else chosen or losing
    members = jax.tree.map(jnp.asarray, initial_members(group, model, optimizer, (), sparse))
    step, evaluation = make_step(task, optimizer), make_evaluation(task)
    random = np.random.default_rng(0)
    inputs = jnp.asarray(random.normal(size=(spec.batch_size, *image)), jnp.float32)
    labels = jnp.asarray(random.integers(0, classes, spec.batch_size), jnp.int32)
    batch = Batch(inputs, labels, jnp.ones(spec.batch_size))

    def over(function: Callable) -> Callable:
        if count > 1:
            return jax.vmap(function, in_axes=(0, None))

        def alone(members: Any, batch: Any) -> Any:  # XLA's convolutions of mapped members are other ones
            one = function(jax.tree.map(lambda x: x[0], members), batch)
            return jax.tree.map(lambda x: x[None], one)

        return alone

    return [
        compiled(over(lambda member, batch: evaluation(member, (), batch)[1]), members, batch),
        compiled(over(lambda member, batch: step(member, batch)[0]), members, batch),
    ]


def convolution(width: int, batch: int, execution: str) -> list[Candidate]:
    """(product, product and gradients) of one layer."""
    random = np.random.default_rng(0)
    shape = (3, 3, width, width)
    positions = np.sort(random.permutation(9 * width**2)[:CONV_WEIGHTS])
    dense = random.normal(size=shape).astype(np.float32)
    keep: Any = jnp.asarray(keep_array(positions, shape))
    params: Any = dense
    if execution != "masked":
        keep, params = lists.lists(shape, positions), lists.values_at(dense, positions, positions.size)
    x = jnp.asarray(random.normal(size=(batch, CONV_PIXELS, CONV_PIXELS, width)), jnp.float32)

    def product(params: Any, keep: Any, x: Any) -> Any:
        kernel = apply_masks({"kernel": params}, {"kernel": keep})["kernel"]
        return kernels.apply(kernel, x, dtype="float32")

    def both(params: Any, keep: Any, x: Any) -> Any:
        y, pull = jax.vjp(lambda params, x: product(params, keep, x), params, x)
        return y, pull(y)

    return [compiled(f, jnp.asarray(params), keep, x) for f in (product, both)]


def torch_convolution(width: int, batch: int) -> list[Candidate]:
    """The same, dense, channels last; none where torch is not installed."""
    try:
        import torch
    except ImportError:
        return []
    layer = torch.nn.Conv2d(width, width, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
    x = torch.randn(batch, width, CONV_PIXELS, CONV_PIXELS).to(memory_format=torch.channels_last)
    x.requires_grad_()

    def forward() -> None:
        with torch.no_grad():
            layer(x)

    return [Candidate(forward), Candidate(lambda: layer(x).sum().backward())]


def executed(execution: str, make: Callable[..., list[Candidate]], *arguments: Any) -> list[Candidate]:
    """Programs of one execution: `portable` is `sparse` where there are no native kernels."""
    if execution != "portable":
        return make(*arguments, execution)
    with mock.patch.object(library, "available", lambda: False):
        return make(*arguments, execution)
