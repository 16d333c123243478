"""Recurrent language models: an embedding, recurrent layers (the core), a softmax over the vocabulary.

Models differ in their core only: pure functions of the kernels of its hidden layers. Each layer is one scan over time.
Products with the layer's inputs are computed for all times before the scan, gradients of its kernels after it: summed
step by step, as autodiff would, they would take half of a training step on a CPU.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from wsn.networks.layers import Layers, scaled_kernel
from wsn.networks.linear import matmul, matmul_in_scan
from wsn.networks.parameterization import Parameterization
from wsn.networks.sequence.tokens import Carry, Embedding

Inputs = Float[Array, "time lanes inputs"]
Outputs = Float[Array, "time lanes width"]


class Weights(NamedTuple):
    """The parameters of one hidden layer."""

    kernel: Any  # (inputs, units), in any storage; its rows may be sliced
    bias: Float[Array, " units"]


State = Any
# The map of one kernel of a layer, applied to the state or to a value computed from it in the same time step.
Product = Callable[[Float[Array, "lanes width"]], Float[Array, "lanes units"]]
# (state, one product per kernel, 1 in valid lanes or None) → (next state, output). It uses each product exactly once.
Cell = Callable[[State, Sequence[Product], Array | None], tuple[State, Float[Array, "lanes width"]]]


class Core(NamedTuple):
    """The hidden layers of a network."""

    initial_carry: Callable[[int], Carry]  # number of lanes → the state before the first input
    unroll: Callable[[Sequence[Weights], Carry, Inputs], tuple[Carry, Outputs]]


class Affine(nn.Module):
    """Kernel and bias of a hidden layer, with a kernel of `shape` (inputs, units)."""

    shape: Sequence[int]
    parameterization: Parameterization

    @nn.compact
    def __call__(self) -> Weights:
        kernel = scaled_kernel(self, self.parameterization, self.shape)
        return Weights(kernel, self.param("bias", self.parameterization.draw, (self.shape[-1],), jnp.float32))


def hidden_weights(layers: Layers, name: str) -> Weights:
    """The parameters of a hidden layer, inside a module's call."""
    return Affine(layers.shapes[name], layers.parameterization, name=name)()


class LanguageModel(nn.Module):
    """(carry, tokens) → (logits of the token after each, carry)."""

    layers: Layers
    core: Core

    @nn.compact
    def __call__(
        self, carry: Carry, tokens: Int[Array, "time lanes"]
    ) -> tuple[Float[Array, "time lanes symbols"], Carry]:
        embedding, *hidden, softmax = self.layers.shapes
        parameterization = self.layers.parameterization
        x = Embedding(self.layers.shapes[embedding], parameterization, name=embedding)(tokens)
        weights = [hidden_weights(self.layers, name) for name in hidden]
        carry, y = self.core.unroll(weights, carry, x)
        logits = self.layers.dense(softmax, y.reshape(-1, y.shape[-1]), bias=True)
        return logits.reshape(*y.shape[:2], -1), carry

    @nn.nowrap
    def initial_carry(self, lanes: int) -> Carry:
        return self.core.initial_carry(lanes)


def scan_layer(
    cell: Cell,
    weights: Sequence[Weights],
    state: State,
    x: Inputs,
    *,
    dtype: Any,
    valid: Float[Array, "time lanes 1"] | None = None,
    backward: bool = False,
) -> tuple[State, Outputs]:
    """One layer: its last state, and its outputs at all times; `backward` runs from the last time to the first.

    The rows of the first kernel are those for the layer's input, then those for the state.
    """
    first, *others = weights
    inputs = x.shape[-1]
    kernels = [first.kernel[inputs:], *(kernel for kernel, _ in others)]
    offsets = [matmul(first.kernel[:inputs], x, dtype) + first.bias]
    offsets += [jnp.broadcast_to(bias, (*x.shape[:2], bias.size)) for _, bias in others]
    leaves, tree = jax.tree.flatten(
        kernels
    )  # custom_vjp puts placeholders in trees, which a sparse kernel rejects

    def products(leaves: Any, operands: Any) -> list[Array]:
        pairs = zip(jax.tree.unflatten(tree, leaves), operands, strict=True)
        return [matmul(kernel, operand, dtype) for kernel, operand in pairs]

    scan = partial(_scan_cell, cell, dtype, backward, tree)
    return _scan(scan, products, leaves, state, offsets, valid)


def _scan_cell(
    cell: Cell, dtype: Any, backward: bool, tree: Any, leaves: Any, valid: Any, state: State, offsets: Any
) -> tuple[tuple[State, Outputs], list[Array]]:
    """(last state, outputs), and the operand of every kernel at each time; `offsets` are added to the products."""
    matmuls = [matmul_in_scan(kernel, dtype) for kernel in jax.tree.unflatten(tree, leaves)]

    def step(state: State, now: Any) -> tuple[State, Any]:
        offsets, valid = now
        operands: dict[int, Array] = {}

        def product(i: int, x: Array) -> Array:
            operands[i] = x
            return matmuls[i](x) + offsets[i]

        state, y = cell(state, [partial(product, i) for i in range(len(matmuls))], valid)
        return state, (y, [operands[i] for i in range(len(matmuls))])

    last, (y, operands) = jax.lax.scan(step, state, (offsets, valid), reverse=backward)
    return (last, y), operands


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(scan: Callable, products: Callable, kernels: Any, state: State, offsets: Any, valid: Any) -> Any:
    return scan(kernels, valid, state, offsets)[0]


def _scan_forward(
    scan: Callable, products: Callable, kernels: Any, state: State, offsets: Any, valid: Any
) -> tuple[Any, Any]:
    outputs, pull, operands = jax.vjp(partial(scan, kernels, valid), state, offsets, has_aux=True)
    return outputs, (kernels, operands, pull)


def _scan_backward(scan: Callable, products: Callable, saved: Any, gradient: Any) -> tuple[Any, ...]:
    """The gradient of an offset is that of its product; so a kernel's gradient is one product over all times."""
    kernels, operands, pull = saved
    of_state, of_offsets = pull(gradient)
    [of_kernels] = jax.vjp(lambda kernels: products(kernels, operands), kernels)[1](of_offsets)
    return of_kernels, of_state, of_offsets, None


_scan.defvjp(_scan_forward, _scan_backward)
