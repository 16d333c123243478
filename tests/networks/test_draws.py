"""Values drawn at some positions of a random array are those of the whole array, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsn.errors import UserError
from wsn.networks import draws
from wsn.networks.parameterization import PARAMETERIZATIONS

KEY = jax.random.key(7)


def truncated(key, shape, dtype):
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)


def of_two_keys(key, shape, dtype):
    """A draw whose values do not depend on the bits of one array alone."""
    first, second = jax.random.split(key)
    return jax.random.uniform(first, shape, dtype) * jax.random.normal(second, shape, dtype)


ALL = {name: rule.draw for name, rule in PARAMETERIZATIONS.items()} | {"truncated": truncated}


def both(draw, shape, count):
    """(values at random positions, the same from the whole array)."""
    size = int(np.prod(shape))
    positions = np.sort(np.random.default_rng(0).choice(size, count, replace=False))
    at = jax.jit(lambda key, positions: draws.draw_at(key, draw, shape, positions))
    whole = jax.jit(lambda key: draw(key, shape, jnp.float32))(KEY)
    return at(KEY, draws.uint32_pairs(positions)), np.asarray(whole).reshape(-1)[positions]


@pytest.mark.parametrize("draw", ALL.values(), ids=ALL)
def test_values_at_positions_are_those_of_the_whole_array(draw):
    """Fails if JAX changes its random bits: then large layers would be drawn whole."""
    assert draws.is_positional(draw)
    for shape, count in (((7, 5), 3), ((3, 3, 16, 20), 1001)):
        np.testing.assert_array_equal(*both(draw, shape, count))


def test_other_draws_are_gathered_from_the_whole_array():
    assert not draws.is_positional(of_two_keys)
    np.testing.assert_array_equal(*both(of_two_keys, (7, 5), 3))
    with pytest.raises(UserError, match="^`widths`: a layer of 10000000000 weights"):
        draws.draw_at(KEY, of_two_keys, (10**5, 10**5), jnp.zeros((2, 3), jnp.uint32))


def test_other_random_bits_of_jax_are_detected():
    with jax.threefry_partitionable(False):
        assert not draws.is_positional(jax.random.normal)
        np.testing.assert_array_equal(*both(jax.random.normal, (7, 5), 3))
    assert draws.is_positional(jax.random.normal)


def threefry(key, high, low):
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011), on pairs of counters."""
    keys = [*key, np.uint32(key[0] ^ key[1] ^ 0x1BD11BDA)]
    x, y = (np.asarray(part, np.uint32) + keys[i] for i, part in enumerate((high, low)))
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x = x + y
            y = ((y << np.uint32(turn)) | (y >> np.uint32(32 - turn))) ^ x
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


def test_beyond_two_to_the_32_the_upper_half_is_hashed_first():
    """No array of that size fits: compared to the cipher itself, which is checked against JAX on a small array."""
    zero = np.zeros(2, np.uint32)
    assert [int(x) for x in threefry(zero, zero[:1], zero[:1])[0]] == [0x6B200159]  # the published vector
    key = np.asarray(jax.random.key_data(KEY))
    for positions in (np.arange(35), 2**32 + np.array([0, 5, 2**33])):
        high, low = draws.uint32_pairs(positions)
        bits = np.bitwise_xor(*threefry(key, high, low))
        uniform = ((bits >> np.uint32(9)) | np.uint32(0x3F800000)).view(np.float32) - np.float32(1)
        pairs = jnp.stack([high, low])
        np.testing.assert_array_equal(draws.draw_at(KEY, jax.random.uniform, (1,), pairs), uniform)
        if positions[-1] < 2**32:
            np.testing.assert_array_equal(jax.random.uniform(KEY, (5, 7)).reshape(-1), uniform)
