"""The optimum connectivity at fixed n p: where exact D is least, and where equation (25) has it.

    python -m experiments.optimum                              # Gaussian inputs and digits, a minute on 2 cores
    python -m experiments.optimum --dataset=mnist              # 10,000 pairs of MNIST

With n p fixed, a hidden unit more costs the connectivity of all. Exact D (Theorem 1, Bernoulli masks) is averaged
over fixed pairs of test images, pixel statistics from the full training split, and its minimiser over p is sought
between --lowest_p and 1. Beside it: a bootstrap interval over images, the minimiser of the median curve, the share of
the pairs that carries 90 % of the mean D, and the tail of the inputs. Writes WORKDIR/optimum.csv, a row for each input
and n p (`p_exact` is empty where D falls to an end of the range), and WORKDIR/optimum.png; prints a verdict for each
input. Expect none for Gaussian inputs at n p = 8. Source: Section 4, equations (1), (4) and (25).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab import cli
from experiments.lab import inputs as kinds
from experiments.lab.inputs import Inputs
from kernels.approximations import eq4, eq25
from kernels.optimum import (
    DistanceCurves,
    at_fixed_weights_per_input,
    bootstrap_minimum,
    connectivity_grid,
    minimum,
    share_of_pairs,
)
from wsn.errors import UserError

EXPERIMENT = "optimum"
COLUMNS = [
    "inputs",
    "normalization",
    "np",
    "d",
    "p_exact",
    "p_eq25",
    "distance_at_p_exact",
    "p_exact_low",
    "p_exact_high",
    "bootstrap_with_minimum",
    "p_median",
    "p_least",
    "share_of_pairs_with_90_percent",
    "pairs",
    "kurtosis",
    "largest_input",
]
PAIRS = {"digits": 200}  # by default, and 10,000 of any other set
DRAWN = 8.0  # the n p of the figure's curves, if it is among those asked for: Figure 8's
MOST_CERTAIN = 0.95  # share of bootstrap samples that must have a minimum, and the level of the interval
TOLERANCE = (
    2e-4  # estimated scaled error of K_l: D is then exact to a part in a thousand, where it is hardest
)

Curves = tuple[dict[str, Any], DistanceCurves]


def kurtosis(x: Float[np.ndarray, "vectors features"]) -> float:
    """Mean of d sum x^4 / (sum x^2)^2: 1 for equal sizes, 3 (less 6/d) for Gaussian ones, d for one spike.

    It is M40/X^2, what the leading bias of Theorem 1 grows with, over its value for equal sizes.
    """
    squares = np.asarray(x, np.float64) ** 2
    total = squares.sum(axis=1)
    return float(np.mean(x.shape[1] * (squares**2).sum(axis=1)[total > 0] / total[total > 0] ** 2))


def summary(curves: DistanceCurves, images: np.ndarray, samples: int, seed: int) -> dict[str, Any]:
    """The columns that say where the curve of mean D is least, how surely, and what makes the mean."""
    p, mean = curves.connectivity, curves.distance.mean(axis=0)
    best = minimum(p, mean)
    found = bootstrap_minimum(curves, images, samples, seed)
    inside = found[~np.isnan(found)]
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
    """A row of the table, and its curves, for each n p."""
    x, y, images = inputs.pairs
    pairs, features = x.shape
    kernels = kinds.exact_kernels(inputs.pairs, grid, TOLERANCE, kinds.label(inputs.columns))
    both = np.concatenate([x, y])
    tail = {"kurtosis": kurtosis(both), "largest_input": float(np.abs(both).max())}
    found = []
    for fixed in weights_per_input:
        curves = at_fixed_weights_per_input(kernels, grid, fixed)
        row = summary(curves, images, samples, seed) | inputs.columns | tail
        row |= {"np": fixed, "d": features, "p_eq25": float(eq25(fixed, features)), "pairs": pairs}
        nearest = np.argmin(np.abs(np.log(grid / (row["p_exact"] or row["p_eq25"]))))
        row["share_of_pairs_with_90_percent"] = share_of_pairs(curves.distance[:, nearest])
        found.append((row, curves))
    return found


def finding(row: dict[str, Any]) -> str:
    """`none`, `doubtful` (too few bootstrap samples have a minimum), `holds` ((25) in the interval) or `elsewhere`."""
    if row["p_exact"] == "":
        return "none"
    if row["bootstrap_with_minimum"] < MOST_CERTAIN:
        return "doubtful"
    return "holds" if row["p_exact_low"] <= row["p_eq25"] <= row["p_exact_high"] else "elsewhere"


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """What one kind of input says of sqrt(np/4d), in a line: where it holds, where not, and why."""
    said: dict[str, list[str]] = {"holds": [], "elsewhere": [], "doubtful": [], "none": []}
    for row in rows:
        kind, place = finding(row), f"np = {row['np']:g}"
        if kind == "none":
            place += f" (least at p = {row['p_least']:g})"
        else:
            place += f" (p* = {row['p_exact']:.3g}, (25) has {row['p_eq25']:.3g}"
            if kind == "doubtful":
                place += f"; {100 * row['bootstrap_with_minimum']:.0f} % of the bootstrap samples have one)"
            else:
                place += f"; {row['p_exact_low']:.2g} to {row['p_exact_high']:.2g})"
        said[kind].append(place)
    names = {
        "holds": "sqrt(np/4d) within the interval at",
        "elsewhere": "another optimum at",
        "doubtful": "an optimum in doubt at",
        "none": "no optimum inside at",
    }
    answers = [f"{names[kind]} {', '.join(places)}" for kind, places in said.items() if places]
    one = _shown_row(rows)
    median = "none" if one["p_median"] == "" else f"{one['p_median']:.3g}"
    return (
        f"{kinds.label(one)}, d = {one['d']}: {'; '.join(answers)}. Tail: kurtosis {one['kurtosis']:.3g}, largest"
        f" |x| {one['largest_input']:.3g}; at np = {one['np']:g} {100 * one['share_of_pairs_with_90_percent']:.2g} %"
        f" of the pairs carry 90 % of the mean D, optimum of the median: {median}."
    )


def _shown_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row whose n p is nearest to that of the figure's curves."""
    return min(rows, key=lambda row: abs(math.log(row["np"] / DRAWN)))


def draw(families: Sequence[Sequence[Curves]]) -> Figure:
    """D over p for each input at one n p; last, the optimum over np/4d for all inputs, where (25) is one line."""
    shown = [family for family in families if family[0][0]["d"] == families[-1][0][0]["d"]]
    columns = math.ceil((len(shown) + 1) / 2)
    figure = Figure(figsize=(1 + 4 * columns, 7.6), layout="constrained")
    panels = figure.subplots(2, columns, squeeze=False).ravel()
    for axes, family in zip(panels, shown, strict=False):
        row = _shown_row([row for row, _ in family])
        draw_curves(axes, row, next(curves for one, curves in family if one is row))
    draw_optima(panels[len(shown)], [[row for row, _ in family] for family in families])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    for axes in panels[len(shown) + 1 :]:
        axes.remove()
    keys = {
        name: key
        for axes in panels[: len(shown)]
        for key, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(keys.values(), keys.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def draw_curves(axes: Axes, row: dict[str, Any], curves: DistanceCurves) -> None:
    """Mean and median D of exact Theorem 1 and equation (4) at one n p, with the minimum and that of (25)."""
    p, mean, median = curves.connectivity, curves.distance.mean(axis=0), np.median(curves.distance, axis=0)
    axes.plot(p, mean, color="#b5482f", label="Theorem 1, mean over pairs")
    axes.plot(p, median, color="#b5482f", linestyle="--", label="Theorem 1, median")
    axes.plot(p, eq4(p, curves.width, row["d"]), color="#2f6397", linestyle=":", label="equation (4)")
    if p[0] <= row["p_eq25"] <= p[-1]:
        axes.axvline(row["p_eq25"], color="#2f6397", linewidth=0.8, label="equation (25)")
    if row["p_exact"] != "":
        axes.plot(
            row["p_exact"], row["distance_at_p_exact"], "o", color="#b5482f", label="minimum of the mean"
        )
        axes.annotate(
            f"{row['p_exact']:.3g} ({100 * row['bootstrap_with_minimum']:.0f} % of samples have a minimum)",
            (0.5, 0.93),
            xycoords="axes fraction",
            ha="center",
            fontsize=8,
            color="#b5482f",
        )
    if row["p_exact"] != "" and row["p_exact_low"] != "":
        interval = row["p_exact_low"], row["p_exact_high"]
        axes.axvspan(*interval, color="#b5482f", alpha=0.12, label="95 % bootstrap interval")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="connectivity p",
        ylabel="D",
        title=f"{kinds.label(row)} (d = {row['d']}), np = {row['np']:g}",
    )


def draw_optima(axes: Axes, families: Sequence[Sequence[dict[str, Any]]]) -> None:
    """p* over np/4d; where there is none, an open triangle at the end of the range that D falls to.

    Inputs are moved apart a little, so that none hides another.
    """
    for index, rows in enumerate(families):
        style: dict[str, Any] = {"color": f"C{index}", "markersize": 4}
        axes.plot([], [], "o", label=f"{kinds.label(rows[0])}, d = {rows[0]['d']}", **style)
        for row in rows:
            ratio = row["np"] / 4 / row["d"] * 1.08**index
            if row["p_exact"] == "":
                axes.plot(
                    ratio, row["p_least"], "v" if row["p_least"] < 1 else "^", fillstyle="none", **style
                )
                continue
            axes.plot(ratio, row["p_exact"], "o", **style)
            if row["p_exact_low"] != "":
                axes.plot([ratio, ratio], [row["p_exact_low"], row["p_exact_high"]], "-", color=f"C{index}")
    ratios = np.array([row["np"] / 4 / row["d"] for rows in families for row in rows])
    line = np.geomspace(ratios.min(), ratios.max(), 50)
    axes.plot(line, np.sqrt(line), color="#2f6397", linewidth=0.8)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="np/4d",
        ylabel="p*",
        title="optimum, 95 % interval (triangles: none inside)",
    )
    axes.legend(frameon=False, fontsize=8)


def checked_flags() -> tuple[tuple[float, ...], tuple[int, ...]]:
    """The n p and the further sizes of Gaussian inputs, with all other numbers checked. Raises UserError."""
    given, weights_per_input, sizes = cli.FLAGS, cli.numbers("np"), cli.integers("features")
    if min(weights_per_input) < 1:
        low = min(weights_per_input)
        raise UserError(f"--np={low:g}: give 1 or more, so that there is a width n = np/p up to p = 1")
    if not 0 < given.lowest_p < 1:
        raise UserError(f"--lowest_p={given.lowest_p:g}: give a connectivity between 0 and 1")
    least = {"points": 3, "bootstrap": 1, "gaussian_pairs": 1}
    values = {name: getattr(given, name) for name in least} | {"features": min(sizes, default=1)}
    for name, value in values.items():
        if value < least.get(name, 1):
            raise UserError(f"--{name}={value} is too small: give at least {least.get(name, 1)}")
    return weights_per_input, sizes


def main() -> None:
    weights_per_input, sizes = checked_flags()
    given = cli.FLAGS
    grid = connectivity_grid(given.lowest_p, 1.0, given.points)
    pairs = PAIRS.get(given.dataset, 10_000) if given.pairs is None else given.pairs
    gaussian_pairs = min(pairs, given.gaussian_pairs)
    chosen = kinds.from_flags(pairs, gaussian_pairs)
    drawn = {inputs.pairs.x.shape[1] for inputs in chosen if inputs.name == kinds.GAUSSIAN}
    others = [
        Inputs(kinds.GAUSSIAN, kinds.UNNORMALIZED, kinds.gaussian(size, gaussian_pairs, given.seed))
        for size in sizes
        if size not in drawn
    ]
    families = [
        evaluate(inputs, grid, weights_per_input, given.bootstrap, given.seed) for inputs in others + chosen
    ]
    rows = [row for family in families for row, _ in family]
    cli.print_table(rows, COLUMNS)
    print("wrote", cli.write_table(EXPERIMENT, rows, COLUMNS), cli.write_figure(EXPERIMENT, draw(families)))
    for family in families:
        print(verdict([row for row, _ in family]))


if __name__ == "__main__":
    cli.define_output_flags(EXPERIMENT)
    kinds.define_flags()
    flags.DEFINE_integer("pairs", None, "How many pairs of test images (default: 10,000, of digits 200).")
    flags.DEFINE_integer("gaussian_pairs", 1000, "How many pairs of Gaussian inputs, at most.")
    flags.DEFINE_list("features", "16,256", "Further numbers of features d of Gaussian inputs.")
    flags.DEFINE_list("np", "2,8,32,128,512", "Weights per input n p to hold fixed.")
    flags.DEFINE_float("lowest_p", 1e-3, "The lower end of the searched connectivities.")
    flags.DEFINE_integer("points", 31, "How many connectivities, evenly spaced in the logarithm.")
    flags.DEFINE_integer("bootstrap", 1000, "Bootstrap samples of the images.")
    cli.run(main)
