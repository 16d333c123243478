"""The angle to the end of the path, compared with NumPy and with the identity of squared lengths."""

import numpy as np
import tiny

from experiments.convergence import second_pass
from wsn.spec import Group
from wsn.training import train

RATE = 0.3
SPEC = tiny.spec(
    learning_rate=RATE, epochs=4, eval_every=1, probes=("path",), order="seed", validation_samples=5
)
ENDS = {0: 7, 2: 9}


def flat(state, place: int) -> np.ndarray:
    """All parameters of a member as one vector."""
    leaves = [leaf[place] for key, leaf in sorted(state.items()) if key.startswith(train.PARAMS)]
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])


def test_angles_to_the_end_are_those_of_the_replayed_steps():
    group = Group((SPEC,), (0, 1, 2))
    start = train.prepare(group, tiny.SPLITS).members.state
    first = train.snapshot(tiny.SINGLE, group, 8, start, train.histories.EMPTY).state
    states = [first, *(evaluation.snapshot().state for evaluation in train.train(group, tiny.SPLITS))]
    rows = {(row["seed"], row["group"]): row for row in second_pass.of_group(group, tiny.SPLITS, ENDS)}
    assert {seed for seed, _ in rows} == set(ENDS)
    for seed, end in ENDS.items():
        path = np.array([flat(state, seed) for state in states[: end + 1]])
        steps, displacements = np.diff(path, axis=0), path[:-1] - path[-1]
        gradient = -steps / RATE
        lengths = np.linalg.norm(gradient, axis=1) * np.linalg.norm(displacements, axis=1)
        cosines = (gradient * displacements).sum(1) / lengths
        row = rows[seed, "all"]
        assert np.isclose(row["cosine_end"], cosines.mean(), atol=1e-4)
        assert np.isclose(row["angle_end"], np.arccos(cosines.clip(-1, 1)).mean(), atol=1e-3)
        squares, distance = (steps**2).sum(), np.linalg.norm(path[-1] - path[0])
        assert np.isclose(2 * row["projection_end"], -(distance**2) - squares, rtol=1e-4)
