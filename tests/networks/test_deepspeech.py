"""Deep Speech 2: counts by hand, the forward pass against NumPy and PyTorch, nothing from padding or devices."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict, unflatten_dict

from wsn.data.batches import Indices
from wsn.data.speech.utterances import FRONT_ENDS, Frames, SpeechBatch, make_batch
from wsn.devices import Placement
from wsn.errors import UserError
from wsn.networks import deepspeech, lstm, models, recurrent
from wsn.networks.layers import BatchWeights
from wsn.networks.recurrent import Weights
from wsn.sparsity import family
from wsn.sparsity.shapes import weights
from wsn.spec import Group, Spec
from wsn.training import registries, strategy, train

DEVICES = tuple(jax.local_devices())
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
        found = shapes(features, width=10)
        assert weights({name: found[name] for name in ("conv_0", "conv_1")}) == 250_976
        assert found["hidden_0.forward"] == found["hidden_0.backward"] == (outputs + 10, 40)


@pytest.mark.parametrize("width", [1, 10, 800])
def test_weights_of_every_width_by_hand(width):
    recurrent = 56 * width**2 + 8 * 1312 * width
    assert weights(shapes(161, width=width, hidden_layers=4)) == 250_976 + recurrent + 29 * width
    one = shapes(13, width=width, front_end="stack")
    assert weights(one) == 8 * 39 * width + 8 * width**2 + 29 * width


def test_a_sparse_family_keeps_exact_counts():
    of_width = lambda width: models.plain_shapes(spec(width=width), SHAPE, tiny.CLASSES)  # noqa: E731
    [sparse] = family.sparse(spec(), 4, [8], of_width, "largest_first")
    assert sum(kept for _, kept in sparse.kept) == weights(of_width(4))


# The forward pass in NumPy, float64, one utterance after the other.


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def one_way(kernel, bias, x):
    """An LSTM over (time, inputs) from zeros."""
    h = c = np.zeros(len(bias) // 4)
    outputs = []
    for now in x:
        i, f, g, o = np.split(np.concatenate([now, h]) @ kernel + bias, 4)
        c = sigmoid(f + lstm.FORGET_BIAS) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs)


def convolve(x, kernel, strides):
    """(time, frequency, channels) with half a kernel of zeros on every side."""
    rows, columns = kernel.shape[:2]
    padded = np.pad(x, ((rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (rows, columns), axis=(0, 1))
    return np.einsum("tfcyx,yxco->tfo", windows[:: strides[0], :: strides[1]], kernel)


def forward(params, stats, utterances):
    """Logits of each utterance; batch statistics where `stats` is None, over all frames of all of them."""

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
        found = [x[..., None] for x in utterances]
        for i, strides in enumerate(deepspeech.STRIDES):
            found = [convolve(x, params[f"conv_{i}/kernel"], strides) for x in found]
            found = [np.clip(x, 0, 20) for x in norm(f"conv_{i}.norm", found)]
        found = [x.reshape(len(x), -1) for x in found]
    else:
        padded = [np.pad(x, ((0, -len(x) % 3), (0, 0))) for x in utterances]
        found = [x.reshape(len(x) // 3, -1) for x in padded]
    for layer in range(2):
        found = found if layer == 0 else norm(f"norm_{layer}", found)
        ways = [
            [params[f"hidden_{layer}.{way}/{x}"] for x in ("kernel", "bias")]
            for way in ("forward", "backward")
        ]
        found = [one_way(*ways[0], x) + one_way(*ways[1], x[::-1])[::-1] for x in found]
    return [x @ params["softmax/kernel"] + params["softmax/bias"] for x in found]


@cache
def network(front_end: str):
    """A network of two layers with random normalisation: (model, parameters and statistics by path, in float64)."""
    model = models.build(spec(front_end=front_end, hidden_layers=2), SHAPE, tiny.CLASSES)
    random, trees = np.random.default_rng(0), []
    for tree in jax.eval_shape(model.init, jax.random.key(0)):
        flat = {path: random.normal(size=x.shape) * 0.4 for path, x in flatten_dict(tree, sep="/").items()}
        ones = ("scale", "variance")
        trees.append({path: 0.5 + abs(x) if path.endswith(ones) else x for path, x in flat.items()})
    return model, *trees


def single(flat):
    return unflatten_dict({path: jnp.asarray(x, jnp.float32) for path, x in flat.items()}, sep="/")


def batch(longest: int = tiny.FRAMES, count: int = 5, padding: int = 0) -> SpeechBatch:
    """So many utterances filled up to `longest`, and padding of weight 0 behind them."""
    indices = Indices(
        jnp.r_[jnp.arange(count), jnp.zeros(padding, int)], jnp.r_[jnp.ones(count), jnp.zeros(padding)]
    )
    return make_batch(longest, jax.tree.map(jnp.asarray, tiny.spoken(count)), indices)


def utterances(made: SpeechBatch) -> list[np.ndarray]:
    values = np.asarray(made.inputs.values, np.float64)
    return [x[:n] for x, n in zip(values, made.inputs.lengths, strict=True)]


def assert_frames(found: Frames, expected: list[np.ndarray], stride: int) -> None:
    for i, x in enumerate(expected):
        assert found.lengths[i] == len(x)
        np.testing.assert_allclose(found.values[i, : len(x)], x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_evaluation_equals_numpy_however_far_utterances_are_filled_up(front_end):
    model, params, stats = network(front_end)
    made = batch()
    for longest in (tiny.FRAMES, tiny.FRAMES + 4):
        found = jax.jit(model.apply)(single(params), single(stats), batch(longest).inputs)
        assert found.values.shape[1] == -(-longest // FRONT_ENDS[front_end])
        assert_frames(found, forward(params, stats, utterances(made)), FRONT_ENDS[front_end])


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_training_equals_numpy_and_padding_counts_for_nothing(front_end):
    model, params, stats = network(front_end)
    train_once = jax.jit(lambda p, s, x, w: model.apply_training(p, s, x, BatchWeights(w)))
    updates = []
    for made in (batch(), batch(tiny.FRAMES + 4, padding=3)):
        found, updated = train_once(single(params), single(stats), made.inputs, made.weight)
        assert_frames(found, forward(params, None, utterances(batch())), FRONT_ENDS[front_end])
        updates.append(flatten_dict(updated, sep="/"))
    for path, running in updates[0].items():
        np.testing.assert_allclose(updates[1][path], running, rtol=1e-4, atol=1e-6, err_msg=path)
        assert np.any(running != single(stats)[path.split("/")[0]][path.split("/")[1]])


def test_frames_behind_the_end_have_no_influence():
    """Neither on what is computed nor, through its gradient, on what is learnt."""
    model, params, stats = network("conv")
    made = batch()

    def total(values):
        logits, _ = model.apply_training(
            single(params), single(stats), made.inputs._replace(values=values), BatchWeights(made.weight)
        )
        return (logits.values * jnp.cos(jnp.arange(logits.values.size)).reshape(logits.values.shape)).sum()

    slope = np.asarray(jax.jit(jax.grad(total))(made.inputs.values))
    reached = np.asarray(made.inputs.valid)
    assert slope[reached].any(-1).all() and not slope[~reached].any()


def test_both_directions_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    random, width, inputs = np.random.default_rng(0), 4, 3
    x = random.normal(size=(6, 2, inputs)).astype(np.float32)
    lengths = np.array([6, 4])
    theirs = torch.nn.LSTM(inputs, width, bidirectional=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.tensor(x), torch.tensor(lengths))
    expected = torch.nn.utils.rnn.pad_packed_sequence(theirs(packed)[0])[0].detach().numpy()
    valid = jnp.asarray((np.arange(6)[:, None] < lengths)[..., None], jnp.float32)
    zeros = jnp.zeros((2, width))
    for way, suffix in enumerate(("", "_reverse")):
        named = {
            k.removesuffix(suffix): v.detach().numpy()
            for k, v in theirs.named_parameters()
            if k.endswith(f"l0{suffix}")
        }
        kernel = np.concatenate([named["weight_ih_l0"].T, named["weight_hh_l0"].T])
        bias = named["bias_ih_l0"] + named["bias_hh_l0"]
        bias[width : 2 * width] -= lstm.FORGET_BIAS
        found = recurrent.scan_layer(
            lstm.cell,
            [Weights(jnp.asarray(kernel), jnp.asarray(bias))],
            lstm.State(zeros, zeros),
            jnp.asarray(x),
            dtype="float32",
            valid=valid,
            backward=way == 1,
        )[1]
        np.testing.assert_allclose(found, expected[..., way * width : (way + 1) * width], atol=1e-6)


# Whole runs.


def fit(one: Spec, devices: int = 1, resume=None, until: int = 2):
    """(curves, snapshot) of a run whose last batch leaves some of four devices with padding alone."""
    placement = Placement("batch" if devices > 1 else "single", DEVICES[:devices])
    for moment in train.train(Group((one,), (0,)), tiny.SPEECH, resume=resume, placement=placement):
        if moment.history.rows == until:
            return moment.history.curves, moment.snapshot()
    raise AssertionError


RUN = spec(hidden_layers=2, optimizer="adam", epochs=2, probes=("path",))


@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_a_run_is_the_same_on_any_number_of_devices(devices):
    expected, _ = fit(RUN, until=1)
    found, _ = fit(RUN, devices, until=1)
    assert (
        found.keys() == expected.keys() >= {"test_letter_error_rate", "convolutions/distance", "train_loss"}
    )
    assert "train_letter_error_rate" not in found
    for name, curve in expected.items():
        np.testing.assert_allclose(found[name], curve, rtol=2e-3, atol=1e-5, err_msg=name)


def test_a_resumed_run_repeats_the_uninterrupted_one_bit_for_bit():
    one = dataclasses.replace(RUN, front_end="stack", order="seed")
    curves, final = fit(one)
    again, resumed = fit(one, resume=fit(one, until=1)[1])
    for left, right in ((curves, again), (final.state, resumed.state)):
        for name in left:
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def test_convolutions_alone_are_kept_out_of_loops_on_a_cpu():
    for front_end, apart in (("conv", True), ("stack", False)):
        assert strategy.goes_step_by_step(network(front_end)[0]) == apart


def test_what_does_not_go_together_is_refused():
    with pytest.raises(
        UserError, match="^`model=mlp`: `dataset=tiny` is utterances: choose `model` from deepspeech$"
    ):
        models.build(tiny.spec(), SHAPE, tiny.CLASSES)
    with pytest.raises(
        UserError, match="^`model=deepspeech`: `dataset=tiny` is images: choose `model` from mlp, "
    ):
        models.build(spec(), tiny.IMAGE, tiny.CLASSES)
    with pytest.raises(UserError, match="^`task=speech`: `model=lstm` cannot: choose one of deepspeech$"):
        registries.check(tiny.spec(task="speech", model="lstm"))
    with pytest.raises(UserError, match="^`bottleneck=linear`: `model=deepspeech` has no bottlenecks"):
        models.build(spec(bottleneck="linear", inner=(("softmax", 1),)), SHAPE, tiny.CLASSES)
