"""What experiments with several families of networks share: which networks, their records, their rows, their curves.

A family is the dense network of a base width and wider ones with its weight count.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from experiments.lab import cli, recipe
from wsn.errors import UserError
from wsn.networks import models
from wsn.records import record
from wsn.sparsity import family
from wsn.spec import Spec

OUTCOME = [
    "seeds",
    "epochs",
    "best_test_accuracy_mean",
    "best_test_accuracy_std",
    "final_test_accuracy_mean",
    "best_train_accuracy_mean",
]
COLUMNS = ["connectivity", "weights", *OUTCOME]
PALETTE = ("#b5482f", "#2f6397", "#3f8f5b", "#8a5ea8", "#c08a1e")
BEST_CONNECTIVITY, BEST_WIDENING = (0.01, 0.1), (3.0, 10.0)  # paper, sections 1 and 2

Row = dict[str, Any]

flags.disclaim_key_flags()  # so that --help of an experiment lists the flags that are defined here for it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(cli.Preset):
    """`families` are the base widths of one figure; where there are none, `base_width` is the only one.

    `seeds` of every network of a family, `dense_seeds` of every dense one that is wider than the base.
    """

    families: tuple[int, ...] = ()
    dense_seeds: int = 0


# ResNet-18 in minutes on digits, in hours on two cores, and as in Appendix A.
QUICK = Preset(
    dataset="digits",
    base_width=2,
    widths=(2, 3, 4),
    train_samples=None,
    batch_size=100,
    epochs=8,
    seeds=2,
)
SMALL = Preset(
    dataset="cifar100",
    base_width=8,
    widths=(8, 12, 18),
    train_samples=10000,
    batch_size=128,
    epochs=20,
    seeds=2,
)
PAPER = Preset(
    dataset="cifar100",
    base_width=8,
    families=(8, 12, 18),
    widths=(8, 12, 18, 27, 40, 60, 91),
    train_samples=None,
    batch_size=128,
    epochs=recipe.PAPER_EPOCHS,
    seeds=3,
)


class Network(NamedTuple):
    """A network in the family of a base width; `seeds` is how many are asked of it."""

    base_width: int
    kind: str
    spec: Spec
    seeds: int


def define_flags() -> None:
    """--base_widths and --draw_only."""
    flags.DEFINE_list("base_widths", None, "Several families in one figure, instead of that of --base_width.")
    flags.DEFINE_boolean(
        "draw_only", False, "Train nothing: draw what is in the folder, and say what is missing."
    )


def members(preset: Preset) -> dict[int, list[int]]:
    """Base width → the widths of its family: those of the preset that are not below it. Raises UserError."""
    if cli.FLAGS["base_widths"].present:
        bases = cli.integers("base_widths")
    elif cli.FLAGS["base_width"].present or not preset.families:
        bases = (preset.base_width,)
    else:
        bases = preset.families
    if not bases or min(bases) < 1 or len(set(bases)) != len(bases):
        raise UserError("--base_widths: give different widths of at least 1, such as 8,12,18")
    family.check_widths(min(bases), preset.widths)
    found = {base: [width for width in preset.widths if width >= base] for base in bases}
    if empty := [str(base) for base, widths in found.items() if not widths]:
        raise UserError(f"--base_widths: no width of --widths is as wide as {', '.join(empty)}")
    return found


def collect(networks: Iterable[Network]) -> list[record.Result] | None:
    """Train what has no record yet (with --draw_only: nothing), and print what is missing then.

    None after --dry_run, and where this share of a sweep has no record to draw. Raises UserError where --draw_only
    finds none.
    """
    asked: dict[Spec, Network] = {}  # a network of two families once, with the most seeds
    for network in networks:
        if network.seeds > asked.get(network.spec, network._replace(seeds=0)).seeds:
            asked[network.spec] = network
    get = cli.recorded if cli.FLAGS.draw_only else cli.train
    results = get([[spec] for spec in asked], [network.seeds for network in asked.values()])
    if results is None:
        return None
    for network in asked.values() if cli.FLAGS.draw_only else []:  # training says it itself
        have = {r.seed for r in results if r.spec == network.spec}
        if missing := [str(seed) for seed in range(network.seeds) if seed not in have]:
            seeds_missing = f"seed{'s' * (len(missing) > 1)} {', '.join(missing)}"
            print(f"no record: {network.kind} {_place(network)}, {seeds_missing}")
    if not results:
        raise UserError(f"--workdir: {cli.workdir()} has no record of these networks; train them first")
    return results


def _place(network: Network) -> str:
    return f"width {network.spec.width} (base width {network.base_width})"


def check_dense_seeds(preset: Preset) -> None:
    """Raises UserError for a negative --dense_seeds."""
    if preset.dense_seeds < 0:
        raise UserError(f"--dense_seeds={preset.dense_seeds} is negative: give 0 to leave them out")


def table(networks: Iterable[Network], results: Sequence[record.Result]) -> list[Row]:
    """A row per network that has a record.

    Beyond the columns of the CSV: widening factor, deviation of the training accuracy, and the best accuracies by
    seed, `test` and `train`, of the networks that did not diverge. Accuracies are fractions; the deviation is that
    of a sample (n − 1), 0 for one seed.
    """
    by_spec: dict[Spec, list[record.Result]] = {}
    for result in results:
        by_spec.setdefault(result.spec, []).append(result)
    return [
        describe(network) | accuracies(by_spec[network.spec])
        for network in networks
        if network.spec in by_spec
    ]


def describe(network: Network) -> Row:
    """What a row says about a network before it is trained."""
    spec = network.spec
    shapes = models.plain_shapes(spec, *cli.image_of(spec.dataset))
    return {
        "dataset": spec.dataset,
        "base_width": network.base_width,
        "width": spec.width,
        "widening": spec.width / network.base_width,
        "kind": network.kind,
        "connectivity": family.connectivity(spec, shapes),
        "weights": family.kept_weights(spec, shapes),
        "epochs": spec.epochs,
    }


def accuracies(results: Sequence[record.Result]) -> Row:
    """Best and final accuracies over the seeds of one network; those that diverged are counted and left out."""
    finished = [r.curves for r in results if r.status == "finished"]
    row: Row = {"seeds": len(results), "diverged": len(results) - len(finished)}
    for split in ("test", "train"):
        best = [float(curves[f"{split}_accuracy"].max()) for curves in finished]
        row[split] = best
        row[f"best_{split}_accuracy_mean"] = float(np.mean(best)) if best else float("nan")
        row[f"best_{split}_accuracy_std"] = float(np.std(best, ddof=1)) if len(best) > 1 else 0.0
    final = [float(curves["test_accuracy"][-1]) for curves in finished]
    row["final_test_accuracy_mean"] = float(np.mean(final)) if final else float("nan")
    return row


def select(rows: Iterable[Row], kind: str, base_width: int) -> list[Row]:
    """The rows of one kind in one family."""
    return [row for row in rows if (row["kind"], row["base_width"]) == (kind, base_width)]


def colours(rows: Iterable[Row]) -> dict[int, str]:
    """Base width → colour of its family."""
    bases = sorted({row["base_width"] for row in rows})
    return {base: PALETTE[i % len(PALETTE)] for i, base in enumerate(bases)}


def curve(axes: Axes, rows: Iterable[Row], x: str, y: str, **style: Any) -> None:
    """A curve through the rows by width, in percent; where the rows have `y`'s deviation over seeds, bars of it."""
    points = sorted(rows, key=lambda row: row["width"])
    deviation = f"{y.removesuffix('_mean')}_std"
    bars = [100 * row.get(deviation, np.nan) for row in points]
    shape = {"capsize": 2, "linewidth": 1.2, "markersize": 5} | style
    axes.errorbar([row[x] for row in points], [100 * row[y] for row in points], yerr=bars, **shape)


def finish(axes: Axes, rows: Iterable[Row], x: str, xlabel: str, ylabel: str) -> None:
    """A logarithmic axis of widths, connectivities or widening factors, and the looks of all panels."""
    axes.set_xscale("log")
    if x == "width":
        ticks: list[int] = []
        for width in sorted({row["width"] for row in rows}):
            if not ticks or width > 1.25 * ticks[-1]:  # so that their numbers do not meet
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
    axes.tick_params(labelsize=8, labelbottom=True)  # also where panels share an axis
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def caption(
    rows: Sequence[Row],
    preset: cli.Preset,
    paper_epochs: int = recipe.PAPER_EPOCHS,
    network: str = "ResNet-18",
) -> str:
    """What was trained, in a line, and how far its epochs are from the paper's."""
    samples = f"{preset.train_samples:,} samples" if preset.train_samples else "all samples"
    cut = "" if preset.epochs == paper_epochs else f" (the paper: {paper_epochs})"
    seeds = sorted({row["seeds"] for row in rows})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]}–{seeds[-1]}"
    plural = "s" * (seeds[-1] > 1)
    return f"{network}, {preset.dataset}, {samples}, {preset.epochs} epochs{cut}, {count} seed{plural}"
