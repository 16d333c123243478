"""Language models in training: the carry follows the same rules as other state, and the loss approaches the entropy."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import assert_equal
from trees import DEVICES, SINGLE, fit, flat, nested

from wsn.data.language.text import Text
from wsn.devices import Placement
from wsn.networks import models
from wsn.records import checkpoints, plan
from wsn.sparsity import family
from wsn.spec import Group, Spec
from wsn.tasks import TASKS
from wsn.tasks.language import cross_entropy, perplexity
from wsn.training import strategy, train

SYMBOLS = 4
OTHER_PROGRAM = {"rtol": 3e-5, "atol": 3e-6}


def markov(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A Markov source of order 2: (tokens, −log probability of each token after the second, in nats)."""
    chances = np.random.default_rng(7).dirichlet(np.full(SYMBOLS, 0.3), (SYMBOLS, SYMBOLS))
    random = np.random.default_rng(seed)
    tokens = [0, 1]
    for _ in range(count - 2):
        tokens.append(int(random.choice(SYMBOLS, p=chances[tokens[-2], tokens[-1]])))
    drawn = np.array(tokens, np.uint16)
    return drawn, -np.log(chances[drawn[:-2], drawn[1:-1], drawn[2:]])


def source(train: int = 83, held_out: int = 90, sequence: int = 4) -> Text:
    return Text("tiny", markov(train, 0)[0], markov(held_out, 1)[0], tuple("abcd"), sequence)


SOURCE = source()  # 82 pairs in 6 streams of 14, the last of 12: 4 windows of up to 4; 89 pairs held out


def spec(**changes) -> Spec:
    settings = dict(dataset="tiny", task="characters", model="lstm", width=3, epochs=3, batch_size=6)
    return Spec(**(settings | dict(learning_rate=0.5, sequence=4, eval_every=3) | changes))


# Against one long pass.


def parameters(snapshot, member: int = 0):
    return nested({path: leaf[member] for path, leaf in tiny.params(snapshot).items()})


@pytest.mark.parametrize("model", ["rhn", "lstm"])
def test_evaluation_in_windows_is_one_long_pass(model):
    """Over all pairs, also if windows do not divide them: 89 pairs as 3 streams in windows of 23, as one in 60."""
    for sequence in (23, 60):
        text = source(train=150, sequence=sequence)
        one = spec(model=model, epochs=1, batch_size=2, eval_every=0)
        curves, snapshot = fit(Group((one,), (0,)), text)
        network, params = models.build(one, (), SYMBOLS), parameters(snapshot)
        pairs = len(text.held_out) - 1
        lanes = pairs // sequence
        each = -(-pairs // lanes)
        total = 0.0
        for start in range(0, pairs, each):
            tokens = jnp.asarray(text.held_out[start : start + each + 1], jnp.int32)[:, None]
            log_p = jax.nn.log_softmax(network.apply(params, {}, tokens[:-1]))
            total -= float(jnp.take_along_axis(log_p, tokens[1:, :, None], -1).sum())
        assert curves["test_loss"][-1, 0] == pytest.approx(total / pairs, rel=1e-5)
        assert curves["test_bits_per_character"][-1, 0] == pytest.approx(
            total / pairs / math.log(2), rel=1e-5
        )


def test_a_step_continues_from_the_previous_window_without_its_gradient():
    """Plain SGD by hand: the carry restarts with every epoch and is a constant to the gradient."""
    one = spec(epochs=2, eval_every=1)
    group = Group((one,), (3,))
    curves, snapshot = fit(group, SOURCE)
    ready = train.prepare(group, SOURCE, SINGLE)
    network, feed = models.build(one, (), SYMBOLS), ready.feed
    params = jax.tree.map(lambda x: jnp.asarray(x[0]), ready.members.state.params)
    carry = fresh = network.tokens.carry(6)

    @jax.jit
    def expected(params, carry, batch):
        def loss(params):
            logits, after = network.tokens.apply(params, carry, batch.inputs)
            losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch.targets[..., None], -1)[..., 0]
            return (losses * batch.weight).sum() / batch.weight.sum(), after

        (loss_, after), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return loss_, after, jax.tree.map(lambda p, g: p - one.learning_rate * g, params, gradient)

    rows, losses = feed.training(0, 2 * feed.steps), []
    for step in range(2 * feed.steps):
        if step % feed.steps == 0:
            carry = fresh
        batch = feed.make_training_batch(feed.training_data, jax.tree.map(lambda x, i=step: x[i], rows))
        loss, carry, params = expected(params, carry, batch)
        losses.append(float(loss))
    np.testing.assert_allclose(curves["train_loss"][:, 0], losses, rtol=1e-5)
    assert_equal(flat(parameters(snapshot)), flat(params), rtol=1e-4, atol=1e-6)


# Devices, members, masks, resuming.


BATCH2, BATCH4 = (Placement("batch", DEVICES[:count]) for count in (2, 4))
MEMBERS = Placement("members", DEVICES[:2])


@pytest.mark.parametrize(
    ("model", "placements"),
    [
        pytest.param("rhn", [BATCH4], marks=pytest.mark.slow),
        ("lstm", [BATCH4, MEMBERS]),
        ("transformer", [BATCH4, MEMBERS]),
        pytest.param("lstm", [BATCH2], marks=pytest.mark.slow),
    ],
)
def test_results_do_not_depend_on_the_devices(model, placements):
    """6 streams on 1, 2 and 4 devices, the last of which do not divide 6: curves, parameters and carry."""
    width = 4 if model == "transformer" else 3
    group = Group((spec(model=model, width=width, probes=("path",)),), (0, 1))
    curves, snapshot = fit(group, SOURCE)
    assert snapshot.history.step.tolist() == [3, 6, 9, 12]
    carried = [name for name in snapshot.state if name.startswith(".carry")]
    assert bool(carried) == (model != "transformer")
    assert all(snapshot.state[name].shape == (2, 6, 3) for name in carried)
    for placement in placements:
        other, other_snapshot = fit(group, SOURCE, placement)
        assert_equal(other, curves, rtol=1e-4, atol=1e-5)
        assert_equal(other_snapshot.state, snapshot.state, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("order", [pytest.param("shared", marks=pytest.mark.slow), "seed"])
def test_members_train_as_they_do_alone(order, monkeypatch):
    """As in separate groups; step by step from Python, or all at once."""
    sparse = dataclasses.replace(spec(), kept=tuple(kept_counts(spec(), 20).items()))
    specs = [dataclasses.replace(one, order=order) for one in (spec(), sparse)]
    in_turn, _ = fit(Group(tuple(specs), (4, 1)), SOURCE)
    alone, _ = fit(Group((specs[1],), (1,)), SOURCE)
    assert_equal({name: x[:, [3]] for name, x in in_turn.items()}, alone, **OTHER_PROGRAM)
    module, way = {
        "shared": (strategy, "goes_step_by_step"),
        "seed": (strategy, "trains_together"),
    }[order]
    monkeypatch.setattr(module, way, lambda *_: True)
    other, _ = fit(Group(tuple(specs), (4, 1)), SOURCE)
    assert_equal(other, in_turn, **OTHER_PROGRAM)


def kept_counts(one: Spec, lost: int) -> dict[str, int]:
    sizes = {layer: math.prod(shape) for layer, shape in models.plain_shapes(one, (), SYMBOLS).items()}
    return sizes | {"hidden_0": sizes["hidden_0"] - lost}


def test_a_sparse_lstm_keeps_its_weights():
    template = spec(width=4)
    [one] = family.sparse(
        template,
        4,
        [5],
        lambda width: models.plain_shapes(dataclasses.replace(template, width=width), (), SYMBOLS),
        "largest_first",
        ("embedding", "softmax"),
    )
    _, snapshot = fit(Group((one,), (0, 1)), SOURCE)
    for member in range(2):
        params = parameters(snapshot, member)
        assert {layer: np.count_nonzero(params[layer]["kernel"]) for layer in params} == dict(one.kept)
    assert sum(dict(one.kept).values()) == 2 * 4 * SYMBOLS + 8 * 4**2


@pytest.mark.parametrize(
    ("placement", "stop"),
    [pytest.param(SINGLE, 3, marks=pytest.mark.slow), (BATCH4, 6)],
    ids=["one", "four devices"],
)
def test_a_resumed_lstm_repeats_the_uninterrupted_run_bit_for_bit(placement, stop, tmp_path):
    """From a checkpoint on disk in the middle of an epoch, with hidden state and probe sums."""
    group = Group((spec(probes=("path",), momentum=0.9, hidden_layers=2),), (0, 1))
    curves, final = fit(group, SOURCE, placement)
    checkpoints.save(tmp_path, stop, fit(group, SOURCE, placement, steps=stop)[1])
    saved = checkpoints.load(tmp_path)
    assert saved is not None and np.any(saved.state[".carry[1].h"] != 0)
    again, resumed = fit(group, SOURCE, placement, resume=saved)
    assert_equal(again, curves)
    assert_equal(resumed.state, final.state)


def test_the_identity_of_path_geometry():
    curves, snapshot = fit(Group((spec(probes=("path",)),), (0,)), SOURCE)
    for part in ("embedding", "hidden", "softmax", "all"):
        distance, squared, projection = (
            curves[f"{part}/{name}"] for name in ("distance", "squared_steps", "projection_start")
        )
        np.testing.assert_allclose(2 * projection, distance**2 - squared, rtol=1e-4, atol=1e-6)


# The entropy.


@pytest.mark.parametrize("model", [pytest.param("rhn", marks=pytest.mark.slow), "lstm"])
def test_the_loss_approaches_the_entropy_from_above(model):
    """A Markov source of order 2: no network beats the true probabilities on unseen text, and these come close."""
    held_out, surprise = markov(6000, 1)
    text = Text("markov", markov(20_000, 0)[0], held_out, tuple("abcd"), 20)
    one = spec(model=model, width=16, optimizer="adam", learning_rate=0.01, batch_size=20, epochs=12)
    curves, _ = fit(Group((dataclasses.replace(one, sequence=20, eval_every=100),), (0,)), text)
    loss, floor = curves["test_loss"][:, 0], surprise.mean()
    counts = np.zeros((SYMBOLS, SYMBOLS))
    np.add.at(counts, (held_out[:-1], held_out[1:]), 1)
    by_last_token = -(counts * np.log(counts / counts.sum(1, keepdims=True))).sum() / counts.sum()
    assert loss.min() > floor - 0.003
    assert loss[-1] < floor + 0.03 < by_last_token - 0.1


def test_the_cross_entropy_of_an_accelerator_is_that_of_a_cpu_without_gather_or_scatter(monkeypatch):
    logits = 3 * jax.random.normal(jax.random.key(0), (7, 4, 11))
    targets = jax.random.randint(jax.random.key(1), (7, 4), 0, 11)

    def loss(logits):
        return cross_entropy(logits, targets).sum()

    expected = jax.value_and_grad(loss)(logits)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    jax.tree.map(np.testing.assert_allclose, jax.value_and_grad(loss)(logits), expected)
    program = str(jax.make_jaxpr(jax.grad(loss))(logits))
    assert "gather" not in program and "scatter" not in program


def test_perplexity_is_finite_in_float32():
    totals = {"loss": np.float32([2 * math.log(10), 1e9]), "weight": np.float32([2, 1])}
    shown = perplexity(totals)
    np.testing.assert_allclose(shown[0], 10, rtol=1e-6)
    assert np.isfinite(shown.astype(np.float32)).all()
    for name in ("characters", "words"):
        assert TASKS[name](models.build(spec(), (), SYMBOLS)).metrics[0].name == "loss"


def test_a_plan_counts_every_step_of_time():
    """The matrix products by hand, three times each in training; the rest is less than 15 %."""
    one, text = spec(width=32, epochs=1, eval_every=0), source(301, 90, sequence=10)
    products = 2 * (2 * 32 * 4 * 32 + 32 * SYMBOLS)  # FLOP a token
    train_windows, held_out_windows = text.num_examples(one)
    by_hand = 10 * products * (3 * train_windows + held_out_windows)
    assert plan.cost(Group((one,), (0,)), text).flops == pytest.approx(by_hand, rel=0.15)
