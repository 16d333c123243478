"""Random keys of seeds, and their bits: the same whatever the settings of JAX, which no record holds."""

from functools import partial

import jax

CIPHER = "threefry2x32"  # unlike JAX_DEFAULT_PRNG_IMPL
key = partial(jax.random.key, impl=CIPHER)
# Decorates functions that draw, compiled or not: JAX_THREEFRY_PARTITIONABLE=false would change the bits.
fixed_bits = jax.threefry_partitionable(True)
