"""The name of a group: a hash of what decides its results, and of nothing else."""

import dataclasses
import json

import pytest
import tiny

from wsn.errors import UserError, truth_value
from wsn.spec import Group, Spec, changed_fields, from_fields

CHANGES = {field.name: tiny.other(field.name) for field in dataclasses.fields(Spec)}


def group(*seeds: int, **changes) -> Group:
    return Group((tiny.spec(**changes),), seeds or (0, 1))


def test_every_field_and_every_seed_is_in_the_name():
    groups = [group(), group(1, 0), group(0), group(0, 1, 2)]
    groups += [group(**{name: value}) for name, value in CHANGES.items()]
    assert len({group.name for group in groups}) == len(groups)
    assert group().name == group().name


def test_a_field_at_its_default_is_not_in_the_name():
    """So a field that a later version adds changes no name."""
    wider = dataclasses.make_dataclass("Wider", [("later", int, 0)], bases=(Spec,), frozen=True, kw_only=True)
    fields = changed_fields(tiny.spec())
    assert Group((wider(**fields),), (0, 1)).name == group().name
    assert Group((wider(**fields, later=1),), (0, 1)).name != group().name
    assert "momentum" not in fields and group(momentum=0.0).name == group().name


def test_equal_specs_have_equal_names():
    assert group(warmup_epochs=1).name == group(warmup_epochs=1.0).name
    assert truth_value("bias", 1) is True and truth_value("bias", False) is False


@pytest.mark.parametrize("value", [2, "no", 0.5])
def test_what_is_neither_true_nor_false_is_refused(value):
    with pytest.raises(UserError, match=f"^`bias={value}` is neither true nor false$"):
        truth_value("bias", value)


@pytest.mark.parametrize("changes", [{}, CHANGES], ids=["defaults", "all"])
def test_specs_survive_json(changes):
    spec = tiny.spec(**changes)
    assert from_fields(json.loads(json.dumps(changed_fields(spec)))) == spec


def test_groups_hold_specs_of_one_shape_once():
    Group((tiny.spec(), tiny.spec(learning_rate=1.0), tiny.spec(kept=tiny.kept(3, 4))), (0,))
    with pytest.raises(ValueError, match="may differ in"):
        Group((tiny.spec(), tiny.spec(width=6)), (0,))
    for specs, seeds in (((tiny.spec(), tiny.spec()), (0,)), ((tiny.spec(),), (0, 0))):
        with pytest.raises(ValueError, match="twice"):
            Group(specs, seeds)
    for specs, seeds in (((), (0,)), ((tiny.spec(),), ())):
        with pytest.raises(UserError, match="`seeds`"):
            Group(specs, seeds)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_jax_would_repeat_are_refused(seed):
    with pytest.raises(UserError, match=f"^`seeds`: {seed} is none of 0 to 4294967295$"):
        group(seed)
    with pytest.raises(UserError, match="^`data_seed="):
        tiny.spec(data_seed=seed)
