"""Progress lines, and text for tables."""

import tempfile

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from wsn.records import progress
from wsn.spec import Group
from wsn.training.history import History


def group(**changes) -> Group:
    return Group((tiny.spec(**changes),), (0, 1))


@settings(deadline=None, max_examples=50)
@given(st.floats(1, 1e15), st.integers(1, 300), st.integers(0, 5))
def test_progress_ends_with_a_line_at_100_percent(cost, epochs, resumed):
    g, later = group(epochs=epochs), group(epochs=1, width=9)
    accuracy = {"train_accuracy": np.ones((epochs, 1)), "test_accuracy": np.full((epochs, 1), 0.5)}
    with tempfile.TemporaryFile("w+") as stream:

        def lines():
            stream.seek(0)
            return stream.read().splitlines()

        watch = progress.Progress({g.name: cost, later.name: 3.7}, stream)
        for done in range(min(resumed, epochs - 1) + 1, epochs + 1):
            curves = {name: values[:done] for name, values in accuracy.items()}
            watch(g, done / epochs, History(np.arange(1, done + 1), curves))
        assert lines() == []
        watch(later, 1.0, None)
        watch.close()
        assert lines() == ["100 % 0 s left; width 9, epoch 1/1"]


def test_durations_have_two_digits_and_a_unit():
    seconds = (0.4, 89.0, 90.0, 3600.0, 5400.0)
    assert [progress.duration(s) for s in seconds] == ["0 s", "89 s", "2 min", "60 min", "1.5 h"]


@pytest.mark.parametrize(
    ("epochs", "fraction", "epoch"),
    [(3, 1 / 9, "0.33/3"), (2000, 1.0, "2000/2000"), (4000, 0.37, "1480/4000")],
)
def test_a_fraction_of_training_is_described_in_epochs(epochs, fraction, epoch):
    assert progress.described(group(epochs=epochs), fraction, None) == f"width 5, epoch {epoch}"


def test_training_that_may_end_early_is_described_in_steps():
    history = History(np.array([7]), {"validation_loss": np.array([[0.5]])})
    text = progress.described(group(stop="minimum", validation_samples=5), 1.0, history)
    assert text == "width 5, step 7, validation loss 0.500"


def test_columns_are_aligned_to_the_right():
    assert progress.aligned([("width", "weights"), ("8", "12345678")]) == "width   weights\n    8  12345678"
