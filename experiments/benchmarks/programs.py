"""Programs that benchmarks compare: networks or one convolution on one batch, masked, sparse or in PyTorch."""

from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.settings import torch
from wsn.data.batches import Batch
from wsn.data.language.text import TextBatch
from wsn.errors import choose
from wsn.native import library
from wsn.networks import linear, models
from wsn.sparsity import storage
from wsn.sparsity.masks import apply_mask, mask_array
from wsn.spec import Group, Spec
from wsn.tasks import TASKS
from wsn.tasks.language import LANGUAGE
from wsn.training import optimizers, strategy
from wsn.training.state import Members, initial_members
from wsn.training.step import make_evaluation, make_step

CONV_WEIGHTS, CONV_PIXELS = 9500, 32


class Candidate(NamedTuple):
    """A program to time, and the MiB it needs."""

    run: Callable[[], None]
    mib: float = float("nan")


def compiled(function: Callable, state: Any, *arguments: Any) -> Candidate:
    """A compiled program; the state that it returns, if any, carries over from call to call."""
    program = jax.jit(function).lower(state, *arguments).compile()
    memory: Any = program.memory_analysis()
    sizes = memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes
    current = [state]

    def run() -> None:
        result = jax.block_until_ready(program(current[0], *arguments))
        if isinstance(result, Members):
            current[0] = result

    return Candidate(run, sum(sizes) / 2**20)


def training(spec: Spec, image: tuple[int, ...], classes: int, count: int, execution: str) -> list[Candidate]:
    """(forward pass with loss, training step) of `count` networks on one batch."""
    model = models.build(spec, image, classes)
    task = choose(TASKS, "task", spec.task)(model)
    optimizer = optimizers.build(spec, optimizers.Horizon(1, 1))
    group = Group((spec,), tuple(range(count)))
    by_sparse, by_auto = (strategy.sparse_layers(group, model, way) for way in ("sparse", "auto"))
    sparse = () if execution == "masked" else by_auto or by_sparse
    carry = task.carry(spec.batch_size)
    members = jax.tree.map(jnp.asarray, initial_members(group, model, optimizer, carry, sparse))
    step, evaluation = make_step(task, optimizer), make_evaluation(task)
    batch = random_batch(spec, image, classes)

    def mapped(function: Callable) -> Callable:
        if count > 1:
            return jax.vmap(function, in_axes=(0, None))

        def single(members: Any, batch: Any) -> Any:  # under vmap XLA compiles convolutions differently
            result = function(jax.tree.map(lambda x: x[0], members), batch)
            return jax.tree.map(lambda x: x[None], result)

        return single

    return [
        compiled(mapped(lambda member, batch: evaluation(member, carry, batch)[1]), members, batch),
        compiled(mapped(lambda member, batch: step(member, batch)[0]), members, batch),
    ]


def random_batch(spec: Spec, image: tuple[int, ...], classes: int) -> Any:
    """A batch of images and labels, or of windows of tokens."""
    random = np.random.default_rng(0)
    if spec.task in LANGUAGE:
        shape = spec.sequence, spec.batch_size
        inputs, labels = (jnp.asarray(random.integers(0, classes, shape), jnp.int32) for _ in range(2))
        return TextBatch(inputs, labels, jnp.ones(shape), jnp.ones(spec.batch_size, bool))
    inputs = jnp.asarray(random.normal(size=(spec.batch_size, *image)), jnp.float32)
    labels = jnp.asarray(random.integers(0, classes, spec.batch_size), jnp.int32)
    return Batch(inputs, labels, jnp.ones(spec.batch_size))


def convolution(width: int, batch: int, execution: str) -> list[Candidate]:
    """(forward, forward and backward) of one 3 × 3 convolution of `width` channels."""
    random = np.random.default_rng(0)
    shape = (3, 3, width, width)
    positions = np.sort(random.permutation(9 * width**2)[:CONV_WEIGHTS])
    dense = random.normal(size=shape).astype(np.float32)
    mask: Any = jnp.asarray(mask_array(positions, shape))
    params: Any = dense
    if execution != "masked":
        mask = storage.sparse_index(shape, positions)
        params = storage.values_at(dense, positions, positions.size)
    x = jnp.asarray(random.normal(size=(batch, CONV_PIXELS, CONV_PIXELS, width)), jnp.float32)

    def forward(params: Any, mask: Any, x: Any) -> Any:
        kernel = apply_mask({"kernel": params}, {"kernel": mask})["kernel"]
        return linear.apply(kernel, x, dtype="float32")

    def both(params: Any, mask: Any, x: Any) -> Any:
        y, pull = jax.vjp(lambda params, x: forward(params, mask, x), params, x)
        return y, pull(y)

    return [compiled(f, jnp.asarray(params), mask, x) for f in (forward, both)]


def torch_convolution(width: int, batch: int) -> list[Candidate]:
    """The same in PyTorch, dense, channels last; none where PyTorch is not installed."""
    if (pt := torch()) is None:
        return []
    layer = pt.nn.Conv2d(width, width, 3, padding=1, bias=False).to(memory_format=pt.channels_last)
    x = pt.randn(batch, width, CONV_PIXELS, CONV_PIXELS).to(memory_format=pt.channels_last).requires_grad_()

    def forward() -> None:
        with pt.no_grad():
            layer(x)

    return [Candidate(forward), Candidate(lambda: layer(x).sum().backward())]


def torch_training(spec: Spec, classes: int) -> Callable[[], None] | None:
    """A step of a dense ResNet-18 in PyTorch, on the same device; None where PyTorch is not installed."""
    if (pt := torch()) is None:
        return None
    device = "cuda" if jax.default_backend() == "gpu" and pt.cuda.is_available() else "cpu"
    pt.backends.cuda.matmul.allow_tf32 = pt.backends.cudnn.allow_tf32 = True
    pt.backends.cudnn.benchmark = True
    plain = torch_resnet18(spec.width, classes).to(device, memory_format=pt.channels_last)
    optimizer = pt.optim.SGD(plain.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    network = pt.compile(plain) if device == "cuda" else plain
    x = pt.randn(spec.batch_size, 3, 32, 32, device=device).to(memory_format=pt.channels_last)
    y = pt.randint(0, classes, (spec.batch_size,), device=device)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with pt.autocast(device, pt.bfloat16, enabled=spec.compute_dtype == "bfloat16"):
            loss = pt.nn.functional.cross_entropy(network(x).float(), y)
        loss.backward()
        optimizer.step()
        if device == "cuda":
            pt.cuda.synchronize()

    return run


def torch_resnet18(width: int, classes: int) -> Any:
    """ResNet-18 for 32 × 32 images in PyTorch."""
    pt = torch()
    nn = pt.nn

    def conv(inputs: int, outputs: int, size: int, stride: int) -> Any:
        layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs))

    class Block(nn.Module):  # type: ignore[name-defined]
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.first, self.second = conv(inputs, outputs, 3, stride), conv(outputs, outputs, 3, 1)
            self.shortcut = conv(inputs, outputs, 1, stride) if inputs != outputs else nn.Identity()

        def forward(self, x: Any) -> Any:
            return pt.relu(self.second(pt.relu(self.first(x))) + self.shortcut(x))

    layers, inputs = [conv(3, width, 3, 1), nn.ReLU()], width
    for stage in range(4):
        outputs = width * 2**stage
        layers += [Block(inputs, outputs, 2 if stage else 1), Block(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def executed(execution: str, make: Callable[..., list[Candidate]], *arguments: Any) -> list[Candidate]:
    """The programs of an execution: `portable` is `sparse` without native ops."""
    if execution != "portable":
        return make(*arguments, execution)
    with mock.patch.object(library, "available", lambda: False):
        return make(*arguments, execution)
