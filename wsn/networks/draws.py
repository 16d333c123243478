"""Random values of a large array at some of its places, without the array.

jax's bits are a hash of (key, place), so those at chosen places are computed alone: a key that holds the places beside
the key itself gives them to any draw that makes each value of its own bits, uniform and normal ones among them.
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

from wsn.errors import UserError

STREAM = "jax_threefry_partitionable", "jax_default_prng_impl"  # the settings of jax that change its bits
Draw = Callable[..., Any]  # (key, shape, dtype) → values


class NotByPlace(Exception):
    """A draw asks for more than the bits of one array."""


def halves(positions: Int64[np.ndarray, " places"]) -> UInt32[np.ndarray, "2 places"]:
    """Flat positions as the upper and lower 32 bits, which is what is hashed."""
    return np.stack([positions >> 32, positions & 0xFFFFFFFF]).astype(np.uint32)


def drawn_at(
    key: PRNGKeyArray, draw: Draw, shape: tuple[int, ...], places: UInt32[Array, "2 places"]
) -> Float[Array, " places"]:
    """`draw(key, shape, float32)` at flat positions, bit for bit.

    Where the values cannot be had alone, the whole array is drawn. Raises UserError if that is too large to be indexed.
    """
    if is_by_place(draw):
        return draw(_key_at(key, places), places.shape[1:], jnp.float32)
    if math.prod(shape) > np.iinfo(np.int32).max:
        raise UserError(
            f"`widths`: a layer of {math.prod(shape)} weights is drawn at its kept places alone, which this"
            " parameterisation or this setting of jax does not allow: leave JAX_THREEFRY_PARTITIONABLE and"
            " JAX_DEFAULT_PRNG_IMPL as they are"
        )
    return draw(key, shape, jnp.float32).reshape(-1)[places[1]]


def is_by_place(draw: Draw) -> bool:
    """Whether a draw's value at a place follows from the bits of that place, as jax is set: tried on a small array."""
    return _tried(draw, *(getattr(jax.config, name) for name in STREAM))


@lru_cache
def _tried(draw: Draw, *settings: Any) -> bool:
    shape, positions = (5, 7), np.arange(0, 35, 2)
    with jax.ensure_compile_time_eval():
        key = jax.random.key(1)
        try:
            found = draw(_key_at(key, jnp.asarray(halves(positions))), positions.shape, jnp.float32)
        except (NotByPlace, TypeError, ValueError):
            return False
        return np.array_equal(found, np.asarray(draw(key, shape, jnp.float32)).reshape(-1)[positions])


def _key_at(key: PRNGKeyArray, places: UInt32[Array, "2 places"]) -> PRNGKeyArray:
    """A key whose bits are those that `key` has at the places of a larger array."""
    count = places.shape[1]

    def bits(data: Array, width: int, shape: tuple[int, ...]) -> Array:
        if width != 32 or shape != (count,):
            raise NotByPlace(f"{width} bits of shape {shape} at {count} places")
        return jnp.bitwise_xor(*threefry_2x32((data[0], data[1]), data[2:]).reshape(2, count))

    own = define_prng_impl(
        key_shape=(2 + 2 * count,), seed=_none, split=_none, fold_in=_none, random_bits=bits, name="at_places"
    )
    data = jnp.concatenate([jax.random.key_data(key)[:2], places.reshape(-1)])
    return jax.random.wrap_key_data(data, impl=own)


def _none(*_: Any) -> Any:
    raise NotByPlace("other keys of a key at places")
