"""Moments of the kernels of a masked pair, each pair by the method that suits it.

The kernels of unit vectors under a random mask s: K_{1,p} - K_1 and K_{2,p} (`kernels.theorem1`), and of the tangent
kernel E[C K_0]/p - C K_0, E[C^2 K_0]/p^2 and E[C K_1]/p^2 (`kernels.sparse_ntk`), C = x_s.y_s. `mask_moments` chooses
among closed forms (p = 1, parallel vectors, a zero vector), the sum over masks (`enumeration`), `quadrature`.
Errors are scaled, |error| / (|x||y|)^l with the power l of each moment.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jaxtyping import Float64

from kernels.closed_forms import arc_cosine
from kernels.masks import enumeration, quadrature, radial
from kernels.precision import in_float64, on_cpu
from kernels.validation import checked_connectivity, checked_pairs
from wsn.errors import UserError
from wsn.machine import usable_cores

METHODS = ("closed form", "enumeration", "quadrature")
ROUNDING = 1e-13  # scaled error of results that are exact up to rounding
# Tolerances from which a coarser rule in the radius will do; the coarsest only for the tangent kernel.
MEDIUM_TOLERANCE, COARSE_TOLERANCE = 1e-7, 1e-5
ORDERS = np.array([1, 2, 1, 2, 2])  # powers of |x||y| and of 1/p
# Smallest gap |x/|x| -+ y/|y|| that is not a closed form: K_1 is of second order in the gap, K_0 of first.
NEAR_PARALLEL = {2: 1e-5, 5: 1e-8}


class MaskMoments(NamedTuple):
    """Arrays of shape (moments, *pairs, *connectivities), 2 moments or 5; the method is that of all."""

    value: Float64[np.ndarray, "..."]  # at p = 1: 0, K_2, 0, C^2 K_0, C K_1
    dense: Float64[np.ndarray, "..."]  # at p = 1: K_1, K_2, C K_0, C^2 K_0, C K_1
    error_estimate: Float64[np.ndarray, "..."]  # scaled
    method: np.ndarray  # of str, each one of METHODS


class _Units(NamedTuple):
    """Results for unit vectors, (moments, pairs, connectivities), of every method."""

    value: np.ndarray
    error: np.ndarray


def _unit_vectors(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x / |x| and |x|, by rows, without overflow; a zero vector stays zero."""
    largest = np.abs(x).max(axis=1, keepdims=True)
    x = x / np.where(largest > 0, largest, 1)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, 1), (norm * largest)[:, 0]


def _choose(x: np.ndarray, y: np.ndarray, method: str, gap: float) -> np.ndarray:
    """Index in METHODS of the method for each pair of unit (or zero) vectors."""
    apart, together = np.linalg.norm(x - y, axis=1), np.linalg.norm(x + y, axis=1)
    absent = ~x.any(axis=1) | ~y.any(axis=1)
    closed = absent | (np.minimum(apart, together) < gap)
    few = ((x != 0) | (y != 0)).sum(axis=1) <= enumeration.MOST_COORDINATES
    if method == "enumeration" and not few.all():
        raise UserError(
            f"`method=enumeration` takes at most {enumeration.MOST_COORDINATES} non-zero coordinates"
        )
    if method == "quadrature":
        few[:] = False
    return np.where(few, 1, np.where(closed, 0, 2))


_enumerate = in_float64(enumeration.enumerate_masks)


def _dense(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """K_1, K_2, C K_0, C^2 K_0 and C K_1 of unit (or zero) vectors, (moments, pairs)."""
    k0, k1, k2 = (arc_cosine(x, y, order) for order in (0, 1, 2))
    mixed = (x * y).sum(axis=1)
    return np.stack([k1, k2, mixed * k0, mixed**2 * k0, mixed * k1])


def _scaled_up(value: np.ndarray, error: np.ndarray | float) -> _Units:
    """An error of values of order 1 becomes relative where 1/p makes them larger."""
    return _Units(value, error * np.maximum(1, np.abs(value)))


def _closed_form(x: np.ndarray, y: np.ndarray, p: np.ndarray) -> _Units:
    """Parallel vectors, y = c x: for c > 0 K_2 = 3 m/2 and C^2 K_0 = C K_1 = m/2, m = 1 + (1-p)/p sum x^2 y^2, else 0.

    K_1 and C K_0 are those of the dense network. For nearly parallel vectors the error is of second order in their
    difference, and of first order in C K_0.
    """
    same_side = ((x * y).sum(axis=1) > 0)[:, None]
    square = np.where(same_side, 1 + (x**2 * y**2).sum(axis=1)[:, None] * (1 - p) / p, 0)
    gap = np.where(x.any(axis=1) & y.any(axis=1), np.linalg.norm(x - np.where(same_side, y, -y), axis=1), 0)
    value = np.multiply.outer([0, 1.5, 0, 0.5, 0.5], square)
    powers = np.array([2, 2, 1, 1, 1])[:, None, None]
    return _scaled_up(value, np.maximum(ROUNDING, gap[:, None] ** powers))


def _enumeration(x: np.ndarray, y: np.ndarray, p: np.ndarray) -> _Units:
    """Move the non-zero coordinates to the front and sum over their masks."""
    order = np.argsort((x == 0) & (y == 0), axis=1, kind="stable")[:, : enumeration.MOST_COORDINATES]
    width = ((0, 0), (0, enumeration.MOST_COORDINATES - order.shape[1]))
    x, y = (np.pad(np.take_along_axis(z, order, 1), width) for z in (x, y))
    means = np.moveaxis(_enumerate(x, y, np.append(p, 1.0)), 1, 0)
    value = means[..., :-1] - np.array([1, 0, 1, 0, 0])[:, None, None] * means[..., -1:]
    return _scaled_up(value, ROUNDING)


def _quadrature(x: np.ndarray, y: np.ndarray, p: np.ndarray, tolerance: float, moments: int) -> _Units:
    """Refine the angular grid of each pair, at the connectivities whose error estimate does not meet the tolerance.

    More angles do not help where rounding dominates the estimate. Of two grids the result with the smaller estimate
    is used: the coarser one where the finer only added rounding.
    """
    shape = (len(x), moments, len(p))
    best = _Units(np.zeros(shape), np.full(shape, np.inf))
    size = ((x != 0) | (y != 0)).sum(axis=1)
    pending = np.argsort(size, kind="stable")  # pairs of similar size have the same padding
    tangent = moments > 2
    rule = radial.MEDIUM if tolerance >= MEDIUM_TOLERANCE else radial.FINE
    rule = radial.COARSE if tangent and tolerance >= COARSE_TOLERANCE else rule
    unmet = np.ones((len(x), len(p)), bool)

    @cache
    def tables(columns: tuple[int, ...]) -> np.ndarray:
        return radial.table(p[list(columns)], tangent, rule)

    # With few survivors the integrand is rough: the first grid would not meet a fine tolerance for most pairs.
    rough = int(p.min() * size.mean() < 20 and tolerance < 1e-5)
    for angles in quadrature.ANGLES[rough:]:

        def integrate(row: np.integer, angles: int = angles) -> list[np.ndarray]:
            columns = np.flatnonzero(unmet[row])
            padded = np.pad(columns, (0, -len(columns) % 5), "edge")  # few shapes, few compilations
            with jax.enable_x64(True), on_cpu():
                pair = quadrature.pack(x[[row]], y[[row]])
                result = quadrature.integrate(pair, p[padded], tables(tuple(padded.tolist())), angles, rule)
                return [np.asarray(part)[0, :, : len(columns)] for part in result]

        with ThreadPoolExecutor(usable_cores()) as pool:  # a pair at a time on each core
            results = zip(pending, pool.map(integrate, pending), strict=True)
        for row, (value, error, rounding) in results:
            columns = np.flatnonzero(unmet[row])
            better = error + rounding < best.error[row][:, columns]
            best.value[row, :, columns] = np.where(better, value, best.value[row][:, columns]).T
            best.error[row, :, columns] = np.where(better, error + rounding, best.error[row][:, columns]).T
            missed = (best.error[row][:, columns] > tolerance) & (error > rounding)
            unmet[row, columns] = missed.any(axis=0)
        pending = pending[unmet[pending].any(axis=1)]
        if not len(pending):
            break
    least = max(ROUNDING, rule.error) / p ** (ORDERS[:moments, None] - 1)
    return _Units(*(np.moveaxis(part, 1, 0) for part in (best.value, best.error + least)))


def mask_moments(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    connectivity: npt.ArrayLike,
    *,
    tolerance: float,
    method: str,
    tangent: bool,
) -> MaskMoments:
    """The two moments of Theorem 1, or with `tangent` all five: see `kernels.theorem1.sparse_kernels`."""
    x, y = checked_pairs(x, y)
    connectivity = checked_connectivity(connectivity)
    if method not in ("auto", "enumeration", "quadrature"):
        raise UserError(f"`method={method}`: give auto, enumeration or quadrature")
    pairs, features, moments = x.shape[:-1], x.shape[-1], 5 if tangent else 2
    p = connectivity.ravel()
    (x, x_norm), (y, y_norm) = (_unit_vectors(z.reshape(-1, features)) for z in (x, y))
    with np.errstate(over="ignore", under="ignore"):
        square = (x_norm * y_norm) ** 2
    if not np.isfinite(square).all() or (square[(x_norm > 0) & (y_norm > 0)] == 0).any():
        raise UserError("`x` and `y` are too large or too small for float64: rescale them")
    chosen = _choose(x, y, method, NEAR_PARALLEL[moments])
    evaluate: tuple[Callable[..., _Units], ...] = (
        _closed_form,
        _enumeration,
        partial(_quadrature, tolerance=tolerance, moments=moments),
    )
    units = _Units(*(np.empty((moments, len(x), len(p))) for _ in _Units._fields))
    for code, function in enumerate(evaluate):
        rows = np.flatnonzero(chosen == code)
        if len(rows):
            for whole, part in zip(units, function(x[rows], y[rows], p), strict=True):
                whole[:, rows] = part[:moments]

    dense = _dense(x, y)[:moments, :, None]
    exact = dense * np.array([0, 1, 0, 1, 1])[:moments, None, None]
    value = np.where(p == 1, exact, units.value)
    scale = (x_norm * y_norm)[:, None] ** ORDERS[:moments, None, None]
    shape = pairs + connectivity.shape
    return MaskMoments(
        value=(scale * value).reshape(moments, *shape),
        dense=(scale * dense * np.ones(len(p))).reshape(moments, *shape),
        error_estimate=np.where(p == 1, ROUNDING, units.error).reshape(moments, *shape),
        method=np.asarray(METHODS)[np.where(p == 1, 0, chosen[:, None])].reshape(shape),
    )
