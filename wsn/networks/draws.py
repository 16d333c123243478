"""Random values at some positions of a large array, without drawing the whole array.

JAX's random bits are a hash of (key, position), so the bits at chosen positions can be computed alone. A key type that
holds the positions beside the key gives these bits to any draw whose values each depend on their own bits: uniform and
normal draws among others. So the initial weights of a sparse layer take memory for the kept weights only, and are bit
for bit those of the dense layer.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl, threefry_2x32
from jaxtyping import Array, Float, Int64, PRNGKeyArray, UInt32

from wsn import seeds
from wsn.errors import UserError

SETTING = "jax_threefry_partitionable"  # of JAX, which changes the bits of a key
Draw = Callable[..., Any]  # (key, shape, dtype) → values


class NotPositional(Exception):
    """A draw needs more than the bits of one array."""


def uint32_pairs(positions: Int64[np.ndarray, " positions"]) -> UInt32[np.ndarray, "2 positions"]:
    """Flat positions as their upper and lower 32 bits, which is what JAX hashes."""
    return np.stack([positions >> 32, positions & 0xFFFFFFFF]).astype(np.uint32)


def draw_at(
    key: PRNGKeyArray, draw: Draw, shape: tuple[int, ...], positions: UInt32[Array, "2 positions"]
) -> Float[Array, " positions"]:
    """`draw(key, shape, float32)` at flat positions, bit for bit.

    Draws the whole array if the draw is not positional. Raises UserError if that is too large to be indexed.
    """
    if is_positional(draw):
        return draw(_key_at(key, positions), positions.shape[1:], jnp.float32)
    if math.prod(shape) > np.iinfo(np.int32).max:
        raise UserError(
            f"`widths`: a layer of {math.prod(shape)} weights must be drawn at its kept positions only, which this"
            " `parameterization` prevents: choose another, or smaller widths"
        )
    return draw(key, shape, jnp.float32).reshape(-1)[positions[1]]


def is_positional(draw: Draw) -> bool:
    """Whether each value depends only on the bits of its position, with JAX's settings: tried on a small array."""
    return _try(draw, getattr(jax.config, SETTING))


@lru_cache
def _try(draw: Draw, partitionable: bool) -> bool:
    shape, positions = (5, 7), np.arange(0, 35, 2)
    with jax.ensure_compile_time_eval():
        key = seeds.key(1)
        try:
            values = draw(_key_at(key, jnp.asarray(uint32_pairs(positions))), positions.shape, jnp.float32)
        except (NotPositional, TypeError, ValueError):
            return False
        return np.array_equal(values, np.asarray(draw(key, shape, jnp.float32)).reshape(-1)[positions])


def _key_at(key: PRNGKeyArray, positions: UInt32[Array, "2 positions"]) -> PRNGKeyArray:
    """A key whose random bits are those of `key` at positions of a larger array."""
    count = positions.shape[1]

    def bits(data: Array, width: int, shape: tuple[int, ...]) -> Array:
        if width != 32 or shape != (count,):
            raise NotPositional(f"{width} bits of shape {shape} at {count} positions")
        return jnp.bitwise_xor(*threefry_2x32((data[0], data[1]), data[2:]).reshape(2, count))

    implementation = define_prng_impl(
        key_shape=(2 + 2 * count,),
        seed=_unsupported,
        split=_unsupported,
        fold_in=_unsupported,
        random_bits=bits,
        name="at_positions",
    )
    data = jnp.concatenate([jax.random.key_data(key)[:2], positions.reshape(-1)])
    return jax.random.wrap_key_data(data, impl=implementation)


def _unsupported(*_: Any) -> Any:
    raise NotPositional("a key at positions gives no other keys")
