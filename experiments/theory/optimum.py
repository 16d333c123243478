"""The optimum connectivity at fixed np: where exact D is least, against equation (25).

    python -m experiments.optimum                  # Gaussian inputs and digits, a minute on 2 cores
    python -m experiments.optimum --dataset=mnist  # 10,000 pairs of MNIST, minutes

With np fixed, more hidden units mean less connectivity. Exact D (Theorem 1, Bernoulli masks) is averaged over fixed
pairs of test images and minimized over p between --lowest_p and 1. Also computed: a bootstrap interval over images,
the minimizer of the median curve, the fraction of pairs with 90 % of the mean D, and the tail of the inputs. Writes
WORKDIR/optimum.csv, a row for each input and np (`p_exact` is empty where D is least at an end of the range), and
WORKDIR/optimum.png; prints a verdict for each input. Gaussian inputs should have no optimum at np = 8. Source:
Section 4, equations (1), (4) and (25).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.lab import launch, output
from experiments.lab.flags import Command
from experiments.lab.launch import Output
from experiments.theory import figures as theory
from experiments.theory import inputs as kinds
from experiments.theory.figures import Curves
from experiments.theory.inputs import Inputs
from kernels.approximations import eq25
from kernels.optimum import (
    DistanceCurves,
    at_fixed_weights_per_input,
    bootstrap_minimum,
    connectivity_grid,
    minimum,
    share_of_pairs,
)
from wsn.spec import setting

EXPERIMENT = "optimum"
COLUMNS = [
    "inputs", "normalization", "np", "d", "p_exact", "p_eq25", "distance_at_p_exact", "p_exact_low",
    "p_exact_high", "bootstrap_with_minimum", "p_median", "p_least", "share_of_pairs_with_90_percent",
    "pairs", "kurtosis", "largest_input",
]  # fmt: skip
PAIRS = {"digits": 200}  # by default; 10,000 of other sets
MOST_CERTAIN = 0.95  # fraction of bootstrap samples that must have a minimum, and level of the interval
TOLERANCE = 2e-4  # estimated scaled error of K_l; D is then exact to 1e-3 in the hardest cases


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(kinds.Settings):
    """The searched range, and the inputs. Raises UserError for numbers out of range."""

    pairs: int | None = setting(
        "How many pairs of test images (default: 10,000, of digits 200).",
        None,
        least=1,
        bytes=kinds.PAIR_BYTES,
    )
    gaussian_pairs: int = setting(
        "How many pairs of Gaussian inputs, at most.", 1000, least=1, bytes=kinds.PAIR_BYTES
    )
    features: tuple[int, ...] = setting(
        "Further numbers of features d of Gaussian inputs.", (16, 256), least=1, bytes=8
    )
    np: tuple[float, ...] = setting(
        "Weights per input, np, to hold fixed; at least 1 each.",
        (2.0, 8.0, 32.0, 128.0, 512.0),
        least=1,
        some=True,
    )
    lowest_p: float = setting("The lower end of the searched connectivities.", 1e-3, above=0, below=1)
    points: int = setting(
        "How many connectivities, evenly spaced in the logarithm.", 31, least=3, most=10_000
    )
    bootstrap: int = setting("Bootstrap samples of the images.", 1000, least=1, bytes=8)


def kurtosis(x: Float[np.ndarray, "vectors features"]) -> float:
    """Mean of d sum x^4 / (sum x^2)^2: 1 for equal sizes, 3 (less 6/d) for Gaussian ones, d for one spike.

    The leading bias of Theorem 1 grows with it.
    """
    squares = np.asarray(x, np.float64) ** 2
    total = squares.sum(axis=1)
    return float(np.mean(x.shape[1] * (squares**2).sum(axis=1)[total > 0] / total[total > 0] ** 2))


def summary(curves: DistanceCurves, images: np.ndarray, samples: int, seed: int) -> dict[str, Any]:
    """Columns on the minimum of mean D and its uncertainty."""
    p, mean = curves.connectivity, curves.distance.mean(axis=0)
    best = minimum(p, mean)
    bootstrap = bootstrap_minimum(curves, images, samples, seed)
    inside = bootstrap[~np.isnan(bootstrap)]
    low, high = (
        np.quantile(inside, [0.5 - MOST_CERTAIN / 2, 0.5 + MOST_CERTAIN / 2]) if len(inside) else 2 * [""]
    )
    return {
        "p_exact": _or_empty(best.at),
        "distance_at_p_exact": _or_empty(best.value),
        "p_exact_low": low,
        "p_exact_high": high,
        "bootstrap_with_minimum": len(inside) / samples,
        "p_median": _or_empty(minimum(p, np.median(curves.distance, axis=0)).at),
        "p_least": float(p[np.argmin(mean)]),
    }


def _or_empty(value: float) -> float | str:
    return "" if math.isnan(value) else value


def evaluate(
    inputs: Inputs, grid: np.ndarray, weights_per_input: Sequence[float], samples: int, seed: int
) -> list[Curves]:
    """A row of the table and its curves, for each np."""
    x, y, images = inputs.pairs
    pairs, features = x.shape
    kernels = kinds.exact_kernels(inputs.pairs, grid, TOLERANCE, kinds.label(inputs.columns))
    both = np.concatenate([x, y])
    tail = {"kurtosis": kurtosis(both), "largest_input": float(np.abs(both).max())}
    results = []
    for fixed in weights_per_input:
        curves = at_fixed_weights_per_input(kernels, grid, fixed)
        row = summary(curves, images, samples, seed) | inputs.columns | tail
        row |= {"np": fixed, "d": features, "p_eq25": float(eq25(fixed, features)), "pairs": pairs}
        nearest = np.argmin(np.abs(np.log(grid / (row["p_exact"] or row["p_eq25"]))))
        row["share_of_pairs_with_90_percent"] = share_of_pairs(curves.distance[:, nearest])
        results.append((row, curves))
    return results


def finding(row: dict[str, Any]) -> str:
    """`none`, `doubtful` (too few bootstrap samples have a minimum), `holds` ((25) in the interval) or `elsewhere`."""
    if row["p_exact"] == "":
        return "none"
    if row["bootstrap_with_minimum"] < MOST_CERTAIN:
        return "doubtful"
    return "holds" if row["p_exact_low"] <= row["p_eq25"] <= row["p_exact_high"] else "elsewhere"


FINDINGS = {
    "holds": "sqrt(np/4d) within the interval at",
    "elsewhere": "another optimum at",
    "doubtful": "an optimum in doubt at",
    "none": "no optimum inside at",
}


def place(row: dict[str, Any]) -> str:
    """np, and the optimum there."""
    kind = finding(row)
    if kind == "none":
        return f"np = {row['np']:g} (least at p = {row['p_least']:g})"
    if kind == "doubtful":  # and perhaps without an interval
        sure = f"{100 * row['bootstrap_with_minimum']:.0f} % of the bootstrap samples have one"
    else:
        sure = f"{row['p_exact_low']:.2g} to {row['p_exact_high']:.2g}"
    return f"np = {row['np']:g} (p* = {row['p_exact']:.3g}, (25) has {row['p_eq25']:.3g}; {sure})"


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """Where sqrt(np/4d) holds for one kind of input, and where it does not, in a line."""
    places: dict[str, list[str]] = {}
    for row in rows:
        places.setdefault(finding(row), []).append(place(row))
    answers = [f"{text} {', '.join(places[kind])}" for kind, text in FINDINGS.items() if kind in places]
    one = theory.shown_row(rows)
    median = "none" if one["p_median"] == "" else f"{one['p_median']:.3g}"
    return (
        f"{kinds.label(one)}, d = {one['d']}: {'; '.join(answers)}. Tail: kurtosis {one['kurtosis']:.3g}, largest"
        f" |x| {one['largest_input']:.3g}; at np = {one['np']:g} {100 * one['share_of_pairs_with_90_percent']:.2g} %"
        f" of the pairs carry 90 % of the mean D, optimum of the median: {median}."
    )


def main(settings: Settings, run: Output) -> None:
    grid = connectivity_grid(settings.lowest_p, 1.0, settings.points)
    pairs = PAIRS.get(settings.dataset, 10_000) if settings.pairs is None else settings.pairs
    gaussian_pairs = min(pairs, settings.gaussian_pairs)
    chosen = kinds.chosen(settings, pairs, gaussian_pairs)
    drawn = {inputs.pairs.x.shape[1] for inputs in chosen if inputs.name == kinds.GAUSSIAN}
    others = [
        Inputs(kinds.GAUSSIAN, kinds.UNNORMALIZED, kinds.gaussian(size, gaussian_pairs, settings.seed))
        for size in settings.features
        if size not in drawn
    ]
    searched = settings.np, settings.bootstrap, settings.seed
    families = [evaluate(inputs, grid, *searched) for inputs in others + chosen]
    rows = [row for family in families for row, _ in family]
    output.print_table(rows, COLUMNS)
    lines = [verdict([row for row, _ in family]) for family in families]
    launch.publish(run, EXPERIMENT, rows, COLUMNS, theory.draw_optimum(families), lines=lines)


COMMAND = Command(main, {"default": Settings()}, Output(f"results/{EXPERIMENT}"))

if __name__ == "__main__":
    launch.run(COMMAND)
