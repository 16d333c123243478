"""Recurrent networks against NumPy and PyTorch on the same weights, and their counts by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from trees import flat, lstm_step, lstm_weights, sigmoid

from wsn.errors import UserError
from wsn.networks import models
from wsn.networks.sequence import highway, lstm, recurrent
from wsn.networks.sequence.recurrent import Weights
from wsn.sparsity import family
from wsn.sparsity.shapes import weights
from wsn.spec import Group, Spec
from wsn.training import state
from wsn.training.optimizers import Horizon, build

RANDOM = np.random.default_rng(0)
SYMBOLS = 7
RECURRENT = ("rhn", "lstm")
TOKENS = RANDOM.integers(0, SYMBOLS, (6, 3)).astype(np.int32)
READ = jnp.asarray(TOKENS)


def spec(model: str = "rhn", **changes) -> Spec:
    settings = dict(dataset="tiny", task="characters", model=model, width=5, epochs=1, batch_size=3)
    return Spec(**(settings | {"learning_rate": 0.1} | changes))


def network(one: Spec, symbols: int = SYMBOLS) -> models.Model:
    return models.build(one, (), symbols)


# References in float64.


def reference(one: Spec, params: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """Logits, token by token."""

    def kernel(layer: str, fan_in: int) -> np.ndarray:
        return params[f"{layer}/kernel"] / (np.sqrt(fan_in) if one.parameterization == "ntk" else 1)

    width, logits = one.width, []
    cells = {"rhn": highway_step, "lstm": lstm_layers}
    layers = one.depth if one.model == "rhn" else one.hidden_layers
    lanes = tokens.shape[1]
    memory = [np.zeros((lanes, width)) for _ in range(2 * one.hidden_layers)]
    fans = [2 * width if one.model == "lstm" or i == 0 else width for i in range(layers)]
    hidden = [(kernel(f"hidden_{i}", fans[i]), params[f"hidden_{i}/bias"]) for i in range(layers)]
    for row in tokens:
        output = cells[one.model](one, hidden, memory, params["embedding/kernel"][row])
        logits.append(output @ kernel("softmax", width) + params["softmax/bias"])
    return np.stack(logits)


def highway_step(one, hidden, memory, x):
    s = memory[0]
    for i, (kernel, bias) in enumerate(hidden):
        h, t = np.split((np.hstack([x, s]) if i == 0 else s) @ kernel + bias, 2, axis=1)
        s = s + sigmoid(t + one.gate_bias) * (np.tanh(h) - s)
    memory[0] = s
    return s


def lstm_layers(one, hidden, memory, x):
    for n, (kernel, bias) in enumerate(hidden):
        memory[2 * n : 2 * n + 2] = x, _ = lstm_step(kernel, bias, *memory[2 * n : 2 * n + 2], x)
    return x


@pytest.mark.parametrize("parameterization", ["standard", "ntk"])
@pytest.mark.parametrize(
    "changes",
    [
        {"model": "rhn", "depth": 1},
        {"model": "rhn", "depth": 3, "gate_bias": -2.0},
        {"model": "lstm"},
        {"model": "lstm", "hidden_layers": 2},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_logits_equal_numpy(changes, parameterization):
    """Also in windows, each from the state after the one before."""
    one = spec(**changes, parameterization=parameterization)
    model = network(one)
    params, stats = model.init(jax.random.key(1))
    leaves = {path: np.asarray(x, np.float64) for path, x in flat(params).items()}
    expected = reference(one, leaves, TOKENS)
    np.testing.assert_allclose(model.apply(params, stats, READ), expected, rtol=1e-5, atol=1e-5)
    carry, parts = model.tokens.carry(3), []
    for window in (READ[:2], READ[2:3], READ[3:]):
        logits, carry = model.tokens.apply(params, carry, window)
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-5, atol=1e-5)


def test_states_of_a_highway_network_of_one_unit():
    """Computed by hand: xh 0.5, xt −0.3, h0 0.2, t0 0.4, h1 −0.7, t1 0.6, bias 0.1 of h0."""
    layers = [
        Weights(jnp.array([[0.5, -0.3], [0.2, 0.4]]), jnp.array([0.1, 0.0])),
        Weights(jnp.array([[-0.7, 0.6]]), jnp.zeros(2)),
    ]
    x = jnp.array([1.0, -2.0, 0.5]).reshape(3, 1, 1)
    last, states = highway.unroll(layers, jnp.zeros((1, 1)), x, gate_bias=-1.0, dtype="float32")
    np.testing.assert_allclose(states.ravel(), [0.05978546795, -0.15062613635, -0.02482078025], rtol=1e-6)
    np.testing.assert_array_equal(last, states[-1])


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("core", ["rhn", "lstm"])
def test_gradients_are_those_of_a_loop_in_python(core, backward):
    """With respect to kernels, biases, inputs and the first state, through outputs and last state; lanes may end."""

    def draw(*shape):
        return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)

    cell, fans = (highway.cell, (5, 3, 3)) if core == "rhn" else (lstm.cell, (5,))
    units, x = 3 * (2 if core == "rhn" else 4), draw(6, 2, 2)
    layers = [Weights(draw(fan, units), draw(units)) for fan in fans]
    start = draw(2, 3) if core == "rhn" else lstm.State(draw(2, 3), draw(2, 3))
    valid = None if core == "rhn" else jnp.asarray([[1, 1]] * 4 + [[1, 0]] * 2, jnp.float32)[..., None]
    settings = dict(dtype="float32", valid=valid, backward=backward)

    def loop(layers, state, x):
        outputs = [None] * len(x)
        for t in reversed(range(len(x))) if backward else range(len(x)):
            first, *others = (lambda s, w=w: s @ w.kernel + w.bias for w in layers)
            products = [lambda s, t=t, first=first: first(jnp.concatenate([x[t], s], 1)), *others]
            state, outputs[t] = cell(state, products, None if valid is None else valid[t])
        return state, jnp.stack(outputs)

    factors = draw(6, 2, 3), draw(2, 3)

    def loss(of):
        def value(*args):
            last, y = of(*args)
            return (y * factors[0]).sum() + sum((leaf * factors[1]).sum() for leaf in jax.tree.leaves(last))

        return jax.value_and_grad(value, (0, 1, 2))

    ours = jax.jit(loss(partial(recurrent.scan_layer, cell, **settings)))(layers, start, x)
    theirs = jax.jit(loss(loop))(layers, start, x)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), ours, theirs)


def test_the_lstm_equals_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    theirs = torch.nn.LSTM(3, 4, 2)
    layers = [lstm_weights(theirs, f"l{n}") for n in range(2)]
    x = RANDOM.normal(size=(6, 2, 3)).astype(np.float32)
    start = RANDOM.normal(size=(2, 2, 2, 4)).astype(np.float32)
    with torch.no_grad():
        y, (h, c) = theirs(torch.from_numpy(x), (torch.from_numpy(start[0]), torch.from_numpy(start[1])))
    states = [lstm.State(jnp.asarray(start[0, n]), jnp.asarray(start[1, n])) for n in range(2)]
    last, ours = lstm.unroll(layers, states, jnp.asarray(x), dtype="float32")
    np.testing.assert_allclose(ours, y, atol=1e-6)
    np.testing.assert_allclose([s.h for s in last], h, atol=1e-6)
    np.testing.assert_allclose([s.c for s in last], c, atol=1e-6)


# Counts, masks, scales.


def test_weights_by_hand():
    for width, count in {16: 3616, 32: 10_304, 64: 32_896, 128: 114_944}.items():
        assert (
            weights(network(spec(width=width, depth=2), 65).shapes) == count == 65 * 2 * width + 6 * width**2
        )
    assert weights(network(spec(width=764, depth=10), 98).shapes) == 12_991_056
    words = spec("lstm", task="words", width=64, hidden_layers=2)
    assert weights(network(words, 10_000).shapes) == 1_345_536


def members(one: Spec) -> state.Members:
    return state.initial_members(Group((one,), (0, 1)), network(one), build(one, Horizon(1, 1)))


def of_width(one: Spec):
    return lambda width: models.plain_shapes(spec(one.model, width=width), (), SYMBOLS)


@pytest.mark.parametrize("model", RECURRENT)
def test_a_sparse_family_keeps_exact_counts(model):
    """By default any layer may lose weights; layers that must stay dense do."""
    template = spec(model)
    [free] = family.sparse(template, 8, [16], of_width(template), "largest_first")
    [tied] = family.sparse(template, 8, [10], of_width(template), "largest_first", ("embedding", "softmax"))
    for one in (free, tied):
        kept = dict(one.kept)
        assert sum(kept.values()) == weights(of_width(template)(8))
        made = members(one)
        for layer, count in kept.items():
            alive = np.count_nonzero(made.state.params[layer]["kernel"], axis=(1, 2))
            assert alive.tolist() == [count, count]
    assert dict(tied.kept)["embedding"] == dict(tied.kept)["softmax"] == 10 * SYMBOLS
    with pytest.raises(
        UserError,
        match=r"^`widths=\d+`, `sparsify`: of a budget of \d+ weights the layers that stay whole[^\n]*$",
    ):
        family.sparse(template, 2, [16], of_width(template), "largest_first", ("embedding", "softmax"))


@pytest.mark.parametrize("model", models.MODELS)
def test_groups_choose_which_layers_lose_weights(model):
    """Those in the named groups; by default all but embedding and softmax."""
    one = spec(model, width=6, hidden_layers=2)
    shapes = models.plain_shapes(one, tiny.input_shape(model), SYMBOLS)
    groups = models.groups_of(one, shapes)
    for group in set(groups.values()):
        whole = family.whole_layers(groups, (group,))
        assert set(whole) == {layer for layer in groups if groups[layer] != group}
    assert family.whole_layers(groups, tuple(set(groups.values()))) == ()
    tables = [layer for layer, group in groups.items() if group in ("embedding", "softmax")]
    assert list(family.whole_layers(groups)) == tables
    with pytest.raises(UserError, match="^`sparsify=nonsense` is unknown: this network has [^\n]*$"):
        family.whole_layers(groups, ("nonsense",))


def test_an_embedding_reads_one_row():
    """Uniform on ±1, and on ±1/√(kept inputs of a unit) elsewhere."""
    params = members(spec("lstm", width=50)).state.params
    for layer, fan_in in {"embedding": 1, "hidden_0": 100, "softmax": 50}.items():
        largest = np.abs(params[layer]["kernel"]).max()
        assert 0.98 < largest * np.sqrt(fan_in) <= 1


@pytest.mark.parametrize("model", RECURRENT)
def test_bfloat16_is_close(model):
    exact, rounded = (network(spec(model, width=32, compute_dtype=t)) for t in ("float32", "bfloat16"))
    params, stats = exact.init(jax.random.key(0))
    ours, theirs = rounded.apply(params, stats, READ), exact.apply(params, stats, READ)
    assert ours.dtype == np.float32 and 0 < np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()


@pytest.mark.parametrize("model", RECURRENT)
def test_a_recurrent_network_has_gradients_where_float64_is_enabled(model):
    with jax.enable_x64(True):
        net = network(spec(model))
        params, extra = net.init(jax.random.key(0))
        gradient = jax.grad(lambda p: net.apply(p, extra, jnp.asarray(TOKENS)).sum())(params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradient))
