"""Every probe: finite, the same under vmap, without effect on training; the path equals a replay and a hand count."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax.traverse_util import flatten_dict

from wsn.networks import models
from wsn.networks.models import MODELS, SPEECH_MODELS, TOKEN_MODELS
from wsn.spec import Group
from wsn.tasks import Task
from wsn.tasks.task import LOSS, no_carry
from wsn.training import probes, train
from wsn.training.history import Snapshot
from wsn.training.probes import PROBES, Step
from wsn.training.state import Members, State
from wsn.training.step import make_step

GROUPS = {"hidden_0": "hidden", "hidden_1": "hidden", "output": "output"}
NAMES = ("hidden", "output", "all")


def tree(seed: int, members: int):
    """Parameters of two hidden layers, an output, and a normalization that belongs to no layer."""
    random = np.random.default_rng(seed)
    layers = {layer: {"kernel": random.normal(size=(members, 3, 2))} for layer in GROUPS}
    return jax.tree.map(jnp.float32, layers | {"bn1": {"scale": random.normal(size=(members, 2))}})


@pytest.mark.parametrize("name", PROBES)
def test_numbers_are_finite_and_the_same_under_vmap(name):
    sums, reads = probes.measured((name,), GROUPS)
    step = Step(*(tree(seed, 3) for seed in range(4)))
    together = jax.vmap(sums)(step) | jax.vmap(reads)(step.params, step.start)
    assert {column.partition("/")[0] for column in together} == set(NAMES)
    for i in range(3):
        one = jax.tree.map(lambda x, i=i: x[i], step)
        alone = sums(one) | reads(one.params, one.start)
        assert alone.keys() == together.keys()
        for column, value in alone.items():
            assert np.isfinite(value) and np.shape(value) == ()
            np.testing.assert_allclose(together[column][i], value, rtol=1e-5, err_msg=column)


def test_two_probes_give_the_columns_of_both():
    params = jax.tree.map(lambda x: x[0], tree(0, 1))
    step = Step(params, params, params, params)
    columns = []
    for names in (*((name,) for name in PROBES), tuple(PROBES)):
        sums, reads = probes.measured(names, GROUPS)
        columns.append({*sums(step), *reads(params, params)})
    *single, both = columns
    assert both == set().union(*single) and len(both) == sum(map(len, single))


@pytest.mark.parametrize("name", MODELS)
def test_groups_partition_the_layers(name):
    model = models.build(
        tiny.spec(model=name, width=6, hidden_layers=3), tiny.input_shape(name), tiny.CLASSES
    )
    shapes, _ = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
    parts = probes.split_groups(params, model.groups)
    everything = parts.pop("all")
    assert everything.keys() == flatten_dict(params, sep="/").keys()
    paths = [path for part in parts.values() for path in part]
    assert len(paths) == len(set(paths)) and all(parts.values())
    layers = {path for path in everything if path.rpartition("/")[0] in model.shapes}
    assert set(paths) == layers >= {models.kernel_path(layer) for layer in model.shapes}
    if name in TOKEN_MODELS:
        inner = ["attention", "mlp"] if name == "transformer" else ["hidden"]
        assert list(parts) == ["embedding", *inner, "softmax"]
    if name in SPEECH_MODELS:
        assert list(parts) == ["convolutions", "hidden", "softmax"]


# A run.

RULE = {"kept": tiny.kept(20, 20), "momentum": 0.9, "weight_decay": 0.01, "bias": True}
PROBED = Group((tiny.spec(probes=tuple(PROBES), eval_every=1, **RULE),), (0, 1))


@pytest.fixture(scope="module")
def run() -> list[Snapshot]:
    """A snapshot a step."""
    return [point.snapshot() for point in train.train(PROBED, tiny.SPLITS, placement=tiny.SINGLE)]


def flat(snapshot: Snapshot) -> dict[str, np.ndarray]:
    """Parameters of a group of layers in float64: (members, entries)."""
    leaves = {path: np.float64(x).reshape(len(x), -1) for path, x in tiny.params(snapshot).items()}
    parts = {
        name: [x for path, x in leaves.items() if path.startswith(name)] for name in ("hidden", "output")
    }
    return {name: np.hstack(x) for name, x in (parts | {"all": list(leaves.values())}).items()}


def test_path_length_distance_and_norm_are_those_of_the_replayed_run(run):
    start = Snapshot(state_at_start(PROBED), run[0].history)
    curves, walk = run[-1].history.curves, [flat(snapshot) for snapshot in (start, *run)]
    for name in NAMES:
        places = np.stack([place[name] for place in walk])
        steps, moved = np.diff(places, axis=0), places - places[0]
        expected = {
            "path_length": np.linalg.norm(steps, axis=-1).cumsum(0),
            "squared_steps": (steps**2).sum(-1).cumsum(0),
            "projection_start": (moved[:-1] * steps).sum(-1).cumsum(0),
            "distance": np.linalg.norm(moved[1:], axis=-1),
            "norm": np.linalg.norm(places[1:], axis=-1),
            "angles": np.arange(len(steps))[:, None] * np.ones(moved.shape[1]),
        }
        for quantity, values in expected.items():
            measured = curves[f"{name}/{quantity}"]
            assert measured.dtype == np.float64
            np.testing.assert_allclose(measured, values, rtol=1e-4, atol=1e-6, err_msg=f"{name}/{quantity}")


def state_at_start(group: Group) -> dict[str, np.ndarray]:
    members = train.prepare(group, tiny.SPLITS, tiny.SINGLE).members
    return {jax.tree_util.keystr(path): x for path, x in jax.tree.leaves_with_path(members.state)}


def test_a_resumed_run_continues_the_sums_bit_for_bit(run):
    *_, last = train.train(PROBED, tiny.SPLITS, resume=run[3], placement=tiny.SINGLE)
    tiny.assert_equal(last.history.curves, run[-1].history.curves)


def test_probes_change_nothing_and_sums_do_not_depend_on_evaluations(run):
    plain, snapshot = tiny.fit(Group((tiny.spec(eval_every=1, **RULE),), (0, 1)))
    assert plain.keys() == set(tiny.CURVES)
    tiny.assert_equal({name: run[-1].history.curves[name] for name in plain}, plain)
    tiny.assert_equal(run[-1].state, snapshot.state)
    by_epoch, _ = tiny.fit(Group((tiny.spec(probes=tuple(PROBES), **RULE),), (0, 1)))
    for name in by_epoch.keys() - plain.keys():
        np.testing.assert_allclose(by_epoch[name], run[-1].history.curves[name][2::3], rtol=1e-5)


def sums_of(step: Step) -> dict[str, float]:
    sums, _ = probes.measured(("path",), {"bowl": "hidden"})
    return {name.removeprefix("all/"): float(x) for name, x in sums(step).items() if name.startswith("all/")}


@pytest.mark.parametrize("gradient", [(0.0, 3.0), (4.0, 4.0), (-4.0, -2.0), (1e3, -7.0)])
def test_cosine_and_angle_between_the_gradient_and_the_displacement_from_the_start(gradient):
    moved = np.array([2.0, 1.0])
    params, start, slope = (
        {"bowl": {"kernel": jnp.float32(jnp.array(x))}} for x in (moved + 5, (5, 5), gradient)
    )
    cosine = moved @ gradient / np.linalg.norm(moved) / np.linalg.norm(gradient)
    sums = sums_of(Step(params, slope, slope, start))
    assert sums["cosine_start"] == pytest.approx(cosine, abs=1e-6)
    assert sums["angle_start"] == pytest.approx(np.arccos(cosine), abs=1e-6)
    assert sums["angles"] == 1


def test_the_angle_is_undefined_at_the_start_and_without_a_gradient():
    here, away, nothing = ({"bowl": {"kernel": jnp.full(2, x)}} for x in (1.0, 2.0, 0.0))
    for step in (Step(here, away, away, here), Step(away, nothing, nothing, here)):
        sums = sums_of(step)
        assert sums["cosine_start"] == sums["angle_start"] == sums["angles"] == 0


def test_two_steps_down_a_bowl_are_those_by_hand():
    """Loss ½(w₀² + 4w₁²), rate 0.1, from (1, 1): (0.9, 0.6), then (0.81, 0.36)."""

    def training(params, stats, carry, batch, context):
        loss = jnp.sum(jnp.array([1.0, 4.0]) * params["bowl"]["kernel"] ** 2) / 2
        return {"loss": loss, "weight": jnp.ones(())}, stats, carry

    bowl = Task((LOSS,), no_carry, training, training)
    params, rates = {"bowl": {"kernel": jnp.ones(2)}}, {"bowl": {"kernel": jnp.float32(0.1)}}
    rule = optax.sgd(1.0)
    sums, reads = probes.measured(("path",), {"bowl": "hidden"})
    state = State(params, {}, rule.init(params), jnp.int32(0), ())
    member = Members(state, {}, rates, jax.random.key_data(jax.random.key(0)), params)
    step, total = jax.jit(make_step(bowl, rule, probe=sums)), {}
    for expected in ((0.9, 0.6), (0.81, 0.36)):
        member, numbers = step(member, None)
        np.testing.assert_allclose(member.state.params["bowl"]["kernel"], expected, rtol=1e-6)
        total = {name: total.get(name, 0) + float(value) for name, value in numbers.items()}
    total |= reads(member.state.params, member.start)
    for name, value in {"path_length": 0.668631, "distance": 0.667608, "squared_steps": 0.2357}.items():
        assert total[f"hidden/{name}"] == total[f"all/{name}"] == pytest.approx(value, rel=2e-6)


def test_probes_measure_from_a_reference_in_either_storage():
    group = Group((tiny.spec(probes=("path",), kept=tiny.kept(9, 20), epochs=1),), (0, 1))
    curves, end = tiny.fit(group)
    reference = {place: leaf for place, leaf in end.state.items() if place.startswith(train.PARAMS)}
    for execution in ("masked", "sparse"):
        points = train.train(group, tiny.SPLITS, reference=reference, execution=execution)
        *_, last = points
        measured = last.history.curves
        np.testing.assert_allclose(measured["all/path_length"], curves["all/path_length"], rtol=1e-4)
        ahead = measured["all/projection_start"]
        expected = -(curves["all/distance"] ** 2) - curves["all/squared_steps"]
        np.testing.assert_allclose(2 * ahead, expected, rtol=1e-4)


def test_a_reference_without_probes_is_refused():
    with pytest.raises(ValueError, match="probes"):
        next(train.train(Group((tiny.spec(),), (0,)), tiny.SPLITS, reference={}))
