"""Parameterizations: the scales of initial weights, of the forward pass, and of learning rates.

A parameterization is a distribution of unit scale and a pure function (fan_in, fan_out, connectivity, role, widening) →
`Scaling`. The model draws unit weights and applies the forward multiplier; training scales the draw and the learning
rates. `Widening` compares a layer to that of a dense reference network (`rate_width`), which has the learning rate
itself; without a reference no rate is scaled. The README of this folder derives μP and SμPar.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wsn.errors import UserError, choose

Role = Literal["kernel", "output", "bias"]  # `output` is the kernel of the last layer

# Optimizer → whether its steps are proportional to the gradient, or independent of the gradient's size.
FOLLOWS_GRADIENT = {"sgd": True, "adam": False, "adamw": False}


class Widening(NamedTuple):
    """Ratios of inputs and outputs to those of the reference network, and the optimizer of both."""

    inputs: float
    outputs: float
    optimizer: str


class Scaling(NamedTuple):
    """Scale of the initial draw, multiplier in the forward pass, multiplier of the learning rate."""

    initial: float
    forward: float
    learning_rate: float


class Rule(Protocol):
    def __call__(
        self, fan_in: int, fan_out: int, connectivity: float, role: Role, widening: Widening | None = None
    ) -> Scaling: ...


class Parameterization(NamedTuple):
    draw: Callable[..., Float[Array, "..."]]  # (key, shape, dtype) → values of unit scale
    scaling: Rule


def uniform(key, shape, dtype=jnp.float32) -> Float[Array, "..."]:
    """Uniform on [-1, 1)."""
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0)


def standard(
    fan_in: int, fan_out: int, connectivity: float, role: Role, widening: Widening | None = None
) -> Scaling:
    """PyTorch's default: weights and biases uniform on ±1/√fan_in, with the effective fan-in of a sparse layer."""
    rate = inverse_fan_in_rate(connectivity, role, widening)
    return Scaling(initial=(fan_in * connectivity) ** -0.5, forward=1.0, learning_rate=rate)


def ntk(
    fan_in: int, fan_out: int, connectivity: float, role: Role, widening: Widening | None = None
) -> Scaling:
    """NTK parameterization (paper, section 3): weights N(0, 1/connectivity), 1/√fan_in in the forward pass.

    fan_in is that of the dense layer, so that a sum over the kept inputs has the variance of the dense layer.
    Biases start at zero (in the paper these networks have none).
    """
    rate = inverse_fan_in_rate(connectivity, role, widening)
    if role == "bias":
        return Scaling(initial=0.0, forward=1.0, learning_rate=rate)
    return Scaling(initial=connectivity**-0.5, forward=fan_in**-0.5, learning_rate=rate)


def mup(
    fan_in: int, fan_out: int, connectivity: float, role: Role, widening: Widening | None = None
) -> Scaling:
    """Maximal update parameterization (Yang & Hu et al. 2022, Table 3) relative to the reference; else `standard`.

    Learning rates of kernels are ∝ 1 / fan_in, with SGD also ∝ fan_out. The last layer starts at 1 / fan_in instead of
    1 / √fan_in, biases as in the reference. Initial weights use the effective fan-in of a sparse layer, learning rates
    the width alone. Raises UserError for an optimizer without a rule.
    """
    if widening is None:
        return standard(fan_in, fan_out, connectivity, role)
    if widening.optimizer not in FOLLOWS_GRADIENT:
        raise UserError(
            f"`optimizer={widening.optimizer}`: mup and smup have rates for {', '.join(FOLLOWS_GRADIENT)} only:"
            " choose one of them, or another `parameterization`"
        )
    rate = widening.outputs if FOLLOWS_GRADIENT[widening.optimizer] else 1.0
    if role == "bias":
        return Scaling(initial=(fan_in / widening.inputs) ** -0.5, forward=1.0, learning_rate=rate)
    shrinkage = widening.inputs if role == "output" else 1.0
    return Scaling((fan_in * connectivity * shrinkage) ** -0.5, 1.0, rate / widening.inputs)


def smup(
    fan_in: int, fan_out: int, connectivity: float, role: Role, widening: Widening | None = None
) -> Scaling:
    """SμPar (Dey, Bergsma & Hestness 2024): μP with learning rates of kernels ∝ 1 / effective fan-in."""
    scaling = mup(fan_in, fan_out, connectivity, role, widening)
    if widening is None or role == "bias":
        return scaling
    return scaling._replace(learning_rate=scaling.learning_rate / connectivity)


def inverse_fan_in_rate(connectivity: float, role: Role, widening: Widening | None) -> float:
    """Learning rate ∝ 1 / effective fan-in for kernels, relative to the reference, with any optimizer."""
    return 1.0 if widening is None or role == "bias" else 1 / (widening.inputs * connectivity)


PARAMETERIZATIONS = {
    "standard": Parameterization(uniform, standard),
    "ntk": Parameterization(jax.random.normal, ntk),
    "mup": Parameterization(uniform, mup),
    "smup": Parameterization(uniform, smup),
}


def parameterization(name: str) -> Parameterization:
    """The parameterization of that name. Raises UserError for an unknown one."""
    return choose(PARAMETERIZATIONS, "parameterization", name)
