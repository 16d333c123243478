"""Does the best learning rate transfer across widths? Loss over the learning rate, by width and parameterization.

    python -m experiments.rate_transfer                 # digits, a minute on 2 cores
    python -m experiments.rate_transfer --preset=mnist  # MNIST at the sizes of Figure 8, half an hour (estimated)
    python -m experiments.rate_transfer --preset=transformer  # transformers on tiny_shakespeare, half an hour

Networks with the same number of weights at all widths, trained with a grid of learning rates in each parameterization:
standard, NTK, and SμPar from the base width. MLPs have one hidden layer, whose last layer stays dense, as in Figure 8;
of transformers the weights of the blocks are counted. Loss and accuracy are of held-out training samples. The rate
transfers if the best rate at the base width is best at all widths. Writes WORKDIR/rate_transfer.csv, a row per
parameterization, width and rate, rate_transfer_claims.csv and WORKDIR/rate_transfer.png.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from experiments.convergence import settings, study
from experiments.lab import families, launch, output, presets
from experiments.lab.families import Network, Row
from experiments.lab.flags import Command
from experiments.lab.intervals import METHOD, Estimate, difference, simulated
from experiments.lab.launch import Run
from experiments.lab.plots import PALETTE, Plot, tidy
from wsn.errors import UserError
from wsn.networks import models
from wsn.networks.parameterization import PARAMETERIZATIONS
from wsn.records.record import Result
from wsn.sparsity import family
from wsn.sparsity.shapes import Shapes
from wsn.spec import Spec, setting

EXPERIMENT = "rate_transfer"
PLOT = Plot(
    "learning_rate",
    "validation_loss_mean",
    "learning rate",
    "validation loss",
    curves=("parameterization", "width"),
    logy=True,
)
LOSS, ACCURACY = "validation_loss", "validation_accuracy"
CLAIMS = ["parameterization", "quantity", "value", "low", "high"]
COLUMNS = [
    "parameterization", "width", "connectivity", "weights", "learning_rate", "seeds", "diverged",
    "validation_loss_mean", "validation_loss_std", "validation_accuracy_mean", "validation_accuracy_std",
]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(settings.Settings, presets.Family):
    """Settings of one figure; `centers` are learning rates close to the best at the base width."""

    model: str = presets.of_spec("model", "mlp")
    hidden_layers: int | None = presets.of_spec("hidden_layers", None)

    parameterizations: tuple[str, ...] = setting(
        "Parameterizations, one panel each.", ("standard", "ntk", "smup"), choices=tuple(PARAMETERIZATIONS)
    )
    centers: Mapping[str, float]
    octaves: int = setting(
        "Learning rates from this many octaves below the center to as many above.", 5, least=1
    )
    validation_samples: int = presets.of_spec("validation_samples", least=1)


QUICK = Preset(
    dataset="digits",
    base_width=3,
    widths=(3, 6, 12, 18),
    train_samples=1000,
    validation_samples=297,
    batch_size=100,
    epochs=30,
    seeds=3,
    centers={"standard": 0.5, "ntk": 4.0, "mup": 0.5, "smup": 0.5},
)
PRESETS = {
    "quick": QUICK,
    "mnist": dataclasses.replace(
        QUICK,
        dataset="mnist",
        base_width=8,
        widths=(8, 32, 128, 512),
        train_samples=2048,
        validation_samples=10_000,
        batch_size=256,
        epochs=100,
    ),
    "transformer": Preset(
        **settings.SHAKESPEARE
        | dict(sequence=64, eval_every=None, epochs=2, train_samples=400_000, learning_rate=None),
        model="transformer",
        hidden_layers=2,
        base_width=32,
        widths=(32, 64, 128),
        optimizer="adamw",
        schedule="cosine",
        warmup_epochs=0.5,
        seeds=3,
        parameterizations=("standard", "smup"),
        centers={"standard": 0.016, "mup": 0.016, "smup": 0.016},
        octaves=3,
    ),
}


def template(preset: Preset) -> Spec:
    """The network on the data of a preset; width, masks, parameterization and rate are set later."""
    return presets.spec(preset, learning_rate=1.0)


def rates(preset: Preset, name: str) -> list[float]:
    """The grid of a parameterization: powers of two around its center."""
    octaves = range(-preset.octaves, preset.octaves + 1)
    return [float(f"{preset.centers[name] * 2.0**octave:.4g}") for octave in octaves]


def networks(preset: Preset, run: Run) -> list[Network]:
    """Every parameterization, width and rate. Raises UserError."""
    if preset.base_width not in preset.widths:
        raise UserError(
            f"`widths`: add {preset.base_width}, the base width, with which the others are compared"
        )
    if preset.learning_rate is not None:
        raise UserError("`learning_rate`: this experiment tries a grid of learning rates: leave it out")
    for name in preset.parameterizations:
        if name not in preset.centers:
            known = ", ".join(preset.centers)
            raise UserError(
                f"`parameterizations={name}`: this preset knows no rates for it: choose from {known}"
            )
    plain = template(preset)
    source = run.source_of(plain)

    def sparse(base: Spec) -> list[Spec]:
        def shapes(width: int) -> Shapes:
            return study.shapes_of(source, dataclasses.replace(base, width=width))

        if base.model == "mlp":
            return family.sparse(base, preset.base_width, preset.widths, shapes, "dense_last")
        whole = family.whole_layers(models.groups_of(base, shapes(preset.base_width)))
        return family.sparse(
            base, preset.base_width, preset.widths, shapes, "largest_first", whole, count_whole=False
        )

    networks = []
    for name in preset.parameterizations:
        reference = preset.base_width if name in ("mup", "smup") else 0
        for spec in sparse(dataclasses.replace(plain, parameterization=name, rate_width=reference)):
            for rate in rates(preset, name):
                with_rate = dataclasses.replace(spec, learning_rate=rate)
                columns = {"parameterization": name}
                networks.append(Network(preset.base_width, name, with_rate, preset.seeds, columns))
    return networks


def program(network: Network) -> tuple[str, int]:
    """What the networks of one program share: they differ only in the learning rate."""
    return network.kind, network.spec.width


Grid = Float[np.ndarray, "seeds widths rates"]


def grids(networks: Sequence[Network], results: Sequence[Result], name: str) -> tuple[Grid, Grid] | None:
    """Final validation loss and accuracy in a parameterization, if all records exist; ∞ and 0 of diverged runs.

    Of a text, whose records have no accuracy, the second is the loss in nats, negated.
    """
    of_name = [network for network in networks if network.kind == name]
    by_run = {(result.spec, result.seed): result for result in results}
    runs = [by_run.get((network.spec, seed)) for seed in range(of_name[0].seeds) for network in of_name]
    if None in runs:
        return None
    widths = len({network.spec.width for network in of_name})

    def last(curve: str, diverged: float) -> Grid:
        values = [run.curves[curve][-1] if run.status == "finished" else diverged for run in runs if run]
        return np.array(values, np.float64).reshape(of_name[0].seeds, widths, -1)

    loss, has_accuracy = last(LOSS, math.inf), ACCURACY in results[0].curves
    return loss, last(ACCURACY, 0.0) if has_accuracy else -loss


def octave(losses: Float[np.ndarray, " rates"]) -> float:
    """The position of the lowest loss in the grid, by the parabola through it and its neighbors."""
    lowest = int(np.argmin(losses))
    around = losses[max(lowest - 1, 0) : lowest + 2]
    if len(around) < 3 or not np.isfinite(around).all():
        return lowest
    left, middle, right = around
    curvature = left - 2 * middle + right
    return lowest + 0.5 * (left - right) / curvature if curvature > 0 else lowest


def transfer(loss: Grid, accuracy: Grid, widths: Sequence[int]) -> tuple[Estimate, Estimate]:
    """(exponent of the best rate in width, largest accuracy lost over widths with the best rate of the base width)."""
    best = [[octave(row) for row in of_width] for of_width in loss]
    slopes = [np.polyfit(np.log2(widths), octaves, min(len(widths) - 1, 1))[0] for octaves in best]
    lost = [
        accuracies[np.arange(len(widths)), losses.argmin(1)] - accuracies[:, losses[0].argmin()]
        for losses, accuracies in zip(loss, accuracy, strict=True)
    ]
    slope = simulated(lambda means: means[:, 0], [slopes]) if len(widths) > 1 else Estimate(math.nan)
    return slope, simulated(lambda means: means.max(1), list(np.array(lost).T))


def gains(loss: Grid) -> list[Estimate]:
    """By width above the base: how far the loss is below that of the base, each at its rate of the lowest mean loss."""
    best = [losses[:, losses.mean(0).argmin()] for losses in np.moveaxis(loss, 1, 0)]
    return [difference(best[0], losses) for losses in best[1:]]


def draw(rows: Sequence[Row], preset: Preset) -> Figure:
    """Validation loss over the learning rate, a panel per parameterization and a curve per width."""
    figure = Figure(figsize=(4 * len(preset.parameterizations), 4), layout="constrained")
    panels = figure.subplots(1, len(preset.parameterizations), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, preset.parameterizations, strict=True):
        for i, width in enumerate(preset.widths):
            curve = [r for r in rows if (r["parameterization"], r["width"]) == (name, width)]
            curve = [row for row in curve if not row["diverged"]]
            x, y = ([row[key] for row in curve] for key in (PLOT.x, PLOT.y))
            color = PALETTE[i % len(PALETTE)]
            axes.plot(x, y, "o-", markersize=3, linewidth=1.2, color=color, label=f"width {width}")
            if y:
                axes.plot(x[int(np.argmin(y))], min(y), "*", markersize=11, color=color)
        PLOT.label(axes)
        axes.set(title=name, ylabel="")
        tidy(axes)
    panels[0].set(ylabel=f"{PLOT.ylabel} (star: lowest)")
    losses = [row["validation_loss_mean"] for row in rows if not row["diverged"]]
    if losses:  # cut the losses of learning rates that are far too large
        low, high = 0.9 * min(losses), min(8 * min(losses), 1.05 * max(losses))
        panels[0].set(ylim=(low, high), yscale="log" if high > 3 * low else "linear")
    panels[0].legend(fontsize=8)
    weights = min((row["weights"] for row in rows), default=0)
    network = f"MLP, one hidden layer, {weights:,} weights"
    if preset.model != "mlp":
        network = f"{preset.model}, blocks with the weights of width {preset.base_width}"
    figure.suptitle(families.caption(rows, preset, preset.epochs, network), fontsize=9)
    return figure


def main(preset: Preset, run: Run) -> None:
    all_networks = networks(preset, run)
    results = families.collect(all_networks, run, EXPERIMENT, together=program)
    if results is None:
        return
    rows = families.table(all_networks, results, lambda network: study.describe(network, run))
    columns = [column for column in COLUMNS if rows and column in rows[0]]
    output.print_table(rows, columns)
    lost, scale, unit = (
        ("accuracy lost", 100, "points") if ACCURACY in results[0].curves else ("loss lost", 1, "nats")
    )
    claims, lines = [], []
    for name in preset.parameterizations:
        if losses_and_accuracies := grids(all_networks, results, name):
            slope, cost = transfer(*losses_and_accuracies, preset.widths)
            lines.append(
                f"{name}: best rate ∝ width^{slope.show(form='+.2f')}; with the best rate of the base width the worst"
                f" width loses {cost.show(scale, '+.3f' if scale == 1 else '+.1f')} {unit}"
            )
            found = {"exponent of the best rate in width": slope, lost: cost}
            for width, gain in zip(preset.widths[1:], gains(losses_and_accuracies[0]), strict=True):
                found[f"loss below that of the base, width {width}"] = gain
            claims += [
                {"parameterization": name, "quantity": quantity, **value._asdict()}
                for quantity, value in found.items()
            ]
    tables = {"claims": (claims, CLAIMS)}
    launch.publish(run, EXPERIMENT, rows, columns, draw(rows, preset), PLOT, [*lines, METHOD], tables)


COMMAND = Command(main, PRESETS, Run(f"results/{EXPERIMENT}"), template)

if __name__ == "__main__":
    launch.run(COMMAND)
