"""The kernel gradient by matrix products equals XLA's; channels of zeros change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsn.networks import convolution


@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 7),
    blocks=st.integers(1, 4),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
)
def test_kernel_gradient_is_that_of_the_convolution(batch, height, blocks, inputs, outputs):
    random = np.random.default_rng(batch + 10 * height)

    def normal(*shape):
        return jnp.asarray(random.normal(size=shape), jnp.float32)

    x = normal(batch, height, blocks * convolution.BLOCK, inputs)
    kernel, slope = normal(3, 3, inputs, outputs), normal(*x.shape[:3], outputs)
    y, backward = jax.vjp(lambda x, k: convolution._convolve(x, k, 1), x, kernel)
    z, in_blocks = jax.vjp(lambda x, k: convolution.convolve_in_blocks(x, k, 1), x, kernel)
    np.testing.assert_array_equal(y, z)
    for expected, gradient in zip(backward(slope), in_blocks(slope), strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "size", "stride", "blocks"),
    [
        ((1, 32, 32, 12), 3, 1, True),
        ((1, 32, 32, 8), 3, 1, False),
        ((1, 32, 32, 12), 3, 2, False),
        ((1, 32, 32, 12), 1, 1, False),
        ((1, 4, 4, 144), 3, 1, False),
        ((1, 34, 34, 12), 3, 1, False),
    ],
)
def test_blocks_are_used_where_they_are_faster(shape, size, stride, blocks):
    x, kernel = jnp.zeros(shape), jnp.zeros((size, size, shape[-1], 2))
    text = str(jax.make_jaxpr(lambda x, k: convolution.convolve(x, k, stride, "float32"))(x, kernel))
    assert ("custom_vjp" in text) is blocks


@pytest.mark.parametrize("dtype", ["float32", "tf32"])
def test_channels_that_a_tpu_is_given_change_nothing(monkeypatch, dtype):
    random = np.random.default_rng(0)
    x, kernel, slope = (
        jnp.asarray(random.normal(size=shape), jnp.float32)
        for shape in ((2, 6, 6, 3), (3, 3, 3, 4), (2, 3, 3, 4))
    )
    monkeypatch.setattr(convolution.devices, "platform", lambda: "tpu")
    y, more = jax.vjp(lambda x, k: convolution.convolve(x, k, 2, dtype), x, kernel)
    z, backward = jax.vjp(lambda x, k: convolution._convolve(x, k, 2), x, kernel)
    np.testing.assert_allclose(y, z, atol=1e-5)
    for expected, gradient in zip(backward(slope), more(slope), strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-5)
