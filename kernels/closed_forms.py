"""Closed forms: arc-cosine kernels, and NNGP and NTK of the infinitely wide dense ReLU network, in float64.

Sources: Cho & Saul 2009 for the arc-cosine kernels (in the scaling of Theorem 1), Jacot et al. 2018 for the NTK.
Angles come from the lengths of x/|x| - y/|y| and x/|x| + y/|y| (Kahan), not from arccos, which loses digits near 0
and pi.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, Float64

from kernels.precision import in_float64
from kernels.validation import checked_count, checked_pairs
from wsn.errors import UserError, whole_number

_TERMS = 12  # of the power series below; the first one left out is 1e-17 of the sum at the switch


def _sine_minus_chord(angle: Array) -> Array:
    """sin a - a cos a, to full relative precision, also for small a, where it is a^3/3."""
    series = sum(
        (-1) ** (k + 1) * 2 * k / math.factorial(2 * k + 1) * angle ** (2 * k + 1) for k in range(1, _TERMS)
    )
    return jnp.where(angle < 1, series, jnp.sin(angle) - angle * jnp.cos(angle))


def _second_order(angle: Array) -> Array:
    """a (2 + cos 2a) - (3/2) sin 2a, to full relative precision, also for small a, where it is (4/15) a^5."""
    double = 2 * angle
    series = sum(
        (-1) ** k * (k - 1) / math.factorial(2 * k + 1) * double ** (2 * k + 1) for k in range(2, _TERMS + 4)
    )
    return jnp.where(angle < 1, series, angle * (2 + jnp.cos(double)) - 1.5 * jnp.sin(double))


def angular_factor(order: int, supplement: Array) -> Array:
    """J_0 = pi - t, J_1 = sin t + (pi - t) cos t, J_2 = 3 sin t cos t + (pi - t)(1 + 2 cos^2 t); in pi - t.

    The argument is the supplement pi - t: all three vanish with it, as its powers 1, 3 and 5.
    """
    return (lambda angle: angle, _sine_minus_chord, _second_order)[order](supplement)


def _unit_vector(x: Array) -> tuple[Array, Array]:
    """x / |x| and |x|, over the last axis, without overflow; a zero vector stays zero."""
    largest = jnp.abs(x).max(axis=-1, keepdims=True)
    x = x / jnp.where(largest > 0, largest, 1)
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(norm > 0, norm, 1), (norm * largest)[..., 0]


def lengths_and_supplement(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """|x|, |y| and pi minus the angle between them, over the last axis. A zero vector counts as orthogonal."""
    (x, x_norm), (y, y_norm) = _unit_vector(x), _unit_vector(y)
    supplement = 2 * jnp.arctan2(jnp.linalg.norm(x + y, axis=-1), jnp.linalg.norm(x - y, axis=-1))
    return x_norm, y_norm, jnp.where((x_norm > 0) & (y_norm > 0), supplement, jnp.pi / 2)


def _arc_cosine(x: Array, y: Array, order: int) -> Array:
    x_norm, y_norm, supplement = lengths_and_supplement(x, y)
    kernel = (x_norm * y_norm) ** order * angular_factor(order, supplement) / (2 * jnp.pi)
    return jnp.where((x_norm > 0) & (y_norm > 0), kernel, 0)


def _network(x: Array, y: Array, depth: int, weight_std: float) -> tuple[Array, Array]:
    """GP kernel and NTK, by recursion on the two variances and the angle.

    1 - cos of the next angle is (1 - cos t) - (sin t - t cos t) / pi, which keeps its precision as t -> 0.
    """
    inputs = x.shape[-1]
    x_norm, y_norm, supplement = lengths_and_supplement(x, y)
    variance = weight_std * weight_std
    scale = variance * x_norm * y_norm / inputs
    nngp = ntk = -scale * jnp.cos(supplement)
    for _ in range(depth):
        angle = jnp.pi - supplement
        nngp_next = variance * scale * angular_factor(1, supplement) / (2 * jnp.pi)
        ntk = nngp_next + variance * ntk * supplement / (2 * jnp.pi)
        scale, nngp = variance * scale / 2, nngp_next
        sine2 = jnp.sin(angle / 2) ** 2 - _sine_minus_chord(angle) / (2 * jnp.pi)
        supplement = jnp.pi - 2 * jnp.arcsin(jnp.sqrt(jnp.clip(sine2, 0, 1)))
    return nngp, ntk


@partial(jax.jit, static_argnames=("rule", "settings", "gram"))
def _evaluate(x: Array, y: Array, *, rule: Callable[..., Any], settings: tuple, gram: bool) -> Any:
    """A Gram matrix is computed row by row from differences, not inner products: stable, and one row in memory."""
    if gram:
        return jax.lax.map(lambda row: rule(jnp.broadcast_to(row, y.shape), y, *settings), x)
    return rule(x, y, *settings)


_evaluate64 = in_float64(_evaluate)


def _kernels(x: npt.ArrayLike, y: npt.ArrayLike, gram: bool, rule: Callable[..., Any], *settings: Any) -> Any:
    result = _evaluate64(*checked_pairs(x, y, gram), rule=rule, settings=settings, gram=gram)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result)):
        raise UserError("a kernel of `x` and `y` overflows float64: rescale them")
    return result


def arc_cosine(
    x: npt.ArrayLike, y: npt.ArrayLike, order: int, *, gram: bool = False
) -> Float64[np.ndarray, "..."]:
    """K_l(x, y) = E_w[(w.x)^l (w.y)^l H(w.x) H(w.y)], w standard normal, l = `order` 0, 1 or 2: equation (3).

    x and y are (*pairs, features), the result is (*pairs); with `gram` they are matrices and the result is (rows of x,
    rows of y). Kernels of a zero vector are 0 at every order. Raises UserError where shapes differ, values are not
    finite, the order is another, or (|x||y|)^l overflows float64.
    """
    order = whole_number("order", order)
    if order not in (0, 1, 2):
        raise UserError(f"`order={order}`: give 0, 1 or 2")
    return _kernels(x, y, gram, _arc_cosine, order)


def dense_kernels(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    depth: SupportsIndex,
    weight_std: float = 1.0,
    *,
    gram: bool = False,
) -> tuple[Float64[np.ndarray, "*shape"], Float64[np.ndarray, "*shape"]]:
    """(NNGP, NTK) of the infinitely wide ReLU network: `depth` hidden layers, a linear readout, no biases.

    Weights are N(0, weight_std^2) and each layer is divided by the square root of its fan-in (the NTK
    parameterization): stax.serial(Dense, Relu, ..., Dense) with W_std = weight_std, b_std = 0. Shapes, `gram`
    and errors are those of `arc_cosine`; the depth is at least 0.
    """
    layers = checked_count("depth", depth, 0)
    if not np.isfinite(weight_std):
        raise UserError(f"`weight_std={weight_std}`: give a finite number")
    return _kernels(x, y, gram, _network, layers, float(weight_std))
