"""Every optimizer and schedule: removed weights stay 0, each field matters, updates are those of the papers."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from wsn.errors import UserError
from wsn.spec import Group, Spec, Training, changed_fields
from wsn.training.optimizers import (
    OPTIMIZERS,
    SCHEDULE_FIELDS,
    SCHEDULES,
    Horizon,
    build,
    check,
    learning_rate_schedule,
)

DEFAULTS = {field.name: field.default for field in dataclasses.fields(Training)}
HORIZON = Horizon(epoch=3, total=9)
RATE = 0.1
START = np.array([1.0, -2.0, 0.5, 3.0])
# One weight hardly has a gradient, so that what is added to its root shows.
GRADIENTS = np.random.default_rng(0).normal(size=(5, 4)) * [1, 1, 1, 1e-8]


def changed(field: str) -> float:
    """A value of a field that is not its default."""
    return DEFAULTS[field] / 2 or 0.1


def walked(spec: Spec) -> np.ndarray:
    """Parameters after every step of given gradients."""
    transformation = build(spec, HORIZON)

    @jax.jit
    def walk(params, gradients):
        def step(carry, gradient):
            params, state = carry
            updates, state = transformation.update(gradient, state, params)
            params = params + RATE * updates
            return (params, state), params

        return jax.lax.scan(step, (params, transformation.init(params)), gradients)[1]

    return np.asarray(walk(jnp.float32(START), jnp.float32(GRADIENTS)))


# By hand, in float64: (spec, factor of the rate at a step) → parameters after every step.


def sgd(spec: Spec, factor) -> list[np.ndarray]:
    w, velocity, path = START, np.zeros(4), []
    for t, gradient in enumerate(GRADIENTS):
        velocity = spec.momentum * velocity + gradient + spec.weight_decay * w
        w = w - RATE * factor(t) * velocity
        path.append(w)
    return path


def adamw(spec: Spec, factor) -> list[np.ndarray]:
    w, mean, square, path = START, np.zeros(4), np.zeros(4), []
    for t, gradient in enumerate(GRADIENTS):
        mean = spec.beta1 * mean + (1 - spec.beta1) * gradient
        square = spec.beta2 * square + (1 - spec.beta2) * gradient**2
        unbiased = mean / (1 - spec.beta1 ** (t + 1)), square / (1 - spec.beta2 ** (t + 1))
        direction = unbiased[0] / (np.sqrt(unbiased[1]) + spec.epsilon) + spec.weight_decay * w
        w = w - RATE * factor(t) * direction
        path.append(w)
    return path


REFERENCES = {"sgd": sgd, "adam": adamw, "adamw": adamw}  # Adam has no weight decay


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_equal_numpy(name):
    settings = {field: changed(field) for field in OPTIMIZERS[name].fields}
    for changes in ({}, settings, settings | {"schedule": "cosine"}):
        spec = tiny.spec(optimizer=name, **changes)
        cosine = spec.schedule == "cosine"
        expected = REFERENCES[name](
            spec, lambda t, cosine=cosine: (1 + math.cos(math.pi * t / 9)) / 2 if cosine else 1
        )
        np.testing.assert_allclose(walked(spec), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_field_that_an_optimizer_names_changes_its_updates(name):
    assert OPTIMIZERS[name].fields and set(OPTIMIZERS[name].fields) <= DEFAULTS.keys()
    plain = walked(tiny.spec(optimizer=name))
    for field in OPTIMIZERS[name].fields:
        other = walked(tiny.spec(optimizer=name, **{field: changed(field)}))
        assert np.abs(other - plain).max() > 1e-3, field


FIELDS = {"optimizer": {name: rule.fields for name, rule in OPTIMIZERS.items()}, "schedule": SCHEDULE_FIELDS}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in FIELDS for name in FIELDS[kind]])
def test_fields_of_other_optimizers_and_schedules_are_refused_in_one_line(kind, name):
    for field in set().union(*FIELDS[kind].values()) - set(FIELDS[kind][name]):
        value = (1,) if field == "decay_epochs" else changed(field)
        line = re.escape(f"`{field}={value}`: `{kind}={name}` does not read it; it reads ") + "[^\n]*$"
        with pytest.raises(UserError, match=line):
            build(tiny.spec(**{kind: name, field: value}), HORIZON)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("epsilon", 0.0, ": adamw? would divide 0 by 0 for a weight without gradient"),
        ("epsilon", 1e-40, " is out of the range of float32"),  # which XLA flushes to 0
        ("learning_rate", 1e39, " is out of the range of float32"),
        ("beta1", 1 - 1e-9, " is 1 in float32, so Adam would divide by 0"),
        ("beta2", 1 - 1e-9, " is 1 in float32, so Adam would divide by 0"),
    ],
)
def test_numbers_that_divide_0_by_0_in_float32_are_refused(optimizer, field, value, reason):
    with pytest.raises(UserError, match=f"^`{field}={re.escape(str(value))}`{reason}[^\n]*$"):
        check(tiny.spec(optimizer=optimizer, **{field: value}))
    check(tiny.spec(optimizer=optimizer, epsilon=1e-30))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_removed_weights_stay_exactly_0(name):
    """With every setting of the optimizer; its state is 0 there too, and every kept weight moves."""
    settings = {field: changed(field) for field in OPTIMIZERS[name].fields}
    kept = {"kept": tiny.kept(20, 7), "activation": "linear", "learning_rate": 0.01}
    group = Group((tiny.spec(optimizer=name, **kept, **settings),), (0, 1))
    curves, snapshot = tiny.fit(group)
    assert np.isfinite(curves["train_loss"]).all()
    for layer, count in tiny.kept(20, 7):
        kernels = {at: x for at, x in snapshot.state.items() if f"['{layer}']['kernel']" in at}
        parameters = kernels.pop(f".params['{layer}']['kernel']")
        removed = parameters == 0
        assert (np.count_nonzero(~removed, axis=(1, 2)) == count).all()
        assert kernels and all(np.all(x[removed] == 0) for x in kernels.values())


def scheduled(name: str, **changes) -> Spec:
    return tiny.spec(schedule=name, **({"decay_epochs": (1,)} if name == "steps" else {}), **changes)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_start_at_1_and_scale_the_updates(name):
    spec = scheduled(name)
    schedule = learning_rate_schedule(spec, HORIZON)
    factors = np.array([schedule(t) for t in range(HORIZON.total)])
    assert factors[0] == 1 and np.isfinite(factors).all() and (factors >= 0).all()
    steps = np.diff(np.vstack([START, walked(spec)]), axis=0)
    np.testing.assert_allclose(steps, -RATE * factors[:5, None] * GRADIENTS, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("epochs", "warmup"), [(1.0, 4), (0.5, 2), (2.5, 10), (0.1, 0)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_linear_warmup_comes_before_the_schedule(name, epochs, warmup):
    """Steps of decay are counted from the start; the cosine is over the steps that are left."""
    horizon, t = Horizon(epoch=4, total=12), np.arange(12)
    ramp = (np.arange(warmup) + 1) / max(warmup, 1)
    after = {
        "constant": np.ones(12),
        "steps": np.where(t >= 4, 0.1, 1.0),
        "cosine": (1 + np.cos(np.pi * (t - warmup) / (12 - warmup))) / 2,
    }[name]
    spec = scheduled(name, warmup_epochs=epochs)
    factors = [learning_rate_schedule(spec, horizon)(jnp.int32(step)) for step in t]
    np.testing.assert_allclose(factors, np.concatenate([ramp, after[warmup:]]), rtol=1e-6, atol=1e-7)


def test_an_epoch_given_twice_decays_once():
    """As in the paper's steps, cut to very few epochs."""
    schedule = learning_rate_schedule(tiny.spec(schedule="steps", decay_epochs=(2, 2, 5)), Horizon(4, 24))
    np.testing.assert_allclose([schedule(t) for t in (7, 8, 19, 20)], [1, 0.1, 0.1, 0.01], rtol=1e-6)


def test_decays_after_the_end_are_refused():
    check(tiny.spec(schedule="steps", decay_epochs=(0, 3)))
    with pytest.raises(
        UserError, match="^`decay_epochs`: 4, 150 would never come: give less than `epochs=3`$"
    ):
        check(tiny.spec(schedule="steps", decay_epochs=(2, 4, 150)))


def test_a_warmup_is_shorter_than_training_and_0_renames_no_group():
    with pytest.raises(UserError, match="^`warmup_epochs=3.0` is too large: give less than `epochs=3`$"):
        check(tiny.spec(warmup_epochs=3.0))
    assert "warmup_epochs" not in changed_fields(tiny.spec(warmup_epochs=0))
    assert Group((tiny.spec(warmup_epochs=0.0),), (0,)).name == Group((tiny.spec(),), (0,)).name
