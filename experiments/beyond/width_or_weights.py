"""Does width itself make training faster? Halting times with growing and with fixed weights, by learning-rate rule.

    python -m experiments.width_or_weights  # MLPs on digits, two minutes on 2 cores
    python -m experiments.width_or_weights --preset=small  # MLPs on MNIST, half an hour
    python -m experiments.width_or_weights --preset=text  # highway networks on tiny_shakespeare, an hour or two
    python -m experiments.width_or_weights --preset=lstm  # LSTMs on tiny_shakespeare, hours (estimated)
    python -m experiments.width_or_weights --preset=transformer  # transformers on tiny_shakespeare, hours
    python -m experiments.width_or_weights --preset=resnet  # ResNet-18 on a part of CIFAR-10, hours
    python -m experiments.width_or_weights --preset=paper --data_dir=FOLDER_OF_TEXT  # a folder of text, a GPU

The convergence paper lets width and weights grow together at one learning rate and finds shorter training; the first
paper fixes the weights. This experiment does both: dense networks, and families with a fixed number of weights. There
are four arms: one learning rate for all as in the paper, learning rate ∝ 1 / effective fan-in, a rate tuned by the
validation loss after a few epochs, and one rate under SμPar. Three hypotheses predict different signs: the number of
weights, the width or the effective rate sets the speed; in the last case the steps to a common loss are a function of
learning rate × trace of the tangent kernel. T = distance × tortuosity ÷ step splits each time into factors.
Writes WORKDIR/width_or_weights.csv, a row per network and arm, WORKDIR/width_or_weights.png, learning_rates.csv, and
width_or_weights_claims.csv: exponents with intervals, and which hypotheses they agree with.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.beyond import width, width_verdict
from experiments.beyond.width import Preset
from experiments.convergence import path, study
from experiments.convergence.halting import Curve, Quantity, common, mean, minimum, points, steps, valid
from experiments.convergence.halting_time import draw_points
from experiments.convergence.path import split
from experiments.convergence.path_geometry import PARTS, stacked
from experiments.convergence.settings import PAPER, SHAKESPEARE
from experiments.lab import families, launch, output
from experiments.lab.flags import Command
from experiments.lab.launch import Run
from experiments.lab.plots import PALETTE, Plot, Style, log_times, plain_numbers, tidy

EXPERIMENT = "width_or_weights"
COLUMNS = [
    "arm",
    "base_width",
    *(key for key in study.KEYS if key not in ("depth", "fraction")),
    "rate_trace",
    "gflop_step",
    "seeds",
    "censored",
    "steps_mean",
    "steps_std",
    "common_steps_mean",
    "common_steps_far_mean",
    "epochs_mean",
    "best_validation_loss_mean",
    "best_validation_loss_std",
    *(f"{name}_{moment}" for name in path.FACTORS for moment in ("mean", "std")),
]
TEXT = Preset(
    **SHAKESPEARE,
    depth=2,
    widths=(12, 24, 48, 96),
    base_widths=(12, 24),
    sparsify=("embedding", "hidden", "softmax"),
    rate_width=24,
    tuning_epochs=5,
    seeds=5,
)
MLP = Preset(
    dataset="digits",
    model="mlp",
    task="classification",
    widths=(8, 16, 32, 64),
    base_widths=(8, 16),
    rate_width=16,
    train_samples=500,
    validation_samples=700,
    batch_size=50,
    learning_rate=0.2,
    eval_every=6,
    epochs=400,
    tuning_epochs=10,
    seeds=3,
)
PRESETS = {
    "quick": MLP,
    # Network and samples of Figure 8 of the first paper.
    "small": MLP.replace(
        dataset="mnist",
        widths=(8, 16, 32, 64, 128, 256, 512),
        base_widths=(8, 32),
        rate_width=32,
        train_samples=2048,
        validation_samples=4096,
        batch_size=256,
        learning_rate=0.1,
        eval_every=8,
        epochs=1500,
        seeds=5,
    ),
    "text": TEXT,
    "lstm": TEXT.replace(model="lstm", hidden_layers=1, learning_rate=4.0),
    # Two blocks, trained as people do: AdamW, warm-up, cosine. The weights of the blocks are fixed; embedding and
    # softmax stay whole. Tuned rates are those of `rate_transfer --preset=transformer`.
    "transformer": TEXT.replace(
        model="transformer",
        hidden_layers=2,
        widths=(32, 64, 128, 256),
        base_widths=(32, 64),
        sparsify=(),
        counted="sparse",
        arms=("smup",),
        rate_width=32,
        optimizer="adamw",
        schedule="cosine",
        warmup_epochs=0.5,
        learning_rate=0.004,
        train_samples=400_000,
        sequence=64,
        eval_every=100,
        epochs=8,
        tuning_epochs=2,
        seeds=3,
    ),
    "resnet": MLP.replace(
        dataset="cifar10",
        model="resnet18",
        widths=(4, 8, 16),
        base_widths=(4, 8),
        rate_width=8,
        train_samples=2048,
        validation_samples=1024,
        batch_size=128,
        learning_rate=0.1,
        eval_every=8,
        epochs=60,
        tuning_epochs=2,
    ),
    # The convergence paper's language model and text, with the budgets of its two narrowest networks.
    "paper": TEXT.replace(
        **PAPER, depth=10, base_widths=(185, 229), rate_width=185, train_samples=None, tuning_epochs=2
    ),
}


# The figure.


ROWS = {
    "steps to within 1 % of the minimum": steps,
    "steps to a loss that all reach": common,
    "lowest validation loss (nats)": minimum,
}
PLOT = Plot("width", "steps_mean", "width", next(iter(ROWS)), curves=("arm", "kind", "base_width"), logy=True)
MARKERS = dict(zip(width.ARMS, "os^D", strict=True))


def draw(curves: Sequence[Curve], caption: str) -> Figure:
    arms = [arm for arm in width.ARMS if any(c.row["arm"] == arm for c in curves)]
    shown = dict.fromkeys((curve.row["kind"], curve.row["base_width"]) for curve in curves)
    colors = {family: PALETTE[i % len(PALETTE)] for i, family in enumerate(shown)}
    figure = Figure(figsize=(4.1 * len(arms) + 5.4, 11), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[4.1 * len(arms), 5.4])[0]
    grid = left.subplots(3, len(arms), sharex=True, sharey="row", squeeze=False)
    for j, arm in enumerate(arms):
        of_arm = [curve for curve in curves if curve.row["arm"] == arm]
        for axes, (label, quantity) in zip(grid[:, j], ROWS.items(), strict=True):
            over_width(axes, of_arm, quantity, colors)
            axes.set_ylabel(label if j == 0 else "")
        grid[0, j].set_title(width.ARMS[arm], fontsize=10)
        limit_losses(grid[-1, j], of_arm, limits_of_losses(curves))
        grid[-1, j].set_xlabel(PLOT.xlabel)
    lines = [curve for curve in curves if not np.isnan(width_verdict.by_width(curve).value)]
    panels = right.subplots(1 + bool(lines), 1, squeeze=False)[:, 0]
    over_rate_trace(panels[0], curves, colors)
    if lines:  # else no halting time is certain
        bars(panels[1], lines)
    figure.suptitle(f"{caption}; brackets: exponent in width [95 %]", fontsize=10)
    return figure


def over_width(axes: Axes, curves: Sequence[Curve], quantity: Quantity, colors: dict) -> None:
    """One line per family, with its exponent in the legend."""
    for curve in curves:
        form = "+.3f" if quantity is minimum else "+.2f"
        label = f"{width.name(curve)}: {width_verdict.by_width(curve, quantity).show(form=form)}"
        color = colors[curve.row["kind"], curve.row["base_width"]]
        draw_points(axes, curve, quantity, color, label, all_seeds=quantity is not steps, x=PLOT.x)
    if quantity is not minimum:
        log_times(axes)
    tidy(axes, [point.row["width"] for point in points(curves)])
    axes.legend(frameon=False, fontsize=7.5)


def limits_of_losses(curves: Sequence[Curve]) -> tuple[float, float]:
    """Limits of the axis that show half of the seeds of every network, so that a diverged run does not hide others."""
    losses = [[minimum(run) for run in point.runs] for point in points(curves)]
    finite = [values for values in map(valid, losses) if values.size]
    low, high = min(map(np.min, finite)), max(map(np.median, finite))
    return low - 0.1 * (high - low), high + 0.4 * (high - low)


def limit_losses(axes: Axes, curves: Sequence[Curve], limits: tuple[float, float]) -> None:
    """Set the limits and write how many runs lie above them."""
    above = sum(bool(minimum(run) > limits[1]) for point in points(curves) for run in point.runs)
    axes.set_ylim(*limits)
    if above:
        text = f"{above} run{'s' if above > 1 else ''} above"
        axes.annotate(text, (1, 0.8), xycoords="axes fraction", ha="right", fontsize=7.5)


def over_rate_trace(axes: Axes, curves: Sequence[Curve], colors: dict) -> None:
    """Steps to the common loss over learning rate × trace of the tangent kernel, all networks."""
    for curve in curves:
        row, x = curve.row, curve.column("rate_trace")
        y = [mean([common(run) for run in point.runs]) for point in curve.points]
        color = colors[row["kind"], row["base_width"]]
        label = f"{width.name(curve)}, {width.ARMS[row['arm']]}"
        axes.plot(x, y, MARKERS[row["arm"]], color=color, ms=5, label=label)
        style: Style = {"textcoords": "offset points", "fontsize": 6}
        for place, height, wide in zip(x, y, curve.column("width"), strict=True):
            axes.annotate(str(wide), (place, height), (3, 3), **style)
    collapse = width_verdict.collapse(curves)
    axes.set(xscale="log", xlabel="learning rate × trace of the initial tangent kernel")
    axes.set_ylabel(list(ROWS)[1])
    plain_numbers(axes.xaxis)
    log_times(axes)
    axes.set_title(
        f"all networks: exponent {collapse.exponent.show(form='+.2f')}\nexponent in width in a joint fit"
        f" {collapse.width.show(form='+.2f')}; labels: widths",
        fontsize=9,
        loc="left",
    )
    tidy(axes)
    axes.legend(frameon=False, fontsize=6.5)


def bars(axes: Axes, lines: Sequence[Curve]) -> None:
    """The exponents in width of distance, tortuosity and step (negated), which add up to that of T."""
    for y, curve in enumerate(lines):
        for color, start, length in stacked(split(curve, "all", "width")):
            axes.barh(y, length, left=start, height=0.6, color=color)
        value, low, high = width_verdict.by_width(curve)
        error, label = np.abs([[value - low], [high - value]]), "T" if y == 0 else None
        axes.errorbar(value, y, xerr=error, fmt="D", color="black", ms=4, lw=1, label=label)
    axes.axvline(0, color="black", lw=0.6)
    names = [f"{width.name(c)},\n{width.ARMS[c.row['arm']]}" for c in lines]
    axes.set_yticks(range(len(lines)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("exponent in width of T = distance × tortuosity ÷ step")
    tidy(axes)
    keys = [Patch(color=color, label=label) for label, color in PARTS.values()]
    axes.legend(handles=[*keys, *axes.get_legend_handles_labels()[0]], frameon=False, fontsize=7.5)


def main(preset: Preset, run: Run) -> None:
    untuned = width.networks(preset, run)
    networks = width.in_arms(preset, untuned, width.tune(preset, untuned, run, EXPERIMENT))
    results = families.collect(networks, run, EXPERIMENT)
    if results is None:
        return
    curves = width.curves(networks, results, run)
    rows, claims = list(width.rows(curves, run)), list(width_verdict.claims(curves))
    output.print_table(rows, COLUMNS)
    figure = draw(curves, study.caption(preset, run))
    tables, lines = {"claims": (claims, width_verdict.CLAIMS)}, width_verdict.lines(claims, curves)
    launch.publish(run, EXPERIMENT, rows, COLUMNS, figure, PLOT, lines, tables)


COMMAND = Command(main, PRESETS, Run(f"results/{EXPERIMENT}"), width.template)

if __name__ == "__main__":
    launch.run(COMMAND)
