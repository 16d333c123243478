"""The optimization path over the number of weights: Figures 6, 7 and 8 of the convergence paper, and the factors of T.

    python -m experiments.path_geometry --workdir=results/halting_time  # records of halting_time, seconds
    python -m experiments.path_geometry --preset=small  # tiny_shakespeare, ten seeds, hours (estimated)

Per group of layers (embedding, hidden, softmax, all), up to the halting time T: the distance from start to end; the
length of the path, which the paper mentions but does not show; the mean step; the mean angle between the gradient and
the displacement from the start. Exactly T = distance × tortuosity ÷ step, with tortuosity = length ÷ distance, so the
exponents in the number of weights add up and show which factor makes wider networks faster.
`--second_pass` trains everything twice more, for the angle between the gradient and the displacement from the end
(cosine_end and angle_end, up to the first evaluation at or after T), since the end is known only after training.
It trains the first curve of `experiments.halting_time`; runs that are already in the folder are reused.
Writes WORKDIR/path_geometry.csv, a row per network and group, path_geometry_seeds.csv, a row per seed, in which
2·projection_start = distance² − sum_squared_steps, path_geometry_claims.csv, the paper's claims beside ours (exponents
in width), and path_geometry.png.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.convergence import path, second_pass, settings, study
from experiments.convergence.halting import Curve, HaltedRun, mean, valid
from experiments.lab import families, launch, output
from experiments.lab.flags import Command
from experiments.lab.intervals import Estimate, sign
from experiments.lab.launch import Run
from experiments.lab.plots import PALETTE, Plot
from wsn.spec import setting

EXPERIMENT = "path_geometry"
COLUMNS = [*study.KEYS, "group", *(f"{name}_mean" for name in path.QUANTITIES)]
SEEDS = [*study.KEYS, "group", "seed", "censored", "steps", *path.QUANTITIES, "projection_start"]
DIGITS = 9  # enough to check the identity
CLAIMS = ["curve", "claim", "group", "paper", "exponent", "low", "high", "verdict"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(settings.Preset):
    """As in `halting_time`, with the second pass."""

    second_pass: bool = setting(
        "Train everything twice more, for the angle between the gradient and the displacement from the end.",
        False,
    )


def claims(curve: Curve, name: str) -> Iterator[families.Row]:
    """The paper's claims about the path by group: its exponent in width, ours, and a verdict."""
    groups = path.groups([curve])
    for claim, quantity, direction in path.CLAIMS:
        for group in groups:
            exponent = path.exponent(curve, group, quantity, "width")
            yield row(name, claim, group, exponent, direction, path.PAPER.get(quantity, {}).get(group))
        if quantity == "distance" and "softmax" in groups:
            yield from softmax_falls_most(curve, name, groups)
    for group in groups:
        for factor, exponent in path.split(curve, group).items():
            yield row(name, f"{factor} ~ weights", group, exponent, 0)


def row(
    name: str, claim: str, group: str, exponent: Estimate, direction: int, paper: float | None = None
) -> families.Row:
    """`direction` is the sign of the exponent that the paper claims; 0 if it claims nothing."""
    verdict = sign(exponent if direction > 0 else -exponent) if direction else ""
    printed = "" if paper is None else round(paper, 2)
    ours = dict(zip(("exponent", "low", "high"), exponent, strict=True))
    return {"curve": name, "claim": claim, "group": group, "paper": printed, "verdict": verdict} | ours


def softmax_falls_most(curve: Curve, name: str, groups: Sequence[str]) -> Iterator[families.Row]:
    """Whether the last layer's distance falls more than that of each other group, run by run."""
    for group in groups:
        if group in ("embedding", "hidden"):

            def ratio(run: HaltedRun, group: str = group) -> float:
                return path.geometry(run, "softmax")["distance"] / path.geometry(run, group)["distance"]

            paper = path.PAPER["distance"]["softmax"] - path.PAPER["distance"][group]
            exponent = curve.exponent("width", ratio)
            yield row(name, "C7 most in softmax", f"softmax / {group}", exponent, -1, paper)


def split(curve: Curve, name: str) -> Iterator[str]:
    """The exponents in weights, which add up, one line per group."""
    for group in path.groups([curve]):
        exponents = path.split(curve, group).values()
        time, distance, tortuosity, step = (exponent.show(form="+.2f") for exponent in exponents)
        yield f"T {time} = distance {distance} + tortuosity {tortuosity} − step {step} ({name}, {group})"


# The figure.


PANELS = {
    "distance": "distance from the start",
    "step": "mean step",
    "angle_start": "mean angle to the start (π)",
    "path_length": "path length",
}
PLOT = Plot(
    "width",
    "distance_mean",
    "width",
    PANELS["distance"],
    curves=("group", "fraction", "depth", "optimizer", "learning_rate"),
)
PARTS = {
    "distance": ("distance", PALETTE[1]),
    "tortuosity": ("tortuosity", PALETTE[4]),
    "step": ("÷ step", PALETTE[2]),
}


def draw(curves: Sequence[Curve], names: Sequence[str], caption: str) -> Figure:
    groups = path.groups(curves)
    figure = Figure(figsize=(3.4 * len(groups), 13), layout="constrained")
    panels = figure.subplots(len(PANELS) + 1, len(groups), squeeze=False)
    for column, group in enumerate(groups):
        for line, (quantity, label) in enumerate(PANELS.items()):
            axes = panels[line, column]
            violins(axes, curves[0], group, quantity)
            if group in path.PAPER.get(quantity, {}):
                paper_line(axes, curves[0], group, quantity)
            axes.set(xlabel=PLOT.xlabel, ylabel=label if column == 0 else "")
        panels[0, column].set_title(group)
        bars(panels[-1, column], curves, names, group)
    panels[-1, 0].set_ylabel("exponent in weights")
    keys = [Patch(color=color, label=label) for label, color in PARTS.values()]
    panels[-1, -1].legend(handles=keys, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    for axes in panels.ravel():
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{caption}. Violins: {names[0]}; hollow: censored (minimum not certain).\n"
        "Bottom: exponent of T (dot, 95 %) = distance + tortuosity − step",
        fontsize=10,
    )
    return figure


def violins(axes: Axes, curve: Curve, group: str, quantity: str) -> None:
    """Seeds by width as dots, with a violin from three different values on."""
    unit = np.pi if quantity == "angle_start" else 1.0
    for place, point in enumerate(curve.points):
        values = np.array([path.geometry(run, group)[quantity] for run in point.runs]) / unit
        certain = np.array([run.certain for run in point.runs])
        finite = values[np.isfinite(values)]
        if len(set(finite)) > 2:
            bodies: Any = axes.violinplot([finite], [place], showextrema=False, widths=0.7)["bodies"]
            bodies[0].set(facecolor=PALETTE[1], alpha=0.25)
        for chosen, face in ((certain, PALETTE[1]), (~certain, "white")):
            axes.plot(np.full(chosen.sum(), place), values[chosen], "o", ms=4, color=PALETTE[1], mfc=face)
    axes.set_xticks(range(len(curve.points)), [f"{width:g}" for width in curve.column("width")])
    axes.grid(alpha=0.25, axis="y")


def paper_line(axes: Axes, curve: Curve, group: str, quantity: str) -> None:
    """The paper's exponent, through the geometric center of our means."""
    power = path.PAPER[quantity][group]
    by_width = curve.values(path.quantity(group, quantity))
    points = [(x, mean(values)) for x, values in enumerate(by_width) if len(valid(values))]
    if len(points) < 2:
        return
    places, means = zip(*points, strict=True)
    widths = np.log(np.array(curve.column("width"))[list(places)])
    heights = np.exp(np.log(means).mean() + power * (widths - widths.mean()))
    axes.plot(places, heights, "--", color=PALETTE[0], lw=1.2, label=f"paper: width^{power:+.2f}")
    axes.legend(frameon=False, fontsize=7)


def stacked(exponents: Mapping[str, Estimate]) -> Iterator[tuple[str, float, float]]:
    """(color, start, height) of the bar of each factor; positive ones stacked upward, negative ones downward."""
    top = bottom = 0.0
    for name, (_, color) in PARTS.items():
        height = path.FACTORS[name] * exponents[name].value
        if not np.isnan(height):
            yield color, top if height > 0 else bottom, height
            top, bottom = (top + height, bottom) if height > 0 else (top, bottom + height)


def bars(axes: Axes, curves: Sequence[Curve], names: Sequence[str], group: str) -> None:
    """The factors' exponents stacked; their sum is the exponent of T."""
    for place, curve in enumerate(curves):
        exponents = path.split(curve, group)
        for color, start, height in stacked(exponents):
            axes.bar(place, height, 0.6, start, color=color)
        time = exponents["T"]
        if not np.isnan(time.value):
            axes.plot(place, time.value, "ko", ms=5)
            if not np.isnan(time.low):
                axes.vlines(place, time.low, time.high, color="k")
    axes.axhline(0, color="0.4", lw=0.8)
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.margins(x=0.3)


def main(preset: Preset, run: Run) -> None:
    trained = study.train(preset, run, EXPERIMENT)
    if trained is None:
        return
    curves, names = trained
    named = list(zip(curves, names, strict=True))
    ends = second_pass.ends(curves, run) if preset.second_pass else {}
    more = second_pass.COLUMNS if preset.second_pass else []
    rows, seeds = list(path.rows(curves, ends)), list(path.seeds(curves, ends))
    claim_rows = [row for curve, name in named for row in claims(curve, name)]
    output.print_table(rows, ["width", "weights", "fraction", *COLUMNS[len(study.KEYS) :]])
    output.print_table(claim_rows, CLAIMS)
    figure = draw(curves, names, study.caption(preset, run))
    columns = [*COLUMNS, *(f"{name}_mean" for name in more)]
    tables = {"seeds": (seeds, [*SEEDS, *more], DIGITS), "claims": (claim_rows, CLAIMS)}
    lines = [line for curve, name in named for line in split(curve, name)]
    launch.publish(run, EXPERIMENT, rows, columns, figure, PLOT, lines, tables)


# The first curve of each preset; `small` with the paper's ten seeds.
PRESETS = {
    name: Preset(
        **vars(preset)
        | {
            "fractions": preset.fractions[-1:],
            "depths": preset.depths[:1],
            "learning_rates": preset.learning_rates[:1],
            "adam_rate": None,
            "seeds": 10 if name == "small" else preset.seeds,
        }
    )
    for name, preset in settings.PRESETS.items()
}
COMMAND = Command(main, PRESETS, Run(f"results/{EXPERIMENT}"), study.template)

if __name__ == "__main__":
    launch.run(COMMAND)
