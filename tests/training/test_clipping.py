"""Clipping by global norm: the steps and how many are clipped, member by member."""

from functools import cache

import jax
import numpy as np
import pytest
import tiny
from reference import reference

from wsn.devices import Placement
from wsn.errors import UserError
from wsn.spec import Group
from wsn.training.optimizers import OPTIMIZERS, Horizon, build

RATE, KEPT = 0.3, tiny.kept(20, 15)
BOUND = 0.45  # some gradients of this run have a larger norm, some a smaller one
SEEDS = (0, 1, 2)


def group(seeds=SEEDS, **changes) -> Group:
    settings = {"activation": "linear", "kept": KEPT, "eval_every": 1, "probes": ("path",), "clip": BOUND}
    return Group((tiny.spec(learning_rate=RATE, **settings | changes),), seeds)


@cache
def run(clip: float):
    return tiny.fit(group(clip=clip))


def test_steps_counts_and_gradients_equal_numpy():
    curves, snapshot = run(BOUND)
    for member, seed in enumerate(SEEDS):
        _, params, norms = reference(group().specs[0], seed)
        assert min(norms) < BOUND < max(norms)
        assert min(abs(norm - BOUND) for norm in norms) > 1e-4
        above = np.cumsum(np.array(norms) > BOUND)
        np.testing.assert_array_equal(curves["all/clipped"][:, member], above)
        np.testing.assert_allclose(curves["all/gradient"][:, member], np.cumsum(norms), rtol=1e-4)
        length = RATE * np.minimum(norms, BOUND)
        np.testing.assert_allclose(curves["all/path_length"][:, member], length.cumsum(), rtol=1e-4)
        for path, expected in params.items():
            np.testing.assert_allclose(
                tiny.params(snapshot)[path][member], expected, rtol=1e-3, atol=1e-5, err_msg=path
            )


def test_members_of_one_program_are_clipped_separately():
    counts = run(BOUND)[0]["all/clipped"]
    assert len({tuple(column) for column in counts.T}) > 1
    alone, _ = tiny.fit(group((1,)))
    np.testing.assert_array_equal(alone["all/clipped"][:, 0], counts[:, 1])


def test_clipping_at_a_norm_that_is_never_reached_changes_no_bit():
    (curves, snapshot), (plain, expected) = run(1e6), run(0.0)
    assert not curves["all/clipped"].any()
    tiny.assert_equal({name: x for name, x in curves.items() if name != "all/clipped"}, plain)
    tiny.assert_equal(tiny.params(snapshot), tiny.params(expected))


def test_clipping_at_a_tiny_norm_gives_steps_of_one_length():
    curves, _ = run(1e-3)
    steps = np.arange(1, 10)[:, None] * np.ones(len(SEEDS))
    np.testing.assert_array_equal(curves["all/clipped"], steps)
    np.testing.assert_allclose(curves["all/path_length"], RATE * 1e-3 * steps, rtol=1e-4)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_sees_the_clipped_gradient_alone(optimizer):
    """Gradients of any length above the bound have the same updates; below it clipping changes no bit of any."""
    assert_same_updates(optimizer, (1.0, 1.0), scales=(5.0, 50.0), rtol=1e-5)
    assert_same_updates(optimizer, (0.0, 1e6), scales=(1.0, 1.0), rtol=0)


def assert_same_updates(optimizer: str, clips, scales, rtol: float) -> None:
    """Two optimizers over three steps, each with its clipping, and gradients times its scale."""
    rules = [build(tiny.spec(optimizer=optimizer, clip=clip), Horizon(1, 1)) for clip in clips]
    params = {"a": np.ones(3, np.float32), "b": np.ones(2, np.float32)}
    states = [rule.init(params) for rule in rules]
    random = np.random.default_rng(0)
    for _ in range(3):
        gradient = jax.tree.map(lambda x: np.sign(random.normal(size=x.shape)).astype(np.float32), params)
        both = []
        for i, (rule, scale) in enumerate(zip(rules, scales, strict=True)):
            scaled = jax.tree.map(lambda x, scale=scale: np.float32(scale) * x, gradient)
            updates, states[i] = rule.update(scaled, states[i], params)
            both.append(updates)
        for name in params:
            np.testing.assert_allclose(both[0][name], both[1][name], rtol=rtol, atol=0)


@pytest.mark.parametrize("kind", ["members", "batch"])
def test_several_devices_agree(kind):
    curves, snapshot = tiny.fit(group(), Placement(kind, tuple(jax.local_devices())[:2]))
    expected, one = run(BOUND)
    np.testing.assert_array_equal(curves["all/clipped"], expected["all/clipped"])
    tiny.assert_equal(tiny.params(snapshot), tiny.params(one), rtol=1e-5, atol=1e-6)


def test_without_clipping_there_is_no_column_and_a_negative_norm_is_refused():
    assert "all/clipped" not in run(0.0)[0]
    with pytest.raises(UserError, match="^`clip=-1.0` is too small"):
        tiny.spec(clip=-1.0)
