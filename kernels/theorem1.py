"""Theorem 1, exactly: kernels of sparse networks and their distance to the infinitely wide dense one.

Source: Theorem 1 and equations (1)-(3). `sparse_kernels` chooses among closed forms (p = 1, parallel vectors, a zero
vector), the sum over masks (`kernels.enumeration`) and quadrature (`kernels.quadrature`); Monte Carlo over masks
(`kernels.sampling`) is the independent check. Errors are scaled: |error of K_l| / (|x||y|)^l.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jaxtyping import Float64

from kernels import enumeration, quadrature, radial
from kernels.closed_forms import arc_cosine
from kernels.precision import in_float64, on_cpu
from kernels.validation import checked_connectivity, checked_pairs, checked_width
from wsn.errors import UserError
from wsn.machine import usable_cores

METHODS = ("closed form", "enumeration", "quadrature")
ROUNDING = 1e-13  # scaled error of results that are exact up to rounding


class SparseKernels(NamedTuple):
    """Arrays of shape (*pairs, *connectivities), and the number of features, d."""

    k1: Float64[np.ndarray, "..."]
    k2: Float64[np.ndarray, "..."]
    k1_excess: Float64[np.ndarray, "..."]  # K_{1,p} - K_1, computed without their cancellation
    error_estimate: Float64[np.ndarray, "..."]  # the larger of the two scaled errors
    method: np.ndarray  # of str, each one of METHODS
    features: int


class Distance(NamedTuple):
    """D = bias2 + variance, equation (1), each of shape (*pairs, *connectivities)."""

    bias2: Float64[np.ndarray, "..."]
    variance: Float64[np.ndarray, "..."]
    total: Float64[np.ndarray, "..."]


class _Units(NamedTuple):
    """Results for unit vectors, (pairs, connectivities), of every method."""

    k1_excess: np.ndarray
    k2: np.ndarray
    k1_error: np.ndarray
    k2_error: np.ndarray


def _unit_vectors(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x / |x| and |x|, by rows, without overflow; a zero vector stays zero."""
    largest = np.abs(x).max(axis=1, keepdims=True)
    x = x / np.where(largest > 0, largest, 1)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, 1), (norm * largest)[:, 0]


def _choose(x: np.ndarray, y: np.ndarray, method: str) -> np.ndarray:
    """Index in METHODS of the method for each pair of unit (or zero) vectors."""
    apart, together = np.linalg.norm(x - y, axis=1), np.linalg.norm(x + y, axis=1)
    absent = ~x.any(axis=1) | ~y.any(axis=1)
    closed = absent | (np.minimum(apart, together) < quadrature.NEAR_PARALLEL)
    few = ((x != 0) | (y != 0)).sum(axis=1) <= enumeration.MOST_COORDINATES
    if method == "enumeration" and not few.all():
        raise UserError(
            f"`method=enumeration` takes at most {enumeration.MOST_COORDINATES} non-zero coordinates"
        )
    if method == "quadrature":
        few[:] = False
    return np.where(few, 1, np.where(closed, 0, 2))


_enumerate = in_float64(enumeration.enumerate_masks)


def _closed_form(x: np.ndarray, y: np.ndarray, p: np.ndarray) -> _Units:
    """Parallel vectors, y = c x: K_1 = 1/2 and K_2 = (3 + 3 (1-p)/p sum x^2 y^2)/2 for c > 0, else 0.

    For nearly parallel vectors the error is of second order in their difference.
    """
    same_side = ((x * y).sum(axis=1) > 0)[:, None]
    k2 = np.where(same_side, 1.5 + 1.5 * (x**2 * y**2).sum(axis=1)[:, None] * (1 - p) / p, 0)
    gap = np.where(x.any(axis=1) & y.any(axis=1), np.linalg.norm(x - np.where(same_side, y, -y), axis=1), 0)
    error = np.maximum(ROUNDING, gap[:, None] ** 2) * np.ones(k2.shape)
    return _Units(np.zeros(k2.shape), k2, error, error * np.maximum(1, k2))


def _enumeration(x: np.ndarray, y: np.ndarray, p: np.ndarray) -> _Units:
    """Move the non-zero coordinates to the front and sum over their masks."""
    order = np.argsort((x == 0) & (y == 0), axis=1, kind="stable")[:, : enumeration.MOST_COORDINATES]
    width = ((0, 0), (0, enumeration.MOST_COORDINATES - order.shape[1]))
    x, y = (np.pad(np.take_along_axis(z, order, 1), width) for z in (x, y))
    k1, k2 = _enumerate(x, y, np.append(p, 1.0))
    error = np.full((len(x), len(p)), ROUNDING)
    return _Units(k1[:, :-1] - k1[:, -1:], k2[:, :-1], error, error * np.maximum(1, k2[:, :-1]))


def _quadrature(x: np.ndarray, y: np.ndarray, p: np.ndarray, tolerance: float) -> _Units:
    """Refine the angular grid of each pair until its error estimate meets the tolerance at every connectivity.

    More angles do not help where rounding dominates the estimate. Of two grids the result with the smaller estimate
    is used: the coarser one where the finer only added rounding.
    """
    shape = (len(x), len(p))
    best = _Units(np.zeros(shape), np.zeros(shape), np.full(shape, np.inf), np.full(shape, np.inf))
    size = ((x != 0) | (y != 0)).sum(axis=1)
    pending = np.argsort(size, kind="stable")  # pairs of similar size have the same padding
    padded = np.concatenate([p, np.full(-len(p) % 5, p[-1])])  # few shapes, few compilations
    logarithms = radial.table(padded)
    # With few survivors the integrand is rough: the first grid would not meet a fine tolerance for most pairs.
    rough = int(p.min() * size.mean() < 20 and tolerance < 1e-5)
    for angles in quadrature.ANGLES[rough:]:

        def integrate(row: np.integer, angles: int = angles) -> quadrature.Result:
            with jax.enable_x64(True), on_cpu():
                result = quadrature.integrate(quadrature.pack(x[[row]], y[[row]]), padded, logarithms, angles)
                return jax.tree.map(lambda leaf: np.asarray(leaf)[0, : len(p)], result)

        unmet = np.zeros(len(x), bool)
        with ThreadPoolExecutor(usable_cores()) as pool:  # a pair at a time on each core
            results = zip(pending, pool.map(integrate, pending), strict=True)
        for row, result in results:
            for value, error, rounding in ((0, 2, 4), (1, 3, 5)):
                new, error, rounding = (result[field] for field in (value, error, rounding))
                better = error + rounding < best[value + 2][row]
                best[value][row] = np.where(better, new, best[value][row])
                best[value + 2][row] = np.where(better, error + rounding, best[value + 2][row])
                unmet[row] |= ((best[value + 2][row] > tolerance) & (error > rounding)).any()
        pending = pending[unmet[pending]]
        if not len(pending):
            break
    return best._replace(k1_error=best.k1_error + ROUNDING, k2_error=best.k2_error + ROUNDING / p)


def sparse_kernels(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    connectivity: npt.ArrayLike,
    *,
    tolerance: float = 1e-8,
    method: str = "auto",
) -> SparseKernels:
    """K_{1,p} and K_{2,p} of each pair at every connectivity, each pair by the method that suits it.

    x and y are (*pairs, features), connectivities one number or an array of any shape. Quadrature refines to the
    scaled error `tolerance`; `error_estimate` is what it reached, and no bound (see README.md). For checks, `method`
    may force "enumeration" (at most 14 coordinates that are non-zero in x or y) or "quadrature".

    Raises UserError if shapes differ, values are not finite or too large or small for (|x||y|)^2, a connectivity is
    outside (0, 1], or the forced method does not apply to a pair.
    """
    x, y = checked_pairs(x, y)
    connectivity = checked_connectivity(connectivity)
    if method not in ("auto", "enumeration", "quadrature"):
        raise UserError(f"`method={method}`: give auto, enumeration or quadrature")
    pairs, features = x.shape[:-1], x.shape[-1]
    p = connectivity.ravel()
    (x, x_norm), (y, y_norm) = (_unit_vectors(z.reshape(-1, features)) for z in (x, y))
    with np.errstate(over="ignore", under="ignore"):
        square = (x_norm * y_norm) ** 2
    if not np.isfinite(square).all() or (square[(x_norm > 0) & (y_norm > 0)] == 0).any():
        raise UserError("`x` and `y` are too large or too small for float64: rescale them")
    chosen = _choose(x, y, method)
    evaluate: tuple[Callable[..., _Units], ...] = (
        _closed_form,
        _enumeration,
        partial(_quadrature, tolerance=tolerance),
    )
    units = _Units(*(np.empty((len(x), len(p))) for _ in _Units._fields))
    for code, function in enumerate(evaluate):
        rows = np.flatnonzero(chosen == code)
        if len(rows):
            for whole, part in zip(units, function(x[rows], y[rows], p), strict=True):
                whole[rows] = part

    dense1, dense2 = (arc_cosine(x, y, order)[:, None] for order in (1, 2))
    dense = map(np.asarray, (0, dense2, ROUNDING, ROUNDING))
    units = _Units(*(np.where(p == 1, exact, unit) for exact, unit in zip(dense, units, strict=True)))
    chosen = np.where(p == 1, 0, chosen[:, None])
    scale, shape = (x_norm * y_norm)[:, None], pairs + connectivity.shape
    return SparseKernels(
        k1=(scale * (dense1 + units.k1_excess)).reshape(shape),
        k2=(scale**2 * units.k2).reshape(shape),
        k1_excess=(scale * units.k1_excess).reshape(shape),
        error_estimate=np.maximum(units.k1_error, units.k2_error).reshape(shape),
        method=np.asarray(METHODS)[chosen].reshape(shape),
        features=features,
    )


def squared_distance(kernels: SparseKernels, width: npt.ArrayLike) -> Distance:
    """Equation (1): E[(Theta_{n,p} - Theta_inf)^2] of each pair; `width` broadcasts over the connectivities.

    `sparse_kernels` does not depend on n: one evaluation serves all widths, such as n = np / p at fixed np.
    """
    bias2 = (kernels.k1_excess / kernels.features) ** 2
    variance = (kernels.k2 - kernels.k1**2) / kernels.features**2 / checked_width(width)
    return Distance(bias2, variance, bias2 + variance)
