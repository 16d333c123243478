"""The linear map of a kernel: against NumPy, in dense storage and in a registered one."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from trees import convolve

from wsn.networks import linear

RANDOM = np.random.default_rng(0)


class Transposed(NamedTuple):
    """A registered storage: a dense kernel with its outputs first."""

    rows: jnp.ndarray


@linear.apply.register
def _(kernel: Transposed, x, *, stride=1, dtype):
    return linear.apply(jnp.moveaxis(kernel.rows, 0, -1), x, stride=stride, dtype=dtype)


STORAGES = {
    "dense": lambda kernel: kernel,
    "transposed": lambda kernel: Transposed(jnp.moveaxis(kernel, -1, 0)),
}


@pytest.mark.parametrize("store", STORAGES.values(), ids=STORAGES)
def test_a_dense_kernel_is_a_matrix_product(store):
    x, kernel = RANDOM.normal(size=(3, 4)).astype("f"), RANDOM.normal(size=(4, 5)).astype("f")
    y = linear.apply(store(jnp.asarray(kernel)), jnp.asarray(x), dtype="float32")
    np.testing.assert_allclose(y, x @ kernel, rtol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("store", STORAGES.values(), ids=STORAGES)
def test_a_convolution_is_a_sum_over_windows(store, stride):
    x, kernel = RANDOM.normal(size=(2, 5, 6, 3)).astype("f"), RANDOM.normal(size=(3, 3, 3, 4)).astype("f")
    y = linear.apply(store(jnp.asarray(kernel)), jnp.asarray(x), stride=stride, dtype="float32")
    np.testing.assert_allclose(y, convolve(x, kernel, stride), rtol=1e-4, atol=1e-5)
