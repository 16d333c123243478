"""Radial integrals over products prod_i (1 - p + p exp(-r c_i^2)), for every radius and connectivity at once.

The logarithm of the product is a sum over coordinates of one function of log r + log c_i^2, analytic in a strip
of half-width pi/2 (less near p = 1). Chebyshev polynomials of log c_i^2 on a few bins represent it to rounding,
so the coordinates enter through their Chebyshev moments, which do not depend on r or p; a table that depends on r
and p alone turns moments into logarithms by one matrix product (derived in README.md). Tangent moments need two more
such sums, weighted by x_i y_i and its square: they have tables and moments of their own.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

START = 0.25  # squares are at most 1: below it the logarithm is a short power series
ORDER = 12  # of that series, whose radius of convergence is at least pi
BIN, BINS = 1.2, 20  # in log c^2: smaller squares than exp(-24) of the largest count as exp(-24)
DEPTH = BIN * BINS


class Rule(NamedTuple):
    """The step in log r, and how many Chebyshev polynomials a bin has: with each the error falls about 5-fold.

    Near p = 1 polynomials gain 2 to 3-fold.
    """

    step: float
    degrees: int

    @property
    def error(self) -> float:
        """Of the trapezoid, about."""
        return math.exp(-(math.pi**2) / self.step)

    @property
    def below(self) -> int:
        """Number of radii below START."""
        return round(12.8 / self.step)

    @property
    def near(self) -> int:
        """Number of radii that the integrals of Theorem 1 need."""
        return self.below + round(25.6 / self.step)

    @property
    def radii(self) -> Float64[np.ndarray, " radii"]:
        """Those, and further ones for integrals over dr/r alone: up to 40 over the least square."""
        return START * np.exp(
            self.step * np.arange(-self.below, self.near - self.below + round(3.84 / self.step))
        )


FINE, MEDIUM, COARSE = Rule(0.32, 18), Rule(0.4, 13), Rule(0.64, 11)  # errors of 4e-14, 2e-11 and 2e-7


def _cumulants(p: np.ndarray) -> np.ndarray:
    """Coefficients of z^3 .. z^ORDER in log(1 - p + p exp(-z)), of shape (ORDER - 2, *p.shape)."""
    polynomial, factor = np.polynomial.Polynomial([0, 1]), np.polynomial.Polynomial([0, 1, -1])
    rows = []
    for order in range(2, ORDER + 1):
        polynomial = factor * polynomial.deriv()
        rows.append((-1) ** order / math.factorial(order) * polynomial(p))
    return np.stack(rows[1:])


def _lack(z: np.ndarray, p: np.ndarray) -> np.ndarray:
    """1 - omega, omega = exp(-z) / (1 - p + p exp(-z)): the derivative of the logarithm is -p omega."""
    return -(1 - p) * np.expm1(-z) / (1 + p * np.expm1(-z))


def _lack_series(z: np.ndarray, p: np.ndarray) -> np.ndarray:
    """(1 - p) z - `_lack` for z < START: the derivative of the series of the logarithm, over -p."""
    orders = np.arange(3, ORDER + 1).reshape(-1, *(1,) * p.ndim)
    return -(z**2) * np.polynomial.polynomial.polyval(z, orders * _cumulants(p) / p, tensor=False)


def table(
    p: Float[np.ndarray, " connectivities"], tangent: bool = False, rule: Rule = FINE
) -> Float64[np.ndarray, "sums values moments"]:
    """Coefficients from moments to the sums that `integrals` needs, at each radius and p.

    First log(1 - p + p exp(-z)) minus its leading terms: -p z + p (1-p) z^2 / 2 below START, -p z from there on. With
    `tangent` also lambda = 1 - omega (below START: (1-p) z - lambda), and lambda (1 - 2 p + p lambda) / p.
    """
    degrees, radii = rule.degrees, rule.radii if tangent else rule.radii[: rule.near]
    points = np.pi * (np.arange(degrees) + 0.5) / degrees
    depth = BIN * (np.arange(BINS)[:, None] + (np.cos(points) + 1) / 2)
    z = np.multiply.outer(radii, np.exp(-depth))[:, None]
    low, high, p = z[: rule.below], z[rule.below :], p[:, None, None]
    with np.errstate(divide="ignore", invalid="ignore"):  # p = 1
        whole = np.maximum(np.log1p(p * np.expm1(-high)), -high) + p * high
        lack = np.where(p == 1, 0, _lack(z, p))
    series = low**3 * np.polynomial.polynomial.polyval(low, _cumulants(p), tensor=False)
    values = [np.concatenate([series, whole])]  # (radii, connectivities, bins, points)
    if tangent:
        values.append(np.concatenate([_lack_series(low, p), lack[rule.below :]]))
        values.append(lack * (1 - 2 * p + p * lack) / p)
    transform = (
        np.cos(points[:, None] * np.arange(degrees)) * np.where(np.arange(degrees) > 0, 2, 1) / degrees
    )
    return (np.stack(values) @ transform).reshape(len(values), -1, BINS * degrees)


def _chebyshev(argument: Array, degrees: int) -> Array:
    """The first polynomials, along a new first axis."""
    rows = [jnp.ones_like(argument), argument]
    for _ in range(degrees - 2):  # without the barrier XLA recomputes each row from the first
        rows.append(jax.lax.optimization_barrier(2 * argument * rows[-1] - rows[-2]))
    return jnp.stack(rows)


def moments(
    logarithm: Float[Array, " coordinates"], weights: Float[Array, "sums coordinates"], rule: Rule = FINE
) -> Float[Array, "sums moments"]:
    """Chebyshev moments, bin by bin, of the logarithms (at most 0) of the squares at one angle, for each weighting."""
    depth = jnp.clip(-logarithm / BIN, 0, BINS * (1 - 1e-15))
    place = jnp.floor(depth)
    place, argument = jax.lax.optimization_barrier((place, 2 * (depth - place) - 1))
    member = jnp.where(place == jnp.arange(BINS)[:, None], weights[:, None], 0)
    return (member @ _chebyshev(argument, rule.degrees).T).reshape(len(weights), -1)


class Sums(NamedTuple):
    """Sums over coordinates at each angle, with the squares c^2 in units of the largest.

    The moments count squares below exp(-DEPTH) as exp(-DEPTH), and so does `clipped2`.
    """

    moments: Float[Array, "angles sums moments"]
    power2: Float[Array, " angles"]  # sum c^2
    clipped2: Float[Array, " angles"]
    power4: Float[Array, " angles"]
    mixed2: Float[Array, " angles"]  # sum x y c^2, clipped
    mixed: Float[Array, ""]  # sum x y
    squares: Float[Array, ""]  # sum (x y)^2


def _theorem_integrands(power2: Array, r: Array, excess: Array, share: Array, fourth: Array) -> list[Array]:
    product = jnp.exp(excess - power2 * r)
    return [product * share / r, product * (share - (1 - share) * fourth) / r**2]


def _tangent_integrands(
    product: Array, share: Array, first: Array, spread: Array, sums: Sums, p: Array, r: Array, below: Array
) -> list[Array]:
    """Of E[C exp(-r S)]/p, E[C^2 exp(-r S)]/p^2 over r and E[C exp(-r S)]/p^2 over r^2, each dense minus sparse.

    C = sum s_i x_i y_i and S = sum s_i c_i^2 under the mask s. In the last the sparse part comes first, and the dense
    one has the covariance of C and S. `first` and `spread` are the sums of the tables.
    """
    linear = (1 - p) * r * sums.mixed2
    lack = jnp.where(below, linear - first, first)  # sum x y (1 - omega)
    remainder = jnp.where(below, first, linear - first)
    square = sums.mixed**2 + (1 - p) / p * sums.squares
    return [
        product * (lack - sums.mixed * share),
        product * (lack * (2 * sums.mixed - lack) + spread - square * share),
        product / (p * r) * (remainder + (sums.mixed - linear) * share),
    ]


def integrals(
    tables: Float[Array, "sums values moments"],
    sums: Sums,
    p: Float[Array, " connectivities"],
    rule: Rule = FINE,
) -> list[Float[Array, "connectivities angles"]]:
    """Integrals over r from 0 to infinity, by the trapezoid rule in log r, with `tables` of `table(p)`:

    of (product - Gaussian) / r^2 and (product - Gaussian (1 + p (1-p) r^2 / 2 sum c^4)) / r^3, where the Gaussian
    is exp(-p r sum c^2); then, where the tables have them, those of `_tangent_integrands`.
    """
    shape = -1, len(p), len(sums.power2)
    rest, *others = ((rows @ sums.moments[:, i].T).reshape(shape) for i, rows in enumerate(tables))
    r, p = jnp.asarray(rule.radii[: len(rest), None, None]), p[:, None]
    below = jnp.arange(len(rest))[:, None, None] < rule.below
    fourth = p * (1 - p) / 2 * sums.power4 * r**2
    excess = rest + jnp.where(below, fourth, 0)  # log(product / Gaussian) >= 0
    share = -jnp.expm1(-excess)  # (product - Gaussian) / product: nothing overflows
    near = (part[: rule.near] for part in (r, excess, share, fourth))
    integrands = _theorem_integrands(p * sums.power2, *near)
    # Above the last radius only the masks without survivors remain.
    ends = [f[-1] / math.expm1(order * rule.step) for order, f in enumerate(integrands, 1)]
    if others:
        product = jnp.exp(excess - p * sums.clipped2 * r)
        first, spread = others
        integrands += _tangent_integrands(product, share, first, spread, sums, p, r, below)
        ends += [jnp.zeros_like(ends[0])] * 3
    # Below the first radius the integrands fall as r.
    return [
        rule.step * (f.sum(0) + f[0] / math.expm1(rule.step) + end)
        for f, end in zip(integrands, ends, strict=True)
    ]
