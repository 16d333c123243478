"""Flags are made from fields, what they say reaches the spec, and the records say who asked for them."""

import dataclasses
import importlib
from pathlib import Path

import pytest
import tiny
from absl import flags as absl
from hypothesis import given
from hypothesis import strategies as st

import experiments
from experiments.lab import contents, flags, launch, presets
from experiments.theory import optimum
from experiments.width import bottleneck, conv_masks, kernel_distance, mlp_grid, resnet_width
from wsn.errors import UserError
from wsn.records import plan, record
from wsn.spec import Spec, setting
from wsn.training import registries, train

TRAINING = [kernel_distance, mlp_grid, bottleneck, conv_masks, resnet_width]
FOLDER = Path(experiments.__file__).parent
SCRIPTS = list(contents.files())
# Of every setting a value that no preset has, and no default.
OTHER = {
    "dataset": "cifar10",
    "train_samples": 77,
    "data_seed": 5,
    "order": "seed",
    "normalization": "channel",
    "task": "regression",
    "epochs": 7,
    "batch_size": 9,
    "optimizer": "adamw",
    "learning_rate": 0.123,
    "momentum": 0.45,
    "weight_decay": 0.067,
    "beta1": 0.8,
    "beta2": 0.98,
    "epsilon": 1e-5,
    "clip": 2.5,
    "schedule": "cosine",
    "eval_every": 3,
    "probes": ("path", "norm"),
    "compute_dtype": "bfloat16",
    "model": "resnet18",
    "hidden_layers": 5,
    "parameterization": "mup",
}
FIELDS = [
    (script, field.name)
    for script in TRAINING
    for field in dataclasses.fields(script.PRESETS["quick"])
    if field.name in presets.SPEC_FIELDS
]


def text(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize(("script", "field"), FIELDS, ids=lambda x: getattr(x, "EXPERIMENT", x))
def test_every_setting_of_a_spec_reaches_it_by_flag_and_in_a_notebook(script, field):
    value = OTHER[field]
    by_flag, _ = flags.parse(script.COMMAND, [f"--{field}={text(value)}"])
    preset = script.PRESETS["quick"]
    assert getattr(script.template(preset), field) != value
    assert script.template(by_flag) == script.template(preset.replace(**{field: value}))
    assert getattr(script.template(by_flag), field) == value


def test_every_experiment_can_be_told_the_same():
    for script in TRAINING:
        named = {name for other, name in FIELDS if other is script}
        own = {bottleneck: {"model", "hidden_layers"}, kernel_distance: {"parameterization"}}
        some = {"model", "hidden_layers", "parameterization"}
        assert named == OTHER.keys() - some | own.get(script, set())


@pytest.mark.parametrize("script", TRAINING, ids=lambda script: script.EXPERIMENT)
def test_every_template_is_a_function_of_its_preset(script):
    """Without flags and without data; what it gives can be trained."""
    for preset in script.PRESETS.values():
        spec = script.template(preset)
        assert isinstance(spec, Spec) and spec.width == preset.base_width
        registries.check(spec)
        networks = script.networks(preset)
        assert {n.spec.dataset for n in networks} == {preset.dataset} and len(networks) >= len(preset.widths)


def test_another_optimiser_has_none_of_the_recipes_momentum_and_decay():
    adam = resnet_width.template(resnet_width.PRESETS["paper"].replace(optimizer="adam"))
    assert (adam.momentum, adam.weight_decay, adam.schedule) == (0.0, 0.0, "steps")
    registries.check(adam)
    told = resnet_width.template(resnet_width.PRESETS["paper"].replace(optimizer="adam", momentum=0.9))
    with pytest.raises(UserError, match="^`momentum=0.9`: adam has none"):
        registries.check(told)


# Flags and fields.


def command_of(script: str) -> flags.Command:
    return importlib.import_module(f"experiments.{script}").COMMAND


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_made_from_a_field(script):
    command, values = command_of(script), absl.FlagValues()
    flags.define(command, values)
    first = next(iter(command.presets.values()))
    fields = [*dataclasses.fields(command.run), *dataclasses.fields(first)]
    assert set(values) == {field.name for field in fields if "help" in field.metadata}
    for field in fields:
        if "help" in field.metadata:
            assert field.metadata["help"] in values[field.name].help
    settings, run = flags.parse(command, [])
    assert run == command.run
    assert settings == command.presets[getattr(run, "preset", "default")]
    own = [script] if script != "report" else []  # which reads what all others wrote
    assert Path(run.workdir) == Path("results", *own)


@pytest.mark.parametrize("script", TRAINING, ids=lambda script: script.EXPERIMENT)
def test_the_help_says_what_is_taken_where_no_flag_is_given(script):
    values = absl.FlagValues()
    flags.define(script.COMMAND, values)
    for name in ("epochs", "seeds", "batch_size"):
        for preset in script.PRESETS.values():
            assert str(getattr(preset, name)) in values[name].help.rpartition("(")[2]
    assert "quick, paper" in values["preset"].help or "quick, short, paper" in values["preset"].help
    momentum = script.template(script.PRESETS["quick"]).momentum
    assert values["momentum"].help.endswith(f"(default: {momentum})")


@dataclasses.dataclass(frozen=True)
class Told:
    """A field of every kind."""

    whole: int = setting("h", 1)
    number: float | None = setting("h", None)
    name: str | None = setting("h", "a")
    yes: bool = setting("h", False)
    wholes: tuple[int, ...] = setting("h", (1, 2))
    numbers: tuple[float, ...] = setting("h", (0.5,))
    names: tuple[str, ...] = setting("h", ())
    choice: str = setting("h", "x", choices=("x", "y"))
    several: tuple[str, ...] = setting("h", ("x",), choices=("x", "y"))
    all_of_them: int | None = setting("h", 3, none=0)
    no_flag: dict = dataclasses.field(default_factory=dict)


KINDS = flags.Command(lambda settings, run: None, {"default": Told()}, launch.Output("out"))
finite = st.floats(allow_nan=False, allow_infinity=False)
word = st.text("abc", min_size=1, max_size=3)
settings_told = st.builds(
    Told,
    whole=st.integers(-(2**40), 2**40),
    number=finite,
    name=word,
    yes=st.booleans(),
    wholes=st.lists(st.integers(), max_size=3).map(tuple),
    numbers=st.lists(finite, min_size=1, max_size=3).map(tuple),
    names=st.lists(word, max_size=3).map(tuple),
    choice=st.sampled_from("xy"),
    several=st.lists(st.sampled_from("xy"), min_size=1, max_size=3).map(tuple),
    all_of_them=st.none() | st.integers(1),
)


@given(settings_told)
def test_what_flags_say_is_read_back(settings):
    arguments = []
    for field in dataclasses.fields(Told):
        value = getattr(settings, field.name)
        if field.name == "several":
            arguments += [f"--several={name}" for name in value]
        elif field.name == "all_of_them":
            arguments.append(f"--all_of_them={value or 0}")
        elif "help" in field.metadata:
            arguments.append(f"--{field.name}={text(value)}")
    assert flags.parse(KINDS, arguments)[0] == settings


def test_base_widths_give_way_to_a_base_width_alone():
    paper = conv_masks.PRESETS["paper"]
    assert len(paper.base_widths) > 1 and paper.replace(epochs=3).base_widths == paper.base_widths
    assert paper.replace(base_width=8).base_widths == ()
    assert paper.replace(base_width=8, base_widths=(8, 12)).base_widths == (8, 12)


def test_only_the_entry_of_a_run_reads_the_flags_of_the_process():
    for path in FOLDER.rglob("*.py"):
        reads = "FLAGS" in path.read_text() or "absl" in path.read_text()
        assert reads == (path.name in ("flags.py", "launch.py")), path


def test_entry_points_and_what_they_share_are_short():
    lines = {path: len(path.read_text().splitlines()) for path in FOLDER.rglob("*.py")}
    assert all(count < (350 if "lab" in path.parts else 250) for path, count in lines.items()), lines


# Records.

FEW = {
    "kernel_distance": ("--widths=3,6", "--pairs=3", "--initialisations=2"),
    "mlp_grid": ("--widths=3,6", "--last_connectivity=1.0"),
    "bottleneck": ("--widths=32,40",),
    "conv_masks": ("--widths=2,3",),
    "resnet_width": ("--widths=2,3",),
}
KINDS_OF = {
    "kernel_distance": {"sparse", "dense"},
    "mlp_grid": {"sparse", "dense"},
    "bottleneck": {"dense", "linear", "nonlinear"},
    "conv_masks": {"elementwise", "io"},
    "resnet_width": {"sparse", "dense"},
}


@pytest.mark.parametrize("script", TRAINING, ids=lambda script: script.EXPERIMENT)
def test_records_say_who_asked_for_them(script, told, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "train", tiny.pretended)
    monkeypatch.setattr(plan, "cost", lambda *_: plan.Cost(1, (1,), 1.0, 1.0))
    preset, run = told(script.COMMAND, *FEW[script.EXPERIMENT], "--epochs=1", "--seeds=1")
    script.main(preset, run)
    labels = [result.label for found in record.read_all(tmp_path / "out") for result in found.results]
    assert {label.experiment for label in labels} == {script.EXPERIMENT}
    assert {label.preset for label in labels} == {"quick"}
    assert {label.base_width for label in labels} == {preset.base_width}
    assert {label.kind for label in labels} == KINDS_OF[script.EXPERIMENT]


def test_only_drawing_trains_nothing_and_says_what_is_missing(told, monkeypatch, capsys):
    monkeypatch.setattr(train, "train", tiny.pretended)
    given = *FEW["kernel_distance"], "--epochs=1"
    kernel_distance.main(*told(kernel_distance.COMMAND, *given, "--seeds=1"))
    monkeypatch.setattr(train, "train", None)
    kernel_distance.main(*told(kernel_distance.COMMAND, *given, "--seeds=2", "--draw_only"))
    missing = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no record")]
    assert missing == [
        "no record: sparse width 3 (base width 3), seed 1",
        "no record: sparse width 6 (base width 3), seed 1",
        "no record: dense width 6 (base width 3), seed 1",
    ]


def test_settings_of_the_kernel_experiments_are_values_too():
    assert optimum.Settings(points=5).np == optimum.COMMAND.presets["default"].np
    with pytest.raises(UserError, match="^`points=2` is too small: give at least 3"):
        optimum.Settings(points=2)
