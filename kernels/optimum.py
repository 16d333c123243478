"""The connectivity or width of least D, with the exact D of Theorem 1 instead of equation (4).

Source: Section 4 and equation (25). K_{l,p} does not depend on n, so one evaluation on a grid of connectivities
serves every n p, every statistic over pairs and every bootstrap sample.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import ArrayLike, Float, Float64, Int

from kernels.theorem1 import SparseKernels, sparse_kernels, squared_distance
from kernels.validation import checked_connectivity, checked_width
from wsn.errors import UserError

BOOTSTRAP_BLOCK = 64  # samples at a time: 64 x pairs numbers in memory


class Minimum(NamedTuple):
    """The minimum of a sampled curve; both NaN where it lies at an end of the range."""

    at: float
    value: float


class DistanceCurves(NamedTuple):
    """D of each pair along a line in the plane of widths and connectivities."""

    connectivity: Float64[np.ndarray, " points"]
    width: Float64[np.ndarray, " points"]
    distance: Float64[np.ndarray, "pairs points"]


def connectivity_grid(
    low: float = 1e-3, high: float = 1.0, points: int = 49
) -> Float64[np.ndarray, " points"]:
    """`points` connectivities from low to high, evenly spaced in the logarithm."""
    if not low < high:
        raise UserError(f"`low={low:g}`: give less than high = {high:g}")
    grid = np.geomspace(low, high, points)
    grid[[0, -1]] = low, high  # exactly
    return checked_connectivity(grid)


def at_fixed_weights_per_input(
    kernels: SparseKernels, connectivity: Float[ArrayLike, " points"], weights_per_input: float
) -> DistanceCurves:
    """D at fixed n p, n = `weights_per_input` / p (a real number); `kernels` must be those of `connectivity`."""
    p = checked_connectivity(connectivity)
    width = weights_per_input / p
    return DistanceCurves(p, width, squared_distance(kernels, width).total.reshape(-1, len(p)))


def budget_connectivity(
    width: npt.ArrayLike, features: int, outputs: int, budget: int
) -> Float64[np.ndarray, "..."]:
    """p = (budget - outputs n) / (features n) for each width: the last layer is dense, the first keeps the rest.

    Source: Figure 8. Raises UserError if the last layer of a width needs the whole budget, or a width is too narrow.
    """
    width = checked_width(width)
    left = budget - outputs * width
    if (left <= 0).any():
        raise UserError(
            f"`width={width.max():g}` needs {outputs * width.max():g} of {budget} weights in the last layer"
        )
    connectivity = left / (features * width)
    if (connectivity > 1 + 1e-12).any():
        raise UserError(f"`width={width.min():g}` cannot hold {budget} weights: give larger widths")
    return checked_connectivity(np.minimum(connectivity, 1))


def at_fixed_budget(
    x: Float[ArrayLike, "pairs features"],
    y: Float[ArrayLike, "pairs features"],
    width: npt.ArrayLike,
    outputs: int,
    budget: int,
    tolerance: float = 1e-7,
) -> DistanceCurves:
    """Exact D at each width, with the connectivity that the budget leaves for the first layer."""
    width = np.asarray(width, np.float64)
    p = budget_connectivity(width, np.shape(x)[-1], outputs, budget)
    kernels = sparse_kernels(x, y, p, tolerance=tolerance)
    return DistanceCurves(p, width, squared_distance(kernels, width).total.reshape(-1, len(p)))


def minimum(position: Float[ArrayLike, " points"], curve: Float[ArrayLike, " points"]) -> Minimum:
    """The minimizer of a curve on a grid that is even in log position, by a parabola through the lowest three points.

    NaN where the lowest point is an end of the grid.
    """
    logs, curve = np.log(np.asarray(position, np.float64)), np.asarray(curve, np.float64)
    lowest = int(np.argmin(curve))
    if lowest in (0, len(curve) - 1):
        return Minimum(np.nan, np.nan)
    near = slice(lowest - 1, lowest + 2)
    a, b, c = np.polyfit(logs[near] - logs[lowest], curve[near], 2)
    return Minimum(float(np.exp(logs[lowest] - b / (2 * a))), float(c - b**2 / (4 * a)))


def bootstrap_minimum(
    curves: DistanceCurves,
    images: Int[ArrayLike, "pairs 2"],
    samples: int = 1000,
    seed: int = 0,
) -> Float64[np.ndarray, " samples"]:
    """Minimizers of the mean curve over bootstrap samples of *images*; NaN where there is no minimum inside.

    Pairs that share an image are not independent. `images` has the two images of each pair; a pair's weight is the
    product of their counts (the pigeonhole bootstrap, Owen 2007). The spread is right where variation comes from
    images, and up to sqrt(3) too wide where it comes from pairs.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    used, place = np.unique(np.asarray(images), return_inverse=True)
    first, second = place.reshape(-1, 2).T
    minimizers: list[float] = []
    while len(minimizers) < samples:
        block = min(BOOTSTRAP_BLOCK, samples - len(minimizers))
        drawn = rng.integers(len(used), size=(block, len(used))) + len(used) * np.arange(block)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
        sums = (counts[:, first] * counts[:, second]) @ curves.distance  # sums have the minimizer of means
        minimizers += [minimum(curves.connectivity, curve).at for curve in sums]
    return np.asarray(minimizers)


def share_of_pairs(distance: Float[ArrayLike, " pairs"], part: float = 0.9) -> float:
    """The smallest fraction of pairs with `part` of the sum of D: small where outliers dominate the mean."""
    largest_first = np.sort(np.asarray(distance, np.float64))[::-1]
    sums = np.cumsum(largest_first)
    return float(np.searchsorted(sums, part * sums[-1]) + 1) / len(sums)
