"""Results do not depend on the placement: members or batches over 1, 2 and 4 (virtual) devices."""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from wsn import devices
from wsn.data import batches
from wsn.devices import Placement
from wsn.networks import models
from wsn.spec import Group
from wsn.training import strategy
from wsn.training.history import History, Snapshot

DEVICES = tuple(jax.local_devices())
# Placements differ in the order of float32 sums, over 9 steps of momentum.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
SEEDS = (0, 1, 2, 3, 4)  # five divide over neither 2 nor 4 devices


def over(kind, count: int) -> Placement:
    return Placement(kind, DEVICES[:count])


def group(order: str, seeds=SEEDS) -> Group:
    # 23 examples in batches of 7: neither divides, and the last batch leaves some devices with padding alone.
    rule = {"momentum": 0.9, "weight_decay": 0.01, "bias": True, "batch_size": 7}
    return Group((tiny.spec(kept=tiny.kept(20, 20), order=order, **rule),), seeds)


@cache
def on_one_device(order: str):
    return tiny.fit(group(order))


def assert_close(left, right) -> None:
    (curves, snapshot), (expected_curves, expected) = left, right
    tiny.assert_equal(curves, expected_curves, **TOLERANCE)
    tiny.assert_equal(snapshot.state, expected.state, **TOLERANCE)


def test_the_tests_have_four_devices():
    assert len(DEVICES) >= 4


@pytest.mark.parametrize("order", ["shared", "seed"])
@pytest.mark.parametrize(("kind", "count"), [("members", 2), ("members", 4), ("batch", 2), ("batch", 4)])
def test_every_placement_gives_the_result_of_one_device(kind, count, order):
    """History, parameters and momentum."""
    assert_close(tiny.fit(group(order), over(kind, count)), on_one_device(order))


def test_a_single_member_over_the_batch_equals_itself_on_one_device():
    alone = tiny.fit(group("shared", (3,)), over("batch", 4))
    history, snapshot = on_one_device("shared")
    third = {name: values[:, 3:4] for name, values in history.items()}
    state = {place: leaf[3:4] for place, leaf in snapshot.state.items()}
    assert_close(alone, (third, Snapshot(state, History(snapshot.history.step, third))))


def test_a_snapshot_resumes_on_other_devices():
    history, snapshot = tiny.fit(group("shared"), until=1)
    assert_close(tiny.fit(group("shared"), over("members", 4), resume=snapshot), on_one_device("shared"))
    _, from_batch = tiny.fit(group("shared"), over("batch", 4), until=1)
    assert_close(tiny.fit(group("shared"), resume=from_batch), on_one_device("shared"))


@pytest.mark.parametrize("kind", ["members", "batch"])
def test_resuming_on_several_devices_is_exact(kind):
    placement = over(kind, 4)
    history, final = tiny.fit(group("shared"), placement)
    _, snapshot = tiny.fit(group("shared"), placement, until=1)
    again, again_final = tiny.fit(group("shared"), placement, resume=snapshot)
    tiny.assert_equal(again, history)
    tiny.assert_equal(again_final.state, final.state)


def test_devices_train_whole_networks_as_many_as_there_are():
    single = Placement("single", DEVICES[:1])
    assert devices.place(7, DEVICES[:1]) == devices.place(1, DEVICES) == single
    assert devices.place(7, DEVICES[:1], by_batch=True) == single
    for members in (2, 3, 4, 5):
        assert devices.place(members, DEVICES[:4]) == over("members", min(members, 4))
        assert devices.place(members, DEVICES[:4], by_batch=True) == over("batch", 4)
    assert devices.place(100).devices == DEVICES
    assert [over(kind, 2).axis for kind in ("single", "members", "batch")] == [None, None, devices.AXIS]


def test_a_process_that_runs_by_itself_uses_its_devices_of_a_slice(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: list(DEVICES[:2]))
    assert devices.initialize() == DEVICES[:2]
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert devices.initialize() == DEVICES


def test_each_process_feeds_its_devices_of_a_placement():
    slices = tuple(SimpleNamespace(process_index=index) for index in (2, 0, 2, 0))
    assert Placement("batch", slices).local == [1, 3] and Placement("batch", slices).host == (0, 2)
    assert over("batch", 4).host == over("single", 1).host == (0, 1)


@pytest.mark.parametrize(
    ("model", "seeds", "cut"),
    [("resnet18", 1, True), ("resnet18", 2, False), ("mlp", 1, False), ("lstm", 1, True)],
)
def test_a_batch_is_cut_only_for_a_large_network_alone_that_reuses_its_weights(model, seeds, cut):
    spec = tiny.spec(model=model)
    network = models.build(spec, tiny.input_shape(model), tiny.CLASSES)
    for weights, large in ((strategy.SMALLEST_CUT, True), (strategy.SMALLEST_CUT - 1, False)):
        assert strategy.cuts_batch(Group((spec,), tuple(range(seeds))), network, weights) == (cut and large)


@pytest.mark.parametrize(("kind", "count"), [("single", 1), ("members", 2), ("members", 4), ("batch", 4)])
@settings(deadline=None, max_examples=15)
@given(members=st.integers(1, 9))
def test_gather_is_the_inverse_of_scatter(kind, count, members):
    tree = {"a": np.arange(members * 6.0).reshape(members, 2, 3), "b": np.arange(members, dtype=np.int32)}
    scattered = devices.scatter_members(over(kind, count), tree)
    if kind == "members":
        assert all(leaf.shape[0] == count for leaf in jax.tree.leaves(scattered))
    gathered = devices.gather_members(over(kind, count), scattered, members)
    jax.tree.map(np.testing.assert_array_equal, gathered, tree)
    assert gathered["b"].dtype == np.int32


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize(("examples", "batch_size"), [(23, 7), (8, 8), (3, 1)])
def test_batches_over_devices_hold_every_example_once(examples, batch_size, count):
    rows = batches.batches(jnp.arange(examples)[::-1], batch_size)
    cut = devices.scatter_batches(over("batch", count), rows)
    assert cut.examples.shape == cut.weight.shape == (count, len(rows.examples), -(-batch_size // count))
    together = jnp.concatenate(list(cut.examples), axis=-1), jnp.concatenate(list(cut.weight), axis=-1)
    for row, (index, weight) in enumerate(zip(*together, strict=True)):
        expected = rows.examples[row][rows.weight[row] == 1]
        np.testing.assert_array_equal(index[weight == 1], expected)
        assert set(weight.tolist()) <= {0.0, 1.0}
    for kind in ("single", "members"):
        assert devices.scatter_batches(over(kind, 2), rows) is rows


@pytest.mark.parametrize("order", ["shared", "seed"])
@pytest.mark.parametrize(("kind", "count"), [("members", 2), ("batch", 4)])
def test_large_networks_one_after_another_give_the_same_over_devices(monkeypatch, kind, count, order):
    expected = on_one_device(order)
    monkeypatch.setattr(strategy, "LARGEST_TOGETHER", 0)
    assert_close(tiny.fit(group(order), over(kind, count)), expected)
