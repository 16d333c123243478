"""What sparse execution costs, as ratios within one run: over masked execution, and over PyTorch's dense products.

    python -m experiments.benchmark_sparse           # a quarter of an hour; PyTorch is compared if it is installed

Networks of one weight count and growing width. `mlp`: those of Figure 8 (784 inputs, 10 classes, batch 256), whose
members share a program; the time is that of one. `conv`: a 3 × 3 convolution of 32 × 32 images. `resnet18`: the family
of width 8 by the paper's recipe (180,952 weights, batch 128). `forward`: a network, or convolution, and its loss;
`step`: a whole step of training, of `conv` both gradients beside the product. Masked execution multiplies dense
weights by masks, and so does PyTorch's MLP; its convolutions are dense. `portable` is sparse execution in plain JAX;
where nothing is removed it is the masked program. All candidates of a case take turns, each settled first; medians.
`resident_mib`: arguments, results and temporaries of the compiled program.
Writes WORKDIR/benchmark_sparse.csv and WORKDIR/benchmark_sparse.png.
"""

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks import benchmark, benchmark_resnet
from experiments.benchmarks.executed import (
    CONV_WEIGHTS,
    Candidate,
    convolution,
    executed,
    torch_convolution,
    torch_training,
    training,
)
from experiments.benchmarks.timing import interleaved, tell
from experiments.lab import launch, output
from experiments.lab.flags import Command
from experiments.lab.launch import Output
from wsn.errors import UserError
from wsn.networks import models
from wsn.sparsity.family import kept_weights
from wsn.spec import WIDEST, check_bounds, setting

EXPERIMENT = "benchmark_sparse"
COLUMNS = [
    "network",
    "pass",
    "width",
    "connectivity",
    "weights",
    "batch",
    "members",
    "execution",
    "milliseconds",
    "over_masked",
    "over_pytorch",
    "resident_mib",
]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured. Raises UserError for numbers out of range."""

    networks: tuple[str, ...] = setting(
        "Networks to measure, comma-separated.", ("mlp", "conv", "resnet18"), some=True
    )
    executions: tuple[str, ...] = setting(
        "What is compared, comma-separated: sparse, portable, masked, pytorch.",
        ("sparse", "portable", "masked", "pytorch"),
        some=True,
    )
    widths: tuple[int, ...] = setting(
        "Widths to measure; empty: those of each network.", (), least=1, most=WIDEST
    )
    members: int = setting("How many MLPs one program trains.", 10, least=1)
    repeats: int = setting("Repeats of each measurement (medians are reported).", 5, least=3)
    clock: str = setting(
        "Time on the wall, or of all cores together, which what else the machine does disturbs less.",
        "wall",
        choices=tuple(CLOCKS),
    )

    def __post_init__(self) -> None:
        check_bounds(self)


WIDTHS = {"mlp": (8, 32, 216, 512), "conv": (8, 40, 91), "resnet18": (8, 18, 40, 91)}


class Case(NamedTuple):
    """What is measured: the columns that say so, and the programs by pass and execution."""

    columns: dict[str, Any]
    programs: dict[str, dict[str, Candidate]]


def case(network: str, width: int, settings: Settings) -> Case:
    """The programs of one network of a width."""
    asked = [name for name in settings.executions if name != "pytorch"]
    torch = "pytorch" in settings.executions
    if network == "conv":
        weights = min(CONV_WEIGHTS, 9 * width**2)
        columns = {"connectivity": weights / (9 * width**2), "weights": weights, "batch": 128, "members": 1}
        found = {name: executed(name, convolution, width, 128) for name in asked}
        steps = torch_convolution(width, 128) if torch else []
    else:
        mlp = network == "mlp"
        spec = benchmark.network(width) if mlp else benchmark_resnet.network(width, 128, "float32")
        image, classes = ((784,), 10) if mlp else (benchmark_resnet.IMAGE, benchmark_resnet.CLASSES)
        count = settings.members if mlp else 1
        shapes = models.build(spec, image, classes).shapes
        weights = kept_weights(spec, shapes)
        total = sum(int(np.prod(shape)) for shape in shapes.values())
        columns = {"connectivity": weights / total, "weights": weights}
        columns |= {"batch": spec.batch_size, "members": count}
        found = {name: executed(name, training, spec, image, classes, count) for name in asked}
        steps = []
        if torch:
            loop = benchmark.torch_epoch(spec, count) if mlp else torch_training(spec, classes)
            steps = [] if loop is None else [Candidate(loop)]
    programs = {
        kind: {name: both[place] for name, both in found.items()}
        for place, kind in enumerate(("forward", "step"))
    }
    for kind, candidate in zip(reversed(programs), reversed(steps), strict=False):  # the step, at least
        programs[kind]["pytorch"] = candidate
    return Case({"network": network, "width": width} | columns, programs)


def measured(case: Case, settings: Settings) -> Iterator[dict[str, Any]]:
    """Rows of a case; ratios are medians of those within each repeat."""
    for kind, programs in case.programs.items():
        timed = {name: program.run for name, program in programs.items()}
        seconds = interleaved(timed, settings.repeats, CLOCKS[settings.clock], settle=True)
        if "pytorch" in seconds and case.columns["network"] == "mlp":  # an epoch
            seconds["pytorch"] /= benchmark.TRAIN // benchmark.BATCH
        for name, own in seconds.items():
            over = {
                f"over_{other}": float(np.median(own / seconds[other])) if other in seconds else float("nan")
                for other in ("masked", "pytorch")
            }
            milliseconds = 1e3 * float(np.median(own)) / case.columns["members"]
            row = {"pass": kind, "execution": name, "milliseconds": milliseconds}
            yield case.columns | row | over | {"resident_mib": programs[name].mib}


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Time of a step over width at fixed weights: a panel a network, a line an execution."""
    names = list(dict.fromkeys(row["network"] for row in rows))
    figure = Figure(figsize=(4.2 * len(names), 3.8), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        steps = [row for row in rows if row["network"] == name and row["pass"] == "step"]
        for execution in dict.fromkeys(row["execution"] for row in steps):
            line = [row for row in steps if row["execution"] == execution]
            axes.plot(
                [row["width"] for row in line],
                [row["milliseconds"] for row in line],
                "o-",
                ms=3,
                label=execution,
            )
        axes.set(xscale="log", yscale="log", xlabel="width", ylabel="ms a step and network")
        axes.set_title(f"{name}, {steps[-1]['weights']} weights", fontsize=10)
        widths = sorted({row["width"] for row in steps})
        axes.set_xticks(widths, [str(width) for width in widths])
        axes.xaxis.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(output.machine(), fontsize=10)
    return figure


def main(settings: Settings, run: Output) -> None:
    for name in settings.networks:
        if name not in WIDTHS:
            raise UserError(f"`networks={name}` is unknown: choose from {', '.join(WIDTHS)}")
    rows: list[dict[str, Any]] = []
    for name in settings.networks:
        for width in settings.widths or WIDTHS[name]:
            print(f"{name}, width {width} …", file=sys.stderr, flush=True)
            rows += measured(case(name, width, settings), settings)
    tell(run, EXPERIMENT, rows, COLUMNS, draw(rows))


COMMAND = Command(main, {"default": Settings()}, Output(f"results/{EXPERIMENT}"))

if __name__ == "__main__":
    launch.run(COMMAND)
