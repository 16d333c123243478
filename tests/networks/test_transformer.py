"""The transformer against NumPy and PyTorch on the same weights; counts by hand, causality, the coordinate check."""

import dataclasses
import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from tiny import assert_equal
from trees import fit, nested, random_trees

from wsn.data.language.text import Text
from wsn.errors import UserError
from wsn.networks import models
from wsn.records import plan
from wsn.sparsity import family
from wsn.sparsity.masks import apply_mask
from wsn.sparsity.shapes import weights
from wsn.spec import Group, Spec
from wsn.tasks.language import cross_entropy
from wsn.training.optimizers import Horizon, build
from wsn.training.state import initial_members

SYMBOLS, EPSILON = 11, 1e-6
TOKENS = (
    np.random.default_rng(0).permuted(np.tile(np.arange(7), (3, 1)), axis=1).T
)  # each token once in a lane


def spec(**changes) -> Spec:
    settings = dict(dataset="tiny", task="characters", model="transformer", width=8, head_dim=4, epochs=1)
    return Spec(**(settings | dict(hidden_layers=2, batch_size=3, learning_rate=0.1) | changes))


def network(one: Spec) -> models.Model:
    return models.build(one, (), SYMBOLS)


def random_params(one: Spec) -> dict[str, np.ndarray]:
    """Parameters by path in float64, of a size that makes attention uneven."""
    return random_trees(network(one), lambda path, shape: 1.5 * shape[0] ** -0.5)[0]


# References in float64.


def normalized(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * scale


def rotated(x, time):
    """A pair (i, i + size/2) of one head as a complex number."""
    half = len(x) // 2
    turned = (x[:half] + 1j * x[half:]) * np.exp(1j * time * 10_000.0 ** (-np.arange(half) / half))
    return np.r_[turned.real, turned.imag]


def attended(q, k, v, scale):
    """One head of one lane, position by position."""
    rows = []
    for t in range(len(q)):
        scores = [scale * rotated(q[t], t) @ rotated(k[s], s) for s in range(t + 1)]
        share = np.exp(scores - np.max(scores))
        rows.append(share @ v[: t + 1] / share.sum())
    return np.stack(rows)


def reference(one: Spec, params: dict[str, np.ndarray], tokens: np.ndarray, attend=attended) -> np.ndarray:
    """Logits of one lane."""
    maximal = one.parameterization in ("mup", "smup")
    scale = 1 / one.head_dim if maximal else one.head_dim**-0.5

    def dense(x, layer):
        return x @ params[f"{layer}/kernel"] / (np.sqrt(x.shape[-1]) if one.parameterization == "ntk" else 1)

    x = params["embedding/kernel"][tokens]
    for i in range(one.hidden_layers):
        qkv = dense(normalized(x, params[f"attention_{i}_norm/scale"]), f"attention_{i}_qkv")
        heads = np.split(qkv, 3 * one.width // one.head_dim, axis=1)
        count = len(heads) // 3
        of_head = zip(heads[:count], heads[count : 2 * count], heads[2 * count :], strict=True)
        x = x + dense(np.hstack([attend(*head, scale) for head in of_head]), f"attention_{i}_out")
        z = dense(normalized(x, params[f"mlp_{i}_norm/scale"]), f"mlp_{i}_in")
        z = z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) / 2
        x = x + dense(z, f"mlp_{i}_out")
    x = normalized(x, params["softmax_norm/scale"])
    if one.tied:
        width = one.rate_width if maximal and one.rate_width else one.width
        return x @ params["embedding/kernel"].T * np.sqrt(width) / one.width
    return dense(x, "softmax")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("parameterization", ["standard", "ntk", "smup"])
def test_logits_equal_numpy(parameterization, tied):
    """A network starts every window without a past, so its carry is ()."""
    one = spec(
        parameterization=parameterization, tied=tied, rate_width=4 if parameterization == "smup" else 0
    )
    model, params = network(one), random_params(one)
    expected = np.stack([reference(one, params, lane) for lane in TOKENS.T], axis=1)
    np.testing.assert_allclose(model.apply(nested(params), {}, jnp.asarray(TOKENS)), expected, atol=2e-5)
    assert model.tokens.carry(3) == ()
    assert model.tokens.apply(nested(params), (), jnp.asarray(TOKENS))[1] == ()


def test_attention_equals_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    one = spec()
    params = random_params(one)

    def attend(q, k, v, scale):
        q, k = (np.stack([rotated(row, t) for t, row in enumerate(x)]) for x in (q, k))
        heads = (torch.from_numpy(x)[None] for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True, scale=scale)[
            0
        ].numpy()

    theirs = reference(one, params, TOKENS[:, 0], attend)
    np.testing.assert_allclose(
        network(one).apply(nested(params), {}, jnp.asarray(TOKENS[:, :1]))[:, 0], theirs, atol=2e-5
    )


def test_no_position_sees_a_later_token():
    """Each token occurs once, so the gradient to its row of the embedding is that to its position: exactly 0."""
    one = spec()
    model, params = network(one), nested(random_params(one))
    tokens = jnp.asarray(TOKENS[:, :1])

    def outputs(rows):
        return model.apply(params | {"embedding": {"kernel": rows}}, {}, tokens)[:, 0].sum(-1)

    jacobian = jax.jit(jax.jacobian(outputs))(params["embedding"]["kernel"])
    by_position = np.abs(jacobian[:, TOKENS[:, 0]]).max(-1)
    assert (by_position[np.triu_indices(7, 1)] == 0).all() and (by_position[np.tril_indices(7)] > 0).all()


# Counts and settings.


@pytest.mark.parametrize(("width", "blocks"), [(8, 1), (32, 3)])
def test_weights_by_hand(width, blocks):
    """No biases; normalization scales are not counted; a tied embedding counts once."""
    kernels = SYMBOLS * width + 12 * blocks * width**2
    for tied in (False, True):
        one = spec(width=width, hidden_layers=blocks, tied=tied)
        model = network(one)
        assert weights(model.shapes) == kernels + (0 if tied else SYMBOLS * width)
        params, _ = jax.eval_shape(model.init, jax.random.key(0))
        entries = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
        assert entries == weights(model.shapes) + (2 * blocks + 1) * width
        assert (
            list(dict.fromkeys(model.groups.values()))
            == ["embedding", "attention", "mlp", "softmax"][: 4 - tied]
        )


def test_a_narrow_network_has_one_head():
    """A head as large as the network, with the attention that its size asks for."""
    wide, narrow = spec(head_dim=8), spec(head_dim=64)
    params = nested(random_params(wide))
    outputs = [network(one).apply(params, {}, jnp.asarray(TOKENS)) for one in (wide, narrow)]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(width=10), "^`width=10`: give a multiple of `head_dim=4`, or less"),
        (dict(width=9, head_dim=3), "^`head_dim=3`: rotary positions need heads of an even size"),
        (dict(width=7, head_dim=16), "^`width=7`: rotary positions need heads of an even size"),
        (dict(bottleneck="linear"), "^`bottleneck=linear`: `model=transformer` has no bottlenecks"),
    ],
)
def test_sizes_that_do_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        network(spec(**changes))


def test_half_of_every_kernel_saves_its_share_and_attention_stays():
    """FLOPs by hand: a weight meets every token once; a head's scores and sums cost 2 T² head_dim each."""
    tokens = np.random.default_rng(0).integers(0, SYMBOLS, 400).astype(np.uint16)
    text = Text("tiny", tokens, tokens[:40], tuple("abcdefghijk"), 16)
    one = spec(width=64, head_dim=16, hidden_layers=2, sequence=16)
    shapes = {layer: math.prod(shape) for layer, shape in network(one).shapes.items()}
    embedding = "embedding", shapes.pop("embedding")
    half = dataclasses.replace(one, kept=(embedding, *((layer, n // 2) for layer, n in shapes.items())))
    sparse, dense = (plan.cost(Group((s,), (0,)), text, "sparse").flops for s in (half, one))
    attention = 2 * 16 * 64 * one.hidden_layers  # multiplications per token
    assert sparse / dense == pytest.approx(
        (sum(shapes.values()) / 2 + attention) / (sum(shapes.values()) + attention)
    )


def text_of(pairs: int, sequence: int) -> Text:
    tokens = np.random.default_rng(0).integers(0, SYMBOLS, pairs + 1).astype(np.uint16)
    return Text("tiny", tokens, tokens, tuple("abcdefghijk"), sequence)


def test_a_mask_of_ones_changes_nothing_and_a_resumed_run_nothing():
    """To the bit, in training with AdamW; removed weights stay 0. Every window is evaluated without a past."""
    one = spec(optimizer="adamw", weight_decay=0.1, sequence=6, batch_size=4, eval_every=2, epochs=2)
    sizes = {layer: math.prod(shape) for layer, shape in network(one).shapes.items()}
    ones, sparse = (
        dataclasses.replace(one, kept=tuple((layer, n - lost) for layer, n in sizes.items()))
        for lost in (0, 30)
    )
    text = text_of(48, 6)  # two steps an epoch
    curves, end = fit(Group((one, ones, sparse), (0,)), text)
    params = tiny.params(end)
    for path, values in params.items():
        np.testing.assert_array_equal(values[0], values[1], err_msg=path)
        kept = dict(sparse.kept).get(path.removesuffix("/kernel"), values[2].size)
        assert np.count_nonzero(values[2]) == kept
    _, middle = fit(Group((one, ones, sparse), (0,)), text, steps=2)
    again, resumed = fit(Group((one, ones, sparse), (0,)), text, resume=middle)
    assert_equal(again, curves)
    assert_equal(tiny.params(resumed), params)
    logits = network(one).apply(
        nested({path: x[0] for path, x in params.items()}),
        {},
        jnp.asarray(text.held_out[:-1].reshape(8, 6).T, jnp.int32),
    )
    loss = cross_entropy(logits, jnp.asarray(text.held_out[1:].reshape(8, 6).T, jnp.int32)).mean()
    assert curves["test_loss"][-1, 0] == pytest.approx(float(loss), rel=1e-5)


# The coordinate check.


BASE, STEPS = 16, 4


@cache
def training(name: str, width: int):
    """The network, and a jitted function: members → root mean square change of the logits in a few steps of AdamW."""
    one = spec(width=width, head_dim=8, hidden_layers=1, parameterization=name, optimizer="adamw")
    one = dataclasses.replace(one, learning_rate=0.002, rate_width=BASE if name == "smup" else 0)
    model, optimizer = network(one), build(one, Horizon(1, STEPS))
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, SYMBOLS, (17, 8)))

    def change(params, mask, rates):
        def logits(params):
            return model.apply(apply_mask(params, mask), {}, tokens[:-1])

        def step(_, state):
            params, moments = state
            gradient = jax.grad(lambda params: cross_entropy(logits(params), tokens[1:]).mean())(params)
            updates, moments = optimizer.update(gradient, moments, params)
            return optax.apply_updates(params, jax.tree.map(jnp.multiply, rates, updates)), moments

        after, _ = jax.lax.fori_loop(0, STEPS, step, (params, optimizer.init(params)))
        return jnp.sqrt(jnp.square(logits(after) - logits(params)).mean())

    return one, model, jax.jit(jax.vmap(change))


def change(name: str, width: int, density: float) -> float:
    one, model, run = training(name, width)
    sizes = {layer: math.prod(shape) for layer, shape in model.shapes.items()}
    kept = {k: n if k in ("embedding", "softmax") else round(density * n) for k, n in sizes.items()}
    members = initial_members(
        Group((dataclasses.replace(one, kept=tuple(kept.items())),), (0, 1)), model, optax.identity()
    )
    return float(run(members.state.params, members.mask, members.rates).mean())


def test_updates_under_smup_depend_on_neither_width_nor_density():
    """Of the logits. Under `standard` they grow with the width."""
    networks = [(16, 1.0), (64, 1.0), (256, 1.0), (256, 1 / 4), (256, 1 / 16)]
    changes = [change("smup", *sizes) for sizes in networks]
    assert max(changes) / min(changes) < 1.5
    assert change("standard", 256, 1.0) / change("standard", 16, 1.0) > 4


@pytest.mark.parametrize("count_whole", [True, False])
def test_a_sparse_family_keeps_exact_counts(count_whole):
    """Embedding and softmax stay whole by default; they count, or the blocks alone keep the count."""
    one = spec()

    def shapes(width):
        return models.plain_shapes(dataclasses.replace(one, width=width), (), SYMBOLS)

    whole = family.whole_layers(models.groups_of(one, shapes(8)))
    assert whole == ("embedding", "softmax")
    [wide] = family.sparse(one, 8, [16], shapes, "largest_first", whole, count_whole=count_whole)
    kept = dict(wide.kept)
    assert kept["embedding"] == kept["softmax"] == SYMBOLS * 16
    assert sum(kept.values()) == 12 * 2 * 8**2 + 2 * SYMBOLS * (8 if count_whole else 16)
