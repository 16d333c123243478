"""Kernels of more than two dimensions: what their layers say, and that masks follow it."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wsn import sparsity
from wsn.errors import UserError
from wsn.sparsity.axes import Axes
from wsn.sparsity.masks import by_path

KEY = jax.random.key(0)


class Block(nn.Module):
    """A convolution, attention, a dense layer and a parameter in no layer."""

    @nn.compact
    def __call__(self, x, _=None):
        x = nn.Conv(8, (3,), feature_group_count=4, name="conv")(x)
        x = nn.MultiHeadDotProductAttention(2, qkv_features=12, name="attention")(x)
        partitioned = nn.with_partitioning(nn.initializers.lecun_normal(), ("a", "b"))
        x = nn.Dense(8, name="dense", kernel_init=partitioned)(x)
        return x * self.param("experts", nn.initializers.ones, (1, 1, 8)), None


class Setup(nn.Module):
    def setup(self):
        self.weight = self.param("weight", nn.initializers.ones, (8, 4))

    def __call__(self, x):
        return x @ self.weight


class Layers(nn.Module):
    axis: int

    @nn.compact
    def __call__(self, x):
        stack = {"variable_axes": {"params": self.axis}, "split_rngs": {"params": True}}
        metadata = {nn.PARTITION_NAME: "layers"}
        x, _ = nn.scan(Block, length=3, metadata_params=metadata, **stack)(name="scanned")(x, None)
        y = nn.vmap(Setup, in_axes=None, axis_size=5, **stack)(name="mapped")(x)
        x = nn.remat(Block)(name="again")(x)[0][None]
        x = nn.ConvTranspose(4, (3, 3), transpose_kernel=True, name="up")(x)
        x = nn.ConvLocal(3, (3, 3), name="local")(x)
        x = nn.Einsum((3, 6, 7), "abc,cde->abde", use_bias=False, name="einsum")(x[0])
        x = nn.DenseGeneral(9, axis=(-2, -1), name="general")(x)
        return nn.RNN(nn.OptimizedLSTMCell(6, name="cell"), name="rnn")(x), y


# kernels of `Layers`, of Block without and with a leading stack
ATTENTION = {f"attention/{name}/kernel": "ioo" for name in ("query", "key", "value")} | {
    "attention/out/kernel": "iio"
}
BLOCK = ATTENTION | {"conv/kernel": "tio", "dense/kernel": "io"}
OTHERS = {"up": "ttoi", "local": "ooio", "einsum": "ioo", "general": "iio"}


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_linen_layers_say_their_axes(axis):
    """Stacked by scan and vmap along any axis; a parameter of the user's module of three dimensions is unknown."""
    module, x = Layers(axis), jnp.zeros((2, 5, 8))
    params = jax.eval_shape(module.init, KEY, x)
    leaves = by_path(params)
    axes = sparsity.linen_axes(module, KEY, x)

    def stacked(roles):
        place = axis % (len(roles) + 1)
        return f"{roles[:place]}l{roles[place:]}"

    for layer, roles in OTHERS.items():
        assert axes(f"{layer}/kernel", None) == axes(f"params/{layer}/kernel", None) == Axes(roles)
    for path, roles in BLOCK.items():
        groups = 4 if "conv" in path else 1
        assert axes(f"again/{path}", None) == Axes(roles, groups)
        assert axes(f"scanned/{path}", None) == Axes(stacked(roles), groups)
    assert axes("mapped/weight", None) == Axes(stacked("io"))
    assert axes("again/experts", None) is axes("scanned/experts", None) is None
    for path, leaf in leaves.items():
        assert axes(path, leaf) is None or len(axes(path, leaf).roles) == len(leaf.shape)


class Normed(nn.Module):
    """A layer with a norm, and an argument that is no array."""

    @nn.compact
    def __call__(self, x, train):
        if train:
            x = nn.Dropout(0.5, deterministic=False)(x)
        x = nn.Dense(8, name="dense")(nn.RMSNorm(name="norm")(x))
        return x * self.param("gate", nn.initializers.ones, (8,)), None


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        stack = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        return nn.scan(Normed, length=6, in_axes=nn.broadcast, **stack)(name="block")(x, train)[0]


def test_vectors_of_stacked_layers_are_no_weights():
    """Norms have two dimensions there; the scale by its name, other vectors by the axes."""
    x = jnp.zeros((2, 8))
    params = Stack().init(KEY, x, False)["params"]
    axes = sparsity.linen_axes(Stack(), KEY, x, False)
    mask = sparsity.random_mask(params, connectivity=0.5, key=KEY, axes=axes)
    assert sparsity.num_kept(mask) == {"block/dense/kernel": 6 * 8 * 8 // 2}
    like = sparsity.random_mask(params, like=params, key=KEY, axes=axes)
    assert sparsity.num_kept(like) == {"block/dense/kernel": 6 * 8 * 8}
    scaled = sparsity.mask_and_rescale(params, mask, axes)["block"]
    assert (scaled["norm"]["scale"] == 1).all() and (scaled["gate"] == 1).all()


class Parts(nnx.Module):
    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(2, 8, 12, rngs=rngs, decode=False)
        self.conv = nnx.Conv(8, 12, (3, 3), feature_group_count=4, rngs=rngs)
        self.up = nnx.ConvTranspose(3, 5, (3, 3), transpose_kernel=True, rngs=rngs)
        self.einsum = nnx.Einsum("nta,hab->nthb", (8, 2, 4), rngs=rngs)
        self.dense = nnx.LoRALinear(8, 8, lora_rank=2, rngs=rngs)
        self.embed = nnx.Embed(5, 8, rngs=rngs)
        self.list = nnx.List([nnx.Linear(8, 8, rngs=rngs)])
        self.weight = nnx.Param(jnp.zeros((2, 3, 4)))


NNX = ATTENTION | {
    **{
        "conv/kernel": "ttio",
        "up/kernel": "ttoi",
        "einsum/kernel": "oio",
        "dense/kernel": "io",
        "embed/embedding": "io",
    },
    **{"dense/lora/lora_a": "io", "dense/lora/lora_b": "io", "list/0/kernel": "io"},
}


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_nnx_layers_say_their_axes(axis):
    def create():
        if axis is None:
            return Parts(nnx.Rngs(0))
        state_axes = nnx.StateAxes({nnx.Param: axis, ...: 0})
        return nnx.vmap(Parts, in_axes=0, out_axes=state_axes)(nnx.Rngs(0).split(7))

    model = nnx.eval_shape(create)
    axes, leaves = sparsity.nnx_axes(model), by_path(nnx.state(model, nnx.Param))
    for path, roles in NNX.items():
        expected = roles if axis is None else f"{roles[:axis]}l{roles[axis:]}"
        assert axes(path, leaves[path]) == Axes(expected, 4 if path == "conv/kernel" else 1)
    assert axes("weight", leaves["weight"]) is None


# Masks. The kernel of a layer and the matrix that it is: rows are inputs, columns outputs.

ATTENTION_SHAPES = {name: (64, 4, 16) for name in ("query", "key", "value")} | {"out": (4, 16, 64)}


def attention():
    return {"attention": {name: {"kernel": np.zeros(shape)} for name, shape in ATTENTION_SHAPES.items()}}


@pytest.mark.parametrize("distribution", sparsity.DISTRIBUTIONS)
def test_attention_keeps_what_its_matrices_keep(distribution):
    """As linen and nnx name them, without `axes`; (64, 4, 16) is the map (64, 64)."""
    draw = partial(sparsity.random_mask, total=3 * 2048, key=KEY, distribution=distribution)
    matrices = {"attention": {name: {"kernel": np.zeros((64, 64))} for name in ATTENTION_SHAPES}}
    rest = {"output": {"kernel": np.zeros((64, 10))}}
    ours, theirs = draw(attention() | rest), draw(matrices | rest)
    assert sparsity.num_kept(ours) == sparsity.num_kept(theirs)
    for name in ATTENTION_SHAPES:
        kernels = (mask["attention"][name]["kernel"].reshape(64, 64) for mask in (ours, theirs))
        assert np.array_equal(*kernels)


def matrices(mask, roles):
    """(layers, inputs, outputs) of a mask."""
    order = sorted(range(len(roles)), key=lambda d: "ltio".index(roles[d]))
    shape = mask.shape
    layers = int(np.prod([shape[d] for d, role in enumerate(roles) if role == "l"]))
    outputs = int(np.prod([shape[d] for d, role in enumerate(roles) if role == "o"]))
    return mask.transpose(order).reshape(layers, -1, outputs)


@pytest.mark.parametrize(
    ("shape", "roles"),
    [
        ((64, 4, 16), "ioo"),
        ((4, 16, 32), "iio"),
        ((5, 16, 24), "lio"),
        ((16, 5, 24), "ilo"),
        ((3, 3, 8, 12), "ttoi"),
    ],
)
def test_patterns_follow_the_axes(shape, roles):
    """`fan_in`: as many inputs of every unit; `n_m`: two of four; `io`: whole kernels; `block`: whole blocks."""

    def draw(pattern):
        mask = sparsity.random_mask(
            {"w": np.zeros(shape)}, connectivity=0.5, key=KEY, pattern=pattern, axes=lambda path, leaf: roles
        )
        return mask["w"]

    assert np.ptp(matrices(draw("fan_in"), roles).sum(1)) == 0
    groups = matrices(draw("n_m"), roles)
    assert np.all(groups.reshape(len(groups), -1, 4, groups.shape[-1]).sum(2) == 2)
    blocks = matrices(draw("block"), roles)
    blocks = blocks.reshape(len(blocks), blocks.shape[1] // 4, 4, -1, 4).sum((2, 4))
    assert np.count_nonzero((blocks > 0) & (blocks < 16)) <= len(blocks)
    io = draw("io")
    assert io.sum() == io.size // 2 and ("t" not in roles or np.all(io == io[:1, :1]))


@pytest.mark.parametrize("distribution", sparsity.DISTRIBUTIONS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_stacked_layers_keep_what_separate_ones_keep(distribution, axis):
    """And their initial weights have the scale of the layer."""
    separate = {
        "a": np.zeros((20, 6)),
        **{f"b{layer}": np.zeros((6, 8)) for layer in range(3)},
        "c": np.zeros((8, 3)),
    }
    stacked = {"a": separate["a"], "b": np.ones(np.insert((6, 8), axis, 3)), "c": separate["c"]}
    draw = partial(sparsity.random_mask, total=120, key=KEY, distribution=distribution)
    roles = "io"[:axis] + "l" + "io"[axis:]

    def axes(path, leaf):
        return roles if path == "b" else "io"

    counts, mask = sparsity.num_kept(draw(separate)), draw(stacked, axes=axes)
    layers = matrices(mask["b"], roles).sum((1, 2))
    assert layers.tolist() == [counts[f"b{layer}"] for layer in range(3)]
    assert mask["a"].sum() == counts["a"] and mask["c"].sum() == counts["c"]
    initial = sparsity.mask_and_rescale(stacked, mask, axes)["b"]
    norms = matrices(np.asarray(initial), roles)
    assert np.allclose((norms**2).sum((1, 2)), 48)


@pytest.mark.parametrize("distribution", ["erdos_renyi", "erdos_renyi_kernel"])
def test_a_grouped_convolution_has_the_shares_of_its_groups(distribution):
    draw = partial(sparsity.random_mask, total=600, key=KEY, distribution=distribution)
    grouped = {"conv": np.zeros((3, 3, 4, 32)), "output": np.zeros((32, 10))}
    separate = {**{f"conv{group}": np.zeros((3, 3, 4, 8)) for group in range(4)}, "output": grouped["output"]}
    ours = sparsity.num_kept(
        draw(grouped, axes=lambda path, leaf: Axes("ttio", 4) if path == "conv" else None)
    )
    theirs = sparsity.num_kept(draw(separate))
    assert abs(ours["output"] - theirs["output"]) <= 1


def test_axes_of_another_tree_are_refused():
    """Else stacked layers would be one, in silence."""
    model, x = nn.Sequential([nn.Dense(4), nn.Dense(3)]), np.zeros((2, 5))
    axes = sparsity.linen_axes(model, KEY, x)
    params = model.init(KEY, x)["params"]
    mask = sparsity.random_mask(params, total=12, key=KEY, axes=axes)
    for other in (params["layers_0"], {"model": params}):
        with pytest.raises(UserError, match="`axes` knows none of .*kernel"):
            sparsity.random_mask(other, total=12, key=KEY, axes=axes)
    with pytest.raises(UserError, match="`axes` knows none of .*kernel"):
        sparsity.mask_and_rescale(params["layers_0"], mask["layers_0"], axes)


def test_a_last_layer_of_parallel_ones_stays_whole():
    params = {"body": np.zeros((8, 8)), "heads": np.zeros((2, 8, 4))}
    mask = sparsity.random_mask(
        params,
        total=90,
        key=KEY,
        distribution="dense_last",
        last="heads",
        axes=lambda path, leaf: "lio"[-leaf.ndim :],
    )
    assert sparsity.num_kept(mask) == {"body": 26, "heads": 64}


def test_unknown_axes_are_refused_where_they_matter():
    """Never read as taps in silence: experts, stacked layers, a kernel without a name."""
    experts = {"experts": np.zeros((8, 64, 64)), "conv": np.zeros((5, 4, 8)), "stem": np.zeros((3, 3, 4, 8))}
    for argument in ({"distribution": "erdos_renyi"}, {"pattern": "fan_in"}, {"pattern": "io"}):
        draw = partial(sparsity.random_mask, experts, total=10_000, key=KEY, **argument)
        with pytest.raises(UserError, match=r"`axes`: experts has shape \(8, 64, 64\): [^\n]*$"):
            draw()
        kept = sparsity.num_kept(draw(axes=lambda path, leaf: "lio" if path == "experts" else None))
        assert abs(sum(kept.values()) - 10_000) < 9
    assert sum(sparsity.num_kept(sparsity.random_mask(experts, total=10_000, key=KEY)).values()) == 10_000


@pytest.mark.parametrize("axes", ["io", "xyz", Axes("tio", 3), Axes("tio", 0)])
def test_axes_that_do_not_fit_are_refused(axes):
    with pytest.raises(UserError, match=r"`axes`: w of shape \(3, 4, 8\) [^\n]*$"):
        sparsity.random_mask({"w": np.zeros((3, 4, 8))}, total=40, key=KEY, axes=lambda path, leaf: axes)
