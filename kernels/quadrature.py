"""Theorem 1 for any number of coordinates, by a two-dimensional integral over the characteristic function.

In: pairs of unit vectors, connectivities. Out: K_{1,p} - K_1 and K_{2,p} in units of (|x||y|)^l, with errors.
Source: equations (1)-(3) of the paper; the representation is derived in BUILD.md.

With (a, b) = (w.x, w.y), S(t) = sum_i s_i c_i(t)^2 / p is the second moment of a cos t/2 + b sin t/2 under
the mask s, c_i = x_i cos t/2 + y_i sin t/2. Everything follows from two functions on the circle, up to parts
that integrate to zero F_1 = (E_s[S log S] - dense)/4 and F_2 = -(E_s[S^2 log S] - dense)/16:

    F_l is a *radial* integral of prod_i (1 - p + p exp(-r c_i^2)), by the trapezoid rule in log r;
    K_l is an *angular* principal value, 1/2 PV int cot(t) dH_l, with H_1 = F_1 and H_2 the odd part of
    F_2 / sin t, by the trapezoid rule, with a spectral derivative, on nodes that straddle the two poles.

Masks whose survivors are all collinear make S vanish at some angle: a logarithmic singularity. They are left
out of F and put back in closed form. What remains is smooth, and the smoother the more weights survive.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from kernels.closed_forms import angular_factor

ANGLES = (144, 432, 1296, 3888)  # each grid contains the one before it
STEP = 0.4  # in log r: the error of the trapezoid is about exp(-pi^2 / STEP) = 2e-11
BLOCK = 8  # radial nodes computed together
MOST_BLOCKS = 8  # to r = 1e10 / max |v_i|^2
BELOW = 32  # radial nodes on which the product is replaced by its cumulant series
ORDER = 12  # of that series; its argument is at most 1/4 and its radius of convergence at least pi
# Numbers of coordinates are rounded up to these: few compilations.
SIZES = (12, 28, 56, 112, 196, 280, 392, 560)
AXIS_CLUSTER = 0.2  # node spacing at the axes and diagonals, where images have their near-singularities
NEAR_PARALLEL = 1e-5  # below this |x/|x| -+ y/|y|| the limit is exact to 1e-9


class Coordinates(NamedTuple):
    """Pairs of unit vectors: the first coordinate counts repeats[0] times, others once, padding 0 times."""

    x: Float[ArrayLike, "pairs coordinates"]
    y: Float[ArrayLike, "pairs coordinates"]
    repeats: Float[ArrayLike, "pairs coordinates"]


class Result(NamedTuple):
    """In units of (|x||y|)^l, each of shape (pairs, connectivities)."""

    k1_excess: Array
    k2: Array
    k1_error: Array
    k2_error: Array


def _amplitude(argument: Array, complement: Array) -> Array:
    """Jacobi's am, scaled to am(pi/2) = pi/2: a map of the circle with slope ~`complement` at +-pi/2.

    By the arithmetic-geometric mean; eight steps are enough for complementary moduli down to 1e-6.
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

    `closeness` is the width of the notch that nearly parallel inputs cut at -pi/2 (antiparallel: at pi/2).
    """
    uniform = (jnp.arange(angles) + 0.5) * 2 * jnp.pi / angles
    clustered = (_amplitude(2 * uniform + jnp.pi / 2, jnp.asarray(AXIS_CLUSTER)) - jnp.pi / 2) / 2
    return _amplitude(clustered, closeness)


def _principal_values(f1: Array, f2: Array, direction: Array) -> tuple[Array, Array]:
    """The contributions I_1, I_2 to the brackets of 4 K_l: 1/2 PV int cot t dH_l(t) with their prefactors."""
    count = direction.shape[-1]
    cotangent = 1 / jnp.tan(direction)
    derivative = jnp.fft.rfft(cotangent) * 1j * jnp.arange(count // 2 + 1).at[-1].set(0)
    weights = -jnp.fft.irfft(derivative, count) * 2 * jnp.pi / count  # by parts, and on the grid exactly so
    even = (f2 - f2[:, ::-1]) / (2 * jnp.sin(direction))
    return 4 / jnp.pi**2 * f1 @ weights, -32 / jnp.pi**2 * even @ weights


def _cumulant_polynomials() -> np.ndarray:
    """Row k - 2: coefficients in p, constant first, of (-1)^k / k! times Bernoulli(p)'s k-th cumulant."""
    p, factor = np.polynomial.Polynomial([0, 1]), np.polynomial.Polynomial([0, 1, -1])
    rows = np.zeros((ORDER - 1, ORDER + 1))
    for order in range(2, ORDER + 1):
        p = factor * p.deriv()
        rows[order - 2, : len(p.coef)] = (-1) ** order * p.coef / math.factorial(order)
    return rows


def _below(squares: Array, count: Array, p: Array, start: Array) -> tuple[Array, Array]:
    """The radial integrals over r < start, where log(prod / Gaussian) is a short power series in r."""
    r = start * jnp.exp(-STEP * jnp.arange(1, BELOW + 1))
    orders = jnp.arange(2, ORDER + 1)
    moments = jax.lax.scan(lambda power, _: (power * squares, count @ (power * squares)), squares, orders)[1]
    cumulants = (p[:, None, None] ** jnp.arange(ORDER + 1) * _cumulant_polynomials()).sum(-1)
    exponent = jnp.einsum("pk,kr,kn->prn", cumulants, r ** orders[:, None], moments)
    leading = cumulants[:, :1, None] * r[:, None] ** 2 * moments[0]
    gaussian = jnp.exp(-p[:, None, None] * r[:, None] * (count @ squares))
    f1 = gaussian * jnp.expm1(exponent) / r[:, None]
    f2 = gaussian * (jnp.expm1(exponent) - leading) / r[:, None] ** 2
    end = 1 / math.expm1(STEP)  # both integrands fall as r: the rest of the trapezoid sum is geometric
    return STEP * (f1.sum(1) + end * f1[:, -1]), STEP * (f2.sum(1) + end * f2[:, -1])


def _product_less_one(squares: Array, count: Array, p: Array, r: Array) -> Array:
    """prod_i (1 + p (exp(-r c_i^2) - 1))^count_i - 1 to relative precision: (connectivities, r, angles)."""

    def times(total: Array, group: Array) -> tuple[Array, None]:
        # One table of exponentials serves every connectivity; without the barrier XLA computes it for each.
        table = jax.lax.optimization_barrier(jnp.expm1(-group[:, None, :] * r[:, None]))
        for row in table:
            total = total + p * row * (1 + total)
        return total, None

    p = p[:, None, None]
    repeated = jnp.where(count[0] > 0, count[0] * jnp.log1p(p * jnp.expm1(-squares[0] * r[:, None])), 0)
    return jax.lax.scan(times, jnp.expm1(repeated), squares[1:].reshape(-1, 4, squares.shape[1]))[0]


def _above(squares: Array, count: Array, p: Array, start: Array) -> tuple[Array, Array]:
    """The radial integrals over r >= start, in blocks, until what is left to add is below rounding."""
    mean, spread = count @ squares, p[:, None, None] * (1 - p[:, None, None]) / 2 * (count @ squares**2)
    end1, end2 = 1 / math.expm1(STEP), 1 / math.expm1(2 * STEP)  # tails of 1/r and 1/r^2, should any be left
    scale1, scale2 = 1 / (4 * p[:, None]), 1 / (8 * p[:, None] ** 2)

    def block(state):
        index, f1, f2, *_ = state
        r = start * jnp.exp(STEP * (BLOCK * index + jnp.arange(BLOCK)))
        product = _product_less_one(squares, count, p, r)
        r = r[:, None]
        gaussian = jnp.expm1(-p[:, None, None] * r * mean)
        difference = product - gaussian
        g1, g2 = difference / r, (difference - (1 + gaussian) * spread * r**2) / r**2
        return index + 1, f1 + g1.sum(1), f2 + g2.sum(1), g1[:, -1], g2[:, -1]

    def unfinished(state):
        index, *_, last1, last2 = state
        left = jnp.maximum(jnp.max(jnp.abs(last1) * scale1), jnp.max(jnp.abs(last2) * scale2))
        return (index == 0) | ((index < MOST_BLOCKS) & (left > 1e-10))

    zero = jnp.zeros((len(p), squares.shape[1]))
    _, f1, f2, last1, last2 = jax.lax.while_loop(unfinished, block, (0, zero, zero, zero, zero))
    return STEP * (f1 + end1 * last1), STEP * (f2 + end2 * last2)


def _collinear_masks(
    x: Array, y: Array, count: Array, p: Array, half: Array
) -> tuple[Array, Array, Array, Array]:
    """Masks with all survivors on one line: minus their F_1, F_2 at each angle, and their part of 4 K_l.

    Such a mask has S = W cos^2(t/2 - line). Only E[W], E[W^2] count: log W multiplies what integrates to 0.
    """
    lengths2 = x * x + y * y
    line = jnp.where(lengths2 > 0, jnp.arctan2(y, x) % jnp.pi, 0)
    line = jnp.where(line > jnp.pi - 1e-13, 0, line)
    order = jnp.argsort(line)
    starts = jnp.diff(line[order], prepend=line[order[:1]]) > 1e-13
    member = jnp.zeros(len(line), int).at[order].set(jnp.cumsum(starts))
    total = partial(jax.ops.segment_sum, segment_ids=member, num_segments=len(line))
    size, power2, power4 = total(count), total(count * lengths2), total(count * lengths2**2)
    line = jnp.where(power2 > 0, jax.ops.segment_max(line, member, len(line)), 0)

    p = p[:, None]
    alone = jnp.where(size > 0, (1 - p) ** (count.sum() - size), 0)
    first = alone * power2
    second = alone * (power2**2 + (1 - p) / p * power4)
    cosine2 = jnp.cos(half - line[:, None]) ** 2
    shape1 = jax.scipy.special.xlogy(cosine2, cosine2)
    mixed = jnp.sin(line) * jnp.cos(line)
    bracket1 = first @ (jnp.abs(mixed) - 1 / jnp.pi)
    bracket2 = second @ (3 * jnp.abs(mixed) * mixed - 4 / jnp.pi * mixed)
    return -first @ shape1 / 4, second @ (cosine2 * shape1) / 16, bracket1, bracket2


def _one_pair(x: Array, y: Array, count: Array, p: Array, angles: int) -> Result:
    apart, sum_ = jnp.sqrt(count @ (x - y) ** 2), jnp.sqrt(count @ (x + y) ** 2)
    supplement = 2 * jnp.arctan2(sum_, apart)
    closeness = jnp.clip(2 * jnp.minimum(apart, sum_) / jnp.maximum(apart, sum_), NEAR_PARALLEL, 1)
    direction = _directions(angles, closeness)
    squares = (x[:, None] * jnp.cos(direction / 2) + y[:, None] * jnp.sin(direction / 2)) ** 2

    start = 0.25 / jnp.max(x * x + y * y)
    below, above = _below(squares, count, p, start), _above(squares, count, p, start)
    line1, line2, bracket1, bracket2 = _collinear_masks(x, y, count, p, direction / 2)
    f1 = (below[0] + above[0]) / (4 * p[:, None]) + line1
    f2 = (below[1] + above[1]) / (8 * p[:, None] ** 2) + line2

    fine = _principal_values(f1, f2, direction)
    coarse = _principal_values(f1[:, 1::3], f2[:, 1::3], direction[1::3])
    cosine, sine, arc = -jnp.cos(supplement), jnp.sin(supplement), supplement - jnp.pi / 2
    m40, m31, m22, m13, m04 = (count @ (x**k * y ** (4 - k)) for k in (4, 3, 2, 1, 0))
    odds = (1 - p) / p
    fourth = -(m40 + m04) * cosine * sine + 4 * (m31 + m13) * sine + 6 * m22 * arc
    k2_dense = angular_factor(2, supplement) / (2 * jnp.pi)
    return Result(
        k1_excess=(fine[0] + bracket1) / 4,
        k2=k2_dense + (odds * (3 * m22 + fourth / jnp.pi) + fine[1] + bracket2) / 4,
        # Errors fall at least as the square of the spacing: an eighth of the difference, a quarter in K.
        k1_error=jnp.abs(fine[0] - coarse[0]) / 32,
        k2_error=jnp.abs(fine[1] - coarse[1]) / 32,
    )


@partial(jax.jit, static_argnames="angles")
def integrate(pairs: Coordinates, connectivity: Array, angles: int) -> Result:
    """Every pair at every connectivity on a grid of `angles`; all of it in memory at once."""
    one_pair: Callable[..., Result] = partial(_one_pair, angles=angles)
    return jax.vmap(one_pair, in_axes=(0, 0, 0, None))(*pairs, connectivity)


def pack(x: Float[np.ndarray, "pairs d"], y: Float[np.ndarray, "pairs d"]) -> Coordinates:
    """Drop coordinates that are zero in both, collect the most frequent (x_i, y_i) in front, pad with zeros.

    On images under one scalar normalisation the background is one such pair: two thirds of the pixels.
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
