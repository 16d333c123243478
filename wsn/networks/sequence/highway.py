"""The recurrent highway network (Zilly et al., ICML 2017), of one layer and any recurrence depth.

With coupled gates, as in the authors' code: from the state s, for every depth l,
h = tanh(s R_h + b_h), t = σ(s R_t + b_t + gate bias), s ← s + t (h − s). The input enters at the first depth only.
Each depth has one kernel: h beside t, and at the first depth the rows of the input above those of the state.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wsn.networks.layers import Layers
from wsn.networks.sequence import tokens
from wsn.networks.sequence.recurrent import Core, Inputs, LanguageModel, Outputs, Product, Weights, scan_layer
from wsn.sparsity.shapes import Shapes
from wsn.spec import Spec

fields = ("depth", "gate_bias")
steps_through_time = True
group = tokens.group

State = Float[Array, "lanes width"]


def unroll(
    weights: Sequence[Weights], state: State, x: Inputs, *, gate_bias: float, dtype: Any
) -> tuple[State, Outputs]:
    """The last state, and the states at all times."""
    gates = jnp.repeat(jnp.array([0.0, gate_bias], jnp.float32), state.shape[-1])
    biased = [Weights(kernel, bias + gates) for kernel, bias in weights]
    return scan_layer(cell, biased, state, x, dtype=dtype)


def cell(state: State, products: Sequence[Product], valid: Array | None) -> tuple[State, State]:
    """One time step: all depths."""
    for gates in products:
        h, t = jnp.split(gates(state), 2, axis=-1)
        state = state + jax.nn.sigmoid(t) * (jnp.tanh(h) - state)
    return state, state


def shapes(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Shapes:
    """Embedding, one kernel per depth, and softmax: 2 V H + (2 depth + 2) H² weights."""
    first, deeper = (2 * spec.width, 2 * spec.width), (spec.width, 2 * spec.width)
    return tokens.shapes(classes, spec.width, [first, *[deeper] * (spec.depth - 1)])


def module(spec: Spec, layers: Sequence[str], shapes: Shapes) -> LanguageModel:
    """The network with kernels of these `shapes`."""
    core = Core(
        lambda lanes: jnp.zeros((lanes, spec.width), jnp.float32),
        partial(unroll, gate_bias=spec.gate_bias, dtype=spec.compute_dtype),
    )
    return LanguageModel(Layers.of(spec, shapes), core)
