"""Where exact D is least. In: pairs of inputs, a constraint on n and p. Out: the curve of D, its minimiser.

Source: Section 4 and equation (25), with the exact D of Theorem 1 in place of (4). K_{l,p} does not depend
on n, so one evaluation on a grid of connectivities serves every n p, every statistic over pairs and every
bootstrap sample.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import ArrayLike, Float, Float64, Int

from kernels.theorem1 import SparseKernels, sparse_kernels, squared_distance
from kernels.validation import checked_connectivity, checked_width
from wsn.errors import UserError

BOOTSTRAP_BLOCK = 64  # samples weighed together: 64 x pairs numbers in memory


class Minimum(NamedTuple):
    """The least of a sampled curve; both NaN where it falls or rises to an end of the range."""

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
    """`points` connectivities from low to high, evenly spaced in the logarithm: the searched range."""
    if not low < high:
        raise UserError(f"the range of connectivities, {low:g} to {high:g}, is empty: give low < high")
    grid = np.geomspace(low, high, points)
    grid[[0, -1]] = low, high  # exactly
    return checked_connectivity(grid)


def at_fixed_weights_per_input(
    kernels: SparseKernels, connectivity: Float[ArrayLike, " points"], weights_per_input: float
) -> DistanceCurves:
    """D at fixed n p, n = `weights_per_input` / p (a real number); `kernels` are of these connectivities."""
    p = checked_connectivity(connectivity)
    width = weights_per_input / p
    return DistanceCurves(p, width, squared_distance(kernels, width).total.reshape(-1, len(p)))


def budget_connectivity(
    width: npt.ArrayLike, features: int, outputs: int, budget: int
) -> Float64[np.ndarray, "..."]:
    """p = (budget - outputs n) / (features n) of each width: a dense last layer, the rest in the first.

    Source: Figure 8. Raises UserError if the last layer of a width takes the whole budget, or if a width is too
    narrow to hold it.
    """
    width = checked_width(width)
    left = budget - outputs * width
    if (left <= 0).any():
        raise UserError(
            f"width {width.max():g} needs {outputs * width.max():g} of {budget} weights in the last layer"
        )
    connectivity = left / (features * width)
    if (connectivity > 1 + 1e-12).any():
        raise UserError(f"width {width.min():g} cannot hold {budget} weights: give larger widths")
    return checked_connectivity(np.minimum(connectivity, 1))


def at_fixed_budget(
    x: Float[ArrayLike, "pairs features"],
    y: Float[ArrayLike, "pairs features"],
    width: npt.ArrayLike,
    outputs: int,
    budget: int,
    tolerance: float = 1e-7,
) -> DistanceCurves:
    """Exact D at each width of a list, the connectivity what the budget leaves the first layer."""
    width = np.asarray(width, np.float64)
    p = budget_connectivity(width, np.shape(x)[-1], outputs, budget)
    kernels = sparse_kernels(x, y, p, tolerance=tolerance)
    return DistanceCurves(p, width, squared_distance(kernels, width).total.reshape(-1, len(p)))


def minimum(position: Float[ArrayLike, " points"], curve: Float[ArrayLike, " points"]) -> Minimum:
    """The minimiser of a curve on a grid even in log position, from a parabola through the lowest three.

    NaN where the lowest point is an end of the grid: there is no minimum inside the searched range.
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
    """Minimisers of the mean curve over bootstrap samples of *images*; NaN: no minimum inside.

    Pairs that share an image are not independent. `images` names the two images of each pair; a pair weighs
    the product of how often both were drawn (the pigeonhole bootstrap, Owen 2007). Spreads are right where
    pairs differ by their images, and up to sqrt(3) too wide where what differs belongs to the pair alone.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    used, place = np.unique(np.asarray(images), return_inverse=True)
    first, second = place.reshape(-1, 2).T
    minimisers: list[float] = []
    while len(minimisers) < samples:
        block = min(BOOTSTRAP_BLOCK, samples - len(minimisers))
        drawn = rng.integers(len(used), size=(block, len(used))) + len(used) * np.arange(block)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
        sums = (counts[:, first] * counts[:, second]) @ curves.distance  # as good as means: same minimiser
        minimisers += [minimum(curves.connectivity, curve).at for curve in sums]
    return np.asarray(minimisers)


def share_of_pairs(distance: Float[ArrayLike, " pairs"], part: float = 0.9) -> float:
    """The least share of pairs that carries `part` of the sum of D: small where outliers make the mean."""
    largest_first = np.sort(np.asarray(distance, np.float64))[::-1]
    carriers = np.searchsorted(np.cumsum(largest_first), part * largest_first.sum()) + 1
    return float(carriers) / len(largest_first)
