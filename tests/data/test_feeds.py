"""Streamed training: the same trainer and the same curve on any number of devices, resumed or not; whole images."""

import io
from unittest import mock

import jax
import numpy as np
import pytest
import tiny
import trees
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import assert_equal
from trees import SINGLE, batch_over

from experiments.benchmarks.of_input import photo, prepare
from wsn import data
from wsn.data import stream as streams
from wsn.data.large_images import Images
from wsn.data.stream import Stream
from wsn.errors import UserError
from wsn.networks import models
from wsn.spec import Group, Spec
from wsn.tasks import Context
from wsn.tasks.classification import classification
from wsn.training import optimizers, train
from wsn.training.state import initial_members

RULE = dict(batch_size=8, learning_rate=1e-4, momentum=0.9)
SPEC = Spec(dataset="tiny", width=2, epochs=2, normalization="imagenet", **RULE)
TRAIN, TEST, CLASSES = 21, 5, 3  # batches of 8 leave some of four devices with padding alone


def example(index: int) -> dict:
    file = io.BytesIO()
    Image.fromarray(photo(index, 260, 256)).save(file, "PNG")
    return {"image": file.getvalue(), "label": index % CLASSES, "file_name": f"{index}.png"}


@pytest.fixture(scope="module")
def stream(tmp_path_factory) -> Stream:
    folder = tmp_path_factory.mktemp("tfds")
    splits = {
        "train": [example(i) for i in range(TRAIN)],
        "validation": [example(50 + i) for i in range(TEST)],
    }
    prepare(folder, "tiny:1.0.0", CLASSES, splits)
    return Images("tiny:1.0.0", classes=CLASSES).open(str(folder), threads=2)


def fit(source, devices: int = 1, resume=None, until: int = 2, spec: Spec = SPEC):
    return trees.fit(Group((spec,), (0, 1)), source, batch_over(devices), resume, rows=until)


@pytest.mark.parametrize("devices", [2, 4])
def test_a_streamed_run_is_the_same_on_any_number_of_devices(stream, devices):
    history, snapshot = fit(stream)
    other, other_snapshot = fit(stream, devices)
    assert_equal(other, history, rtol=1e-4)
    assert_equal(other_snapshot.state, snapshot.state, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("devices", [1, 4])
def test_several_batches_of_a_stream_in_one_call_train_the_same(stream, devices, monkeypatch):
    """As on an accelerator; a call has all three batches of an epoch, and none has fewer."""
    history, snapshot = fit(stream, devices)
    monkeypatch.setattr("wsn.data.stream.batches_of_call", lambda period: period)
    other, other_snapshot = fit(stream, devices)
    assert_equal(other, history, rtol=1e-4)
    assert_equal(other_snapshot.state, snapshot.state, rtol=1e-3, atol=1e-5)


@given(period=st.integers(1, 10_000))
def test_calls_of_a_stream_are_one_program(period):
    assert streams.batches_of_call(period) == 1  # on a CPU
    with mock.patch("wsn.devices.platform", lambda: "gpu"):
        count = streams.batches_of_call(period)
    assert period % count == 0 and 1 <= count <= 8
    assert all(period % more for more in range(count + 1, 9))


def test_a_resumed_stream_repeats_the_uninterrupted_run_bit_for_bit(stream):
    history, final = fit(stream)
    again, resumed = fit(stream, resume=fit(stream, until=1)[1])
    assert_equal(again, history)
    assert_equal(resumed.state, final.state)


def test_a_stream_is_evaluated_and_resumed_after_any_step_and_trains_the_same(stream):
    """Between two evaluations it crosses the end of an epoch of 3 steps; the step is one program, so to the bit."""
    group = Group((Spec(**(vars(SPEC) | {"eval_every": 2})),), (0, 1))
    moments = [(m, m.snapshot()) for m in train.train(group, stream, placement=SINGLE)]
    assert [(m.step, m.steps) for m, _ in moments] == [(2, 6), (4, 6), (6, 6)]
    _, expected = fit(stream)
    final = moments[-1][1]
    assert_equal(final.state, expected.state)
    np.testing.assert_array_equal(
        final.history.curves["test_loss"][-1], expected.history.curves["test_loss"][-1]
    )
    *_, again = train.train(group, stream, resume=moments[1][1], placement=SINGLE)
    assert_equal(again.history.curves, final.history.curves)
    assert_equal(again.snapshot().state, final.state)


def test_evaluation_of_a_stream_is_that_of_its_test_images_in_memory(stream):
    """The images as the stream cuts them, put into memory, give the same test loss; every example counts once."""
    rows = list(stream.test(TEST))
    images, labels = (
        np.concatenate(values) for values in zip(*[(r.inputs, r.labels) for r in rows], strict=True)
    )
    empty = images[:1], labels[:1]
    splits = data.Splits(*empty, *empty, images, labels, stream.mean, stream.std, CLASSES)
    group = Group((SPEC,), (0,))
    model = models.build(SPEC, stream.input_shape, CLASSES)
    task = classification(model)
    members = initial_members(group, model, optimizers.build(SPEC, optimizers.Horizon(1, 2)))
    params = jax.tree.map(lambda x: jax.numpy.asarray(x[0]), members.state.params)
    sums, context = [], Context(jax.random.key(0), None)
    for source in (stream, splits):
        feed = source.feed(group, SINGLE)
        rows = feed.held_out()
        if source is splits:
            rows = [jax.tree.map(lambda x: x[0], rows)]
        found = [
            task.evaluation(params, {}, (), feed.make_held_out_batch(feed.held_out_data, row), context)[0]
            for row in rows
        ]
        sums.append(jax.tree.map(lambda *x: np.sum(x), *found))
    assert_equal(*sums, rtol=1e-5)
    assert sums[0]["weight"] == TEST


@pytest.mark.parametrize(
    "changes",
    [
        {"train_samples": 5},
        {"validation_samples": 5},
        {"order": "seed"},
        {"augmentation": "crop_flip"},
        {"normalization": "pixel"},
    ],
)
def test_what_a_stream_cannot_do_is_refused(stream, changes):
    with pytest.raises(UserError, match="^`dataset=tiny` is streamed"):
        fit(stream, spec=Spec(**(vars(SPEC) | changes)))


@pytest.mark.parametrize("changes", [{"train_samples": 5}, {"validation_samples": 3}])
def test_splits_with_other_numbers_of_examples_than_the_spec_are_refused(changes):
    [(name, number)] = changes.items()
    with pytest.raises(UserError, match=f"^`{name}={number}`: these splits have"):
        tiny.fit(Group((tiny.spec(**changes),), (0,)))
