"""Halting times by hand and their properties; training that stops past its minimum."""

import dataclasses

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from wsn.errors import UserError
from wsn.records import checkpoints, record, runs
from wsn.spec import Group
from wsn.training import train
from wsn.training.halting import MORE_EVALUATIONS, MORE_STEPS, TOLERANCE, halting, past_minimum, steps_to_loss
from wsn.training.registries import check


def test_halting_time_is_interpolated_between_evaluations():
    steps, losses = np.arange(100, 600, 100), np.array([10, 5, 2.1, 2.0, 2.2])
    result = halting(steps, losses)
    assert result.step == pytest.approx(300 + 100 * (2.1 - 2.02) / 0.1)
    assert (result.minimum, result.minimum_step) == (2.0, 400) and result.censored


def test_a_loss_that_only_falls_is_censored_and_training_continues():
    steps = np.arange(1, 101)
    losses = 1 + 1 / steps
    assert halting(steps, losses).censored and not past_minimum(steps, losses)


def test_a_plateau_is_no_minimum():
    steps = np.arange(10, 1010, 10)
    losses = np.where(steps == 100, 5.2, 5.3)
    assert not halting(steps, losses).censored
    assert halting(steps, losses, ceiling=5.0).censored


def test_a_diverged_run_has_no_halting_time_and_may_stop():
    steps, losses = np.arange(3), np.array([1.0, np.nan, np.nan])
    assert (
        np.isnan(halting(steps, losses).step)
        and halting(steps, losses).censored
        and past_minimum(steps, losses)
    )


def test_the_steps_to_a_loss_that_is_never_reached_are_nan():
    assert np.isnan(steps_to_loss(np.arange(3), np.array([3.0, 2.0, 2.5]), 1.9))
    assert steps_to_loss(np.arange(5, 8), np.array([3.0, 2.0, 2.5]), 4.0) == 5


curves = st.lists(st.floats(0.1, 10), min_size=2, max_size=60).map(np.array)


@given(curves, st.integers(1, 50), st.floats(0.01, 100))
def test_properties_of_halting_times(losses, every, unit):
    """Not after the minimum, at a loss within 1 % of it, whatever the unit; a run stops only when it is certain."""
    steps = every * np.arange(1, len(losses) + 1)
    halted = halting(steps, losses)
    assert steps[0] <= halted.step <= halted.minimum_step <= steps[-1]
    assert np.interp(halted.step, steps, losses) <= (1 + TOLERANCE) * halted.minimum * (1 + 1e-9)
    assert halting(steps, unit * losses).step == pytest.approx(halted.step, rel=1e-6)
    if past_minimum(steps, losses):
        assert (
            not halted.censored
            and len(losses) > MORE_EVALUATIONS
            and steps[-1] >= MORE_STEPS * halted.minimum_step
        )


@given(curves, st.floats(1.0, 3.0))
def test_a_higher_level_is_reached_earlier(losses, factor):
    steps = np.arange(1, len(losses) + 1)
    level = losses.min()
    assert steps_to_loss(steps, losses, factor * level) <= steps_to_loss(steps, losses, level)


# Stopping: 23 examples with random labels are memorized, and the loss of the 5 held-out ones rises.

SPEC = tiny.spec(stop="minimum", validation_samples=5, epochs=60, eval_every=2)
GROUP = Group((SPEC,), (0, 2))


def trained(group: Group, resume=None):
    """(point, snapshot) of every evaluation."""
    points = train.train(group, tiny.SPLITS, placement=tiny.SINGLE, resume=resume)
    return [(point, point.snapshot()) for point in points]


@pytest.fixture(scope="module")
def stopped():
    return trained(GROUP)


def test_training_ends_when_all_members_are_past_their_minimum(stopped):
    def done(point) -> list[bool]:
        return [past_minimum(point.history.step, x) for x in point.history.curves["validation_loss"].T]

    *earlier, (last, _) = stopped
    assert last.last and last.fraction_done == 1.0 and last.step < last.steps and all(done(last))
    for point, _ in earlier:
        assert not point.last and point.fraction_done == point.step / point.steps < 1 and not all(done(point))
    assert any(any(done(point)) for point, _ in earlier)  # one waits for the other


def test_a_stopped_run_equals_the_start_of_a_longer_one(stopped):
    whole = trained(Group((dataclasses.replace(SPEC, stop="epochs"),), GROUP.seeds))
    assert [m.last for m, _ in whole] == [m.step == m.steps for m, _ in whole]
    history = stopped[-1][0].history
    for name, values in history.curves.items():
        np.testing.assert_array_equal(whole[-1][0].history.curves[name][: history.rows], values)


def test_a_resumed_run_stops_at_the_same_step_with_the_same_bits(stopped):
    final, state = stopped[-1]
    again, resumed = trained(GROUP, resume=stopped[len(stopped) // 2][1])[-1]
    np.testing.assert_array_equal(again.history.step, final.history.step)
    tiny.assert_equal(again.history.curves, final.history.curves)
    tiny.assert_equal(resumed.state, state.state)
    assert trained(GROUP, resume=state) == []


def test_the_record_of_a_stopped_run_is_complete(stopped, tmp_path):
    shares = []
    runs.run(
        [GROUP], tmp_path, lambda spec: tiny.SPLITS, watch=lambda group, share, history: shares.append(share)
    )
    results = record.read(runs.record_path(tmp_path, GROUP)).results
    for result in results:
        np.testing.assert_array_equal(result.steps, stopped[-1][0].history.step)
    assert shares == sorted(shares) and shares[-1] == 1.0 and shares.count(1.0) == 1


def test_a_checkpoint_of_the_end_becomes_the_record(stopped, tmp_path):
    """A killed process may leave one."""
    final, snapshot = stopped[-1]
    folder = runs.directory(tmp_path, GROUP) / "checkpoints"
    checkpoints.save(folder, final.step, snapshot, GROUP.name)
    runs.run([GROUP], tmp_path, lambda spec: tiny.SPLITS)
    for i, result in enumerate(record.read(runs.record_path(tmp_path, GROUP)).results):
        np.testing.assert_array_equal(result.steps, final.history.step)
        for name, values in final.history.curves.items():
            np.testing.assert_array_equal(result.curves[name], values[:, i])
    assert not folder.exists()


def test_stopping_on_test_data_is_refused():
    with pytest.raises(UserError, match="^`stop=minimum`[^\n]*`validation_samples`[^\n]*$"):
        check(dataclasses.replace(SPEC, validation_samples=0))
