"""Sparse execution against masked execution and PyTorch, for networks of one weight count and growing width.

`mlp`: the networks of Figure 8 (784 inputs, 10 classes, batch 256), ten as one program; the time is that of one.
`conv`: a 3 × 3 convolution of 32 × 32 images. `resnet18`: 180,952 weights, the paper's recipe, batch 128.
`transformer`: two blocks with the weights of width 64, 32 windows of 64 characters, dense in PyTorch. `forward`
is the forward pass with the loss, `step` a whole training step (of `conv`: forward and both gradients). Masked
execution multiplies dense weights by masks, as does PyTorch's MLP; PyTorch's convolutions are dense. `portable` is
sparse execution without native ops; where nothing is removed it is the masked program. `resident_mib`: arguments,
results and temporaries of the compiled program.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks import of_mlp, of_recurrent, of_resnet
from experiments.benchmarks.programs import (
    CONV_WEIGHTS,
    Candidate,
    convolution,
    executed,
    torch_convolution,
    torch_training,
    training,
)
from experiments.benchmarks.settings import Report, Settings, interleaved, progress
from experiments.lab import output
from experiments.lab.plots import tidy
from wsn.networks import models
from wsn.sparsity import family
from wsn.sparsity.family import kept_weights
from wsn.sparsity.shapes import Shapes
from wsn.sparsity.shapes import weights as weights_of
from wsn.spec import Spec

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WIDTHS = {
    "mlp": (8, 32, 216, 512),
    "conv": (8, 40, 91),
    "resnet18": (8, 18, 40, 91),
    "transformer": (64, 256, 512),
}


class Case(NamedTuple):
    """The columns that describe a network, and its programs: pass → execution → candidate."""

    columns: dict[str, Any]
    programs: dict[str, dict[str, Candidate]]


def case(network: str, width: int, settings: Settings) -> Case:
    """The programs of one network at one width."""
    executions = [name for name in settings.executions if name != "pytorch"]
    torch = "pytorch" in settings.executions
    if network == "conv":
        weights, total, batch, count = min(CONV_WEIGHTS, 9 * width**2), 9 * width**2, 128, 1
        ours = {name: executed(name, convolution, width, batch) for name in executions}
        pytorch = torch_convolution(width, batch) if torch else []
    elif network == "transformer":
        spec, count, batch = transformer(width), 1, of_recurrent.LANES
        shapes = models.plain_shapes(spec, (), of_recurrent.SYMBOLS)
        weights, total = kept_weights(spec, shapes), weights_of(shapes)
        ours = {name: executed(name, training, spec, (), of_recurrent.SYMBOLS, 1) for name in executions}
        step = of_recurrent.torch_steps(spec, 1, 1) if torch else None
        pytorch = [] if step is None else [Candidate(step)]
    else:
        mlp = network == "mlp"
        spec = of_mlp.network(width) if mlp else of_resnet.network(width, 128, "float32")
        image, classes = ((784,), 10) if mlp else (of_resnet.IMAGE, of_resnet.CLASSES)
        count, batch = max(settings.members or (10,)) if mlp else 1, spec.batch_size
        shapes = models.build(spec, image, classes).shapes
        weights, total = kept_weights(spec, shapes), weights_of(shapes)
        ours = {name: executed(name, training, spec, image, classes, count) for name in executions}
        make = (of_mlp.torch_epoch, spec, count) if mlp else (torch_training, spec, classes)
        step = make[0](*make[1:]) if torch else None
        pytorch = [] if step is None else [Candidate(step)]
    programs = {name: {k: both[i] for k, both in ours.items()} for i, name in enumerate(("forward", "step"))}
    for name, candidate in zip(("step", "forward"), reversed(pytorch), strict=False):
        programs[name]["pytorch"] = candidate
    columns = {"network": network, "width": width, "connectivity": weights / total, "weights": weights}
    return Case(columns | {"batch": batch, "members": count}, programs)


def transformer(width: int) -> Spec:
    """Two blocks of that width, with as many weights in the blocks as at the least width."""
    base, *_ = WIDTHS["transformer"]
    template = of_recurrent.network("transformer", base)

    def shapes(width: int) -> Shapes:
        return models.plain_shapes(dataclasses.replace(template, width=width), (), of_recurrent.SYMBOLS)

    whole = family.whole_layers(models.groups_of(template, shapes(base)))
    [spec] = family.sparse(template, base, (width,), shapes, "largest_first", whole, count_whole=False)
    return spec


def measured(case: Case, settings: Settings) -> Iterator[dict[str, Any]]:
    """Rows of a case; ratios are medians of those within each repeat."""
    for name, programs in case.programs.items():
        timed = {execution: program.run for execution, program in programs.items()}
        seconds = interleaved(timed, settings.repeats, CLOCKS[settings.clock], settle=True)
        if "pytorch" in seconds and case.columns["network"] == "mlp":  # an epoch
            seconds["pytorch"] /= of_mlp.TRAIN // of_mlp.BATCH
        for execution, values in seconds.items():
            row = {"network": case.columns["network"], "pass": name} | case.columns | {"execution": execution}
            row["milliseconds"] = 1e3 * float(np.median(values)) / case.columns["members"]
            for other in ("masked", "pytorch"):
                row[f"over_{other}"] = float(np.median(values / seconds.get(other, np.nan)))
            yield row | {"resident_mib": programs[execution].mib}


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Time of a step over width at fixed weights: a panel for each network, a line for each execution."""
    names = list(dict.fromkeys(row["network"] for row in rows))
    figure = Figure(figsize=(4.2 * len(names), 3.8), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        steps = [row for row in rows if row["network"] == name and row["pass"] == "step"]
        for execution in dict.fromkeys(row["execution"] for row in steps):
            line = [row for row in steps if row["execution"] == execution]
            x, y = [row["width"] for row in line], [row["milliseconds"] for row in line]
            axes.plot(x, y, "o-", ms=3, label=execution)
        axes.set(yscale="log", xlabel="width", ylabel="ms per step and network")
        sizes = [row["weights"] for row in steps]
        weights = " to ".join(f"{size:,}" for size in dict.fromkeys((min(sizes), max(sizes))))
        axes.set_title(f"{name}, {weights} weights", fontsize=10)
        tidy(axes, [row["width"] for row in steps])
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(output.machine(), fontsize=10)
    return figure


def measure(settings: Settings) -> Report:
    rows: list[dict[str, Any]] = []
    for name in settings.networks or WIDTHS:
        for width in settings.widths or WIDTHS[name]:
            progress(f"{name}, width {width}")
            rows += measured(case(name, width, settings), settings)
    return Report(rows, draw(rows))
