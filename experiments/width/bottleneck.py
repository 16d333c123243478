"""Figure 3: networks widened by linear and non-linear bottlenecks at a fixed number of weights.

    python -m experiments.bottleneck  # an MLP on digits, a minute on 2 cores
    python -m experiments.bottleneck --model=resnet18 --base_width=2 --widths=2,3,4 --epochs=8  # digits, minutes
    python -m experiments.bottleneck --preset=short  # all of CIFAR-100, half a day on 2 cores
    python -m experiments.bottleneck --preset=paper --dataset=cifar100  # one data set of Figure 3, a GPU

Linear: every layer becomes two, inputs → inner → outputs, without a nonlinearity between; at widening factor 1 the
inner dimension is min(inputs, outputs), and that network's weight count is the budget of the wider ones. Non-linear:
between two layers (the convolutions of a block; every other hidden layer of an MLP) the inner dimension shrinks while
the outer ones grow; the budget is the weight count of the dense network. Inner dimensions are integers, so weight
counts differ slightly from the budget: columns `weights` and `budget`. Widths that cannot meet the budget are printed
and skipped. --ways=linear --ways=sparse adds networks widened by masks. Dashed lines are the original dense networks.
The recipe is that of Appendix A for both models. Writes WORKDIR/bottleneck.csv, a row per network, and
WORKDIR/bottleneck.png. --draw_only draws what is finished.
The paper: linear bottlenecks improve with width up to some width and stay below the dashed line; non-linear ones do
not improve, except slightly at 1.8e5 weights.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab import families, flags, launch, output, presets, recipe
from experiments.lab.families import Network, Row
from experiments.lab.flags import Command
from experiments.lab.intervals import METHOD, difference, sign
from experiments.lab.launch import Run
from experiments.lab.plots import Plot
from wsn.errors import UserError
from wsn.networks import models
from wsn.sparsity import bottleneck, family
from wsn.spec import Spec, setting

EXPERIMENT = "bottleneck"
COLUMNS = ["dataset", "base_width", "width", "kind", "weights", "budget", *families.OUTCOME]


def nonlinear(template: Spec, base: int, widths: Sequence[int], shapes: family.ShapesOfWidth) -> list[Spec]:
    """`family.nonlinear_bottleneck`, narrowing the layers that the template's model says."""
    narrowed = partial(models.bottleneck_layers, template)
    return family.nonlinear_bottleneck(template, base, widths, shapes, narrowed)


# Kind → (template, base width, widths, shapes of a width) → specs.
WAYS: dict[str, Callable[..., list[Spec]]] = {
    "linear": family.linear_bottleneck,
    "nonlinear": nonlinear,
    "sparse": partial(family.sparse, distribution="largest_first"),
}
PLOT = Plot(
    "widening",
    "best_test_accuracy_mean",
    "widening factor",
    "best test accuracy (%)",
    curves=("kind", "base_width"),
    percent=True,
)
TITLES = {"linear": "linear bottleneck", "nonlinear": "non-linear bottleneck", "sparse": "static sparsity"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(presets.Family):
    """Settings of one figure."""

    base_widths: tuple[int, ...] = presets.base_widths()
    dense_seeds: int = presets.dense_seeds()
    model: str = presets.of_spec("model", "resnet18", choices=("mlp", "resnet18"))
    hidden_layers: int = presets.of_spec(
        "hidden_layers", 1, help="Hidden layers of the MLP; non-linear bottlenecks need 2."
    )
    ways: tuple[str, ...] = setting(
        "Ways to widen, a panel each.", ("linear", "nonlinear"), choices=tuple(WAYS)
    )


PRESETS = {
    "quick": Preset(
        dataset="digits",
        model="mlp",
        hidden_layers=2,
        learning_rate=0.05,
        base_width=32,
        widths=(32, 40, 48),
        batch_size=50,
        epochs=30,
        seeds=3,
        dense_seeds=3,
    ),
    "short": Preset(**recipe.SHORT | {"widths": (8, 12, 18)}),
    "paper": Preset(**recipe.PAPER),
}


def template(preset: Preset) -> Spec:
    """The network of a preset, by the recipe of Appendix A."""
    if preset.model == "mlp":
        return dataclasses.replace(recipe.template(preset), bias=True, augmentation="none")
    return recipe.template(preset)


def networks(preset: Preset) -> list[Network]:
    """The original network of every family, the networks widened in every way, and dense ones of the same widths.

    Widths that cannot meet the budget are printed and skipped. Raises UserError if none can.
    """
    base_spec = template(preset)
    shapes = families.shapes_of(base_spec)
    planned = []
    for base, widths in families.members(preset).items():
        for spec in family.dense(base_spec, sorted({base, *widths})):
            seeds = preset.seeds if spec.width == base else preset.dense_seeds
            planned += [Network(base, "dense", spec, seeds)] if seeds else []
        for way in preset.ways:
            refusals = []
            for width in widths:
                try:
                    [spec] = WAYS[way](base_spec, base, [width], shapes)
                    planned.append(Network(base, way, spec, preset.seeds))
                except UserError as refusal:
                    refusals.append((width, refusal))
            if len(refusals) == len(widths):
                raise refusals[-1][1]
            for width, reason in refusals:
                print(
                    flags.as_flags(f"{TITLES[way]}, base width {base}: width {width} is skipped ({reason})")
                )
    return planned


def budgets(row: Row) -> Row:
    """The columns `budget` (of a dense network its weight count) and `untransformed`, the weight count of the base."""
    base = families.shapes_of(row["spec"])(row["base_width"])
    untransformed = family.weights(base)
    budget = {"linear": family.weights(bottleneck.split(base)), "dense": row["weights"]}
    return {"budget": budget.get(row["kind"], untransformed), "untransformed": untransformed}


def draw(rows: Sequence[Row], preset: Preset) -> Figure:
    """A panel for each way to widen: best test accuracy over the widening factor; dashed: the original networks."""
    kinds = [kind for kind in TITLES if any(row["kind"] == kind for row in rows)] or ["dense"]
    figure = Figure(figsize=(1.0 + 4.6 * len(kinds), 4.4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0], kinds, strict=True):
        for base, color in families.colors(rows).items():
            widened, dense = (families.select(rows, of_kind, base) for of_kind in (kind, "dense"))
            _draw_family(axes, widened, dense, color)
        families.finish(axes, rows, PLOT.x, PLOT.xlabel, PLOT.ylabel)
        factors = sorted({float(f"{row['widening']:.3g}") for row in rows})
        ticks = factors[:: 1 + len(factors) // 9]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_title(TITLES.get(kind, kind), fontsize=9)
        axes.label_outer()
        axes.legend(frameon=False, fontsize=7.5, title="weights of the baseline", title_fontsize=7.5)
    network = f"MLP with {preset.hidden_layers} hidden layers" if preset.model == "mlp" else "ResNet-18"
    figure.suptitle(families.caption(rows, preset, network=network), fontsize=11)
    return figure


def _draw_family(axes: Axes, points: Sequence[Row], dense: Sequence[Row], color: str) -> None:
    y = PLOT.y
    if points:
        label = f"{points[0]['untransformed']:,}: {TITLES[points[0]['kind']]}"
        families.curve(axes, points, PLOT.x, y, color=color, marker="x", label=label)
    for row in dense[:1]:
        if row["width"] == row["base_width"]:
            label = f"{row['untransformed']:,}: original network"
            axes.axhline(100 * row[y], color=color, linestyle="--", linewidth=1, label=label)
    if len(dense) > 1:
        style = {"color": color, "linestyle": ":", "marker": "o", "markerfacecolor": "none"}
        span = f"{dense[0]['weights']:,}–{dense[-1]['weights']:,}"
        families.curve(axes, dense, PLOT.x, y, label=f"{span}: dense", **style)


def verdict(rows: Sequence[Row], base: int, kind: str) -> list[str]:
    """Whether a way to widen improves a family, and whether it stays below the untransformed network.

    Both of the best of its networks, with intervals for all of them at once.
    """
    widened, dense = families.select(rows, kind, base), families.select(rows, "dense", base)[:1]
    name = f"{TITLES[kind]}, base width {base}"
    if len(widened) < 2 or [row["width"] for row in [widened[0], *dense]] != [base, base]:
        return [f"{name}: no verdict without the base width and a wider network"]
    means = [row["best_test_accuracy_mean"] for row in widened]
    best, top = 1 + int(np.argmax(means[1:])), int(np.argmax(means))
    gain = difference(widened[best]["test"], widened[0]["test"], comparisons=len(widened) - 1)
    others = len(widened) - 1
    lines = [
        f"{name}: improves with width: {sign(gain)}: width {widened[best]['width']} (the best of {others})"
        f" against {base}: {gain.show(100)} points"
    ]
    if kind == "linear":
        loss = difference(dense[0]["test"], widened[top]["test"], comparisons=len(widened))
        lines.append(
            f"  stays below the original network: {sign(loss)}: that minus width {widened[top]['width']}:"
            f" {loss.show(100)} points"
        )
    return lines


def differences(rows: Sequence[Row]) -> str:
    """The largest relative difference between a weight count and its budget, in a line."""
    row = max(rows, key=lambda row: abs(row["weights"] - row["budget"]) / row["budget"])
    off = row["weights"] - row["budget"]
    return (
        f"weight counts differ from their budgets by {abs(off) / row['budget']:.2%} at most"
        f" ({off:+} of {row['budget']:,}: {row['kind']}, width {row['width']})"
    )


def main(preset: Preset, run: Run) -> None:
    if rows := families.rows_of(networks(preset), run, EXPERIMENT):
        rows = [row | budgets(row) for row in rows]
        lines = [
            line for base in families.colors(rows) for way in preset.ways for line in verdict(rows, base, way)
        ]
        lines += [METHOD, differences(rows)]
        output.print_table(rows, [*COLUMNS, "diverged"])
        launch.publish(run, EXPERIMENT, rows, COLUMNS, draw(rows, preset), PLOT, lines)


COMMAND = Command(main, PRESETS, Run(f"results/{EXPERIMENT}"), template, recipe.RETIRED)

if __name__ == "__main__":
    launch.run(COMMAND)
