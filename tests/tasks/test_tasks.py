"""Every task: totals are weighted sums, gradients are those of the loss, metrics have unit and direction."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.test_util import check_grads

from wsn.data.batches import Batch, Indices
from wsn.data.language.text import TextBatch
from wsn.data.speech.utterances import SpeechBatch, make_batch
from wsn.networks import models
from wsn.tasks import TASKS, Context, Task
from wsn.tasks.language import LANGUAGE
from wsn.tasks.speech import SPEECH

CONTEXT = Context(jax.random.key(0), None)


TIME = 3  # tokens of a window


def network(name: str):
    """(task, parameters) of a small smooth network, so that finite differences approximate derivatives."""
    kind = "lstm" if name in LANGUAGE else "deepspeech" if name in SPEECH else "mlp"
    spec = tiny.spec(activation="linear", task=name, model=kind, width=3, front_end="stack")
    model = models.build(spec, tiny.IMAGE if kind == "mlp" else tiny.input_shape(kind), tiny.CLASSES)
    return TASKS[name](model), jax.tree.map(lambda x: x / 2, model.init(jax.random.key(1))[0])


def batch(name: str, count: int) -> Batch | TextBatch | SpeechBatch:
    """`count` lanes: examples, or text streams on the last axis."""
    random = np.random.default_rng(count)
    if name in LANGUAGE:
        inputs, targets = jnp.asarray(random.integers(0, tiny.CLASSES, (2, TIME, count), np.int32))
        return TextBatch(inputs, targets, jnp.ones((TIME, count)), jnp.zeros(count, bool))
    if name in SPEECH:
        rows = Indices(jnp.arange(count), jnp.ones(count))
        return make_batch(tiny.FRAMES, jax.tree.map(jnp.asarray, tiny.spoken(count, seed=count)), rows)
    inputs = random.normal(size=(count, *tiny.IMAGE)).astype(np.float32)
    labels = random.integers(0, tiny.CLASSES, count).astype(np.int32)
    return Batch(jnp.asarray(inputs), jnp.asarray(labels), jnp.ones(count))


def lanes_axis(batch: Batch | TextBatch | SpeechBatch) -> int:
    return -1 if isinstance(batch, TextBatch) else 0


def reweighted(batch: Batch | TextBatch | SpeechBatch, lanes: np.ndarray) -> Batch | TextBatch | SpeechBatch:
    return batch._replace(weight=jnp.broadcast_to(jnp.asarray(lanes, jnp.float32), batch.weight.shape))


def totals(task: Task, params, batch: Batch | TextBatch | SpeechBatch) -> dict[str, float]:
    """The totals of evaluation; those of training are equal, since no layer depends on the batch as a whole."""
    lanes = batch.weight.shape[-1]
    trained, _, _ = task.training(params, {}, task.carry(lanes), batch, CONTEXT)
    evaluated, _ = task.evaluation(params, {}, task.carry(lanes), batch, CONTEXT)
    assert_close(trained, {name: evaluated[name] for name in trained})
    return {name: float(value) for name, value in evaluated.items()}


def assert_close(left, right) -> None:
    assert left.keys() == right.keys() >= {"loss", "weight"}
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", TASKS)
def test_an_example_of_weight_0_counts_for_nothing(name):
    task, params = network(name)
    real, padding = batch(name, 5), reweighted(batch(name, 3), np.zeros(3))
    padded = jax.tree.map(lambda *x: jnp.concatenate(x, lanes_axis(real)), real, padding)
    assert_close(totals(task, params, padded), totals(task, params, real))


@pytest.mark.parametrize("name", TASKS)
def test_totals_of_a_batch_are_the_sums_of_those_of_its_parts(name):
    task, params = network(name)
    whole = batch(name, 8)
    parts = [
        totals(task, params, jax.tree.map(lambda x, cut=cut: jnp.take(x, cut, lanes_axis(whole)), whole))
        for cut in (np.arange(3), np.arange(3, 8))
    ]
    assert_close(totals(task, params, whole), {n: sum(part[n] for part in parts) for n in parts[0]})
    letters = whole.label_lengths.sum() if isinstance(whole, SpeechBatch) else whole.weight.size
    assert totals(task, params, whole)["weight"] == letters


@pytest.mark.parametrize("name", TASKS)
def test_the_gradient_of_the_mean_loss_is_that_of_finite_differences(name):
    task, params = network(name)
    data = reweighted(batch(name, 6), np.array([1, 1, 1, 1, 0, 0]))

    @jax.jit
    def loss(params):
        sums, _, _ = task.training(params, {}, task.carry(6), data, CONTEXT)
        return sums["loss"] / sums["weight"]

    check_grads(loss, (params,), order=1, modes=["rev"], eps=1e-2, rtol=5e-3, atol=5e-3)


# (logits, labels) → loss of every example, in NumPy.
LOSSES = {
    "classification": lambda z, y: np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y],
    "regression": lambda z, y: ((z - np.eye(tiny.CLASSES)[y]) ** 2).sum(1) / 2,
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_numpy(name):
    task, params = network(name)
    data = batch(name, 7)
    logits = np.asarray(data.inputs, np.float64).reshape(7, -1)
    for layer in ("hidden_0", "output"):
        logits = logits @ np.asarray(params[layer]["kernel"], np.float64)
    labels = np.asarray(data.labels)
    expected = {
        "loss": LOSSES[name](logits, labels).sum(),
        "correct": (logits.argmax(1) == labels).sum(),
        "weight": 7,
    }
    assert_close(totals(task, params, data), expected)


@pytest.mark.parametrize("name", TASKS)
def test_metrics_begin_with_the_loss_and_have_unit_and_direction(name):
    task, params = network(name)
    sums = totals(task, params, batch(name, 8))
    first = task.metrics[0]
    assert first.name == "loss" and first.better == "low"
    assert first.of(sums) == sums["loss"] / sums["weight"]
    assert len({metric.name for metric in task.metrics}) == len(task.metrics)
    several = {key: np.array([value, 2 * value]) for key, value in sums.items()}
    for metric in task.metrics:
        assert metric.better in ("low", "high") and metric.unit
        assert math.isfinite(metric.of(sums))
        # A mean: twice the examples change nothing; members are separate.
        np.testing.assert_allclose(metric.of(several), metric.of(sums), rtol=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_the_carry_has_lanes_first_and_keeps_its_shape(name):
    task, params = network(name)
    before = task.carry(6)
    _, _, trained = task.training(params, {}, before, batch(name, 6), CONTEXT)
    _, evaluated = task.evaluation(params, {}, before, batch(name, 6), CONTEXT)
    shapes = jax.eval_shape(lambda: task.carry(6))
    for after in (trained, evaluated):
        assert jax.eval_shape(lambda after=after: after) == shapes
    assert all(leaf.shape[0] == 6 for leaf in jax.tree.leaves(shapes))
