"""Networks that read tokens: an embedding, recurrent layers, a softmax over the vocabulary, none of them tied.

What differs between them is the core: pure functions of the kernels of its hidden layers. Time is scanned in one loop
a layer. Products with the inputs of a layer are taken for all times at once before it, and the gradients of its kernels
after it: added up turn by turn, as autodiff does, they would take half of a step's time on a CPU.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from wsn.errors import UserError
from wsn.networks.kernels import apply
from wsn.networks.layers import (
    NOWHERE,
    Dense,
    Model,
    Params,
    Places,
    Recurrent,
    Stats,
    Weighing,
    forward_multiplier,
    initialised,
    kernel_of,
)
from wsn.networks.parameterization import Parameterization
from wsn.sparsity.shapes import Shapes
from wsn.spec import Spec

EMBEDDING, SOFTMAX = "embedding", "softmax"

Carry = Any
Inputs = Float[Array, "time lanes inputs"]
Outputs = Float[Array, "time lanes width"]


class Weights(NamedTuple):
    """Of one hidden layer."""

    kernel: Any  # (inputs, units), in any storage; its rows may be sliced
    bias: Float[Array, " units"]


State = Any
# What one of the kernels of a layer makes of the state, or of something on the way from one state to the next.
Product = Callable[[Float[Array, "lanes width"]], Float[Array, "lanes units"]]
# (state, a product for every kernel, 1 in valid lanes or None) → (next state, output); it takes each product once.
Cell = Callable[[State, Sequence[Product], Array | None], tuple[State, Float[Array, "lanes width"]]]


class Core(NamedTuple):
    """The hidden layers of a network."""

    carry: Callable[[int], Carry]  # lanes → the state before the first input
    unroll: Callable[[Sequence[Weights], Carry, Inputs], tuple[Carry, Outputs]]


class Affine(nn.Module):
    """Kernel and bias of a hidden layer, of a kernel `shape` (inputs, units)."""

    shape: Sequence[int]
    parameterization: Parameterization

    @nn.compact
    def __call__(self) -> Weights:
        draw = self.parameterization.draw
        kernel = kernel_of(self, draw, self.shape)
        multiplier = forward_multiplier(self.parameterization, self.shape)
        bias = self.param("bias", draw, (self.shape[-1],), jnp.float32)
        return Weights(kernel if multiplier == 1 else kernel * multiplier, bias)


class Embedding(nn.Module):
    """Rows of a kernel `shape` (symbols, units): a product with one-hot vectors, so of fan-in 1."""

    shape: Sequence[int]
    parameterization: Parameterization

    @nn.compact
    def __call__(self, tokens: Int[Array, "time lanes"]) -> Outputs:
        return self.param("kernel", self.parameterization.draw, tuple(self.shape), jnp.float32)[tokens]


class LanguageModel(nn.Module):
    """(carry, tokens) → (logits of the token after each, carry)."""

    shapes: Mapping[str, Sequence[int]]
    core: Core
    parameterization: Parameterization
    dtype: Any

    @nn.compact
    def __call__(
        self, carry: Carry, tokens: Int[Array, "time lanes"]
    ) -> tuple[Float[Array, "time lanes symbols"], Carry]:
        embedding, *hidden, softmax = self.shapes
        x = Embedding(self.shapes[embedding], self.parameterization, name=embedding)(tokens)
        weights = [Affine(self.shapes[name], self.parameterization, name=name)() for name in hidden]
        carry, y = self.core.unroll(weights, carry, x)
        last = Dense(self.shapes[softmax], True, self.parameterization, self.dtype, name=softmax)
        return last(y.reshape(-1, y.shape[-1])).reshape(*y.shape[:2], -1), carry


def functional(module: LanguageModel, shapes: Shapes, groups: dict[str, str]) -> Model:
    """The pure functions of a network that reads tokens."""
    fresh = module.core.carry

    def init(key: PRNGKeyArray, places: Places = NOWHERE) -> tuple[Params, Stats]:
        return initialised(module, key, places, fresh(1), jnp.zeros((1, 1), jnp.int32))["params"], {}

    def go_on(params: Params, carry: Carry, tokens: Array) -> tuple[Array, Carry]:
        return cast(tuple[Array, Carry], module.apply({"params": params}, carry, tokens))

    def logits(params: Params, stats: Stats, tokens: Array) -> Array:
        return go_on(params, fresh(tokens.shape[1]), tokens)[0]

    def training(params: Params, stats: Stats, tokens: Array, over: Weighing) -> tuple[Array, Stats]:
        return logits(params, stats, tokens), stats

    return Model(shapes, groups, init, logits, training, Recurrent(fresh, go_on))


def product(kernel: Any, x: Float[Array, "*batch inputs"], dtype: Any) -> Float[Array, "*batch units"]:
    """The linear map of a kernel along the last axis."""
    return apply(kernel, x.reshape(-1, x.shape[-1]), dtype=dtype).reshape(*x.shape[:-1], -1)


def over_time(
    cell: Cell,
    weights: Sequence[Weights],
    state: State,
    x: Inputs,
    *,
    dtype: Any,
    valid: Float[Array, "time lanes 1"] | None = None,
    backward: bool = False,
) -> tuple[State, Outputs]:
    """A layer: its last state, and its outputs at all times; `backward` goes from the last time to the first.

    The kernel of the first product has rows for the input above those for the state.
    """
    first, *others = weights
    inputs = x.shape[-1]
    kernels = [first.kernel[inputs:], *(kernel for kernel, _ in others)]
    entering = [product(first.kernel[:inputs], x, dtype) + first.bias]
    entering += [jnp.broadcast_to(bias, (*x.shape[:2], bias.size)) for _, bias in others]
    leaves, tree = jax.tree.flatten(kernels)  # a sparse kernel cannot hold the placeholders of custom_vjp

    def products(leaves: Any, met: Any) -> list[Array]:
        pairs = zip(jax.tree.unflatten(tree, leaves), met, strict=True)
        return [product(kernel, x, dtype) for kernel, x in pairs]

    turns = partial(_turns, cell, dtype, backward, tree)
    return _scan(turns, products, leaves, state, entering, valid)


def _turns(
    cell: Cell, dtype: Any, backward: bool, tree: Any, leaves: Any, valid: Any, state: State, entering: Any
) -> tuple[tuple[State, Outputs], list[Array]]:
    """(last state, outputs) and what every kernel met at each time; `entering` is added to their products."""
    kernels = jax.tree.unflatten(tree, leaves)
    insides = [_inside(kernel, dtype) for kernel in kernels]

    def turn(state: State, now: Any) -> tuple[State, Any]:
        entering, valid = now
        met: dict[int, Array] = {}

        def product_of(i: int, x: Array) -> Array:
            met[i] = x
            return insides[i](x) + entering[i]

        state, y = cell(state, [partial(product_of, i) for i in range(len(kernels))], valid)
        return state, (y, [met[i] for i in range(len(kernels))])

    last, (y, met) = jax.lax.scan(turn, state, (entering, valid), reverse=backward)
    return (last, y), met


def _inside(kernel: Any, dtype: Any) -> Callable[[Array], Array]:
    """The product of a kernel in a scan that is differentiated by all but it.

    On the way back a dense one is met transposed, which is done once; a sparse one is stored from both sides.
    """
    if not isinstance(kernel, jax.Array):
        return lambda x: product(kernel, x, dtype)
    transposed = jax.lax.optimization_barrier(kernel.T)
    return lambda x: _multiplied(dtype, kernel, transposed, x)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _multiplied(dtype: Any, kernel: Array, transposed: Array, x: Array) -> Array:
    return product(kernel, x, dtype)


_multiplied.defvjp(
    lambda dtype, kernel, transposed, x: (product(kernel, x, dtype), transposed),
    lambda dtype, transposed, slope: (None, None, product(transposed, slope, dtype)),
)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(turns: Callable, products: Callable, kernels: Any, state: State, entering: Any, valid: Any) -> Any:
    return turns(kernels, valid, state, entering)[0]


def _scan_forward(
    turns: Callable, products: Callable, kernels: Any, state: State, entering: Any, valid: Any
) -> tuple[Any, Any]:
    found, pull, met = jax.vjp(partial(turns, kernels, valid), state, entering, has_aux=True)
    return found, (kernels, met, pull)


def _scan_backward(turns: Callable, products: Callable, saved: Any, slope: Any) -> tuple[Any, ...]:
    """What enters a product has the slope of what it puts out, at all times: so a kernel's is one product."""
    kernels, met, pull = saved
    of_state, of_entering = pull(slope)
    [of_kernels] = jax.vjp(lambda kernels: products(kernels, met), kernels)[1](of_entering)
    return of_kernels, of_state, of_entering, None


_scan.defvjp(_scan_forward, _scan_backward)


def shapes(symbols: int, width: int, hidden: Sequence[tuple[int, int]]) -> Shapes:
    """Embedding (symbols, width), hidden layers of those kernels, softmax (width, symbols)."""
    layers: Shapes = {f"hidden_{i}": shape for i, shape in enumerate(hidden)}
    return {EMBEDDING: (symbols, width)} | layers | {SOFTMAX: (width, symbols)}


def group(layer: str) -> str:
    """The group of a layer, for probes: `embedding`, `hidden` or `softmax`."""
    return layer.partition("_")[0]


def narrowed(layers: Sequence[str]) -> Sequence[str]:
    """Raises UserError: the state of a recurrent layer cannot be narrower than its inputs ask for."""
    raise UserError("`bottleneck=nonlinear`: recurrent networks have no bottlenecks; leave it out")


def check(spec: Spec) -> None:
    """Raises UserError for settings that recurrent networks do not have."""
    if spec.bottleneck != "none":
        raise UserError(
            f"`bottleneck={spec.bottleneck}`: recurrent networks have no bottlenecks; leave it out"
        )
