"""Parameterisations: how large a weight starts, and what multiplies it on the way.

A parameterisation is a distribution of unit scale and a pure function (fan_in, fan_out, connectivity, role) →
`Scaling`. The model draws unit weights and applies the multiplier; `wsn.train` scales the draw and the learning rate.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wsn.errors import choose

Role = Literal["kernel", "bias"]


class Scaling(NamedTuple):
    """Scale of the initial draw, multiplier in the forward pass, multiplier of the learning rate."""

    initial: float
    forward: float
    learning_rate: float


class Parameterization(NamedTuple):
    draw: Callable[..., Float[Array, "..."]]  # (key, shape, dtype) → values of unit scale
    scaling: Callable[[int, int, float, Role], Scaling]


def uniform(key, shape, dtype=jnp.float32) -> Float[Array, "..."]:
    """Uniform on [-1, 1): unit half-width."""
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0)


def standard(fan_in: int, fan_out: int, connectivity: float, role: Role) -> Scaling:
    """PyTorch's default: weights and biases uniform on ±1/√fan_in, with the effective fan-in of a sparse layer."""
    return Scaling(initial=(fan_in * connectivity) ** -0.5, forward=1.0, learning_rate=1.0)


def ntk(fan_in: int, fan_out: int, connectivity: float, role: Role) -> Scaling:
    """NTK parameterisation (paper, section 3): weights N(0, 1/connectivity), 1/√fan_in in the forward pass.

    fan_in is that of the dense layer, so that the sum over the kept inputs has the variance of the dense one.
    Biases start at zero (the paper's networks of this kind have none).
    """
    if role == "bias":
        return Scaling(initial=0.0, forward=1.0, learning_rate=1.0)
    return Scaling(initial=connectivity**-0.5, forward=fan_in**-0.5, learning_rate=1.0)


PARAMETERIZATIONS = {
    "standard": Parameterization(uniform, standard),
    "ntk": Parameterization(jax.random.normal, ntk),
}


def parameterization(name: str) -> Parameterization:
    """The parameterisation of that name. Raises UserError for an unknown one."""
    return choose(PARAMETERIZATIONS, "parameterization", name)
