"""Deep Speech 2: counts by hand, the forward pass against NumPy and PyTorch, no influence of padding or devices."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import assert_equal
from trees import batch_over, convolve, flat, lstm_step, lstm_weights, nested, random_trees
from trees import fit as fit_source

from wsn.data.batches import Indices
from wsn.data.speech.utterances import FRONT_ENDS, Frames, SpeechBatch, make_batch
from wsn.networks import models
from wsn.networks.layers import BatchWeights
from wsn.networks.sequence import deepspeech, lstm
from wsn.networks.sequence.recurrent import scan_layer
from wsn.sparsity import family
from wsn.sparsity.shapes import weights
from wsn.spec import Group, Spec
from wsn.training import strategy

SHAPE = tiny.input_shape("deepspeech")


def spec(**changes) -> Spec:
    return tiny.spec(
        **dict(model="deepspeech", task="speech", width=4, channels=2, learning_rate=0.01) | changes
    )


# Counts.


def shapes(features: int, **changes) -> dict[str, tuple[int, ...]]:
    return models.plain_shapes(tiny.spec(model="deepspeech", **changes), (100, features), 29)


def test_the_front_end_has_the_weights_and_outputs_of_the_paper():
    """41 × 11 and 21 × 11 with 32 channels; 161 bins become 81 and 41, 81 become 41 and 21."""
    for features, outputs in ((161, 41 * 32), (81, 21 * 32)):
        layers = shapes(features, width=10)
        assert weights({name: layers[name] for name in ("conv_0", "conv_1")}) == 250_976
        assert layers["hidden_0.forward"] == layers["hidden_0.backward"] == (outputs + 10, 40)


@pytest.mark.parametrize("width", [1, 10, 800])
def test_weights_of_every_width_by_hand(width):
    recurrent = 56 * width**2 + 8 * 1312 * width
    assert weights(shapes(161, width=width, hidden_layers=4)) == 250_976 + recurrent + 29 * width
    stacked = shapes(13, width=width, front_end="stack")
    assert weights(stacked) == 8 * 39 * width + 8 * width**2 + 29 * width


def test_a_sparse_family_keeps_exact_counts():
    of_width = lambda width: models.plain_shapes(spec(width=width), SHAPE, tiny.CLASSES)  # noqa: E731
    [sparse] = family.sparse(spec(), 4, [8], of_width, "largest_first")
    assert sum(kept for _, kept in sparse.kept) == weights(of_width(4))


# The forward pass in NumPy, float64, one utterance at a time.


def one_direction(kernel, bias, x):
    """An LSTM over (time, inputs) from zeros."""
    state, outputs = [np.zeros(len(bias) // 4)] * 2, []
    for now in x:
        state = lstm_step(kernel, bias, *state, now)
        outputs.append(state[0])
    return np.array(outputs)


def forward(params, stats, utterances):
    """Logits of each utterance; with batch statistics over all frames if `stats` is None."""

    def norm(name, sequences):
        frames = np.concatenate(sequences).reshape(-1, sequences[0].shape[-1])
        mean, variance = (
            (frames.mean(0), frames.var(0))
            if stats is None
            else (stats[f"{name}/mean"], stats[f"{name}/variance"])
        )
        scale = params[f"{name}/scale"] / np.sqrt(variance + 1e-5)
        return [(x - mean) * scale + params[f"{name}/bias"] for x in sequences]

    if "conv_0/kernel" in params:
        xs = [x[..., None] for x in utterances]
        for i, strides in enumerate(deepspeech.STRIDES):
            xs = [convolve(x[None], params[f"conv_{i}/kernel"], strides)[0] for x in xs]
            xs = [np.clip(x, 0, 20) for x in norm(f"conv_{i}.norm", xs)]
        xs = [x.reshape(len(x), -1) for x in xs]
    else:
        xs = [np.pad(x, ((0, -len(x) % 3), (0, 0))).reshape(-1, 3 * x.shape[1]) for x in utterances]
    for layer in range(2):
        xs = xs if layer == 0 else norm(f"norm_{layer}", xs)
        forward, backward = (
            [params[f"hidden_{layer}.{direction}/{name}"] for name in ("kernel", "bias")]
            for direction in ("forward", "backward")
        )
        xs = [one_direction(*forward, x) + one_direction(*backward, x[::-1])[::-1] for x in xs]
    return [x @ params["softmax/kernel"] + params["softmax/bias"] for x in xs]


@cache
def network(front_end: str):
    """(model, parameters and statistics by path in float64) of two layers with random normalization."""
    model = models.build(spec(front_end=front_end, hidden_layers=2), SHAPE, tiny.CLASSES)
    return model, *random_trees(model, lambda path, shape: 0.4)


def batch(longest: int = tiny.FRAMES, count: int = 5, padding: int = 0) -> SpeechBatch:
    """`count` utterances padded to `longest`, then padding of weight 0."""
    indices = Indices(
        jnp.r_[jnp.arange(count), jnp.zeros(padding, int)], jnp.r_[jnp.ones(count), jnp.zeros(padding)]
    )
    return make_batch(longest, jax.tree.map(jnp.asarray, tiny.spoken(count)), indices)


def assert_equals_forward(logits: Frames, params, stats) -> None:
    """The logits of `batch()` are those of NumPy, one utterance at a time."""
    values, lengths = np.asarray(batch().inputs.values, np.float64), batch().inputs.lengths
    expected = forward(params, stats, [x[:n] for x, n in zip(values, lengths, strict=True)])
    assert logits.lengths[: len(expected)].tolist() == [len(x) for x in expected]
    for i, x in enumerate(expected):
        np.testing.assert_allclose(logits.values[i, : len(x)], x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_evaluation_equals_numpy_with_any_padding(front_end):
    model, params, stats = network(front_end)
    for longest in (tiny.FRAMES, tiny.FRAMES + 4):
        logits = jax.jit(model.apply)(nested(params), nested(stats), batch(longest).inputs)
        assert logits.values.shape[1] == -(-longest // FRONT_ENDS[front_end])
        assert_equals_forward(logits, params, stats)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_training_equals_numpy_and_padding_counts_for_nothing(front_end):
    model, params, stats = network(front_end)
    apply = jax.jit(lambda p, s, x, w: model.apply_training(p, s, x, BatchWeights(w)))
    updates = []
    for data in (batch(), batch(tiny.FRAMES + 4, padding=3)):
        logits, updated = apply(nested(params), nested(stats), data.inputs, data.weight)
        assert_equals_forward(logits, params, None)
        updates.append(flat(updated))
    assert_equal(*updates, rtol=1e-4, atol=1e-6)
    assert all(np.any(running != np.float32(stats[path])) for path, running in updates[0].items())


def test_frames_after_the_end_have_no_influence():
    """Neither on the outputs nor on gradients."""
    model, params, stats = network("conv")
    data = batch()

    def total(values):
        logits, _ = model.apply_training(
            nested(params), nested(stats), data.inputs._replace(values=values), BatchWeights(data.weight)
        )
        return (logits.values * jnp.cos(jnp.arange(logits.values.size)).reshape(logits.values.shape)).sum()

    gradient = np.asarray(jax.jit(jax.grad(total))(data.inputs.values))
    valid = np.asarray(data.inputs.valid)
    assert gradient[valid].any(-1).all() and not gradient[~valid].any()


def test_both_directions_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    random, width, inputs = np.random.default_rng(0), 4, 3
    x = random.normal(size=(6, 2, inputs)).astype(np.float32)
    lengths = np.array([6, 4])
    theirs = torch.nn.LSTM(inputs, width, bidirectional=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.tensor(x), torch.tensor(lengths))
    expected = torch.nn.utils.rnn.pad_packed_sequence(theirs(packed)[0])[0].detach().numpy()
    valid = jnp.asarray((np.arange(6)[:, None] < lengths)[..., None], jnp.float32)
    for direction, name in enumerate(("l0", "l0_reverse")):
        layer, start, backward = [lstm_weights(theirs, name)], lstm.initial_state(2, width), direction == 1
        _, y = scan_layer(
            lstm.cell, layer, start, jnp.asarray(x), dtype="float32", valid=valid, backward=backward
        )
        np.testing.assert_allclose(y, expected[..., direction * width :][..., :width], atol=1e-6)


# Whole runs.


def fit(one: Spec, devices: int = 1, resume=None, until: int = 2):
    """(curves, snapshot) of a run whose last batch leaves some of four devices with padding only."""
    return fit_source(Group((one,), (0,)), tiny.SPEECH, batch_over(devices), resume, rows=until)


RUN = spec(hidden_layers=2, optimizer="adam", epochs=2, probes=("path",))


@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_a_run_is_the_same_on_any_number_of_devices(devices):
    expected, _ = fit(RUN, until=1)
    assert {"test_letter_error_rate", "convolutions/distance", "train_loss"} <= expected.keys()
    assert "train_letter_error_rate" not in expected
    assert_equal(fit(RUN, devices, until=1)[0], expected, rtol=2e-3, atol=1e-5)


def test_a_resumed_run_repeats_the_uninterrupted_one_bit_for_bit():
    one = dataclasses.replace(RUN, front_end="stack", order="seed")
    curves, final = fit(one)
    again, resumed = fit(one, resume=fit(one, until=1)[1])
    assert_equal(again, curves)
    assert_equal(resumed.state, final.state)


def test_only_networks_with_convolutions_go_step_by_step_on_a_cpu():
    for front_end, apart in (("conv", True), ("stack", False)):
        assert strategy.goes_step_by_step(network(front_end)[0]) == apart
