"""The width that a theory calls best, from inputs and a budget alone: where a kernel's distance to its limit is least.

One hidden layer with dense outputs: wider networks keep fewer weights of the first layer. Three exact distances, means
over pairs of inputs: of the GP kernel (Theorem 1), of the whole NTK, and of the first layer's part of the NTK. In both
the learning rate of the first layer is proportional to 1 / connectivity. Whether these distances predict the width of
best test accuracy is an empirical question: see experiments/RESULTS.md.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64, Int

from kernels.optimum import DistanceCurves, bootstrap_minimum, budget_connectivity, minimum
from kernels.sparse_ntk import SparseTangents, sparse_tangents, tangent_distance
from kernels.theorem1 import squared_distance
from kernels.validation import checked_matrix
from wsn.errors import UserError

KERNELS = {"gp": "GP kernel", "ntk": "NTK", "first": "first layer of the NTK"}
LEAST_LEFT = 1.0  # kept weights of the first layer per unit, at least: below it most units are dead
FLAT = 1.05  # widths within this factor of the least distance


class BestWidth(NamedTuple):
    """The least of one distance over width; NaN where it is least at an end of the range."""

    width: float
    low: float  # 95 % bootstrap interval over images, NaN where fewer than 95 % of the samples have a minimum
    high: float
    connectivity: float  # of the first layer, at `width`
    flat_low: float  # the widths of the curve whose distance is within 5 % of the least
    flat_high: float
    curves: DistanceCurves


def random_pairs(examples: int, pairs: int, seed: int = 0) -> Int[np.ndarray, "pairs 2"]:
    """`pairs` uniform draws of two different examples. Raises UserError if there are fewer than two examples."""
    if examples < 2 or pairs < 1:
        raise UserError(f"`pairs={pairs}`: give at least 1, of at least 2 examples (there are {examples})")
    rng = np.random.Generator(np.random.Philox(key=seed))
    first = rng.integers(examples, size=pairs)
    return np.stack([first, (first + rng.integers(1, examples, size=pairs)) % examples], axis=1)


def widths_of_budget(
    features: int, outputs: int, budget: int, points: int = 24
) -> Float64[np.ndarray, " points"]:
    """`points` widths, even in the logarithm: from the dense network to a kept weight per unit. Raises UserError."""
    if outputs < 1:
        raise UserError(f"`outputs={outputs}`: give at least 1")
    low, high = max(budget / (features + outputs), 1.0), budget / (outputs + LEAST_LEFT)
    if not low < high or points < 3:
        raise UserError(
            f"`weights={budget}` with {features} features and {outputs} outputs leaves no range of widths, or"
            f" `points={points}` is below 3: give more"
        )
    return np.geomspace(low, high, points)


def of_tangents(
    tangents: SparseTangents, width: Float64[np.ndarray, " points"], outputs: int, rate: float | None = None
) -> Mapping[str, DistanceCurves]:
    """D of each of KERNELS at each width and its connectivity; `tangents` are those of the connectivities.

    `rate` is that of `tangent_distance`: 1 / connectivity, or 1 for one learning rate.
    """
    distance = partial(tangent_distance, tangents, width, outputs=outputs, rate=rate)
    totals = {
        "gp": squared_distance(tangents.gp, width).total,
        "ntk": distance().distance.total,
        "first": distance(layers="first").distance.total,
    }
    p = tangents.connectivity
    return {name: DistanceCurves(p, width, total.reshape(-1, len(p))) for name, total in totals.items()}


def least(curves: DistanceCurves, images: Int[np.ndarray, "pairs 2"], samples: int, seed: int) -> BestWidth:
    """The minimum of the mean curve, and its bootstrap interval over images."""
    mean, width = curves.distance.mean(axis=0), curves.width
    best = minimum(width, mean)
    drawn = bootstrap_minimum(curves._replace(connectivity=width), images, samples, seed)
    inside = drawn[~np.isnan(drawn)]
    enough = len(inside) >= 0.95 * samples
    low, high = np.quantile(inside, [0.025, 0.975]) if enough else (np.nan, np.nan)
    lowest = np.nanmin([mean.min(), best.value])
    flat = width[mean <= FLAT * lowest]
    # Connectivity is smooth in width on a fine grid: log-log interpolation.
    p = np.exp(np.interp(np.log(best.at), np.log(width), np.log(curves.connectivity)))
    return BestWidth(best.at, float(low), float(high), float(p), float(flat.min()), float(flat.max()), curves)


def best_width(
    inputs: npt.ArrayLike,
    outputs: int,
    budget: int,
    *,
    pairs: int = 300,
    points: int = 24,
    samples: int = 1000,
    seed: int = 0,
    tolerance: float = 1e-4,
) -> dict[str, BestWidth]:
    """The width of least distance for each of KERNELS, at a budget of weights (both layers).

    `inputs` is (examples, features), normalized as the network sees them; distances are means over `pairs` random pairs
    of different examples, at `points` widths; intervals are from `samples` bootstrap samples of the examples. Kernels
    are exact to the scaled error `tolerance`. Raises UserError for inputs that are not a matrix of finite numbers, too
    few examples, and budgets without a range of widths.
    """
    matrix = checked_matrix("inputs", inputs)
    width = widths_of_budget(matrix.shape[1], outputs, budget, points)
    images = random_pairs(len(matrix), pairs, seed)
    x, y = matrix[images].transpose(1, 0, 2)
    p = budget_connectivity(width, matrix.shape[1], outputs, budget)
    curves = of_tangents(sparse_tangents(x, y, p, tolerance=tolerance), width, outputs)
    return {name: least(curve, images, samples, seed) for name, curve in curves.items()}
