"""Sparse kernels against masked dense ones: values and gradients, native and portable."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsn.native import library
from wsn.networks import linear
from wsn.sparsity import storage
from wsn.sparsity.masks import apply_mask, mask_array

BACKENDS = ["portable", "native"]


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    if request.param == "portable":
        monkeypatch.setattr(library, "available", lambda: False)
    elif not library.available():
        pytest.skip("no C++ compiler")
    return request.param


def drawn(random, shape, kept):
    return np.sort(random.choice(int(np.prod(shape)), kept, replace=False))


def results(kernel, x, slope, stride, dtype="float32"):
    """(outputs, gradient of the parameters, gradient of the inputs); kernel: (parameters, mask)."""

    @jax.jit
    def both(params, mask, x, slope):
        def output(params, x):
            masked = apply_mask({"kernel": params}, {"kernel": mask})["kernel"]
            if dtype == "float64" and x.ndim == 2 and not isinstance(mask, storage.SparseIndex):
                return x @ masked  # `apply` gives float32
            return linear.apply(masked, x, stride=stride, dtype=dtype)

        y, pull = jax.vjp(output, params, x)
        return y, *pull(slope.astype(y.dtype))

    return both(*kernel, x, slope)


def compare(random, shape, positions, inputs, stride, dtype, tolerance):
    """Sparse against masked, relative to the largest entry."""
    dense = random.normal(size=shape).astype(dtype)
    x = jnp.asarray(random.normal(size=inputs), dtype)
    pixels = [-(-p // stride) for p in inputs[1:-1]]
    slope = jnp.asarray(random.normal(size=(inputs[0], *pixels, shape[-1])), dtype)
    mask = jnp.asarray(mask_array(positions, shape))
    values = jnp.asarray(storage.values_at(dense, positions, positions.size))
    expected = results((jnp.asarray(dense), mask), x, slope, stride, dtype)
    sparse = results((values, storage.sparse_index(shape, positions)), x, slope, stride, dtype)
    expected = (expected[0], expected[1].reshape(-1)[positions], expected[2])
    for ours, theirs in zip(sparse, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(
            ours, theirs, rtol=0, atol=tolerance * float(np.abs(theirs).max(initial=1e-30))
        )


CASES = {
    "dense": ((7, 5), (6, 7), 1, 13),
    "dense, wide batch": ((30, 9), (300, 30), 1, 100),
    "nothing kept": ((7, 5), (6, 7), 1, 0),
    "everything kept": ((7, 5), (20, 7), 1, 35),
    "convolution": ((3, 3, 4, 6), (40, 5, 6, 4), 1, 70),
    "stride 2": ((3, 3, 4, 6), (20, 5, 6, 4), 2, 70),
    "stride 3": ((3, 3, 2, 3), (4, 8, 7, 2), 3, 30),
    "shortcut": ((1, 1, 4, 6), (17, 5, 6, 4), 2, 9),
    "stem": ((7, 7, 3, 2), (3, 9, 12, 3), 2, 100),
    "one pixel": ((3, 3, 3, 3), (5, 1, 1, 3), 1, 40),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_sparse_equals_masked(case, backend):
    shape, inputs, stride, kept = case
    random = np.random.default_rng(0)
    compare(random, shape, drawn(random, shape, kept), inputs, stride, "float32", 1e-5)


THREADS = """
import os, sys
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[: int(sys.argv[1])])
import hashlib, jax, jax.numpy as jnp, numpy as np
from wsn.native import library
from wsn.networks import linear
from wsn.sparsity import storage
assert library.available()
random, shape = np.random.default_rng(0), (3, 3, 16, 24)
positions = np.sort(random.choice(3456, 1500, replace=False))
x, values = (jnp.asarray(random.normal(size=size), jnp.float32) for size in ((64, 12, 12, 16), 1500))
kept = storage.sparse_index(shape, positions)
def loss(values, x):
    return jnp.sin(linear.apply(storage.sparse_kernel(values, kept), x, dtype="float32"))
y, pull = jax.vjp(loss, values, x)
print(hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in (y, *pull(y)))).hexdigest())
"""


@pytest.mark.skipif(not library.available(), reason="no C++ compiler")
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be bound")
def test_bits_do_not_depend_on_the_number_of_threads():
    hashes = {
        subprocess.run(
            [sys.executable, "-c", THREADS, str(cores)], check=True, capture_output=True, text=True
        ).stdout
        for cores in (1, 2)
    }
    assert len(hashes) == 1


@pytest.mark.parametrize("name", ["dense", "convolution", "stride 2"])
def test_the_portable_sums_are_exact_in_float64(name):
    shape, inputs, stride, kept = CASES[name]
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        compare(random, shape, drawn(random, shape, kept), inputs, stride, "float64", 1e-12)


@st.composite
def kernels_and_positions(draw):
    size = draw(st.sampled_from([None, 1, 3]))
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    shape = shape if size is None else (size, size, *shape)
    entries = int(np.prod(shape))
    positions = draw(st.lists(st.integers(0, entries - 1), unique=True, max_size=entries))
    return shape, np.sort(np.array(positions, np.int64))


@settings(deadline=None)
@given(kernels_and_positions(), kernels_and_positions())
def test_positions_are_recovered_from_an_index(one, other):
    stacked = storage.stacked([storage.sparse_index(*one), storage.sparse_index(one[0], one[1][::2])])
    np.testing.assert_array_equal(storage.positions(stacked, 0), one[1])
    np.testing.assert_array_equal(storage.positions(stacked, 1), one[1][::2])
    values = np.arange(1.0, other[1].size + 1)
    dense = storage.dense_kernel(values, other[1], other[0])
    np.testing.assert_array_equal(storage.values_at(dense, other[1], other[1].size), values)
    assert np.count_nonzero(dense) == other[1].size


@pytest.mark.parametrize("positions", [[0, 0], [3, 1], [-1], [6]])
def test_invalid_positions_are_refused(positions):
    with pytest.raises(ValueError):
        storage.sparse_index((2, 3), np.array(positions, np.int64))


@pytest.mark.slow
@pytest.mark.skipif(not library.available(), reason="no C++ compiler")
@settings(max_examples=25, deadline=None)
@given(
    kernels_and_positions(), st.integers(1, 40), st.integers(1, 7), st.integers(1, 3), st.integers(0, 2**31)
)
def test_native_sums_equal_masked_products_of_any_shape(kernel, batch, pixels, stride, seed):
    shape, positions = kernel
    inputs = (batch, shape[-2]) if len(shape) == 2 else (batch, pixels, pixels + 1, shape[-2])
    stride = 1 if len(shape) == 2 else stride
    compare(np.random.default_rng(seed), shape, positions, inputs, stride, "float32", 1e-5)
