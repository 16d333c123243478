"""Families of networks: which networks, their records, the rows of a table, curves in a figure.

A family is the dense network of a base width and wider networks with the same number of weights.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from experiments.lab import launch, presets, recipe
from experiments.lab.launch import Run
from experiments.lab.plots import PALETTE, tidy
from wsn.data import sources
from wsn.errors import UserError
from wsn.networks import models
from wsn.records.record import Label, Result
from wsn.sparsity import family
from wsn.sparsity.shapes import Shapes
from wsn.spec import Spec
from wsn.tasks import metrics

OUTCOME = [
    "seeds", "epochs", "best_test_accuracy_mean", "best_test_accuracy_std", "final_test_accuracy_mean",
    "best_train_accuracy_mean",
]  # fmt: skip
COLUMNS = ["connectivity", "weights", *OUTCOME]

Row = dict[str, Any]


class Network(NamedTuple):
    """A network in the family of a base width, its number of seeds, and further columns of its row."""

    base_width: int
    kind: str
    spec: Spec
    seeds: int
    columns: Mapping[str, Any] = {}


def members(preset: presets.Family) -> dict[int, list[int]]:
    """Base width → the widths of its family: those of the preset that are not below it. Raises UserError."""
    bases = getattr(preset, "base_widths", ()) or (preset.base_width,)
    if min(bases) < 1 or len(set(bases)) != len(bases):
        raise UserError("`base_widths`: give different widths of at least 1, such as 8,12,18")
    family.check_widths(min(bases), preset.widths)
    widths = {base: [width for width in preset.widths if width >= base] for base in bases}
    if empty := [str(base) for base in bases if not widths[base]]:
        raise UserError(f"`base_widths`: no width of `widths` is as wide as {', '.join(empty)}")
    return widths


def shapes_of(template: Spec) -> Callable[[int], Shapes]:
    """Width → kernel shapes of the template's network on its data set, without bottlenecks."""
    image, classes = sources.image_shape_and_classes(template.dataset)
    return lambda width: models.plain_shapes(dataclasses.replace(template, width=width), image, classes)


def collect(
    networks: Iterable[Network],
    run: Run,
    experiment: str,
    together: Callable[[Network], Hashable] = lambda network: network.spec,
) -> list[Result] | None:
    """Train the networks that have no record yet, and return the results of all.

    Networks with the same value of `together` train as one program. With `draw_only` nothing is trained, and missing
    networks are printed. None after a dry run, and where this shard has no record. Raises UserError where `draw_only`
    has no record to draw.
    """
    distinct: dict[Spec, Network] = {}  # a network of two families once, with the larger number of seeds
    for network in networks:
        if network.seeds > distinct.get(network.spec, network._replace(seeds=0)).seeds:
            distinct[network.spec] = network
    programs: dict[Hashable, list[Network]] = {}
    for network in distinct.values():
        programs.setdefault(together(network), []).append(network)
    lists = [([n.spec for n in program], max(n.seeds for n in program)) for program in programs.values()]
    labels = {n.spec: Label(experiment, run.preset, n.base_width, n.kind) for n in distinct.values()}
    results = launch.train(run, lists, labels)
    for network in distinct.values() if run.draw_only else []:  # else `train` prints them
        recorded = {r.seed for r in results or [] if r.spec == network.spec}
        if missing := [str(seed) for seed in range(network.seeds) if seed not in recorded]:
            seeds = f"seed{'s' * (len(missing) > 1)} {', '.join(missing)}"
            place = f"width {network.spec.width} (base width {network.base_width})"
            print(f"no record: {network.kind} {place}, {seeds}")
    return results


def rows_of(networks: Sequence[Network], *how: Any) -> list[Row] | None:
    """`collect`, as the rows of a table; None where there is no result."""
    results = collect(networks, *how)
    return None if results is None else table(networks, results)


def describe(network: Network, shapes: Shapes | None = None) -> Row:
    """The columns of a network that are known before it is trained; `shapes` of its kernels, by default for images."""
    spec = network.spec
    shapes = shapes or shapes_of(spec)(spec.width)
    return {
        "spec": spec,
        "dataset": spec.dataset,
        "base_width": network.base_width,
        "width": spec.width,
        "widening": spec.width / network.base_width,
        "kind": network.kind,
        "connectivity": family.connectivity(spec, shapes),
        "weights": family.kept_weights(spec, shapes),
        "epochs": spec.epochs,
        "learning_rate": spec.learning_rate,
    }


def table(
    networks: Iterable[Network],
    results: Iterable[Result],
    describe: Callable[[Network], Row] = describe,
) -> list[Row]:
    """A row per network that has a record: `describe` (for texts `study.describe`), its columns, and `summary`.

    `test` and `train` of a row are the best accuracies by seed, of the seeds that did not diverge.
    """
    by_spec: dict[Spec, list[Result]] = {}
    for result in results:
        by_spec.setdefault(result.spec, []).append(result)
    rows = []
    for network in networks:
        if of_network := by_spec.get(network.spec):
            row = describe(network) | dict(network.columns) | summary(of_network)
            rows.append(row | {split: row.get(f"best_{split}_accuracy", []) for split in ("test", "train")})
    return rows


def summary(results: Sequence[Result]) -> Row:
    """Means and standard deviations over the seeds of one spec; runs that diverged are counted and left out.

    For every split and metric of the task: the value after the last epoch, `<split>_<metric>_mean` and `_std` (also
    called `final_…`), and the best value over the epochs, `best_…`; both are also given by seed. The standard deviation
    is that of a sample (n − 1), 0 for one seed; the mean of no seed is NaN.
    """
    finished = [result.curves for result in results if result.status == "finished"]
    row: Row = {"seeds": len(results), "diverged": len(results) - len(finished)}
    for metric in metrics(results[0].spec.task):
        best_of = np.max if metric.better == "high" else np.min
        for name in (f"{split}_{metric.name}" for split in ("train", "test", "validation")):
            if name not in results[0].curves:
                continue
            last = [float(curves[name][-1]) for curves in finished]
            best = [float(best_of(curves[name])) for curves in finished]
            row |= {f"final_{name}": last, f"best_{name}": best}
            for prefix, values in (("", last), ("final_", last), ("best_", best)):
                row[f"{prefix}{name}_mean"] = float(np.mean(values)) if values else float("nan")
                row[f"{prefix}{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return row


def select(rows: Iterable[Row], kind: str, base_width: int) -> list[Row]:
    """The networks of one kind in one family of which a seed finished, by width."""
    selected = [row for row in rows if (row["kind"], row["base_width"]) == (kind, base_width) and row["test"]]
    return sorted(selected, key=lambda row: row["width"])


def colors(rows: Iterable[Row]) -> dict[int, str]:
    """Base width → color of its family."""
    bases = sorted({row["base_width"] for row in rows})
    return {base: PALETTE[i % len(PALETTE)] for i, base in enumerate(bases)}


def curve(axes: Axes, rows: Iterable[Row], x: str, y: str, **style: Any) -> None:
    """A curve through the rows by width, in percent, with error bars where the rows have the deviation of `y`.

    Nothing, not even a label, where there is no row.
    """
    points = sorted(rows, key=lambda row: row["width"])
    if not points:
        return
    deviation = f"{y.removesuffix('_mean')}_std"
    bars = [100 * row.get(deviation, np.nan) for row in points]
    shape = {"capsize": 2, "linewidth": 1.2, "markersize": 5} | style
    axes.errorbar([row[x] for row in points], [100 * row[y] for row in points], yerr=bars, **shape)


def finish(axes: Axes, rows: Iterable[Row], x: str, xlabel: str, ylabel: str) -> None:
    """Logarithmic x axis of widths, connectivities or widening factors, labels and style."""
    axes.set_xscale("log")
    if x == "width":
        ticks: list[int] = []
        for width in sorted({row["width"] for row in rows}):
            if not ticks or width > 1.25 * ticks[-1]:  # so that labels do not overlap
                ticks.append(width)
        axes.set_xticks(ticks, [str(width) for width in ticks])
    elif x == "connectivity":
        axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    else:
        axes.xaxis.set_major_locator(LogLocator(2))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.tick_params(labelsize=8, labelbottom=True)  # also on shared axes
    tidy(axes)


def caption(
    rows: Sequence[Row],
    preset: presets.Preset,
    paper_epochs: int = recipe.PAPER_EPOCHS,
    network: str = "ResNet-18",
) -> str:
    """Network, data, epochs (and the paper's where they differ) and seeds, for the title of a figure."""
    samples = f"{preset.train_samples:,} samples" if preset.train_samples else "all samples"
    cut = "" if preset.epochs == paper_epochs else f" (the paper: {paper_epochs})"
    seeds = sorted({row["seeds"] for row in rows})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]}–{seeds[-1]}"
    plural = "s" * (seeds[-1] > 1)
    return f"{network}, {preset.dataset}, {samples}, {preset.epochs} epochs{cut}, {count} seed{plural}"
