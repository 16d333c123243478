"""Times of candidates that run one after another in every repeat, so that other programs disturb all equally."""

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jaxtyping import Float

from wsn.training import train

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


def comparison(
    ours: Float[np.ndarray, " repeats"], reference: Float[np.ndarray, " repeats"], flops: float
) -> dict[str, float]:
    """Columns of a table; the ratio is the median of the ratios within each repeat."""
    seconds = float(np.median(ours))
    return {
        "milliseconds": 1e3 * seconds,
        "reference_milliseconds": 1e3 * float(np.median(reference)),
        "ratio": float(np.median(ours / reference)),
        "gflops": flops / seconds / 1e9,
    }
