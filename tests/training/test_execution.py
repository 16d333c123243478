"""Sparse execution against masked, through the trainer: the same training up to rounding, and resumes across."""

import jax
import numpy as np
import pytest
import tiny

from wsn import devices
from wsn.errors import UserError
from wsn.sparsity import lists
from wsn.spec import Group
from wsn.training import train

DEVICES = tuple(jax.local_devices())
PLACEMENTS = {kind: devices.Placement(kind, DEVICES[:2]) for kind in ("members", "batch")} | {
    "single": tiny.SINGLE
}
COUNTS = (tiny.kept(20, 15), tiny.kept(9, 20), tiny.kept(1, 1))  # of members of one program
KEPT = Group(tuple(tiny.spec(kept=kept, epochs=34) for kept in COUNTS), (0, 1))  # 102 steps
TOLERANCE = 1e-4


def dense_params(group, snapshot, sparse):
    """Parameters by path, masked ones and sparse ones alike as dense kernels."""
    ready = train.prepare(group, tiny.SPLITS, tiny.SINGLE, "sparse" if sparse else "masked")
    params = tiny.params(snapshot)
    for path, keep in ready.members.keep.items():
        if isinstance(keep, lists.Kept):
            shape = (len(params[path]), *keep.shape)
            kernels = [
                lists.dense_kernel(params[path][i], lists.positions(keep, i), keep.shape)
                for i in range(shape[0])
            ]
            params[path] = np.stack(kernels)
    return params


@pytest.fixture(scope="module")
def masked():
    return tiny.fit(KEPT)


def close(group, found, expected, sparse=True):
    for name, curve in expected[0].items():
        np.testing.assert_allclose(found[0][name], curve, rtol=TOLERANCE, atol=TOLERANCE)
    ours, theirs = dense_params(group, found[1], sparse), dense_params(group, expected[1], False)
    for path, kernel in theirs.items():
        np.testing.assert_allclose(ours[path], kernel, rtol=0, atol=TOLERANCE * np.abs(kernel).max())


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_hundred_steps_sparse_equal_masked_ones(placement, masked):
    found = tiny.fit(KEPT, PLACEMENTS[placement], execution="sparse")
    assert tiny.params(found[1])["hidden_0/kernel"].shape == (6, 20)
    close(KEPT, found, masked)


@pytest.mark.parametrize(("before", "after"), [("masked", "sparse"), ("sparse", "masked")])
def test_a_run_resumes_in_the_other_storage(before, after, masked):
    _, snapshot = tiny.fit(KEPT, until=17, execution=before)
    found = tiny.fit(KEPT, resume=snapshot, execution=after)
    close(KEPT, found, masked, after == "sparse")


def test_an_unknown_execution_is_refused():
    with pytest.raises(UserError, match="--execution=fast is unknown"):
        next(train.train(KEPT, tiny.SPLITS, execution="fast"))
