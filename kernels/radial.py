"""Radial integrals over products prod_i (1 - p + p exp(-r c_i^2)), for every radius and connectivity at once.

The logarithm of the product is a sum over coordinates of one function of log r + log c_i^2, analytic in a strip
of half-width pi/2 (less near p = 1). Chebyshev polynomials of log c_i^2 on a few bins represent it to rounding,
so the coordinates enter through their Chebyshev moments, which do not depend on r or p; a table that depends on r
and p alone turns moments into logarithms by one matrix product (derived in README.md).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

STEP = 0.32  # in log r: the error of the trapezoid is about exp(-pi^2 / STEP) = 4e-14
BELOW, ABOVE = 40, 80  # numbers of radial nodes below START, and from there on
START = 0.25  # r times the largest |(x_i, y_i)|^2; below it the logarithm is a short power series
ORDER = 12  # of that series, whose radius of convergence is at least pi
RADII = START * np.exp(STEP * np.arange(-BELOW, ABOVE))
BIN, BINS = 1.2, 20  # in log c^2: smaller squares than exp(-24) of the largest count as exp(-24)
DEGREES = 18  # of Chebyshev polynomials on a bin: the error falls 5-fold with each (near p = 1, 2- to 3-fold)


def _cumulants(p: np.ndarray) -> np.ndarray:
    """Coefficients of z^3 .. z^ORDER in log(1 - p + p exp(-z)), of shape (ORDER - 2, *p.shape)."""
    polynomial, factor = np.polynomial.Polynomial([0, 1]), np.polynomial.Polynomial([0, 1, -1])
    rows = []
    for order in range(2, ORDER + 1):
        polynomial = factor * polynomial.deriv()
        rows.append((-1) ** order / math.factorial(order) * polynomial(p))
    return np.stack(rows[1:])


def table(p: Float[np.ndarray, " connectivities"]) -> Float64[np.ndarray, "values moments"]:
    """Coefficients from moments to log(1 - p + p exp(-z)) minus its leading terms, at each of RADII and p.

    The leading terms are -p z + p (1-p) z^2 / 2 below START, and -p z from there on.
    """
    points = np.pi * (np.arange(DEGREES) + 0.5) / DEGREES
    depth = BIN * (np.arange(BINS)[:, None] + (np.cos(points) + 1) / 2)
    z = np.multiply.outer(RADII, np.exp(-depth))[:, None]
    p = p[:, None, None]
    with np.errstate(divide="ignore"):  # p = 1
        whole = np.maximum(np.log1p(p * np.expm1(-z[BELOW:])), -z[BELOW:]) + p * z[BELOW:]
    series = z[:BELOW] ** 3 * np.polynomial.polynomial.polyval(z[:BELOW], _cumulants(p), tensor=False)
    values = np.concatenate([series, whole])  # (radii, connectivities, bins, points)
    transform = (
        np.cos(points[:, None] * np.arange(DEGREES)) * np.where(np.arange(DEGREES) > 0, 2, 1) / DEGREES
    )
    return (values @ transform).reshape(-1, BINS * DEGREES)


def _chebyshev(argument: Array) -> Array:
    """The first DEGREES polynomials, along a new first axis."""
    rows = [jnp.ones_like(argument), argument]
    for _ in range(DEGREES - 2):  # without the barrier XLA recomputes each row from the first
        rows.append(jax.lax.optimization_barrier(2 * argument * rows[-1] - rows[-2]))
    return jnp.stack(rows)


def moments(
    logarithm: Float[Array, " coordinates"], count: Float[Array, " coordinates"]
) -> Float[Array, " moments"]:
    """Chebyshev moments, bin by bin, of the logarithms (at most 0) of the squares at one angle."""
    depth = jnp.clip(-logarithm / BIN, 0, BINS * (1 - 1e-15))
    place = jnp.floor(depth)
    place, argument = jax.lax.optimization_barrier((place, 2 * (depth - place) - 1))
    member = jnp.where(place == jnp.arange(BINS)[:, None], count, 0)
    return (member @ _chebyshev(argument).T).ravel()


def integrals(
    logarithms: Float[Array, "values moments"],
    moments: Float[Array, "angles moments"],
    sum2: Float[Array, " angles"],
    sum4: Float[Array, " angles"],
    p: Float[Array, " connectivities"],
) -> tuple[Float[Array, "connectivities angles"], Float[Array, "connectivities angles"]]:
    """Integrals over r from 0 to infinity, for squares of at most 1, by the trapezoid rule in log r:

    of (product - Gaussian) / r^2 and (product - Gaussian (1 + p (1-p) r^2 / 2 sum c^4)) / r^3, where the Gaussian
    is exp(-p r sum c^2). `logarithms` is `table(p)`; sum2 and sum4 are the sums of c^2 and c^4.
    """
    rest = (logarithms @ moments.T).reshape(len(RADII), len(p), len(moments))
    r, below = RADII[:, None, None], np.arange(len(RADII))[:, None, None] < BELOW
    fourth = (p * (1 - p) / 2)[:, None] * sum4 * r**2
    excess = rest + jnp.where(below, fourth, 0)  # log(product / Gaussian) >= 0
    product = jnp.exp(excess - p[:, None] * sum2 * r)
    share = -jnp.expm1(-excess)  # (product - Gaussian) / product: nothing overflows
    first = product * share / r
    second = product * (share - (1 - share) * fourth) / r**2
    # Below the first radius both integrands fall as r; above the last one only the masks without survivors remain.
    ends1 = first[0] / math.expm1(STEP) + first[-1] / math.expm1(STEP)
    ends2 = second[0] / math.expm1(STEP) + second[-1] / math.expm1(2 * STEP)
    return STEP * (first.sum(0) + ends1), STEP * (second.sum(0) + ends2)
