"""The angle to the end against a replay in NumPy, and the identity that ties it to distance and steps."""

import dataclasses

import numpy as np
import pytest
import tiny

from experiments.lab import halting, second_pass
from wsn.errors import UserError
from wsn.records.record import Result
from wsn.spec import Group
from wsn.training import train

RATE, ENDS = 0.3, (7, 4)
SPEC = tiny.spec(
    probes=("path",), eval_every=1, learning_rate=RATE, validation_samples=5, kept=tiny.kept(20, 15)
)
GROUP = Group((SPEC,), (0, 1))
NAMES = ("hidden", "output", "all")


def flat(params: dict[str, np.ndarray], member: int) -> dict[str, np.ndarray]:
    """Parameters of a group of layers in float64."""
    layers = {
        path.partition("_")[0].partition("/")[0]: np.float64(x[member]).ravel() for path, x in params.items()
    }
    return layers | {"all": np.concatenate(list(layers.values()))}


@pytest.fixture(scope="module")
def walk():
    """(history, parameters at every step) of the first pass."""
    members = train.prepare(GROUP, tiny.SPLITS, tiny.SINGLE).members
    places = [{layer + "/kernel": np.asarray(x["kernel"]) for layer, x in members.state.params.items()}]
    for moment in train.train(GROUP, tiny.SPLITS):
        places.append(tiny.params(moment.snapshot()))
    return moment.history, places


@pytest.fixture(scope="module")
def again():
    return second_pass.to_end(GROUP, tiny.SPLITS, ENDS)


def test_cosines_and_angles_to_the_end_are_those_of_numpy(walk, again):
    """With plain SGD a step is the gradient times the rate; up to T each member has its own end."""
    assert again.rows == max(ENDS)
    for member, end in enumerate(ENDS):
        path = [flat(place, member) for place in walk[1][: end + 1]]
        for name in NAMES:
            places = np.stack([place[name] for place in path])
            steps, away = np.diff(places, axis=0), places[:-1] - places[-1]
            lengths = np.linalg.norm(steps, axis=1) * np.linalg.norm(away, axis=1)
            cosines = -(steps * away).sum(1) / lengths
            expected = {
                "cosine_start": cosines.sum(),
                "angle_start": np.arccos(np.clip(cosines, -1, 1)).sum(),
                "angles": end,
                "projection_start": (steps * away).sum(),
            }
            for column, value in expected.items():
                found = again.curves[f"{name}/{column}"][end - 1, member]
                assert found == pytest.approx(value, rel=5e-4, abs=1e-5), (name, column)


def test_the_way_to_the_end_is_what_distance_and_steps_leave(walk, again):
    """2·Σ⟨W(t) − W*, s⟩ = −‖W* − W(0)‖² − Σ‖s‖²."""
    for member, end in enumerate(ENDS):
        for name in NAMES:
            first = {
                key: walk[0].curves[f"{name}/{key}"][end - 1, member] for key in ("distance", "squared_steps")
            }
            right = -(first["distance"] ** 2) - first["squared_steps"]
            assert 2 * again.curves[f"{name}/projection_start"][end - 1, member] == pytest.approx(
                right, rel=1e-4
            )


def halted(history, member: int, end: float) -> halting.Halted:
    curves = {name: values[:, member] for name, values in history.curves.items()}
    result = Result(SPEC, GROUP.seeds[member], "finished", curves, history.step)
    return halting.Halted(result, halting.Halting(end, 1.0, 7, False), ())


def test_a_run_gets_its_columns_up_to_the_halting_time(walk, again):
    """That lies between evaluations; the last values stay. Another run's record is told."""
    own = {GROUP.members[0]: halted(walk[0], 0, 6.5), GROUP.members[1]: halted(walk[0], 1, 4.0)}
    assert [second_pass.end_of(one) for one in own.values()] == list(ENDS)
    found = second_pass.of_group(GROUP, tiny.SPLITS, own)
    assert found.keys() == own.keys()
    for i, one in enumerate(found.values()):
        curve = one.result.curves["all/cosine_end"]
        np.testing.assert_array_equal(curve[: again.rows], again.curves["all/cosine_start"][:, i])
        assert len(curve) == 9 and (curve[again.rows :] == curve[again.rows - 1]).all()
        assert {name: one.result.curves[name] for name in walk[0].curves}.keys() == walk[0].curves.keys()
    other = own[GROUP.members[1]]
    curves = other.result.curves | {halting.LOSS: other.result.curves[halting.LOSS] * np.float32(1.1)}
    other = other._replace(result=dataclasses.replace(other.result, curves=curves))
    with pytest.raises(UserError, match="^--second_pass: width 5, seed 1 does not repeat its record[^\n]*$"):
        second_pass.of_group(GROUP, tiny.SPLITS, {GROUP.members[1]: other})
