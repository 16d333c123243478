"""The LSTM (Hochreiter & Schmidhuber 1997), of any number of layers of one width.

i, f, g, o = x W_x + h W_h + b, in this order as in PyTorch, c ← σ(f + 1) c + σ(i) tanh(g), h ← σ(o) tanh(c). The
constant keeps the memory at first (Jozefowicz et al. 2015). The kernels of a layer are one matrix, W_x above W_h.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wsn.networks import recurrent
from wsn.networks.parameterization import parameterization
from wsn.networks.recurrent import Core, Inputs, LanguageModel, Outputs, Product, Weights, over_time
from wsn.sparsity.shapes import Shapes
from wsn.spec import Spec

fields = ("hidden_layers",)
group, narrowed = recurrent.group, recurrent.narrowed

FORGET_BIAS = 1.0


class State(NamedTuple):
    """Of one layer."""

    h: Float[Array, "lanes width"]
    c: Float[Array, "lanes width"]


def unroll(
    weights: Sequence[Weights], states: Sequence[State], x: Inputs, *, dtype: Any
) -> tuple[tuple[State, ...], Outputs]:
    """The outputs of the last layer at all times, and the last state of every layer."""
    last = []
    for layer, state in zip(weights, states, strict=True):
        state, x = unroll_layer(layer, state, x, dtype)
        last.append(state)
    return tuple(last), x


def unroll_layer(
    layer: Weights,
    state: State,
    x: Inputs,
    dtype: Any,
    *,
    valid: Float[Array, "time lanes 1"] | None = None,
    backward: bool = False,
) -> tuple[State, Outputs]:
    """One layer: its outputs at all times, and its last state; `backward` goes from the last time to the first.

    Where `valid` is 0, outputs and state are 0: so lanes may end, and begin backward, at times of their own.
    """
    return over_time(cell, [layer], state, x, dtype=dtype, valid=valid, backward=backward)


def cell(state: State, products: Sequence[Product], valid: Array | None) -> tuple[State, Array]:
    """One turn."""
    [gates] = products
    i, f, g, o = jnp.split(gates(state.h), 4, axis=-1)
    c = jax.nn.sigmoid(f + FORGET_BIAS) * state.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    if valid is not None:
        h, c = h * valid, c * valid
    return State(h, c), h


def shapes(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Shapes:
    """Embedding and softmax, and a kernel of every layer: 2 V H + 8 layers H² weights."""
    hidden = [(2 * spec.width, 4 * spec.width)] * spec.hidden_layers
    return recurrent.shapes(classes, spec.width, hidden)


def module(spec: Spec, layers: Sequence[str], shapes: Shapes) -> LanguageModel:
    """The network whose kernels are `shapes`. Raises UserError for bottlenecks."""
    recurrent.check(spec)

    def carry(lanes: int) -> tuple[State, ...]:
        zeros = jnp.zeros((lanes, spec.width))
        return (State(zeros, zeros),) * spec.hidden_layers

    core = Core(carry, partial(unroll, dtype=spec.compute_dtype))
    return LanguageModel(shapes, core, parameterization(spec.parameterization), spec.compute_dtype)
