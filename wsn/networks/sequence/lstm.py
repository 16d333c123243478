"""The LSTM (Hochreiter & Schmidhuber 1997), of any number of layers of one width.

i, f, g, o = x W_x + h W_h + b, in this order as in PyTorch, c ← σ(f + 1) c + σ(i) tanh(g), h ← σ(o) tanh(c). The
constant 1 keeps the memory at the start of training (Jozefowicz et al. 2015); it is no part of the bias, so that all
biases are drawn alike. Each layer has one kernel: W_x above W_h.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wsn.networks.layers import Layers
from wsn.networks.sequence import tokens
from wsn.networks.sequence.recurrent import Core, Inputs, LanguageModel, Outputs, Product, Weights, scan_layer
from wsn.sparsity.shapes import Shapes
from wsn.spec import Spec

fields = ("hidden_layers",)
steps_through_time = True
group = tokens.group

FORGET_BIAS = 1.0


class State(NamedTuple):
    """The state of one layer."""

    h: Float[Array, "lanes width"]
    c: Float[Array, "lanes width"]


def initial_state(lanes: int, width: int) -> State:
    zeros = jnp.zeros((lanes, width), jnp.float32)
    return State(zeros, zeros)


def unroll(
    weights: Sequence[Weights], states: Sequence[State], x: Inputs, *, dtype: Any
) -> tuple[tuple[State, ...], Outputs]:
    """The last state of every layer, and the outputs of the last layer at all times."""
    last = []
    for layer, state in zip(weights, states, strict=True):
        state, x = scan_layer(cell, [layer], state, x, dtype=dtype)
        last.append(state)
    return tuple(last), x


def cell(state: State, products: Sequence[Product], valid: Array | None) -> tuple[State, Array]:
    """One time step. Where `valid` is 0, outputs and state are 0: so every lane may end at its own time."""
    [gates] = products
    i, f, g, o = jnp.split(gates(state.h), 4, axis=-1)
    c = jax.nn.sigmoid(f + FORGET_BIAS) * state.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    if valid is not None:
        h, c = h * valid, c * valid
    return State(h, c), h


def shapes(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Shapes:
    """Embedding, one kernel per layer, and softmax: 2 V H + 8 layers H² weights."""
    return tokens.shapes(classes, spec.width, [(2 * spec.width, 4 * spec.width)] * spec.hidden_layers)


def module(spec: Spec, layers: Sequence[str], shapes: Shapes) -> LanguageModel:
    """The network with kernels of these `shapes`."""

    def initial_carry(lanes: int) -> tuple[State, ...]:
        return (initial_state(lanes, spec.width),) * spec.hidden_layers

    core = Core(initial_carry, partial(unroll, dtype=spec.compute_dtype))
    return LanguageModel(Layers.of(spec, shapes), core)
