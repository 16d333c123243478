"""What a run takes on a machine that is not here: its programs, compiled for that machine, a row for each group.

The time of a step is a bound: the longest of its matrix products at the chip's rate, the traffic of its memory, and
the TPU compiler's own cycles (without gathers and scatters), and then its all-reduces, as if nothing overlapped them.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from experiments.lab import output
from wsn.data import sources
from wsn.data.crops import CROP
from wsn.data.feeds import Source
from wsn.data.language.text import Text
from wsn.data.large_images import STREAMS
from wsn.data.stream import Records, Stream
from wsn.devices import lanes_of_device, targets
from wsn.devices.hlo import Costs
from wsn.devices.targets import Compiled, Machine
from wsn.errors import UserError
from wsn.records import plan
from wsn.records.record import Label, Labels
from wsn.spec import Group, Spec
from wsn.training import train

NAME = "compiled"
COLUMNS = [
    "target",
    "devices",
    "kind",
    "width",
    "dtype",
    "networks",
    "cut",
    "networks_per_device",
    "batch_per_device",
    "peak_gib",
    "memory_gib",
    "gflop",
    "traffic_mb",
    "all_reduces",
    "all_reduce_mb",
    "milliseconds",
    "bound",
    "steps_per_second",
    "epochs_per_hour",
    "device_hours",
    "compile_seconds",
]
# Sizes of data that are not here: ILSVRC 2012, and the largest text of the second paper with a common alphabet.
IMAGES = {"imagenet2012": (1_281_167, 50_000)}
CHARACTERS, HELD_OUT, ALPHABET = 10_800_000, 400_000, 96

Row = dict[str, Any]


def describe(groups: Sequence[Group], run: Any, labels: Labels) -> None:
    """Print a row per group and write WORKDIR/compiled.csv. Raises UserError where a group needs too much memory."""
    rows: list[Row] = []
    for group in groups:
        spec = group.specs[0]
        kind = labels.get(spec, Label()).kind or "network"
        network = {"kind": kind, "width": spec.width, "dtype": spec.compute_dtype}
        rows.append(network | describe_group(group, run.source_of(spec), run.target, run.execution))
    output.print_table(rows, COLUMNS)
    hours = sum(row["device_hours"] for row in rows)
    print(f"compiled for {run.target}, not run: at least {hours:.3g} device-hours for the whole command")
    print("wrote", output.write_table(run.folder, NAME, rows, COLUMNS, 4))
    for row in rows:
        if not row["fits"]:
            raise UserError(
                f"`target={run.target}`: width {row['width']} needs {row['peak_gib']:.3g} GiB of each device, which has"
                f" {row['memory_gib']:.3g}: give a larger machine, fewer `seeds` or a smaller `batch_size`"
            )


def describe_group(group: Group, source: Source, target: str, execution: str = "masked") -> Row:
    """What a group takes on a machine, per step and device. Raises UserError."""
    spec, count, streamed = group.specs[0], len(group.members), source.streamed
    with targets.target(target) as machine:
        cost = plan.cost(group, source, execution)
        ready = train.prepare(group, source, execution=execution)
        feed, members = ready.feed, train.scattered(ready.placement, ready.members)
        period = spec.eval_every or feed.steps
        training = compile_call(
            machine, ready.program.advance, members, feed.training(0, period), feed.training_data
        )
        testing = compile_call(machine, ready.program.evaluate, members, feed.held_out(), feed.held_out_data)
    devices, kind = len(machine.devices), ready.placement.kind
    here, lanes = (
        -(-count // len(ready.placement.devices)) if kind == "members" else count,
        lanes_of_device(ready.placement, feed.lanes),
    )
    batches = -(-source.num_examples(spec)[1] // feed.held_out_lanes)
    # A streamed program is some batches of one network, others are all steps and networks between two evaluations.
    step = scaled(training.costs, count / feed.together if streamed else 1 / period)
    test = scaled(testing.costs, count * batches if streamed else 1)
    share = here * lanes / feed.lanes
    flops = share * cost.step_flops
    seconds, bound = bounded(machine, spec.compute_dtype, flops, step)
    test_seconds, _ = bounded(machine, spec.compute_dtype, share * cost.evaluation_flops, test)
    whole = seconds * ready.steps + test_seconds * -(-ready.steps // period)
    return {
        "target": target,
        "devices": devices,
        "networks": count,
        "cut": "none" if kind == "single" else kind,
        "networks_per_device": here,
        "batch_per_device": lanes,
        "fits": all(p.fits and p.peak <= machine.chip.memory for p in (training, testing)),
        "peak_gib": max(training.peak, testing.peak) / 2**30,
        "memory_gib": machine.chip.memory / 2**30,
        "gflop": flops / 1e9,
        "traffic_mb": step.bytes / 1e6,
        "all_reduces": step.all_reduces,
        "all_reduce_mb": step.reduced_bytes / 1e6,
        "milliseconds": 1e3 * seconds,
        "bound": bound,
        "steps_per_second": 1 / seconds,
        "epochs_per_hour": 3600 * spec.epochs / whole,
        "device_hours": devices * whole / 3600,
        "compile_seconds": training.seconds + testing.seconds,
    }


def compile_call(machine: Machine, program: Callable, members: Any, rows: Any, data: Any) -> Compiled:
    """The program that a call runs, of an iterator of rows the first one."""
    before = len(machine.programs)
    if isinstance(rows, Iterator):
        rows = itertools.islice(rows, 1)
    jax.eval_shape(lambda members, data: program(members, rows, data), members, data)
    [compiled] = machine.programs[before:]
    return compiled


def scaled(costs: Costs, times: float) -> Costs:
    return Costs(*(times * cost for cost in costs))


def bounded(machine: Machine, dtype: str, flops: float, costs: Costs) -> tuple[float, str]:
    """The least time of a device in seconds, and what takes most of it."""
    chip, devices = machine.chip, len(machine.devices)
    parts = {
        "products": flops / chip.flops[dtype],
        "memory": costs.bytes / chip.bandwidth,
        "cycles": costs.cycles / chip.clock if chip.clock else 0.0,
    }
    reduce = 2 * (devices - 1) / devices * costs.reduced_bytes / machine.links
    seconds = max(parts.values()) + reduce
    parts["all-reduces"] = reduce
    return seconds, max(parts, key=lambda name: parts[name])


# Data that are not here.


def source_of(spec: Spec, data_dir: str | None) -> Source:
    """The data of a spec; where they are missing, black images or a blank text of the size that they have."""
    try:
        return sources.source_of(spec, data_dir)
    except UserError:
        if spec.dataset in IMAGES:
            return black(spec.dataset)
        if spec.dataset != "text" or data_dir is not None:
            raise
    tokens = np.zeros(CHARACTERS, np.uint16)
    symbols = tuple(map(str, range(ALPHABET)))
    size = spec.train_samples or CHARACTERS
    return Text("blank", tokens[:size], tokens[: spec.validation_samples or HELD_OUT], symbols, spec.sequence)


class Black(Records):
    """Images that need no file."""

    def read(self, crop: Any) -> Any:
        return np.zeros((CROP, CROP, 3), np.uint8), 0


def black(dataset: str) -> Stream:
    images = STREAMS[dataset]
    train, test = (
        Black(range(count), images.image, images.label, images.classes, "", dataset)
        for count in IMAGES[dataset]
    )
    mean, std = (
        np.float32(255) * np.array(x, np.float32).reshape(1, 1, 3) for x in (images.mean, images.std)
    )
    return Stream(images.classes, train, test, mean, std, threads=1)
