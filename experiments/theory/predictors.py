"""Predictors of the best width at a fixed budget: numbers for each width that should be least where test error is.

One hidden layer, the last layer dense. From the inputs alone: exact distances of kernels to their limits, means over
pairs. From the numbers of weights alone: equations (4) and (25), a constant number of kept inputs per hidden unit. With
labels: ridge regression with the NTK of the finite network, and the alignment of its first layer's part.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int

from kernels.approximations import eq4
from kernels.best_width import of_tangents
from kernels.optimum import budget_connectivity
from kernels.sparse_ntk import SparseTangents, tangent_distance

# Name → label in figures.
PREDICTORS = {
    "first": "first layer of the NTK, D",
    "first_relative": "first layer of the NTK, relative D",
    "ntk": "NTK, D",
    "gp": "GP kernel, D (Theorem 1)",
    "eq4": "equation (4)",
    "eq25": "equation (25)",
    "kept_inputs": "kept inputs per unit",
    "ridge": "ridge regression with the NTK (labels)",
    "alignment": "alignment with the labels",
}
# Budget / best width - outputs of the five families in which D of the first layer was found to predict the best width
# (MNIST at base widths 4, 8 and 16, digits at 3 and 6), geometric mean.
KEPT_INPUTS = float(
    np.exp(np.mean(np.log([3176 / 108, 6352 / 128, 12704 / 328, 222 / 8, 444 / 14] - np.array(10))))
)
RIDGE = 0.01  # of the mean of the kernel's diagonal
NETWORKS = 10  # finite networks, over which rivals that use labels are averaged
BLOCK = 256  # hidden units at a time


class Labeled(NamedTuple):
    """Normalized inputs and labels, for training and held out."""

    inputs: Float[np.ndarray, "train features"]
    labels: Int[np.ndarray, " train"]
    held_out: Float[np.ndarray, "rest features"]
    held_out_labels: Int[np.ndarray, " rest"]


def eq25_width(budget: int, outputs: int) -> float:
    """The width at which the budget leaves p = sqrt(n p / 4 d), equation (25): n^2 + 4 C n = 4 B."""
    return float(np.sqrt(4 * outputs**2 + 4 * budget) - 2 * outputs)


def kept_inputs_width(budget: int, outputs: int) -> float:
    """The width at which a unit keeps KEPT_INPUTS inputs."""
    return budget / (KEPT_INPUTS + outputs)


def from_inputs(
    tangents: SparseTangents, width: Float64[np.ndarray, " points"], outputs: int, rate: float | None = None
) -> dict[str, Float64[np.ndarray, "pairs points"]]:
    """D of each pair for the kernels; the relative one over the mean squared kernel, E[Theta^2], over pairs.

    `rate` is that of the first layer, as in `tangent_distance`.
    """
    curves = {name: curve.distance for name, curve in of_tangents(tangents, width, outputs, rate).items()}
    mean, distance = tangent_distance(tangents, width, outputs=outputs, layers="first", rate=rate)
    size = (mean**2 + distance.variance).mean(axis=0)
    return curves | {"first_relative": distance.total / size}


def from_counts(
    width: Float64[np.ndarray, " points"], features: int, outputs: int, budget: int
) -> dict[str, Float64[np.ndarray, " points"]]:
    """Equation (4), and the distance in log width from the predictions of equation (25) and of kept inputs."""
    p = budget_connectivity(width, features, outputs, budget)
    return {
        "eq4": np.asarray(eq4(p, width, features)),
        "eq25": np.abs(np.log(width / eq25_width(budget, outputs))),
        "kept_inputs": np.abs(np.log(width / kept_inputs_width(budget, outputs))),
    }


def finite_kernel(
    u: Float[np.ndarray, "width features"],
    v: Float[np.ndarray, "width outputs"],
    x: Float[np.ndarray, "rows features"],
    y: Float[np.ndarray, "columns features"],
) -> tuple[Float[np.ndarray, "rows columns"], Float[np.ndarray, "rows columns"]]:
    """(GP kernel, first layer's part of the NTK) of a network, n d times the mean over outputs, by kept weights.

    A weight of the first layer has the derivative v H(u.x) x_i: kernels are inner products of derivatives.
    """
    of_x, of_y = (np.maximum(z @ u.T, 0) for z in (x, y))
    first = np.zeros((len(x), len(y)), np.float32)
    size = np.sqrt((v**2).mean(axis=1))
    for start in range(0, len(u), BLOCK):
        units, inputs = np.nonzero(u[start : start + BLOCK])
        units += start
        parts = [(a[:, units] > 0) * z[:, inputs] * size[units] for a, z in ((of_x, x), (of_y, y))]
        first += parts[0] @ parts[1].T
    return of_x @ of_y.T, first


def sampled_network(
    width: int, kept: int, features: int, outputs: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "width features"], Float[np.ndarray, "width outputs"]]:
    """Weights of a network whose first layer keeps an exact number of weights, drawn from N(0, 1/p)."""
    u = np.zeros(width * features, np.float32)
    places = rng.choice(u.size, kept, replace=False)
    u[places] = rng.standard_normal(kept, np.float32) * np.sqrt(u.size / kept)
    return u.reshape(width, features), rng.standard_normal((width, outputs), np.float32)


def from_labels(data: Labeled, width: int, kept: int, outputs: int, seed: int) -> Mapping[str, float]:
    """Held-out squared error of kernel ridge regression with the NTK (gamma = 1), and minus the centered alignment."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    onehot = np.eye(outputs, dtype=np.float32)
    target, held_out = onehot[data.labels], onehot[data.held_out_labels]
    mean = target.mean(axis=0)
    errors, alignments = [], []
    for _ in range(NETWORKS):
        u, v = sampled_network(width, kept, data.inputs.shape[1], outputs, rng)
        gp, first = finite_kernel(u, v, np.concatenate([data.inputs, data.held_out]), data.inputs)
        train, test = np.split(gp + first, [len(data.inputs)])
        ridge = RIDGE * np.trace(train) / len(train)
        weights = np.linalg.solve(train + ridge * np.eye(len(train), dtype=np.float32), target - mean)
        errors.append(((test @ weights + mean - held_out) ** 2).sum(axis=1).mean())
        alignments.append(alignment(first[: len(data.inputs)], target - mean))
    return {"ridge": float(np.mean(errors)), "alignment": -float(np.mean(alignments))}


def alignment(kernel: Float[np.ndarray, "rows rows"], target: Float[np.ndarray, "rows outputs"]) -> float:
    """Cosine of the centered kernel and the kernel of the centered labels (Cortes et al. 2012)."""
    centered = kernel - kernel.mean(axis=0) - kernel.mean(axis=1)[:, None] + kernel.mean()
    labels = target @ target.T
    return float((centered * labels).sum() / np.sqrt((centered**2).sum() * (labels**2).sum()))
