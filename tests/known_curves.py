"""Synthetic results with known halting times and paths."""

import numpy as np

from wsn.records.record import Result
from wsn.spec import Spec

SPEC = Spec(dataset="none", width=1, epochs=1, batch_size=1, learning_rate=1.0, probes=("path",))


def result(time: float, minimum: float = 2.0, rises: bool = True, seed: int = 0, bend: float = 1.5) -> Result:
    """A loss that falls linearly to its minimum just after `time`, and a path of constant steps."""
    end = time / (1 - 0.01 * minimum / 8)  # it falls from 8 above
    steps = np.linspace(end / 40, 2 * end, 80).round().astype(np.int64)
    loss = minimum + 8 * np.maximum(1 - steps / end, 0) + (rises * 3 * np.maximum(steps / end - 1, 0))
    path_length, distance = 0.1 * steps, 0.1 * steps / bend
    squares = 0.01 * steps
    sums = {
        "path_length": path_length,
        "distance": distance,
        "squared_steps": squares,
        "gradient": 0.2 * steps,
        "projection_start": (distance**2 - squares) / 2,
        "cosine_start": -0.1 * (steps - 1),
        "angle_start": 1.6 * (steps - 1),
        "angles": steps - 1.0,
    }
    curves = {"validation_loss": loss.astype(np.float32)} | {f"all/{name}": x for name, x in sums.items()}
    return Result(SPEC, seed, "finished", curves, steps)
