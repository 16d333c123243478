"""The logarithm of the characteristic function by Chebyshev moments."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.masks import radial
from kernels.precision import in_float64


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.integers(0, 2**31), st.floats(-8, -0.3), st.floats(0, 6))
def test_moments_give_the_logarithm_of_the_product(seed, log_p, spread):
    """Against the sum coordinate by coordinate, relative to the leading term p r sum c^2, at every radius."""
    rng = np.random.default_rng(seed)
    p = np.array([10.0**log_p, 0.5])
    squares = np.exp(-spread * rng.chisquare(1, size=50))
    squares /= squares.max()
    count = rng.integers(1, 4, size=50).astype(float)
    moments = np.asarray(_moments(np.log(squares), count[None]))[0]
    r = radial.FINE.radii[: radial.FINE.near, None]
    whole = np.log1p(p[:, None, None] * np.expm1(-r * squares)) @ count  # (connectivities, radii)
    leading = np.outer(p, r[:, 0]) * (squares @ count)
    second = np.outer(p * (1 - p) / 2, r[:, 0] ** 2) * (squares**2 @ count)
    rest = (radial.table(p)[0] @ moments).reshape(radial.FINE.near, 2).T
    below = np.arange(radial.FINE.near) < radial.FINE.below
    ours = rest + np.where(below, second, 0) - leading
    assert (np.abs(ours - whole) <= 1e-10 * leading).all()


_moments = in_float64(jax.jit(radial.moments))


def test_the_table_keeps_its_relative_precision_where_the_logarithm_is_small():
    """One coordinate at small r: what is left is -p (1-p) (1-2p) z^3 / 6, however small p."""
    p = np.array([1e-6, 0.1, 0.9])
    z = radial.FINE.radii[:3]
    rest = (radial.table(p)[0] @ np.asarray(_moments(jnp.zeros(1), jnp.ones((1, 1))))[0]).reshape(-1, 3)[:3]
    np.testing.assert_allclose(rest, -np.multiply.outer(z**3, p * (1 - p) * (1 - 2 * p) / 6), rtol=1e-5)
