"""A state carried from batch to batch: by lanes, over devices, through checkpoints; and the random key of a step.

The task is a recurrence h ← h/2 + network(x) per lane, pulled to the label; its carry also has the key of the step.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from wsn.data import feeds
from wsn.devices import Placement
from wsn.records import checkpoints
from wsn.spec import ORDER, Group, Spec
from wsn.tasks import TASKS, Task
from wsn.tasks.task import LOSS
from wsn.training import strategy, train
from wsn.training.history import Snapshot

DEVICES = tuple(jax.local_devices())
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
# 23 examples in batches of 7: four steps an epoch, and no number of devices divides the lanes.
LANES, STEPS = 7, 4
SPEC: Spec = tiny.spec(
    task="recurrence", activation="linear", batch_size=LANES, epochs=2, eval_every=3, learning_rate=0.1
)
GROUP = Group((SPEC,), (0, 1))


def recurrence(model) -> Task:
    def carry(lanes):
        return {"h": jnp.zeros((lanes, tiny.CLASSES)), "key": jnp.zeros((lanes, 2), jnp.uint32)}

    def totals(params, carry, batch, context):
        h = carry["h"] / 2 + model.apply(params, {}, batch.inputs)
        errors = jnp.sum((h - jax.nn.one_hot(batch.labels, tiny.CLASSES)) ** 2, -1) / 2
        sums = {"loss": jnp.sum(errors * batch.weight), "weight": jnp.sum(batch.weight)}
        key = jnp.broadcast_to(jax.random.key_data(context.key), (len(h), 2))
        return sums, {"h": jax.lax.stop_gradient(h), "key": key}

    def training(params, stats, carry, batch, context):
        sums, carry = totals(params, carry, batch, context)
        return sums, stats, carry

    def evaluation(params, stats, carry, batch, context):
        return totals(params, carry, batch, context)

    return Task((LOSS,), carry, training, evaluation)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(TASKS, "recurrence", recurrence)
    monkeypatch.setattr(feeds, "EVALUATION_BATCH", 4)  # three batches of 11 test examples


@pytest.fixture(params=["scan", "step by step"])
def program(request, monkeypatch) -> str:
    if request.param == "step by step":
        monkeypatch.setattr(strategy, "goes_step_by_step", lambda model: True)
    return request.param


def over(count: int, kind="batch") -> Placement:
    return Placement(kind if count > 1 else "single", DEVICES[:count])


def snapshots(placement: Placement, group: Group = GROUP, resume: Snapshot | None = None) -> list[Snapshot]:
    return [m.snapshot() for m in train.train(group, tiny.SPLITS, resume=resume, placement=placement)]


@cache
def on_one_device(program: str) -> list[Snapshot]:
    return snapshots(over(1))


def assert_equal(left: Snapshot, right: Snapshot, **tolerance) -> None:
    np.testing.assert_array_equal(left.history.step, right.history.step)
    tiny.assert_equal(left.history.curves, right.history.curves, **tolerance)
    tiny.assert_equal(left.state, right.state, **tolerance)


def test_training_equals_numpy_and_evaluation_does_not_change_the_carry(program):
    """The carry continues across epochs and evaluations; each evaluation starts from zero."""
    run = on_one_device(program)
    start = train.prepare(GROUP, tiny.SPLITS, over(1)).members.state.params
    for member, _ in enumerate(GROUP.seeds):
        first, last = (np.float64(start[layer]["kernel"][member]) for layer in ("hidden_0", "output"))
        h, losses = np.zeros((LANES, tiny.CLASSES)), []
        for step, rows in enumerate(rows_of_training(), 1):
            x, target, weight = rows
            h = h / 2 + x @ first @ last
            slope = (h - target) * weight[:, None] / weight.sum()
            first, last = first - 0.1 * x.T @ slope @ last.T, last - 0.1 * (x @ first).T @ slope
            if step in (3, 6, 8):
                losses.append(held_out_loss(first @ last))
        state = {name: leaf[member] for name, leaf in run[-1].state.items()}
        np.testing.assert_allclose(state[".carry['h']"], h, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state[".params['output']['kernel']"], last, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(run[-1].history.curves["test_loss"][:, member], losses, rtol=1e-5)


def rows_of_training():
    """(inputs, one-hot labels, weights) of every step."""
    s = tiny.SPLITS
    x = (s.train_images.reshape(tiny.TRAIN, -1) - 8.0) / 5
    key = jax.random.fold_in(jax.random.key(0), ORDER)
    for epoch in range(SPEC.epochs):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), tiny.TRAIN))
        order = np.pad(order, (0, STEPS * LANES - tiny.TRAIN))
        weight = np.arange(STEPS * LANES) < tiny.TRAIN
        for i in range(0, STEPS * LANES, LANES):
            rows = order[i : i + LANES]
            yield x[rows], np.eye(tiny.CLASSES)[s.train_labels[rows]], weight[i : i + LANES].astype(float)


def held_out_loss(product: np.ndarray) -> float:
    s, total, h = tiny.SPLITS, 0.0, np.zeros((4, tiny.CLASSES))
    for i in range(0, tiny.TEST, 4):
        x = (s.test_images[i : i + 4].reshape(-1, 9) - 8.0) / 5
        h = h[: len(x)] / 2 + x @ product
        total += ((h - np.eye(tiny.CLASSES)[s.test_labels[i : i + 4]]) ** 2).sum() / 2
    return total / tiny.TEST


def test_members_over_devices_have_their_own_carry():
    """Three members do not divide over two devices."""
    three = snapshots(over(2, "members"), Group((SPEC,), (0, 1, 2)))[-1]
    state = {name: leaf[:2] for name, leaf in three.state.items()}
    curves = {name: values[:, :2] for name, values in three.history.curves.items()}
    two = Snapshot(state, three.history._replace(curves=curves))
    assert_equal(two, on_one_device("scan")[-1], **TOLERANCE)


def test_a_resumed_run_repeats_the_uninterrupted_one_bit_for_bit(program):
    *earlier, final = on_one_device(program)
    for snapshot in earlier:
        assert_equal(snapshots(over(1), resume=snapshot)[-1], final)


def test_a_checkpoint_of_two_devices_resumes_on_any_number(program, tmp_path):
    """The carry is cut over devices with the lanes, and joined in a snapshot."""
    first, *_, final = snapshots(over(2))
    assert_equal(final, on_one_device(program)[-1], **TOLERANCE)
    assert first.state[".carry['h']"].shape == (2, LANES, tiny.CLASSES)
    checkpoints.save(tmp_path / "checkpoints", 3, first)
    saved = checkpoints.load(tmp_path / "checkpoints")
    assert saved is not None
    assert_equal(saved, first)
    assert_equal(snapshots(over(2), resume=saved)[-1], final)
    for count in (1, 4):
        assert_equal(snapshots(over(count), resume=saved)[-1], final, **TOLERANCE)


def test_every_step_of_every_seed_has_its_key_also_in_a_resumed_run():
    group = Group((tiny.spec(**(vars(SPEC) | {"eval_every": 1})),), (0, 1))
    run = snapshots(over(1), group)
    keys = np.stack([snapshot.state[".carry['key']"] for snapshot in run])
    assert keys.shape == (8, 2, LANES, 2)
    assert len({tuple(key) for key in keys[:, :, 0].reshape(-1, 2).tolist()}) == 16
    assert (keys == keys[:, :, :1]).all()
    again = snapshots(over(1), group, run[4])
    np.testing.assert_array_equal(np.stack([s.state[".carry['key']"] for s in again]), keys[5:])
    # A function of seed and step, whatever the other members and the devices.
    alone = snapshots(over(2), Group(group.specs, (1,)))
    np.testing.assert_array_equal(np.stack([s.state[".carry['key']"][0] for s in alone]), keys[:, 1])
