"""Every name in a spec has one registry, which has its default; an unknown name is refused in one line."""

import dataclasses
import re

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

# What a name needs in the rest of its spec.
NEEDS = {
    **dict.fromkeys(LANGUAGE, {"model": "lstm"}),
    **dict.fromkeys(TOKEN_MODELS, {"task": "characters", "width": 6}),
    **dict.fromkeys(SPEECH, {"model": "deepspeech"}),
    **dict.fromkeys(SPEECH_MODELS, {"task": "speech"}),
    **dict.fromkeys(FRONT_ENDS, {"model": "deepspeech", "task": "speech"}),
    "minimum": {"validation_samples": 1},
}


def of(field: str, name: str) -> Spec:
    changes = {field: (name,) if isinstance(FIELDS[field].default, tuple) else name}
    return tiny.spec(**changes | NEEDS.get(name, {}))


@pytest.mark.parametrize("field", REGISTRIES)
def test_the_registry_of_a_field_has_its_default(field):
    default = FIELDS[field].default
    assert set(default if isinstance(default, tuple) else (default,)) <= set(REGISTRIES[field])
    for name in REGISTRIES[field]:
        check(of(field, name))


def refused(spec: Spec, message: str) -> None:
    """Training, a plan and the check itself raise the same line."""
    group = Group((spec,), (0,))
    for call in (
        lambda: check(spec),
        lambda: next(train.train(group, tiny.SPLITS)),
        lambda: plan.cost(group, tiny.SPLITS),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(message)}[^\n]*$"):
            call()


@pytest.mark.parametrize("field", REGISTRIES)
def test_an_unknown_name_is_refused_in_one_line(field):
    known = ", ".join(REGISTRIES[field])
    refused(of(field, "nonsense"), f"`{field}=nonsense` is unknown: choose one of {known}")


@pytest.mark.parametrize(
    ("task", "model", "choice"),
    [
        ("speech", "lstm", "deepspeech"),
        ("characters", "mlp", "lstm, rhn"),
        ("classification", "rhn", "mlp"),
    ],
)
def test_a_task_and_a_network_of_other_inputs_are_refused(task, model, choice):
    with pytest.raises(UserError, match=f"^`task={task}`: `model={model}` cannot: choose one of {choice}"):
        check(tiny.spec(task=task, model=model))


def test_a_setting_of_another_optimizer_is_refused_in_one_line():
    refused(tiny.spec(optimizer="adam", momentum=0.9), "`momentum=0.9`: `optimizer=adam` does not read it")


@pytest.mark.parametrize(
    ("chooser", "name"), [*(("model", n) for n in MODELS), *(("task", n) for n in TASKS)]
)
def test_a_setting_that_network_or_task_does_not_read_is_refused_in_one_line(chooser, name):
    spec = of(chooser, name)
    fields = {field for field, by in unread(spec.model, spec.task).items() if by == chooser}
    assert fields.isdisjoint(MODELS[spec.model].fields if chooser == "model" else ())
    for field in fields:
        message = re.escape(
            f"`{field}={tiny.other(field)}`: `{chooser}={name}` does not read it: leave it out"
        )
        with pytest.raises(UserError, match=f"^{message}$"):
            check(dataclasses.replace(spec, **{field: tiny.other(field)}))


@pytest.mark.parametrize(
    "kept",
    [
        tiny.kept(46, 20),
        tiny.kept(20, 0),
        tiny.kept(-1, 20),
        tiny.kept(20, 7)[:1],
        (*tiny.kept(20, 7), ("output", 9)),
        (*tiny.kept(20, 7), ("hiden_1", 7)),
    ],
    ids=["of another width", "nothing", "negative", "missing", "twice", "misspelled"],
)
def test_kept_counts_that_are_not_of_the_layers_are_refused(kept):
    """Of any spec of a group."""
    group = Group((tiny.spec(), tiny.spec(kept=kept)), (0,))
    for call in (lambda: next(train.train(group, tiny.SPLITS)), lambda: plan.cost(group, tiny.SPLITS)):
        with pytest.raises(UserError, match=r"^`kept`: give 1 [^\n]* once: hidden_0 \(45\), output \(20\)$"):
            call()


def test_networks_and_tasks_take_the_fields_that_they_read():
    for name, network in MODELS.items():
        assert set(network.fields) <= FIELDS.keys()
        for field in network.fields:
            check(dataclasses.replace(of("model", name), **{field: tiny.other(field)}))
    with pytest.raises(UserError, match="^`vocabulary=99`: `task=characters` does not read it"):
        check(dataclasses.replace(of("task", "characters"), vocabulary=99))
    check(dataclasses.replace(of("task", "words"), vocabulary=99, sequence=9))


def test_a_spec_takes_any_name():
    """So that earlier versions can read and list records of later ones."""
    for field in REGISTRIES:
        assert getattr(of(field, "later"), field) in ("later", ("later",))
