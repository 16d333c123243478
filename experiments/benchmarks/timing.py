"""Timing: candidates that take turns, so that what else the machine does meets all of them.

In: candidates by name, functions without arguments. Out: seconds of each, a value per repeat; a table and its figure.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from experiments.lab import launch, output
from experiments.lab.launch import Output
from wsn.training import train

# Rests between candidates, so that no thread pool still spins when the next one starts.
REST_SECONDS = 0.02


def interleaved(
    candidates: Mapping[str, Callable[[], None]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    *,
    settle: bool = False,
) -> dict[str, np.ndarray]:
    """Seconds of each candidate, a value per repeat; they take turns, after one warm-up each.

    With `settle` also one before each measurement: for steps of hundreds of MiB, which find in training the pages that
    the step before left, but here those of another candidate, or pages that the system has taken back.
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
    """An epoch of training, with the evaluation after it or without; the networks go on from call to call."""
    feed, program = prepared.feed, prepared.program
    state = [train.scattered(prepared.placement, prepared.members)]

    def run() -> None:
        state[0], _ = program.advance(state[0], feed.training(0, feed.steps), feed.training_data)
        if evaluate:
            jax.block_until_ready(program.evaluate(state[0], feed.held_out(), feed.held_out_data))
        jax.block_until_ready(state[0])

    return run


def comparison(
    ours: Float[np.ndarray, " repeats"], theirs: Float[np.ndarray, " repeats"], flops: float
) -> dict[str, float]:
    """Columns of a table from seconds per repeat; the ratio is the median of the ratios within each repeat."""
    seconds = float(np.median(ours))
    return {
        "milliseconds": 1e3 * seconds,
        "reference_milliseconds": 1e3 * float(np.median(theirs)),
        "ratio": float(np.median(ours / theirs)),
        "gflops": flops / seconds / 1e9,
    }


def tell(
    run: Output, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], figure: Figure
) -> None:
    """Print and write a benchmark's table, with its figure; a row of PyTorch's has that name in a cell."""
    output.print_table(rows, columns)
    if not any(str(cell).lower().startswith("pytorch") for row in rows for cell in row.values()):
        print("PyTorch was not compared: torch is not installed, or was not asked for")
    table = output.write_table(run.folder, name, rows, columns)
    launch.wrote(run, table, output.write_figure(run.folder, name, figure))
