"""What the benchmarks share: settings, what each returns, PyTorch where it is installed, and timing.

Candidates run one after another in every repeat, so that other programs disturb all equally.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from experiments.theory import inputs
from wsn.errors import UserError, check_known
from wsn.networks.layers import COMPUTE_DTYPES
from wsn.spec import WIDEST, check_bounds, setting
from wsn.training import train

KINDS = ("mlp", "resnet", "recurrent", "sparse", "theory", "input")
NETWORKS = {"recurrent": ("lstm", "rhn", "transformer"), "sparse": ("mlp", "conv", "resnet18", "transformer")}


def read_by(kinds: str, help: str, default: Any, **more: Any) -> Any:
    """A setting that only some benchmarks read."""
    return setting(f"{help} Read by {kinds}.", default, kinds=kinds.split(", "), **more)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured; an empty list means the defaults of the benchmark.

    Raises UserError for numbers out of range, and for settings that the benchmark does not read.
    """

    of: str = setting("What to measure.", "mlp", choices=KINDS)
    repeats: int = setting("Repeats of each measurement (medians are reported).", 5, least=3)
    widths: tuple[int, ...] = read_by(
        "mlp, resnet, recurrent, sparse", "Widths to measure, comma-separated.", (), least=1, most=WIDEST
    )
    members: tuple[int, ...] = read_by(
        "mlp, recurrent, sparse",
        "Networks that train as one program, comma-separated.",
        (),
        least=1,
        bytes=1024,
    )
    batch_sizes: tuple[int, ...] = read_by("resnet", "Batch sizes.", (), least=1, bytes=4 * 3 * 32 * 32)
    dtypes: tuple[str, ...] = read_by("resnet", "Types of the products: float32, bfloat16.", ())
    networks: tuple[str, ...] = read_by(
        "recurrent, sparse",
        "Networks: "
        + "; ".join(f"of {kind} {', '.join(names)}" for kind, names in NETWORKS.items())
        + " (default: all).",
        (),
    )
    executions: tuple[str, ...] = read_by(
        "sparse",
        "What to compare: sparse, portable, masked, pytorch.",
        ("sparse", "portable", "masked", "pytorch"),
        some=True,
    )
    clock: str = read_by(
        "sparse",
        "Wall time, or the CPU time of all cores, which other programs disturb less.",
        "wall",
        choices=("wall", "cpu"),
    )
    dataset: str | None = read_by(
        "theory", "Images, or gaussian (default: MNIST if available, else gaussian).", None
    )
    data_dir: str | None = read_by(
        "theory", "Folder of prepared tensorflow-datasets (default: $TFDS_DATA_DIR).", None
    )
    pairs: int = read_by("theory", "Pairs of inputs.", 1000, least=1, bytes=inputs.PAIR_BYTES)
    checked: int = read_by("theory", "Number of pairs to compare with the finest setting.", 100, least=1)
    # The error estimate that refinement uses is up to three times too low on images.
    tolerance: float = read_by("theory", "Estimated scaled error to refine to.", 2e-7, above=0, below=1)
    threads: tuple[int, ...] = read_by(
        "input", "Threads of the stream, comma-separated (default: 1 and all cores).", (), least=1, most=1024
    )
    images: int = read_by(
        "input", "Images to make; at least a batch.", 128, least=64, bytes=3 * 375 * 500 / 20
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        for name in self.dtypes:
            check_known(COMPUTE_DTYPES, "dtypes", name)
        for name in self.networks if self.of in NETWORKS else ():
            check_known(NETWORKS[self.of], "networks", name)
        for field in dataclasses.fields(self):
            kinds = field.metadata.get("kinds", KINDS)
            if self.of not in kinds and getattr(self, field.name) != field.default:
                raise UserError(
                    f"`{field.name}` does not apply to `of={self.of}`: only to {', '.join(kinds)}"
                )


class Report(NamedTuple):
    """The result of a benchmark: a table, its figure, and lines to print below."""

    rows: Sequence[Mapping[str, Any]]
    figure: Figure
    lines: Sequence[str] = ()


def progress(text: str) -> None:
    print(f"{text} …", file=sys.stderr, flush=True)


@functools.cache
def torch() -> Any:
    """PyTorch, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: not compared")
        return None
    return torch


# Timing.

Seconds = Float[np.ndarray, " repeats"]
REST_SECONDS = 0.02  # between candidates: no thread pool still spins when the next one starts


def interleaved(
    candidates: Mapping[str, Callable[[], None]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    *,
    settle: bool = False,
) -> dict[str, np.ndarray]:
    """Seconds of each candidate, one value per repeat, after one warm-up each.

    With `settle` there is a warm-up before each measurement: steps of hundreds of MiB otherwise find their memory
    pages used by another candidate or returned to the system, which does not happen in training.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(repeats + 1):
        for name, candidate in candidates.items():
            time.sleep(REST_SECONDS)
            if settle:
                candidate()
            start = clock()
            candidate()
            if repeat:
                times[name].append(clock() - start)
    return {name: np.array(values) for name, values in times.items()}


def epoch(prepared: train.Prepared, *, evaluate: bool = False) -> Callable[[], None]:
    """An epoch of training, with or without the evaluation after it; the state carries over from call to call."""
    feed, program = prepared.feed, prepared.program
    state = [train.scattered(prepared.placement, prepared.members)]

    def run() -> None:
        state[0], _ = program.advance(state[0], feed.training(0, feed.steps), feed.training_data)
        if evaluate:
            jax.block_until_ready(program.evaluate(state[0], feed.held_out(), feed.held_out_data))
        jax.block_until_ready(state[0])

    return run


def comparison(ours: Seconds, name: str, reference: Seconds, flops: float) -> dict[str, float | str]:
    """Columns of a table; the ratio is the median of the ratios within each repeat."""
    seconds = float(np.median(ours))
    return {
        "milliseconds": 1e3 * seconds,
        "reference": name,
        "reference_milliseconds": 1e3 * float(np.median(reference)),
        "ratio": float(np.median(ours / reference)),
        "gflops": flops / seconds / 1e9,
    }
