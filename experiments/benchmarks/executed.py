"""Programs that benchmarks compare: a batch through networks or one convolution, masked, sparse or in PyTorch.

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
from wsn.networks import linear, models
from wsn.sparsity import storage
from wsn.sparsity.masks import apply_mask, mask_array
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
    mask: Any = jnp.asarray(mask_array(positions, shape))
    params: Any = dense
    if execution != "masked":
        mask, params = (
            storage.sparse_index(shape, positions),
            storage.values_at(dense, positions, positions.size),
        )
    x = jnp.asarray(random.normal(size=(batch, CONV_PIXELS, CONV_PIXELS, width)), jnp.float32)

    def product(params: Any, mask: Any, x: Any) -> Any:
        kernel = apply_mask({"kernel": params}, {"kernel": mask})["kernel"]
        return linear.apply(kernel, x, dtype="float32")

    def both(params: Any, mask: Any, x: Any) -> Any:
        y, pull = jax.vjp(lambda params, x: product(params, mask, x), params, x)
        return y, pull(y)

    return [compiled(f, jnp.asarray(params), mask, x) for f in (product, both)]


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


def torch_training(spec: Spec, classes: int) -> Callable[[], None] | None:
    """A step of a dense ResNet-18 of a spec in PyTorch, on the same device; None where torch is not installed."""
    try:
        import torch
    except ImportError:
        return None
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    plain = torch_resnet18(torch, spec.width, classes).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    network = torch.compile(plain) if device == "cuda" else plain
    x = torch.randn(spec.batch_size, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    y = torch.randint(0, classes, (spec.batch_size,), device=device)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=spec.compute_dtype == "bfloat16"):
            loss = torch.nn.functional.cross_entropy(network(x).float(), y)
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def torch_resnet18(torch: Any, width: int, classes: int) -> Any:
    """ResNet-18 for small images in PyTorch."""
    nn = torch.nn

    def conv(inputs: int, outputs: int, size: int, stride: int) -> Any:
        layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs))

    class Block(nn.Module):  # type: ignore[name-defined]
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.first, self.second = conv(inputs, outputs, 3, stride), conv(outputs, outputs, 3, 1)
            self.shortcut = conv(inputs, outputs, 1, stride) if inputs != outputs else nn.Identity()

        def forward(self, x: Any) -> Any:
            return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))

    layers, inputs = [conv(3, width, 3, 1), nn.ReLU()], width
    for stage in range(4):
        outputs = width * 2**stage
        layers += [Block(inputs, outputs, 2 if stage else 1), Block(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def executed(execution: str, make: Callable[..., list[Candidate]], *arguments: Any) -> list[Candidate]:
    """Programs of one execution: `portable` is `sparse` where there are no native kernels."""
    if execution != "portable":
        return make(*arguments, execution)
    with mock.patch.object(library, "available", lambda: False):
        return make(*arguments, execution)
