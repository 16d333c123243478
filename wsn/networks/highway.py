"""The recurrent highway network (Zilly et al., ICML 2017), of one layer and any recurrence depth.

With coupled gates, as in the authors' code: from the state s, for every depth l,
h = tanh(s R_h + b_h), t = σ(s R_t + b_t + gate bias), s ← s + t (h − s). The input enters at the first depth alone.
The kernels of a depth are one matrix: h beside t, and at the first depth the input's above the state's.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wsn.networks import recurrent
from wsn.networks.parameterization import parameterization
from wsn.networks.recurrent import Core, Inputs, LanguageModel, Outputs, Product, Weights, over_time
from wsn.sparsity.shapes import Shapes
from wsn.spec import Spec

fields = ("depth", "gate_bias")
group, narrowed = recurrent.group, recurrent.narrowed

State = Float[Array, "lanes width"]


def unroll(
    weights: Sequence[Weights], state: State, x: Inputs, *, gate_bias: float, dtype: Any
) -> tuple[State, Outputs]:
    """The states at all times, and the last."""
    gates = jnp.repeat(jnp.array([0.0, gate_bias]), state.shape[-1])
    biased = [Weights(kernel, bias + gates) for kernel, bias in weights]
    return over_time(cell, biased, state, x, dtype=dtype)


def cell(state: State, products: Sequence[Product], valid: Array | None) -> tuple[State, State]:
    """One turn: all depths."""
    for gates in products:
        h, t = jnp.split(gates(state), 2, axis=-1)
        state = state + jax.nn.sigmoid(t) * (jnp.tanh(h) - state)
    return state, state


def shapes(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Shapes:
    """Embedding and softmax, and a kernel of every depth: 2 V H + (2 depth + 2) H² weights."""
    first, deeper = (2 * spec.width, 2 * spec.width), (spec.width, 2 * spec.width)
    return recurrent.shapes(classes, spec.width, [first, *[deeper] * (spec.depth - 1)])


def module(spec: Spec, layers: Sequence[str], shapes: Shapes) -> LanguageModel:
    """The network whose kernels are `shapes`. Raises UserError for bottlenecks."""
    recurrent.check(spec)
    core = Core(
        lambda lanes: jnp.zeros((lanes, spec.width)),
        partial(unroll, gate_bias=spec.gate_bias, dtype=spec.compute_dtype),
    )
    return LanguageModel(shapes, core, parameterization(spec.parameterization), spec.compute_dtype)
