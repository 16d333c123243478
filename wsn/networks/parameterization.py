"""Parameterisations: how large a weight starts, what multiplies it on the way, and how its learning rate scales.

A parameterisation is a distribution of unit scale and a pure function (fan_in, fan_out, connectivity, role, widening) →
`Scaling`. The model draws unit weights and applies the multiplier; `wsn.train` scales the draw and the learning rate.
`Widening` compares a layer to that of a dense reference network, whose rates are those given; without a reference a
network is its own, and no rate is scaled.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wsn.errors import UserError, choose

Role = Literal["kernel", "output", "bias"]  # `output` is the kernel of the last layer

# Optimiser → whether its steps are in proportion to the gradient, or of one size whatever that is.
FOLLOWS_GRADIENT = {"sgd": True, "adam": False, "adamw": False}


class Widening(NamedTuple):
    """How many times as many inputs and outputs as in the reference network, and the optimiser of both."""

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
    """Uniform on [-1, 1): unit half-width."""
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0)


def standard(
    fan_in: int, fan_out: int, connectivity: float, role: Role, widening: Widening | None = None
) -> Scaling:
    """PyTorch's default: weights and biases uniform on ±1/√fan_in, with the effective fan-in of a sparse layer."""
    rate = over_kept_inputs(connectivity, role, widening)
    return Scaling(initial=(fan_in * connectivity) ** -0.5, forward=1.0, learning_rate=rate)


def ntk(
    fan_in: int, fan_out: int, connectivity: float, role: Role, widening: Widening | None = None
) -> Scaling:
    """NTK parameterisation (paper, section 3): weights N(0, 1/connectivity), 1/√fan_in in the forward pass.

    fan_in is that of the dense layer, so that the sum over the kept inputs has the variance of the dense one.
    Biases start at zero (the paper's networks of this kind have none).
    """
    rate = over_kept_inputs(connectivity, role, widening)
    if role == "bias":
        return Scaling(initial=0.0, forward=1.0, learning_rate=rate)
    return Scaling(initial=connectivity**-0.5, forward=fan_in**-0.5, learning_rate=rate)


def mup(
    fan_in: int, fan_out: int, connectivity: float, role: Role, widening: Widening | None = None
) -> Scaling:
    """Maximal update parameterisation (Yang & Hu et al. 2022, Table 3), relative to the reference; else `standard`.

    Rates of kernels go with 1 / fan_in, those of SGD with fan_out as well; the last layer starts with 1 / fan_in in the
    place of 1 / √fan_in, biases as in the reference. The initial weights have the effective fan-in of a sparse layer,
    as in all parameterisations; the rates see the width alone. Raises UserError for an optimiser without a rule.
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
    smaller = widening.inputs if role == "output" else 1.0
    return Scaling((fan_in * connectivity * smaller) ** -0.5, 1.0, rate / widening.inputs)


def smup(
    fan_in: int, fan_out: int, connectivity: float, role: Role, widening: Widening | None = None
) -> Scaling:
    """SμPar (Dey, Bergsma & Hestness 2024): μP with rates that follow the density too, by the kept inputs of a unit."""
    scaling = mup(fan_in, fan_out, connectivity, role, widening)
    if widening is None or role == "bias":
        return scaling
    return scaling._replace(learning_rate=scaling.learning_rate / connectivity)


def over_kept_inputs(connectivity: float, role: Role, widening: Widening | None) -> float:
    """A rate of kernels by which a unit's inputs together move it as in the reference, whatever the optimiser."""
    return 1.0 if widening is None or role == "bias" else 1 / (widening.inputs * connectivity)


PARAMETERIZATIONS = {
    "standard": Parameterization(uniform, standard),
    "ntk": Parameterization(jax.random.normal, ntk),
    "mup": Parameterization(uniform, mup),
    "smup": Parameterization(uniform, smup),
}


def parameterization(name: str) -> Parameterization:
    """The parameterisation of that name. Raises UserError for an unknown one."""
    return choose(PARAMETERIZATIONS, "parameterization", name)
