"""A decoder-only transformer (Vaswani et al. 2017) that reads windows of tokens, each without a past.

Each block adds causal self-attention with rotary positions (Su et al. 2021), and then an MLP of factor 4 (GELU), both
after a root-mean-square normalization (Zhang & Sennrich 2019). No layer has a bias. The size of a head stays as the
width grows, so the number of heads grows. Attention is scaled by 1/head_dim under mup and smup (Yang & Hu et al. 2022,
definition 4.1), by 1/√head_dim otherwise.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from wsn.errors import UserError
from wsn.networks.convolution import operand_type, precision
from wsn.networks.layers import Layers
from wsn.networks.sequence import tokens
from wsn.networks.sequence.tokens import EMBEDDING, SOFTMAX, Carry, Embedding
from wsn.sparsity.shapes import Shapes
from wsn.spec import Spec

fields = ("hidden_layers", "head_dim", "tied")
group = tokens.group  # embedding, attention, mlp or softmax

MLP_FACTOR = 4
LONGEST_PERIOD = 10_000.0  # of the rotary positions, over 2π, in tokens
MAXIMAL_UPDATE = ("mup", "smup")

Hidden = Float[Array, "lanes time width"]
Heads = Float[Array, "lanes time heads size"]


class Decoder(nn.Module):
    """(carry, tokens) → (logits of the token after each, carry); the carry is ()."""

    layers: Layers
    head_size: int
    attention_scale: float
    tied_scale: float  # of the logits, where the output layer is the embedding transposed

    @nn.compact
    def __call__(
        self, carry: Carry, tokens: Int[Array, "time lanes"]
    ) -> tuple[Float[Array, "time lanes symbols"], Carry]:
        embedding = Embedding(self.layers.shapes[EMBEDDING], self.layers.parameterization, name=EMBEDDING)
        x = embedding(tokens.T)
        for block in range(sum(name.startswith("mlp") for name in self.layers.shapes) // 2):
            x = x + self.attention(block, normalize(f"attention_{block}_norm", x))
            x = x + self.mlp(block, normalize(f"mlp_{block}_norm", x))
        x = normalize("softmax_norm", x).swapaxes(0, 1)
        if SOFTMAX in self.layers.shapes:
            return self.dense(SOFTMAX, x), carry
        return self.tied_scale * embedding.transposed(x, self.layers.dtype), carry

    def attention(self, block: int, x: Hidden) -> Hidden:
        queries, keys, values = (
            part.reshape(*x.shape[:2], -1, self.head_size)
            for part in jnp.split(self.dense(f"attention_{block}_qkv", x), 3, axis=-1)
        )
        dtype = self.layers.dtype
        operands = (part.astype(operand_type(dtype)) for part in (rotate(queries), rotate(keys), values))
        with jax.default_matmul_precision(precision(dtype)):
            y = jax.nn.dot_product_attention(*operands, scale=self.attention_scale, is_causal=True)
        return self.dense(f"attention_{block}_out", y.reshape(x.shape).astype(jnp.float32))

    def mlp(self, block: int, x: Hidden) -> Hidden:
        return self.dense(f"mlp_{block}_out", nn.gelu(self.dense(f"mlp_{block}_in", x)))

    def dense(
        self, name: str, x: Float[Array, "first second inputs"]
    ) -> Float[Array, "first second outputs"]:
        y = self.layers.dense(name, x.reshape(-1, x.shape[-1]), bias=False)
        return y.reshape(*x.shape[:2], -1)

    @nn.nowrap
    def initial_carry(self, lanes: int) -> Carry:
        return ()


def normalize(name: str, x: Float[Array, "first second width"]) -> Float[Array, "first second width"]:
    """x over its root mean square, times a learned scale."""
    return nn.RMSNorm(name=name)(x)


def rotate(x: Heads) -> Heads:
    """Rotary positions: the pair (i, i + size/2) turns by the angle time / 10,000^(2i/size)."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None, None] * LONGEST_PERIOD ** -(jnp.arange(half) / half)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    left, right = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, left * sin + right * cos], axis=-1)


def shapes(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Shapes:
    """Embedding, four kernels per block, and softmax unless it is tied: 2 V W + 12 layers W² weights, or V W less."""
    head_size(spec)
    w = spec.width
    layers: Shapes = {EMBEDDING: (classes, w)}
    for i in range(spec.hidden_layers):
        layers |= {f"attention_{i}_qkv": (w, 3 * w), f"attention_{i}_out": (w, w)}
        layers |= {f"mlp_{i}_in": (w, MLP_FACTOR * w), f"mlp_{i}_out": (MLP_FACTOR * w, w)}
    return layers if spec.tied else layers | {SOFTMAX: (w, classes)}


def head_size(spec: Spec) -> int:
    """Units of a head: `head_dim`, or the whole width of a narrower network. Raises UserError."""
    if spec.width % (size := min(spec.head_dim, spec.width)):
        raise UserError(
            f"`width={spec.width}`: give a multiple of `head_dim={spec.head_dim}`, or less than it for a single head"
        )
    if size % 2:
        name = "head_dim" if spec.head_dim <= spec.width else "width"
        raise UserError(f"`{name}={size}`: rotary positions need heads of an even size: give an even number")
    return size


def module(spec: Spec, layers: Sequence[str], shapes: Shapes) -> Decoder:
    """The network with kernels of these `shapes`.

    Tied logits are scaled by 1/√width; under mup and smup by √rate_width / width, which is the same at the reference.
    """
    size, maximal = head_size(spec), spec.parameterization in MAXIMAL_UPDATE
    reference = spec.rate_width if maximal and spec.rate_width else spec.width
    return Decoder(
        Layers.of(spec, shapes),
        size,
        1 / size if maximal else size**-0.5,
        reference**0.5 / spec.width,
    )
