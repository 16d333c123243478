"""Figure 9: removing single weights of convolutions against removing whole k × k kernels.

    python -m experiments.conv_masks                                    # digits, two minutes on 2 cores
    python -m experiments.conv_masks --preset=short                     # all of CIFAR-100, half a day on 2 cores
    python -m experiments.conv_masks --preset=paper --dataset=cifar100  # CIFAR-100, a GPU

ResNet-18 with the recipe of Appendix A; families of base widths 8, 12 and 18. With whole kernels (Appendix C) the
weight count may fall short of the budget by less than a kernel. Writes WORKDIR/conv_masks.csv, a row per network, and
WORKDIR/conv_masks.png: best test accuracy over connectivity, and the difference between single weights and whole
kernels; the paper finds up to 3 points for base widths 8 and 12 at small connectivity. Networks that resnet_width has
trained in the same --workdir are not trained again; --draw_only draws what is finished.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab import families, launch, output, presets, recipe
from experiments.lab.families import Network, Row
from experiments.lab.flags import Command
from experiments.lab.intervals import METHOD, Estimate, difference
from experiments.lab.launch import Run
from experiments.lab.plots import Plot, Style
from wsn.sparsity import family

EXPERIMENT = "conv_masks"
COLUMNS = ["dataset", "base_width", "width", "mask", *families.COLUMNS]
PLOT = Plot(
    "connectivity",
    "best_test_accuracy_mean",
    "connectivity",
    "best test accuracy (%)",
    curves=("mask", "base_width"),
    percent=True,
)
PAPER_GAP = 3.0  # points, the largest, Appendix C
MASKS = {"elementwise": "single weights", "io": "whole kernels"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(presets.Family):
    """Settings of one figure."""

    base_widths: tuple[int, ...] = presets.base_widths()


PRESETS = {
    "quick": Preset(**recipe.QUICK),
    "short": Preset(**recipe.SHORT | {"widths": (8, 12, 18, 27)}),
    "paper": Preset(**recipe.PAPER | {"seeds": 10}),
}
template = recipe.template


def networks(preset: Preset) -> list[Network]:
    """Both masks at every width; the base network, which has no mask, is listed under both."""
    whole = template(preset)
    shapes = families.shapes_of(whole)
    planned = []
    for base, widths in families.members(preset).items():
        for mask in MASKS:
            masked = dataclasses.replace(whole, mask=mask)
            for spec in family.sparse(masked, base, widths, shapes, "largest_first"):
                spec = spec if spec.kept else dataclasses.replace(spec, mask="elementwise")
                planned.append(Network(base, mask, spec, preset.seeds, {"mask": mask}))
    return planned


def gaps(rows: Sequence[Row], base: int) -> list[tuple[Row, Estimate]]:
    """Best test accuracy of single weights minus that of whole kernels: (elementwise row, gap) by width.

    For widths above the base where both have a finished seed.
    """
    whole = {row["width"]: row["test"] for row in families.select(rows, "io", base) if row["width"] > base}
    single = [row for row in families.select(rows, "elementwise", base) if row["width"] in whole]
    return [(row, difference(row["test"], whole[row["width"]])) for row in single]


def draw(rows: Sequence[Row], preset: Preset) -> Figure:
    """Figure 9, and the gap between the masks with its interval."""
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    for base, color in families.colors(rows).items():
        for mask, marker, line in (("elementwise", "o", "-"), ("io", "x", "--")):
            points = families.select(rows, mask, base)
            # Whole kernels fall short of the budget by a few weights: the label has the budget.
            label = f"{max((row['weights'] for row in points), default=0):,} weights, {MASKS[mask]}"
            style = {"color": color, "marker": marker, "linestyle": line, "label": label}
            families.curve(left, points, PLOT.x, PLOT.y, **style)
        _draw_gaps(right, gaps(rows, base), color, f"base width {base}")
    right.axhline(0, color="0.6", linewidth=0.8)
    right.axhline(PAPER_GAP, color="black", linestyle=":", label="the paper's largest, “up to 3 %”")
    families.finish(left, rows, PLOT.x, PLOT.xlabel, PLOT.ylabel)
    families.finish(right, rows, "connectivity", "connectivity", "single weights − whole kernels (points)")
    for axes in (left, right):
        axes.legend(fontsize=7.5, framealpha=0.8, edgecolor="none")
    figure.suptitle(families.caption(rows, preset), fontsize=11)
    return figure


def _draw_gaps(axes: Axes, by_width: Sequence[tuple[Row, Estimate]], color: str, label: str) -> None:
    if by_width:
        value, low, high = 100 * np.array([gap for _, gap in by_width]).T
        style: Style = {"color": color, "marker": "D", "capsize": 2, "linewidth": 1.2, "label": label}
        places = [row["connectivity"] for row, _ in by_width]
        axes.errorbar(places, value, yerr=[value - low, high - value], **style)


def verdicts(rows: Sequence[Row]) -> list[str]:
    """The gap at every connectivity of every family, with its interval, as lines."""
    lines = []
    for base in sorted({row["base_width"] for row in rows}):
        by_width = gaps(rows, base)
        if not by_width:
            lines.append(f"base width {base}: no verdict without both masks at a width above it")
        for row, gap in by_width:
            lines.append(
                f"{row['weights']:,} weights, connectivity {row['connectivity']:.1%}: single weights minus whole"
                f" kernels {gap.show(100)} points"
            )
    return [*lines, METHOD]


def main(preset: Preset, run: Run) -> None:
    if rows := families.rows_of(networks(preset), run, EXPERIMENT):
        output.print_table(rows, [*COLUMNS, "diverged"])
        launch.publish(run, EXPERIMENT, rows, COLUMNS, draw(rows, preset), PLOT, verdicts(rows))


COMMAND = Command(main, PRESETS, Run(f"results/{EXPERIMENT}"), template, recipe.RETIRED)

if __name__ == "__main__":
    launch.run(COMMAND)
