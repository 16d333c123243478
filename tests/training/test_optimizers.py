"""Every optimiser and schedule: removed weights stay 0, each field matters, updates are those of the papers."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from wsn.errors import UserError
from wsn.spec import Group, Spec, Training
from wsn.training.optimizers import OPTIMIZERS, SCHEDULES, Horizon, build

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
    own = {field: changed(field) for field in OPTIMIZERS[name].fields}
    for changes in ({}, own, own | {"schedule": "cosine"}):
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


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fields_of_other_optimizers_are_refused_in_one_line(name):
    others = {field for optimizer in OPTIMIZERS.values() for field in optimizer.fields}
    for field in others - set(OPTIMIZERS[name].fields):
        spec = tiny.spec(optimizer=name, **{field: changed(field)})
        with pytest.raises(UserError, match=f"^`{field}={changed(field)}`: {name} has none; [^\n]*$"):
            build(spec, HORIZON)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_removed_weights_stay_exactly_0(name):
    """With all that an optimiser has; its own state forgets them too, and every kept weight moves."""
    own = {field: changed(field) for field in OPTIMIZERS[name].fields}
    kept = {"kept": tiny.kept(20, 7), "activation": "linear", "learning_rate": 0.01}
    group = Group((tiny.spec(optimizer=name, **kept, **own),), (0, 1))
    curves, snapshot = tiny.fit(group)
    assert np.isfinite(curves["train_loss"]).all()
    for layer, count in tiny.kept(20, 7):
        kernels = {at: x for at, x in snapshot.state.items() if f"['{layer}']['kernel']" in at}
        parameters = kernels.pop(f".params['{layer}']['kernel']")
        removed = parameters == 0
        assert (np.count_nonzero(~removed, axis=(1, 2)) == count).all()
        assert kernels and all(np.all(x[removed] == 0) for x in kernels.values())


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_start_at_1_and_scale_the_updates(name):
    spec = tiny.spec(schedule=name, decay_epochs=(1,))
    schedule = SCHEDULES[name](spec, HORIZON)
    factors = np.array([schedule(t) for t in range(HORIZON.total)])
    assert factors[0] == 1 and np.isfinite(factors).all() and (factors >= 0).all()
    steps = np.diff(np.vstack([START, walked(spec)]), axis=0)
    np.testing.assert_allclose(steps, -RATE * factors[:5, None] * GRADIENTS, rtol=1e-4, atol=1e-6)
