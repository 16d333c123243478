"""Training equals a NumPy reimplementation; properties of masks, seeds, divergence and resuming."""

import dataclasses
import re
from functools import cache
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from reference import reference

from wsn.data import batches, feeds
from wsn.errors import UserError
from wsn.networks import models
from wsn.spec import Group
from wsn.tasks import TASKS
from wsn.training import history as histories
from wsn.training import strategy, train
from wsn.training.state import initial_members
from wsn.training.step import step_context

# Members of one program share its matrix products; alone their sums may be taken in another order.
OTHER_PROGRAM = {"rtol": 3e-5, "atol": 3e-6}


def member(arrays: dict[str, np.ndarray], columns, axis: int = -1) -> dict[str, np.ndarray]:
    """Some members of a history (last axis), or of parameters (axis 0)."""
    return {name: np.take(values, columns, axis=axis) for name, values in arrays.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"bias": True, "momentum": 0.9, "weight_decay": 0.02, "learning_rate": 0.05},
        {"parameterization": "ntk", "kept": tiny.kept(20, 20), "schedule": "cosine", "momentum": 0.5},
        {
            "kept": tiny.kept(20, 7),
            "weight_decay": 0.05,
            "schedule": "steps",
            "decay_epochs": (1, 3),
            "epochs": 4,
        },
        {"activation": "linear", "bias": True, "order": "seed", "batch_size": 5},
        {"batch_size": 100, "epochs": 2},
        {"validation_samples": tiny.VALIDATION},
    ],
    ids=["momentum", "ntk-cosine", "steps", "seed-order", "one-batch", "validation"],
)
def test_training_equals_numpy(changes):
    """PyTorch's SGD, means over examples without padding, schedules, masks and the order of the data."""
    spec = tiny.spec(**changes)
    history, snapshot = tiny.fit(Group((spec,), (3, 8)))
    for i, seed in enumerate((3, 8)):
        expected, params = jax.tree.map(np.float32, reference(spec, seed)[:2])
        tiny.assert_equal(member(history, [i]), expected, rtol=2e-5, atol=1e-6)
        tiny.assert_equal(member(tiny.params(snapshot), i, axis=0), params, rtol=1e-4, atol=2e-6)


# Masks.


def test_a_mask_of_ones_changes_no_bit():
    """Of steps and evaluation."""
    group = Group((tiny.spec(momentum=0.9, weight_decay=0.01, bias=True),), (0, 1))
    _, _, feed, members, program, *_ = train.prepare(group, tiny.SPLITS, tiny.SINGLE)
    shapes = models.build(group.specs[0], tiny.IMAGE, tiny.CLASSES).shapes
    ones = {models.kernel_path(layer): jnp.ones((2, *shape), bool) for layer, shape in shapes.items()}
    # Copies, since an epoch reuses the memory of its members.
    left, right = jax.tree.map(jnp.array, (members, members._replace(mask=ones)))
    rows = feed.training(0, feed.steps)
    for _ in range(3):
        left, left_sums = program.advance(left, rows, feed.training_data)
        right, right_sums = program.advance(right, rows, feed.training_data)
        jax.tree.map(np.testing.assert_array_equal, (left.state, left_sums), (right.state, right_sums))
        totals = [program.evaluate(x, feed.held_out(), feed.held_out_data) for x in (left, right)]
        jax.tree.map(np.testing.assert_array_equal, *totals)


@pytest.mark.parametrize("order", ["shared", "seed"])
def test_networks_one_after_another_equal_networks_together(order, monkeypatch):
    """Up to the order of sums."""
    specs = [
        tiny.spec(momentum=0.9, order=order, kept=kept) for kept in (tiny.kept(20, 15), tiny.kept(25, 10))
    ]
    group = Group(tuple(specs), (0, 1))
    together, _ = tiny.fit(group)
    monkeypatch.setattr(strategy, "LARGEST_TOGETHER", 0)
    one_by_one, _ = tiny.fit(group)
    tiny.assert_equal(together, one_by_one, **OTHER_PROGRAM)


@pytest.mark.parametrize("order", ["shared", "seed"])
def test_a_network_trains_the_same_whatever_the_other_members(order):
    cells = [tiny.spec(order=order, kept=kept) for kept in (tiny.kept(30, 4), tiny.kept(14, 20), ())]
    together, _ = tiny.fit(Group(tuple(cells), (5, 6)))
    for i, cell in enumerate(cells):
        alone, _ = tiny.fit(Group((cell,), (5, 6)))
        tiny.assert_equal(member(together, [2 * i, 2 * i + 1]), alone, **OTHER_PROGRAM)
    swapped, _ = tiny.fit(Group(tuple(cells[::-1]), (6, 5)))
    tiny.assert_equal(member(swapped, [5, 4, 3, 2, 1, 0]), together)


# Seeds and data order.


def test_batches_are_a_function_of_key_and_epoch_and_visit_every_example_once():
    key = jax.random.key(0)
    seen = []
    for epoch in (0, 1, 0):
        rows = batches.shuffled(key, epoch, examples=23, batch_size=8)
        assert rows.examples.shape == rows.weight.shape == (3, 8)
        assert sorted(rows.examples[rows.weight == 1].tolist()) == list(range(23))
        assert rows.weight.sum() == 23 and np.all(rows.weight[-1, 7:] == 0)
        seen.append(rows.examples.tolist())
    assert seen[0] == seen[2] != seen[1]
    assert batches.shuffled(jax.random.key(1), 0, examples=23, batch_size=8).examples.tolist() != seen[0]


def test_no_setting_of_jax_changes_what_is_drawn():
    """Masks, weights, keys of the steps, order and noise of the batches: a resumed run may have other settings."""
    group = Group((tiny.spec(kept=tiny.kept(20, 7), order="seed"),), (0,))
    model = models.build(group.specs[0], tiny.IMAGE, tiny.CLASSES)
    split = feeds.SplitView(23, (), lambda data, row: row)

    def drawn():
        members = initial_members(group, model, optax.identity())
        key = step_context(jax.tree.map(lambda x: x[0], members), None).key
        rows = feeds.in_memory(group, tiny.SINGLE, split, split, 8, noisy=True).training(0, 3)
        return members, rows, jax.random.key_data(key)

    expected = drawn()
    for setting in (
        jax.default_prng_impl("rbg"),
        jax.threefry_partitionable(False),
        jax.enable_x64(True),
    ):
        with setting:
            jax.tree.map(np.testing.assert_array_equal, drawn(), expected)


def test_the_data_seed_orders_the_batches_of_all_seeds():
    """`shared` takes its order from the data seed alone, `seed` from the network's seed alone."""
    curves = {
        (order, data_seed): tiny.fit(Group((tiny.spec(order=order, data_seed=data_seed),), (4, 1, 9)))[0][
            "train_loss"
        ]
        for order in ("shared", "seed")
        for data_seed in (0, 1)
    }
    assert np.all(curves["shared", 0] != curves["shared", 1])
    np.testing.assert_array_equal(curves["seed", 0], curves["seed", 1])
    assert np.all(curves["seed", 0] != curves["shared", 0])


# Evaluation, divergence, resuming.


def test_evaluation_is_in_chunks_that_do_not_divide(monkeypatch):
    group = Group((tiny.spec(),), (0, 1))
    whole, _ = tiny.fit(group)
    monkeypatch.setattr(feeds, "EVALUATION_BATCH", 4)
    chunks, _ = tiny.fit(group)
    tiny.assert_equal(chunks, whole, **OTHER_PROGRAM)


def test_a_member_that_diverges_stays_nan_and_the_others_go_on():
    tame, wild = (
        tiny.spec(epochs=6, activation="linear"),
        tiny.spec(epochs=6, activation="linear", learning_rate=1e6),
    )
    history, _ = tiny.fit(Group((tame, wild), (0, 1)))
    alone, _ = tiny.fit(Group((tame,), (0, 1)))
    tiny.assert_equal(member(history, [0, 1]), alone, **OTHER_PROGRAM)
    for name, values in history.items():
        nan = np.isnan(values[:, 2:])
        assert nan[-1].all(), name
        assert np.all(nan[:-1] <= nan[1:]), f"{name} came back"
    assert np.isfinite(history["train_loss"][:, :2]).all()


def test_a_member_that_diverged_once_stays_diverged():
    """Also if its loss becomes finite again."""
    log, ones, twos = histories.Log(histories.EMPTY), np.ones(2, np.float32), np.full(2, 2.0, np.float32)
    task = TASKS["classification"](models.build(tiny.spec(), tiny.IMAGE, tiny.CLASSES))
    for step, losses in enumerate(([1.0, np.inf], [1.0, 2.0], [np.nan, 2.0], [1.0, 2.0]), 1):
        sums = {"loss": np.float32(losses), "correct": ones, "weight": twos}
        measured = histories.Measured(sums, {"loss": ones, "correct": ones, "weight": twos}, {})
        grown = log.add(step, task, "test", measured)
    history = grown.curves
    assert np.isfinite(history["test_loss"]).all() and grown.step.tolist() == [1, 2, 3, 4]
    assert np.isnan(history["train_loss"]).tolist() == [
        [False, True],
        [False, True],
        [True, True],
        [True, True],
    ]
    assert np.isnan(history["train_accuracy"]).tolist() == np.isnan(history["train_loss"]).tolist()
    assert history["train_loss"][0, 0] == 0.5 and history["train_loss"].dtype == np.float32


def test_a_history_grows_without_copies_and_earlier_ones_never_change():
    """Also if two logs continue one history. 100 rows need four arrays per curve."""
    task = TASKS["classification"](models.build(tiny.spec(), tiny.IMAGE, tiny.CLASSES))

    def grown(log: histories.Log, first: int, last: int, loss: float) -> list[histories.History]:
        totals = {name: np.full(2, loss, np.float32) for name in ("loss", "correct", "weight")}
        reads = {"all/read": np.full(2, loss)}
        return [
            log.add(
                3 * step,
                task,
                "test",
                histories.Measured(totals | {"all/sum": totals["loss"]}, totals, reads),
            )
            for step in range(first, last)
        ]

    given = grown(histories.Log(histories.EMPTY), 0, 100, 1.0)
    assert len({id(history.curves["train_loss"].base) for history in given}) == 4
    left, right = (grown(histories.Log(given[9]), 10, 20, loss) for loss in (2.0, 3.0))
    for loss, branch in ((2.0, left), (3.0, right)):
        np.testing.assert_array_equal(branch[-1].curves["all/read"][:, 0], [1.0] * 10 + [loss] * 10)
        np.testing.assert_array_equal(branch[-1].curves["all/sum"][-1], 10 + 10 * loss)
    for rows, history in enumerate(given, 1):
        assert history.step.tolist() == list(range(0, 3 * rows, 3)) and history.step.dtype == np.int64
        assert {values.shape for values in history.curves.values()} == {(rows, 2)}
        assert (history.curves["all/read"] == 1).all() and history.curves["all/read"].dtype == np.float64


def test_a_snapshot_does_not_change_as_training_goes_on():
    group = Group((tiny.spec(momentum=0.9),), (0, 1, 2))
    kept, copies = [], []
    for point in train.train(group, tiny.SPLITS, placement=tiny.SINGLE):
        kept.append(point.snapshot())
        copies.append({place: leaf.copy() for place, leaf in kept[-1].state.items()})
    for snapshot, copy in zip(kept, copies, strict=True):
        tiny.assert_equal(snapshot.state, copy)


# Evaluations every few steps.

EVERY = Group(
    (tiny.spec(kept=tiny.kept(20, 20), momentum=0.9, weight_decay=0.01, schedule="cosine", bias=True),),
    (0, 1),
)


@cache
def evaluated(steps: int, order: str = "shared") -> list[histories.Snapshot]:
    """A snapshot at every evaluation."""
    return resumed_from(None, steps, order)


def resumed_from(snapshot: histories.Snapshot | None, steps: int, order: str = "shared"):
    spec = dataclasses.replace(EVERY.specs[0], eval_every=steps, order=order)
    group = Group((spec,), EVERY.seeds)
    return [m.snapshot() for m in train.train(group, tiny.SPLITS, resume=snapshot, placement=tiny.SINGLE)]


@pytest.mark.parametrize(
    ("steps", "at", "order"),
    [
        (1, range(1, 10), "shared"),
        (3, (3, 6, 9), "shared"),
        (2, (2, 4, 6, 8, 9), "seed"),
        (4, (4, 8, 9), "shared"),
    ],
)
def test_evaluations_change_no_bit_of_training(steps, at, order):
    """Also across epochs; training losses are means over the steps between evaluations."""
    default, often = evaluated(0, order)[-1], evaluated(steps, order)[-1]
    assert often.history.step.tolist() == list(at)
    tiny.assert_equal(often.state, default.state)
    left, right = often.history, default.history
    for name in tiny.CURVES:
        assert left.curves[name].shape == (len(at), 2)
    for i, step in enumerate(right.step):
        for name in ("test_loss", "test_accuracy"):
            np.testing.assert_array_equal(
                left.curves[name][left.step == step], right.curves[name][[i]][: step in at]
            )
    for name in ("train_loss", "train_accuracy"):
        np.testing.assert_allclose(total(left, name), total(right, name), rtol=1e-5)


def total(history: histories.History, name: str) -> np.ndarray:
    """The sum over all examples of a mean between evaluations; batches of an epoch have 8, 8 and 7."""
    ends = [0, *history.step]
    counts = [sum((8, 8, 7)[t % 3] for t in range(*between)) for between in pairwise(ends)]
    return np.array(counts) @ history.curves[name]


def test_resumed_at_any_evaluation_equals_uninterrupted_bit_for_bit():
    """In the middle of an epoch and at its end; a snapshot does not change when it is resumed."""
    *earlier, final = evaluated(1)
    for snapshot in (earlier[2], earlier[4]):
        before = {place: leaf.copy() for place, leaf in snapshot.state.items()}
        *_, resumed = resumed_from(snapshot, 1)
        tiny.assert_equal(snapshot.state, before)
        np.testing.assert_array_equal(resumed.history.step, final.history.step)
        tiny.assert_equal(resumed.history.curves, final.history.curves)
        tiny.assert_equal(resumed.state, final.state)


@pytest.mark.parametrize("change", [lambda leaf: None, lambda leaf: leaf[:1], lambda leaf: leaf[..., :2]])
def test_a_checkpoint_of_another_state_is_refused_in_one_line(change):
    first, *_ = evaluated(0)
    name = ".params['output']['kernel']"
    state = first.state | {name: change(first.state[name])}
    saved = first._replace(state={name: leaf for name, leaf in state.items() if leaf is not None})
    line = re.escape(
        f"`resume`: the checkpoint has no {name} of shape (2, 5, 4), so it is of another version"
    )
    with pytest.raises(UserError, match=f"^{line}[^\n]*`resume=false`$"):
        resumed_from(saved, 0)


@pytest.mark.parametrize(("done", "total", "steps"), [(0, 9, 4), (4, 9, 4), (6, 9, 4), (0, 3, 9), (9, 9, 4)])
def test_periods_end_at_multiples_and_at_the_end(done, total, steps):
    parts = list(train.periods(done, total, steps))
    ends = [last for _, last in parts]
    assert [first for first, _ in parts] == [done, *ends][: len(parts)]
    assert ends == [step for step in range(done + 1, total + 1) if step % steps == 0 or step == total]
