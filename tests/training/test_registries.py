"""Every noun of a spec has one registry: its default is in it, and an unknown name is told in one line."""

import dataclasses

import pytest
import tiny

from wsn.data.speech.utterances import FRONT_ENDS
from wsn.errors import UserError
from wsn.networks.models import MODELS, SPEECH_MODELS, TOKEN_MODELS
from wsn.records import plan
from wsn.spec import Group, Spec
from wsn.tasks import TASKS
from wsn.tasks.language import LANGUAGE
from wsn.tasks.speech import SPEECH
from wsn.training import train
from wsn.training.registries import REGISTRIES, check, unread

FIELDS = {field.name: field for field in dataclasses.fields(Spec)}

# What a name asks of the rest of its spec.
NEEDS = {
    **dict.fromkeys(LANGUAGE, {"model": "lstm"}),
    **dict.fromkeys(TOKEN_MODELS, {"task": "characters"}),
    **dict.fromkeys(SPEECH, {"model": "deepspeech"}),
    **dict.fromkeys(SPEECH_MODELS, {"task": "speech"}),
    **dict.fromkeys(FRONT_ENDS, {"model": "deepspeech", "task": "speech"}),
    "minimum": {"validation_samples": 1},
}


def of(field: str, name: str) -> Spec:
    changes = {field: (name,) if isinstance(FIELDS[field].default, tuple) else name}
    return tiny.spec(**changes | NEEDS.get(name, {}))


@pytest.mark.parametrize("field", REGISTRIES)
def test_a_registry_is_that_of_a_field_whose_default_it_has(field):
    default = FIELDS[field].default
    assert set(default if isinstance(default, tuple) else (default,)) <= set(REGISTRIES[field])
    for name in REGISTRIES[field]:
        check(of(field, name))


@pytest.mark.parametrize("field", REGISTRIES)
def test_an_unknown_name_is_told_in_one_line_before_anything_is_done(field):
    spec = of(field, "nonsense")
    for refused in (
        lambda: check(spec),
        lambda: next(train.train(Group((spec,), (0,)), tiny.SPLITS)),
        lambda: plan.cost(Group((spec,), (0,)), tiny.SPLITS),
    ):
        with pytest.raises(UserError) as error:
            refused()
        known = ", ".join(REGISTRIES[field])
        assert str(error.value) == f"--{field}=nonsense is unknown: choose one of {known}"


def test_a_setting_of_another_optimizer_is_told_before_anything_is_done():
    group = Group((tiny.spec(optimizer="adam", momentum=0.9),), (0,))
    for refused in (lambda: next(train.train(group, tiny.SPLITS)), lambda: plan.cost(group, tiny.SPLITS)):
        with pytest.raises(UserError, match="^`momentum=0.9`: adam has none[^\n]*$"):
            refused()


OTHER = {
    "bias": True,
    "front_end": "stack",
    "activation": "linear",
    "normalization": "channel",
    "augmentation": "crop_flip",
}


def other(field: str):
    """A value of a field that is not its default."""
    return OTHER[field] if field in OTHER else FIELDS[field].default + 8


@pytest.mark.parametrize(("flag", "name"), [*(("model", n) for n in MODELS), *(("task", n) for n in TASKS)])
def test_a_setting_that_network_or_task_does_not_read_is_told_in_one_line(flag, name):
    spec = of(flag, name)
    fields = {field for field, chosen in unread(spec.model, spec.task).items() if chosen == flag}
    assert fields.isdisjoint(MODELS[spec.model].fields if flag == "model" else ())
    for field in fields:
        with pytest.raises(UserError) as error:
            check(dataclasses.replace(spec, **{field: other(field)}))
        assert str(error.value) == f"--{field}={other(field)}: --{flag}={name} does not read it: leave it out"


def test_networks_and_tasks_take_the_fields_that_are_their_own():
    for name, network in MODELS.items():
        assert set(network.fields) <= FIELDS.keys()
        for field in network.fields:
            check(dataclasses.replace(of("model", name), **{field: other(field)}))
    with pytest.raises(UserError, match="^`vocabulary=99`: `task=characters` does not read it"):
        check(dataclasses.replace(of("task", "characters"), vocabulary=99))
    check(dataclasses.replace(of("task", "words"), vocabulary=99, sequence=9))


def test_a_spec_takes_any_name():
    """So records of later versions can be read, and listed, by earlier ones."""
    for field in REGISTRIES:
        assert getattr(of(field, "later"), field) in ("later", ("later",))
