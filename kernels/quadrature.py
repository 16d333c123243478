"""Theorem 1 for any number of coordinates, by a two-dimensional integral over the characteristic function.

Source: equations (1)-(3) of the paper; derived in README.md.

With (a, b) = (w.x, w.y), S(t) = sum_i s_i c_i(t)^2 / p is the second moment of a cos t/2 + b sin t/2 under
the mask s, c_i = x_i cos t/2 + y_i sin t/2. Everything follows from two functions on the circle, up to parts
that integrate to zero F_1 = (E_s[S log S] - dense)/4 and F_2 = -(E_s[S^2 log S] - dense)/16:

    F_l is a *radial* integral of prod_i (1 - p + p exp(-r c_i^2)), by the trapezoid rule in log r;
    K_l is an *angular* principal value, 1/2 PV int cot(t) dH_l, with H_1 = F_1 and H_2 the odd part of
    F_2 / sin t, by the trapezoid rule, with a spectral derivative, on nodes that straddle the two poles.

Masks whose survivors are collinear make S vanish at some angle, a logarithmic singularity: they are left out of F
and added in closed form. The rest is smooth, and the smoother the more weights survive.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from kernels import radial
from kernels.closed_forms import angular_factor

ANGLES = (144, 432, 1296, 3888)  # each grid contains the one before it
# Numbers of coordinates are rounded up to these, for few compilations.
SIZES = (12, 28, 56, 112, 196, 280, 392, 560)
TOGETHER = 4  # angles at a time in sums over coordinates, to stay in cache
AXIS_CLUSTER = 0.2  # relative node spacing at axes and diagonals, where images are nearly singular
ROUNDING = 1e-16  # measured, relative to sum c^2 in F_1 and sum c^4 / p in F_2
NEAR_PARALLEL = 1e-5  # below this |x/|x| -+ y/|y|| the limit is exact to 1e-9


class Coordinates(NamedTuple):
    """Pairs of unit vectors; the first coordinate counts repeats[0] times, others once, padding 0 times."""

    x: Float[ArrayLike, "pairs coordinates"]
    y: Float[ArrayLike, "pairs coordinates"]
    repeats: Float[ArrayLike, "pairs coordinates"]


class Result(NamedTuple):
    """In units of (|x||y|)^l, each of shape (pairs, connectivities); more angles: less error, more rounding."""

    k1_excess: Array
    k2: Array
    k1_error: Array
    k2_error: Array
    k1_rounding: Array
    k2_rounding: Array


def _amplitude(argument: Array, complement: Array) -> Array:
    """Jacobi's am, scaled to am(pi/2) = pi/2: a map of the circle with slope ~`complement` at +-pi/2.

    By the arithmetic-geometric mean; eight steps suffice for complementary moduli down to 1e-6.
    """
    a, b, steps = jnp.ones_like(complement), complement, 8
    ratios = []
    for _ in range(steps):
        ratios.append((a - b) / (a + b))
        a, b = (a + b) / 2, jnp.sqrt(a * b)

    def descend(angle: Array, ratio: Array) -> tuple[Array, None]:
        return (angle + jnp.arcsin(ratio * jnp.sin(angle))) / 2, None

    return jax.lax.scan(descend, 2.0**steps * argument, jnp.stack(ratios[::-1]))[0]


def _directions(angles: int, closeness: Array) -> Array:
    """Angles t in (0, 2 pi), symmetric about the poles 0 and pi and dense near axes, diagonals and +-pi/2.

    `closeness` is the width of the dip of nearly parallel inputs at -pi/2 (antiparallel: pi/2).
    """
    uniform = (jnp.arange(angles) + 0.5) * 2 * jnp.pi / angles
    clustered = (_amplitude(2 * uniform + jnp.pi / 2, jnp.asarray(AXIS_CLUSTER)) - jnp.pi / 2) / 2
    return _amplitude(clustered, closeness)


def _principal_weights(direction: Array) -> Array:
    """Weights of F_1, F_2 in the brackets of 4 K_l: 1/2 PV int cot t dH_l(t) with their prefactors."""
    count = direction.shape[-1]
    cotangent = 1 / jnp.tan(direction)
    derivative = jnp.fft.rfft(cotangent) * 1j * jnp.arange(count // 2 + 1).at[-1].set(0)
    weights = (
        -jnp.fft.irfft(derivative, count) * 2 * jnp.pi / count
    )  # integration by parts, exact on the grid
    odd = weights / jnp.sin(direction)  # only the odd part of F_2 / sin t counts, and the weights are even
    return jnp.stack([4 / jnp.pi**2 * weights, -16 / jnp.pi**2 * (odd - odd[::-1])])


def _collinear_masks(
    x: Array, y: Array, count: Array, p: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Masks with collinear survivors: weights of (cos^2 log cos^2, cos^4 log cos^2), and contributions to 4 K_l.

    Such a mask has S = W cos^2(t/2 - line). Only E[W], E[W^2] count: log W multiplies what integrates to 0.
    """
    lengths2 = x * x + y * y
    line = jnp.where(lengths2 > 0, jnp.arctan2(y, x) % jnp.pi, 0)
    line = jnp.where(line > jnp.pi - 1e-13, 0, line)
    order = jnp.argsort(line)
    starts = jnp.diff(line[order], prepend=line[order[:1]]) > 1e-13
    member = jnp.zeros(len(line), int).at[order].set(jnp.cumsum(starts))
    size, power2 = (jax.ops.segment_sum(z, member, len(line))[member] for z in (count, count * lengths2))

    p = p[:, None]
    alone = count * (1 - p) ** (count.sum() - size)
    first = alone * lengths2
    second = alone * lengths2 * (power2 + (1 - p) / p * lengths2)
    mixed = x * y / jnp.where(lengths2 > 0, lengths2, 1)
    bracket1 = first @ (jnp.abs(mixed) - 1 / jnp.pi)
    bracket2 = second @ (3 * jnp.abs(mixed) * mixed - 4 / jnp.pi * mixed)
    return (first, second), (bracket1, bracket2)


def _circle_functions(
    x: Array,
    y: Array,
    count: Array,
    p: Array,
    direction: Array,
    logarithms: Array,
    lines: tuple[Array, Array],
) -> tuple[Array, Array]:
    """F_1 and F_2 without collinear masks, (2, connectivities, angles), and the scales of their rounding errors."""
    lengths2 = x * x + y * y
    largest = jnp.max(lengths2)
    x, y, lengths2 = (
        x / jnp.sqrt(largest),
        y / jnp.sqrt(largest),
        jnp.where(lengths2 > 0, lengths2 / largest, 1),
    )
    log_lengths2 = jnp.log(lengths2)

    def sums(cosine_sine: Array) -> tuple[Array, ...]:
        cosine, sine = cosine_sine
        squares = (x * cosine + y * sine) ** 2
        logarithm = jax.lax.optimization_barrier(jnp.log(jnp.maximum(squares, 1e-300)))
        cosine2 = squares / lengths2
        shape = cosine2 * (logarithm - log_lengths2)
        line1, line2 = lines[0] @ shape, lines[1] @ (cosine2 * shape)
        return radial.moments(logarithm, count), squares @ count, squares**2 @ count, line1, line2

    points = jnp.stack([jnp.cos(direction / 2), jnp.sin(direction / 2)], axis=1)
    moments, power2, power4, line1, line2 = jax.lax.map(sums, points, batch_size=TOGETHER)
    first, second = radial.integrals(logarithms, moments, power2, power4, p)
    p = p[:, None]
    f1 = largest / (4 * p) * first - line1.T / 4
    f2 = largest**2 / (8 * p**2) * second + line2.T / 16
    scale1, scale2 = largest * power2, largest**2 * power4 / p
    return jnp.stack([f1, f2]), jnp.stack([jnp.broadcast_to(scale1, f1.shape), scale2])


def _one_pair(x: Array, y: Array, count: Array, p: Array, logarithms: Array, angles: int) -> Result:
    apart, sum_ = jnp.sqrt(count @ (x - y) ** 2), jnp.sqrt(count @ (x + y) ** 2)
    supplement = 2 * jnp.arctan2(sum_, apart)
    closeness = jnp.clip(2 * jnp.minimum(apart, sum_) / jnp.maximum(apart, sum_), NEAR_PARALLEL, 1)
    direction = _directions(angles, closeness)
    lines, (bracket1, bracket2) = _collinear_masks(x, y, count, p)
    values, scales = _circle_functions(x, y, count, p, direction, logarithms, lines)
    weights = _principal_weights(direction)
    fine = jnp.einsum("lpt,lt->lp", values, weights)
    coarse = jnp.einsum("lpt,lt->lp", values[..., 1::3], _principal_weights(direction[1::3]))
    # Errors fall at least as the square of the spacing: an eighth of the difference, a quarter in K.
    errors = jnp.abs(fine - coarse) / 32
    rounding = ROUNDING * jnp.linalg.norm(scales * weights[:, None], axis=-1)
    cosine, sine, arc = -jnp.cos(supplement), jnp.sin(supplement), supplement - jnp.pi / 2
    m40, m31, m22, m13, m04 = (count @ (x**k * y ** (4 - k)) for k in (4, 3, 2, 1, 0))
    odds = (1 - p) / p
    fourth = -(m40 + m04) * cosine * sine + 4 * (m31 + m13) * sine + 6 * m22 * arc
    k2_dense = angular_factor(2, supplement) / (2 * jnp.pi)
    return Result(
        k1_excess=(fine[0] + bracket1) / 4,
        k2=k2_dense + (odds * (3 * m22 + fourth / jnp.pi) + fine[1] + bracket2) / 4,
        k1_error=errors[0],
        k2_error=errors[1],
        k1_rounding=rounding[0],
        k2_rounding=rounding[1],
    )


@partial(jax.jit, static_argnames="angles")
def integrate(pairs: Coordinates, connectivity: Array, logarithms: Array, angles: int) -> Result:
    """Every pair at every connectivity on a grid of `angles`; `logarithms` is `radial.table(connectivity)`."""
    one_pair: Callable[..., Result] = partial(_one_pair, angles=angles)
    return jax.vmap(one_pair, in_axes=(0, 0, 0, None, None))(*pairs, connectivity, logarithms)


def pack(x: Float[np.ndarray, "pairs d"], y: Float[np.ndarray, "pairs d"]) -> Coordinates:
    """Drop coordinates that are zero in both, put the most frequent (x_i, y_i) first, pad with zeros.

    The background of scalar-normalized images is one such pair: two thirds of the pixels.
    """
    rows = []
    for row in x + 1j * y:
        values, counts = np.unique(row[row != 0], return_counts=True)
        first = np.argmax(counts)
        frequent = values[first], counts[first]
        rows.append((frequent, np.repeat(np.delete(values, first), np.delete(counts, first))))
    longest = max(len(rest) for _, rest in rows)
    length = 1 + next((size for size in SIZES if size >= longest), 784 * math.ceil(longest / 784))
    packed, count = np.zeros((len(rows), length), complex), np.zeros((len(rows), length))
    for i, ((value, repeats), rest) in enumerate(rows):
        packed[i, 0], count[i, 0] = value, repeats
        packed[i, 1 : 1 + len(rest)], count[i, 1 : 1 + len(rest)] = rest, 1
    return Coordinates(packed.real, packed.imag, count)
