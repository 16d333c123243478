"""Which weights to keep: accuracy at equal weights over mask patterns and distributions over layers.

    python -m experiments.patterns                                    # an MLP on digits, a minute on 2 cores
    python -m experiments.patterns --preset=mnist                     # an MLP on MNIST, minutes
    python -m experiments.patterns --preset=million                   # MNIST, widths up to 1,000,000, half an hour
    python -m experiments.patterns --preset=cifar --dataset=cifar100  # ResNet-18 on 10,000 images, hours on 2 cores

Networks of one width with as many weights as the dense network of the base width, which is trained as well. A pattern
says which weights a layer keeps (single weights, constant fan-in, N of every four inputs, blocks, whole kernels of
convolutions), a distribution how many. Learning rates and initial weights follow the effective fan-in (SμPar, from the
base width), so that the learning rate favors no distribution.
Writes WORKDIR/patterns.csv, a row per pattern and distribution, and WORKDIR/patterns.png. Step times are
per network, with all distributions of a pattern in one program, in the mode of --execution; on a CPU they are CPU
times, summed over cores.
"""

import dataclasses
import itertools
import time
from collections.abc import Sequence

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.benchmarks.settings import epoch, interleaved
from experiments.lab import families, flags, launch, output, presets, recipe
from experiments.lab.families import Network, Row
from experiments.lab.flags import Command
from experiments.lab.intervals import METHOD, Estimate, linear
from experiments.lab.launch import Run
from experiments.lab.plots import PALETTE, Plot, Style, tidy
from experiments.lab.presets import Family
from wsn.devices import Placement
from wsn.errors import UserError
from wsn.sparsity import family
from wsn.sparsity.budget import DISTRIBUTIONS
from wsn.sparsity.patterns import PATTERNS
from wsn.spec import Group, Spec, setting
from wsn.training import train

EXPERIMENT = "patterns"
COLUMNS = ["dataset", "base_width", "width", "pattern", "distribution", *families.COLUMNS, "diverged"]
COLUMNS += ["step_milliseconds"]
USUAL = {"pattern": "elementwise", "distribution": "largest_first"}  # with which the others are compared


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(presets.Family):
    """Settings of one figure; the base width is the dense network's."""

    model: str = presets.of_spec("model", "mlp", choices=("mlp", "resnet18"))
    hidden_layers: int = presets.of_spec("hidden_layers", 1)
    parameterization: str = presets.of_spec("parameterization", "smup")
    patterns: tuple[str, ...] = setting(
        "Patterns of masks.", ("elementwise", "fan_in", "n_m", "block"), choices=tuple(PATTERNS)
    )
    distributions: tuple[str, ...] = setting(
        "Distributions of the budget over layers.", tuple(DISTRIBUTIONS), choices=tuple(DISTRIBUTIONS)
    )
    repeats: int = setting("Epochs that are timed; the fastest gives the step time.", 50, least=1)


MLP = Preset(
    dataset="digits",
    hidden_layers=2,
    distributions=tuple(
        name for name in DISTRIBUTIONS if name != "erdos_renyi_kernel"
    ),  # the same as erdos_renyi
    base_width=8,
    widths=(32,),
    learning_rate=0.1,
    train_samples=1000,
    batch_size=50,
    epochs=60,
    seeds=5,
)
PRESETS = {
    "quick": MLP,
    "mnist": dataclasses.replace(
        MLP, dataset="mnist", widths=(128,), train_samples=10_000, batch_size=100, epochs=20, repeats=5
    ),
    # One hidden layer, of up to a million units; SμPar's rates need Adam if the last layer is sparse.
    "million": dataclasses.replace(
        MLP,
        dataset="mnist",
        hidden_layers=1,
        patterns=("fan_in", "elementwise"),
        distributions=("largest_first",),
        base_width=2000,
        widths=(8000, 32_000, 128_000, 1_000_000),
        optimizer="adam",
        learning_rate=0.001,
        train_samples=2000,
        batch_size=32,
        epochs=4,
        eval_every=252,  # at the end: an evaluation of a million units costs as much as an epoch
        seeds=1,
        repeats=1,
    ),
    "cifar": Preset(
        dataset="cifar100",
        model="resnet18",
        base_width=8,
        widths=(18,),
        train_samples=10_000,
        batch_size=128,
        epochs=20,
        seeds=2,
        repeats=1,
        patterns=("elementwise", "io", "fan_in", "n_m", "block"),
    ),
}


def template(preset: Preset) -> Spec:
    """The network of a preset; ResNets by the recipe of Appendix A. Width, mask and kept counts are set later."""
    spec = presets.spec(preset, learning_rate=0.1) if preset.model == "mlp" else recipe.template(preset)
    return dataclasses.replace(spec, rate_width=preset.base_width)


def networks(preset: Preset) -> list[Network]:
    """The dense network of the base width, and every width, pattern and distribution.

    Combinations that the budget does not allow are printed and skipped.
    Raises UserError for widths below the base width.
    """
    dense = template(preset)
    shapes = families.shapes_of(dense)
    family.check_widths(preset.base_width, preset.widths)
    columns = {"pattern": "dense", "distribution": "dense"}
    networks = [Network(preset.base_width, "dense", dense, preset.seeds, columns)]
    for pattern in preset.patterns:
        masked = dataclasses.replace(dense, mask=pattern)
        for width in (width for width in preset.widths if width > preset.base_width):
            for distribution in preset.distributions:
                columns = {"pattern": pattern, "distribution": distribution}
                try:
                    [spec] = family.sparse(masked, preset.base_width, [width], shapes, distribution)
                except UserError as error:
                    text = f"width {width}, {pattern}, {distribution} is skipped ({error})"
                    print(flags.as_flags(text))
                    continue
                networks.append(Network(preset.base_width, pattern, spec, preset.seeds, columns))
    return networks


def program(network: Network) -> tuple[str, int]:
    """What the networks of one program share: they differ only in kept counts."""
    return network.spec.mask if network.spec.kept else "dense", network.spec.width


def step_milliseconds(networks: Sequence[Network], run: Run, repeats: int) -> dict[Spec, float]:
    """The step time of every network, that of its program over its networks; one program at a time is in memory.

    With one seed each, on one device. On a CPU it is CPU time over all cores, which other processes disturb little.
    """
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    programs: dict[tuple[str, int], dict[Spec, None]] = {}
    for network in networks:
        programs.setdefault(program(network), {})[network.spec] = None
    times: dict[Spec, float] = {}
    device = Placement("single", (jax.local_devices()[0],))
    for specs in map(tuple, programs.values()):
        prepared = train.prepare(Group(specs, (0,)), run.source_of(specs[0]), device, run.execution)
        seconds = interleaved({"epoch": epoch(prepared)}, repeats, clock)["epoch"]
        times |= dict.fromkeys(specs, 1e3 * float(np.min(seconds)) / (prepared.feed.steps * len(specs)))
    return times


def gains(rows: Sequence[Row], by: str) -> dict[str, Estimate]:
    """Best test accuracy of each pattern (or distribution) minus that of the usual one.

    A mean over the pairs that differ in nothing else and both have a finished seed.
    """
    usual, other = USUAL[by], next(name for name in USUAL if name != by)
    masked = [row for row in rows if row["pattern"] != "dense" and row["test"]]
    tests = {(row["width"], row[other], row[by]): row["test"] for row in masked}
    pairs: dict[str, list] = {}
    for (*place, name), test in tests.items():
        if name != usual and (*place, usual) in tests:
            pairs.setdefault(name, []).append((test, tests[*place, usual]))
    return {name: mean_difference(*zip(*both, strict=True)) for name, both in pairs.items()}


def mean_difference(plus: Sequence, minus: Sequence) -> Estimate:
    """The mean over some networks less that over others."""
    shares = [1 / len(plus)] * len(plus) + [-1 / len(minus)] * len(minus)
    return linear(np.array(shares), [*plus, *minus])


def over_dense(rows: Sequence[Row]) -> dict[str, Estimate]:
    """Best test accuracy of every pattern, a mean over distributions and widths, minus that of the dense network."""
    tests: dict[str, list[list[float]]] = {}
    for row in rows:
        if row["test"]:
            tests.setdefault(row["pattern"], []).append(row["test"])
    dense = tests.pop("dense", [])
    return {name: mean_difference(of_name, dense) for name, of_name in tests.items() if dense}


def verdicts(rows: Sequence[Row]) -> list[str]:
    """The gain of every pattern and distribution over the dense network and over the usual one."""
    lines = [
        f"{name} over the dense network of base width {rows[0]['base_width']}: {gain.show(100)} points"
        for name, gain in over_dense(rows).items()
    ]
    for by, usual in USUAL.items():
        lines += [f"{by} {name} over {usual}: {g.show(100)} points" for name, g in gains(rows, by).items()]
    return [*lines, METHOD]


# The figure.


ACCURACY = "best_test_accuracy_mean"


def plot(rows: Sequence[Row]) -> Plot:
    """Accuracy over distributions at one width, over several widths."""
    widths = sorted({row["width"] for row in rows if row["pattern"] != "dense"})
    dense = tuple((_dense_label(row), row[ACCURACY]) for row in rows if row["pattern"] == "dense")
    over = ("width", "width") if len(widths) > 1 else ("distribution", f"width {', '.join(map(str, widths))}")
    curves = ("pattern", "distribution")
    label = "best test accuracy (%)"
    return Plot(over[0], ACCURACY, over[1], label, curves, logx=len(widths) > 1, percent=True, lines=dense)


def _dense_label(row: Row) -> str:
    return f"dense, width {row['width']}"


def draw(rows: Sequence[Row], preset: Family, network: str) -> Figure:
    """Accuracy on the left, with a line at the dense network of the base width; step times on the right."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    masked = [row for row in rows if row["pattern"] != "dense"]
    several = len({row["width"] for row in masked}) > 1
    left, right = figure.subplots(1, 2, width_ratios=(3, 2 if several else 1))
    for row in rows:
        if row["pattern"] == "dense":
            left.axhline(100 * row[ACCURACY], color="0.5", linestyle="--", label=_dense_label(row))
    if several:
        over_widths(left, right, rows, masked)
    else:
        over_distributions(left, right, masked)
    weights = max((row["weights"] for row in rows), default=0)
    left.set_title(f"{weights:,} weights (bars: s.d. over seeds)")
    axes = plot(rows)
    left.set(xlabel=axes.xlabel, ylabel=axes.ylabel)
    left.legend(fontsize=8)
    right.set_title(f"batch {preset.batch_size}")
    figure.suptitle(families.caption(rows, preset, preset.epochs, network), fontsize=9)
    tidy(left)
    tidy(right)
    return figure


def over_distributions(left: Axes, right: Axes, masked: Sequence[Row]) -> None:
    """A point per pattern and distribution; a bar per pattern."""
    color = _each(PALETTE, masked, "pattern")
    distributions = list(dict.fromkeys(row["distribution"] for row in masked))
    for i, pattern in enumerate(color):
        points = [row for row in masked if row["pattern"] == pattern]
        x = [distributions.index(row["distribution"]) + 0.12 * (i - 1.5) for row in points]
        y = [100 * row[ACCURACY] for row in points]
        bars = [100 * row["best_test_accuracy_std"] for row in points]
        left.errorbar(x, y, bars, fmt="o", capsize=2, markersize=5, color=color[pattern], label=pattern)
    names = [name.replace("_", "\n", 1) for name in distributions]
    left.set_xticks(range(len(names)), names, fontsize=8)
    times = {row["pattern"]: row["step_milliseconds"] for row in masked}
    right.barh(list(times), list(times.values()), color=[color[name] for name in times])
    right.set_xlabel("step time per network (ms)")


def over_widths(left: Axes, right: Axes, rows: Sequence[Row], masked: Sequence[Row]) -> None:
    """A curve per pattern (color) and distribution (marker) that starts at the dense network."""
    dense = [row for row in rows if row["pattern"] == "dense"]
    color, marker = _each(PALETTE, masked, "pattern"), _each("osD^v", masked, "distribution")
    for kind in dict.fromkeys((row["pattern"], row["distribution"]) for row in masked):
        points = [*dense, *(row for row in masked if (row["pattern"], row["distribution"]) == kind)]
        style: Style = {"color": color[kind[0]], "marker": marker[kind[1]]}
        families.curve(left, points, "width", ACCURACY, label=", ".join(kind), **style)
        widths = [row["width"] for row in points]
        times = [row["step_milliseconds"] for row in points]
        right.plot(widths, times, markersize=5, linewidth=1.2, **style)
    for axes in (left, right):
        axes.set(xscale="log", xlabel="width")
    right.set(yscale="log", ylabel="step time per network (ms)")


def _each(styles: Sequence[str], rows: Sequence[Row], column: str) -> dict[str, str]:
    """A style for each name in a column, in their order; where there are more names, from the first again."""
    return dict(zip(dict.fromkeys(row[column] for row in rows), itertools.cycle(styles), strict=False))


def main(preset: Preset, run: Run) -> None:
    all_networks = networks(preset)
    trained = families.rows_of(all_networks, run, EXPERIMENT, program)
    if trained is None:
        return
    times = step_milliseconds(all_networks, run, preset.repeats)
    rows = [row | {"step_milliseconds": times[row["spec"]]} for row in trained]
    output.print_table(rows, COLUMNS)
    layers = f"{preset.hidden_layers} hidden layer{'s' * (preset.hidden_layers > 1)}"
    name = "ResNet-18" if preset.model == "resnet18" else f"MLP, {layers}"
    figure = draw(rows, preset, name)
    launch.publish(run, EXPERIMENT, rows, COLUMNS, figure, plot(rows), verdicts(rows))


COMMAND = Command(main, PRESETS, Run(f"results/{EXPERIMENT}"), template)

if __name__ == "__main__":
    launch.run(COMMAND)
