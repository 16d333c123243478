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
import time
from collections.abc import Sequence

import jax
import numpy as np

from experiments.benchmarks import timing
from experiments.beyond import patterns_figure
from experiments.lab import families, launch, output, presets, recipe
from experiments.lab.families import Network, Row
from experiments.lab.flags import Command
from experiments.lab.intervals import METHOD, Estimate, linear
from experiments.lab.launch import Run
from wsn.devices import Placement
from wsn.errors import UserError
from wsn.sparsity import family
from wsn.sparsity.budget import DISTRIBUTIONS
from wsn.sparsity.patterns import PATTERNS
from wsn.spec import Group, Spec, setting
from wsn.training import train

EXPERIMENT = "patterns"
COLUMNS = [
    "dataset",
    "base_width",
    "width",
    "pattern",
    "distribution",
    *families.COLUMNS,
    "diverged",
    "step_milliseconds",
]
USUAL = ("elementwise", "largest_first")  # pattern and distribution with which the others are compared


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
    spec = presets.spec(preset) if preset.model == "mlp" else recipe.template(preset)
    return dataclasses.replace(spec, rate_width=preset.base_width)


def networks(preset: Preset) -> list[Network]:
    """The dense network of the base width, and every width, pattern and distribution.

    Combinations that the budget does not allow are printed and left out.
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
                    print(f"width {width}, {pattern}, {distribution} is left out ({error})")
                    continue
                networks.append(Network(preset.base_width, pattern, spec, preset.seeds, columns))
    return networks


def program(network: Network) -> tuple[str, int]:
    """What the networks of one program share: they differ only in kept counts."""
    return network.spec.mask if network.spec.kept else "dense", network.spec.width


def step_milliseconds(networks: Sequence[Network], run: Run, repeats: int) -> dict[tuple[str, int], float]:
    """By program, the step time per network on one device, with one seed each; one program at a time is in memory.

    On a CPU it is CPU time over all cores, which other processes disturb little.
    """
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    members: dict[tuple[str, int], dict[Spec, None]] = {}
    for network in networks:
        members.setdefault(program(network), {})[network.spec] = None
    times, device = {}, Placement("single", (jax.local_devices()[0],))
    for key, specs in members.items():
        group, source = Group(tuple(specs), (0,)), run.source_of(next(iter(specs)))
        prepared = train.prepare(group, source, device, run.execution)
        seconds = timing.interleaved({"epoch": timing.epoch(prepared)}, repeats, clock)["epoch"]
        times[key] = 1e3 * float(np.min(seconds)) / (prepared.feed.steps * len(specs))
    return times


def gains(rows: Sequence[Row], by: str) -> dict[str, Estimate]:
    """Best test accuracy of each pattern (or distribution) minus that of the usual one.

    A mean over the pairs that differ in nothing else and both have a finished seed.
    """
    usual = USUAL[("pattern", "distribution").index(by)]
    tests = {_place(row, row[by], by): row["test"] for row in rows if row["test"]}
    gains = {}
    for name in dict.fromkeys(row[by] for row in rows if row["pattern"] != "dense"):
        keys = [(_place(row, name, by), _place(row, usual, by)) for row in rows if row[by] == name]
        pairs = [(tests[key], tests[other]) for key, other in keys if key in tests and other in tests]
        if name != usual and pairs:
            share = np.full(len(pairs), 1 / len(pairs))
            networks = [*(first for first, _ in pairs), *(second for _, second in pairs)]
            gains[name] = linear(np.concatenate([share, -share]), networks)
    return gains


def _place(row: Row, name: str, by: str) -> tuple:
    other = row["distribution" if by == "pattern" else "pattern"]
    return row["width"], name, other


def over_dense(rows: Sequence[Row]) -> dict[str, Estimate]:
    """Best test accuracy of every pattern, a mean over distributions and widths, minus that of the dense network."""
    tests: dict[str, list[list[float]]] = {}
    for row in rows:
        if row["test"]:
            tests.setdefault(row["pattern"], []).append(row["test"])
    dense = tests.pop("dense", [])
    return {
        name: linear(np.append(np.full(len(of_name), 1 / len(of_name)), -1.0), [*of_name, dense[0]])
        for name, of_name in tests.items()
        if dense
    }


def verdicts(rows: Sequence[Row]) -> list[str]:
    """The gain of every pattern and distribution over the dense network and over the usual one."""
    lines = [
        f"{name} over the dense network of base width {rows[0]['base_width']}: {gain.show(100)} points"
        for name, gain in over_dense(rows).items()
    ]
    for by, usual in zip(("pattern", "distribution"), USUAL, strict=True):
        lines += [f"{by} {name} over {usual}: {g.show(100)} points" for name, g in gains(rows, by).items()]
    return [*lines, METHOD]


def main(preset: Preset, run: Run) -> None:
    all_networks = networks(preset)
    results = families.collect(all_networks, run, EXPERIMENT, together=program)
    if results is None:
        return
    times = step_milliseconds(all_networks, run, preset.repeats)
    trained = {result.spec for result in results}
    with_records = [network for network in all_networks if network.spec in trained]
    rows = [
        row | {"step_milliseconds": times[program(network)]}
        for network, row in zip(with_records, families.table(with_records, results), strict=True)
    ]
    output.print_table(rows, COLUMNS)
    layers = f"{preset.hidden_layers} hidden layer{'s' * (preset.hidden_layers > 1)}"
    name = "ResNet-18" if preset.model == "resnet18" else f"MLP, {layers}"
    figure = patterns_figure.draw(rows, preset, name)
    written = (
        output.write_table(run.folder, EXPERIMENT, rows, COLUMNS),
        output.write_figure(run.folder, EXPERIMENT, figure, patterns_figure.plot(rows)),
    )
    print(*verdicts(rows), sep="\n")
    launch.wrote(run, *written)


COMMAND = Command(main, PRESETS, Run(f"results/{EXPERIMENT}"), template)

if __name__ == "__main__":
    launch.run(COMMAND)
