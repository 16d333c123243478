"""Theorem 1, computed exactly, against Monte Carlo over masks to the same error.

K_{1,p} and K_{2,p} of pairs of test images at ten connectivities, from one call that includes compilation. Errors are
scaled, |error of K_l| / (|x||y|)^l, the largest over pairs and l: `error_estimate` over all pairs, as the call returns
it; `error` over `checked` of them, against the finest setting. The standard error of Monte Carlo falls as
1/sqrt(masks) from that of a pilot, the median over a few pairs; with `masks` masks it reaches `error_estimate`.
Without MNIST the inputs are Gaussian, and the output says so.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from matplotlib.figure import Figure

from experiments.benchmarks.settings import Report, Settings
from experiments.lab import output
from experiments.lab.plots import tidy
from experiments.theory import inputs
from kernels.masks.sampling import sample_masks
from kernels.theorem1 import SparseKernels, sparse_kernels
from wsn.data import sources
from wsn.errors import UserError

CONNECTIVITIES = np.geomspace(1e-3, 0.5, 10)
FEATURES = 784
PILOT_PAIRS, PILOT_MASKS = 3, 2**14


class Pilot(NamedTuple):
    """Monte Carlo with one mask: its scaled standard error at each connectivity, and seconds for a pair."""

    deviation: Float64[np.ndarray, " connectivities"]
    seconds: float


def draw_pairs(name: str | None, count: int, data_dir: str | None = None) -> tuple[str, inputs.Pairs]:
    """(name, pairs) of a data set; without a name MNIST, or Gaussian vectors of its size if it is not available."""
    if name != "gaussian":
        try:
            images = sources.dataset(name or "mnist", data_dir)
        except UserError as error:
            if name is not None:
                raise
            print(f"Gaussian inputs, since MNIST is not available: {error}")
        else:
            return name or "mnist", inputs.of_images(images, "scalar", count, seed=0)
    return "gaussian", inputs.gaussian(FEATURES, count, seed=0)


def scaled_error(ours: SparseKernels, other: SparseKernels, pairs: inputs.Pairs) -> np.ndarray:
    """The largest scaled difference over pairs and l, at each connectivity."""
    scale = lengths(pairs)[:, None]
    return np.maximum(abs(ours.k1 - other.k1) / scale, abs(ours.k2 - other.k2) / scale**2).max(axis=0)


def lengths(pairs: inputs.Pairs) -> Float64[np.ndarray, " pairs"]:
    """|x||y|."""
    return np.prod([np.linalg.norm(np.asarray(z, np.float64), axis=1) for z in (pairs.x, pairs.y)], axis=0)


def pilot(pairs: inputs.Pairs) -> Pilot:
    """Standard deviation over masks of the scaled kernels (the larger of the two), median over the first few pairs."""
    few = inputs.Pairs(*(part[:PILOT_PAIRS] for part in pairs))
    sample_masks(few.x[0], few.y[0], 0.5, PILOT_MASKS)  # compiles
    start = time.perf_counter()
    estimates = [
        [sample_masks(x, y, p, PILOT_MASKS) for p in CONNECTIVITIES]
        for x, y in zip(few.x, few.y, strict=True)
    ]
    seconds = (time.perf_counter() - start) / len(few.x) / len(CONNECTIVITIES) / PILOT_MASKS
    stderr = np.array([[e.stderr[:2] for e in row] for row in estimates])
    scale = lengths(few)[:, None]
    deviation = np.maximum(stderr[..., 0] / scale, stderr[..., 1] / scale**2) * PILOT_MASKS**0.5
    return Pilot(np.median(deviation, axis=0), seconds)


def measure_pairs(name: str, pairs: inputs.Pairs, checked: int, tolerance: float) -> tuple[list[dict], float]:
    """A row per connectivity, and the seconds of the exact call."""
    start = time.perf_counter()
    kernels = inputs.exact_kernels(pairs, CONNECTIVITIES, tolerance)
    total = time.perf_counter() - start

    chosen = np.unique(np.linspace(0, len(pairs.x) - 1, checked).astype(int))
    part = inputs.Pairs(*(values[chosen] for values in pairs))
    finest = sparse_kernels(part.x, part.y, CONNECTIVITIES, tolerance=0.0)
    ours = kernels._replace(k1=kernels.k1[chosen], k2=kernels.k2[chosen])
    error, estimate = scaled_error(ours, finest, part), kernels.error_estimate.max(axis=0)

    sampling = pilot(pairs)
    seconds = total / len(pairs.x) / len(CONNECTIVITIES)
    masks = (sampling.deviation / estimate) ** 2
    monte_carlo = masks * sampling.seconds
    columns = {
        "connectivity": CONNECTIVITIES,
        "error": error,
        "error_estimate": estimate,
        "seconds": np.full(len(error), seconds),
        "masks": masks,
        "monte_carlo_seconds": monte_carlo,
        "ratio": monte_carlo / seconds,
        "monte_carlo_error": sampling.deviation * (sampling.seconds / seconds) ** 0.5,
    }
    same, lines = {"inputs": name, "pairs": len(pairs.x)}, range(len(error))
    return [same | {key: float(column[i]) for key, column in columns.items()} for i in lines], total


def draw(rows: Sequence[dict], tolerance: float) -> Figure:
    """Errors over connectivity, Monte Carlo given the same time; and times for the same error."""
    figure = Figure(figsize=(9.5, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    curves = {
        left: {
            "error_estimate": ("o-", "exact: estimated error"),
            "error": ("s-", "exact: error against the finest setting"),
            "monte_carlo_error": ("^--", "Monte Carlo, same time"),
        },
        right: {"seconds": ("o-", "exact"), "monte_carlo_seconds": ("^--", "Monte Carlo, same error")},
    }
    for axes, lines in curves.items():
        for name, (style, label) in lines.items():
            axes.plot([r["connectivity"] for r in rows], [r[name] for r in rows], style, label=label)
        axes.set(xscale="log", yscale="log", xlabel="connectivity p")
        tidy(axes)
    left.axhline(tolerance, color="0.5", linewidth=0.8)
    left.set(ylabel="largest scaled error")
    right.set(ylabel="seconds per pair and connectivity")
    for axes in curves:
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{rows[0]['pairs']} pairs of {rows[0]['inputs']}, {output.machine()}", fontsize=10)
    return figure


def measure(settings: Settings) -> Report:
    count, checked = settings.pairs, min(settings.checked, settings.pairs)
    name, pairs = draw_pairs(settings.dataset, count, settings.data_dir)
    rows, seconds = measure_pairs(name, pairs, settings.checked, settings.tolerance)
    fastest = min(rows, key=lambda row: row["ratio"])
    lines = [
        f"{name}: {count} pairs at {len(CONNECTIVITIES)} connectivities in {seconds:.1f} s including compilation"
        f" ({count / seconds:.1f} pairs/s); largest scaled error of {checked} pairs"
        f" {max(row['error'] for row in rows):.2g}",
        f"Monte Carlo takes at least {fastest['ratio']:.2g} times as long (connectivity"
        f" {fastest['connectivity']:.2g}: {fastest['masks']:.2g} masks)",
    ]
    return Report(rows, draw(rows, settings.tolerance), lines)
