"""Moments of masked kernels for any number of coordinates, by a two-dimensional integral.

Source: equations (1)-(3) of the paper; derived in README.md, which has the tangent moments too.

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

from kernels.closed_forms import angular_factor
from kernels.masks import radial

ANGLES = (144, 432, 1296, 3888)  # each grid contains the one before it
# Numbers of coordinates are rounded up to these, for few compilations.
SIZES = (12, 28, 56, 112, 196, 280, 392, 560)
TOGETHER = 4  # angles at a time in sums over coordinates, to stay in cache
AXIS_CLUSTER = 0.2  # relative node spacing at axes and diagonals, where images are nearly singular
# Difference of two grids over the error of the finer one: errors fall at least as the square of the spacing, those of
# K_0, which has jumps, on images about as the spacing.
GAINS = (8, 8, 1, 1, 8)
ROUNDING = 1.6e-15  # measured, relative to the scales of the functions
CLOSEST = 1e-6  # gap |x/|x| -+ y/|y|| of the finest map of the circle


class Coordinates(NamedTuple):
    """Pairs of unit vectors; the first coordinate counts repeats[0] times, others once, padding 0 times."""

    x: Float[ArrayLike, "pairs coordinates"]
    y: Float[ArrayLike, "pairs coordinates"]
    repeats: Float[ArrayLike, "pairs coordinates"]


class Result(NamedTuple):
    """In units of (|x||y|)^l, each of shape (pairs, moments, connectivities); more angles: less error, more rounding.

    The moments are K_{1,p} - K_1, K_{2,p}, and of the tangent kernel E[C K_0]/p - C K_0, E[C^2 K_0]/p^2, E[C K_1]/p^2.
    """

    value: Array
    error: Array
    rounding: Array


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


def _weights(direction: Array, moments: int) -> Array:
    """Weights of the functions on the circle in the moments, by integration by parts where a pole is double.

    1/(4 pi^2) fp int f / sin^2 t dt for K_1 and C K_1, 1/2 PV int cot t dH_2 for K_2, and for C K_0 and C^2 K_0
    1/(4 pi^2) PV int f / sin t dt.
    """
    count = direction.shape[-1]
    frequencies = 1j * jnp.arange(count // 2 + 1).at[-1].set(0)

    def derivative(values: Array) -> Array:
        return jnp.fft.irfft(jnp.fft.rfft(values) * frequencies, count)

    first = -derivative(1 / jnp.tan(direction)) / (2 * jnp.pi * count)
    odd = first / jnp.sin(direction)  # only the odd part of F_2 / sin t counts, and the weights are even
    uniform = (jnp.arange(count) + 0.5) * 2 * jnp.pi / count
    logarithm = (1 + derivative(direction - uniform)) / jnp.sin(direction) / (2 * jnp.pi * count)
    return jnp.stack([first, odd - odd[::-1], logarithm, logarithm, first][:moments])


class _Lines(NamedTuple):
    """Masks with collinear survivors: S = W cos^2(t/2 - line). Only E[W], E[W^2] count: log W integrates to 0."""

    weights: list[
        Array
    ]  # of cos^(2 power) log cos^2 at each coordinate's line, (connectivities, coordinates)
    added: list[Array]  # what these masks contribute to each moment


POWERS = (1, 2, 0, 0, 1)  # of cos^2 in the singularity of each moment


def _collinear_masks(x: Array, y: Array, count: Array, p: Array) -> _Lines:
    """The singularities of the five moments, and their closed forms."""
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
    size = jnp.abs(mixed)
    added = [
        first @ (size - 1 / jnp.pi),
        second @ (3 * size * mixed - 4 / jnp.pi * mixed),
        first @ size,
        second @ (mixed * size),
        second @ (mixed * (size - 1 / jnp.pi)),
    ]
    return _Lines(
        [first, second, first * mixed, second * mixed**2, second * mixed], [term / 4 for term in added]
    )


def _circle_functions(
    x: Array,
    y: Array,
    count: Array,
    p: Array,
    direction: Array,
    tables: Array,
    lines: _Lines,
    rule: radial.Rule,
) -> tuple[Array, Array]:
    """The functions of the moments without collinear masks, (moments, connectivities, angles), and their scales.

    A scale is what the rounding error of the function is relative to.
    """
    moments, mixed = 2 if len(tables) == 1 else 5, x * y
    lengths2 = jnp.where((x != 0) | (y != 0), x * x + y * y, 1)
    weightings = jnp.stack([count, count * mixed, count * mixed**2][: len(tables)])

    def sums(cosine_sine: Array) -> tuple[tuple[Array, ...], Array, Array]:
        cosine, sine = cosine_sine
        squares = (x * cosine + y * sine) ** 2
        largest = jnp.max(squares)
        # Relative to the largest at this angle: inputs that are nearly parallel have an angle where all are tiny.
        relative = squares / largest
        clipped = jnp.maximum(relative, math.exp(-radial.DEPTH))
        logarithm = jax.lax.optimization_barrier(jnp.log(clipped))
        cosine2, log_cosine2 = squares / lengths2, logarithm + jnp.log(largest / lengths2)
        shapes = jnp.stack([cosine2**power * log_cosine2 for power in (0, 1, 2)])
        singular = [
            weight @ shapes[power] for weight, power in zip(lines.weights, POWERS[:moments], strict=False)
        ]
        powers = relative @ count, clipped @ count, relative**2 @ count, clipped @ (count * mixed)
        return (radial.moments(logarithm, weightings, rule), *powers), largest, jnp.stack(singular)

    points = jnp.stack([jnp.cos(direction / 2), jnp.sin(direction / 2)], axis=1)
    terms, largest, singular = jax.lax.map(sums, points, batch_size=TOGETHER)
    whole = radial.Sums(*terms, count @ mixed, count @ mixed**2)  # type: ignore[call-arg]
    integrals = jnp.stack(radial.integrals(tables, whole, p, rule))
    p = p[:, None]
    one, scale1 = jnp.ones_like(p * largest), largest * whole.power2
    factors = [largest / p, -2 * largest**2 / p**2, one, one, largest * one]
    scale2, odds = 4 * largest**2 * whole.power4 / p, 1 + whole.squares / p
    scales = [one * scale1, scale2, one, odds * one, scale1 / p]
    functions = jnp.stack(factors[:moments]) * integrals - jnp.moveaxis(singular, 0, -1)
    return functions, jnp.stack(scales[:moments])


def _one_pair(
    x: Array, y: Array, count: Array, p: Array, tables: Array, angles: int, rule: radial.Rule
) -> Result:
    apart, sum_ = jnp.sqrt(count @ (x - y) ** 2), jnp.sqrt(count @ (x + y) ** 2)
    supplement = 2 * jnp.arctan2(sum_, apart)
    closeness = jnp.clip(2 * jnp.minimum(apart, sum_) / jnp.maximum(apart, sum_), CLOSEST, 1)
    direction = _directions(angles, closeness)
    lines = _collinear_masks(x, y, count, p)
    values, scales = _circle_functions(x, y, count, p, direction, tables, lines, rule)
    moments = len(values)
    weights = _weights(direction, moments)
    fine = jnp.einsum("lpt,lt->lp", values, weights)
    coarse = jnp.einsum("lpt,lt->lp", values[..., 1::3], _weights(direction[1::3], moments))
    cosine, sine, arc = -jnp.cos(supplement), jnp.sin(supplement), supplement - jnp.pi / 2
    m40, m31, m22, m13, m04 = (count @ (x**k * y ** (4 - k)) for k in (4, 3, 2, 1, 0))
    odds = (1 - p) / p
    fourth = -(m40 + m04) * cosine * sine + 4 * (m31 + m13) * sine + 6 * m22 * arc
    k0, k1, k2 = (angular_factor(order, supplement) / (2 * jnp.pi) for order in (0, 1, 2))
    leading = [
        jnp.zeros_like(p),
        k2 + odds * (3 * m22 + fourth / jnp.pi) / 4,
        jnp.zeros_like(p),
        (cosine**2 + odds * m22) * k0,
        cosine * k1 + odds * (m22 * k0 + sine / (4 * jnp.pi) * (m31 + m13)),
    ]
    return Result(
        jnp.stack(leading[:moments]) + jnp.stack(lines.added[:moments]) + fine,
        jnp.abs(fine - coarse) / jnp.array(GAINS[:moments])[:, None],
        ROUNDING * jnp.linalg.norm(scales * weights[:, None], axis=-1),
    )


@partial(jax.jit, static_argnames=("angles", "rule"))
def integrate(
    pairs: Coordinates, connectivity: Array, tables: Array, angles: int, rule: radial.Rule = radial.FINE
) -> Result:
    """Every pair at every connectivity on a grid of `angles`; `tables` is `radial.table(connectivity)` of the rule.

    The two moments of Theorem 1, or all five if the tables are those of the tangent kernel.
    """
    one_pair: Callable[..., Result] = partial(_one_pair, angles=angles, rule=rule)
    return jax.vmap(one_pair, in_axes=(0, 0, 0, None, None))(*pairs, connectivity, tables)


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
