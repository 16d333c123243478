"""Flags are made from fields, their values reach the spec, and records name the experiment that trained them."""

import dataclasses
from pathlib import Path

import pytest
import tiny
from absl import flags as absl
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

import experiments
from experiments.beyond import patterns
from experiments.lab import contents, flags, launch, output, presets
from experiments.theory import optimum
from experiments.width import bottleneck, conv_masks, kernel_distance, mlp_grid, resnet_width
from wsn.errors import UserError
from wsn.records import plan, record
from wsn.spec import Spec, setting
from wsn.training import registries, train

TRAINING = [kernel_distance, mlp_grid, bottleneck, conv_masks, resnet_width]
FOLDER = Path(experiments.__file__).parent
COMMANDS = {name: contents.command(name) for name in contents.files()}
# A value of every setting that no preset has, and that is not the default.
OTHER = dict(
    dataset="cifar10", train_samples=77, data_seed=5, order="seed", normalization="channel", task="regression",
    epochs=7, batch_size=9, optimizer="adamw", learning_rate=0.123, schedule="cosine", decay_epochs=(1, 4),
    decay_factor=0.3, warmup_epochs=0.5, momentum=0.45, weight_decay=0.067, beta1=0.8, beta2=0.98, epsilon=1e-5,
    clip=2.5, eval_every=3, probes=("path", "norm"), compute_dtype="bfloat16", model="resnet18",
    hidden_layers=5, parameterization="mup",
)  # fmt: skip
DECAY = {"decay_epochs", "decay_factor"}  # go with a schedule of steps
STEPS = {"schedule": "steps", "decay_epochs": (2,)}
SOME = {bottleneck: {"model", "hidden_layers"}, kernel_distance: {"parameterization"}}
FIELDS = [
    (script, name)
    for script in TRAINING
    for name in presets.SPEC_FIELDS
    if hasattr(script.PRESETS["quick"], name)
]
by_experiment = pytest.mark.parametrize("script", TRAINING, ids=lambda script: script.EXPERIMENT)


def text(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize(("script", "field"), FIELDS, ids=lambda x: getattr(x, "EXPERIMENT", x))
def test_every_setting_reaches_the_spec_by_flag_and_in_a_notebook(script, field):
    if field == "widths":
        return
    value = OTHER[field]
    changes = (STEPS if field in DECAY else {}) | {field: value}
    by_flag, _ = flags.parse(script.COMMAND, [f"--{name}={text(x)}" for name, x in changes.items()])
    preset = script.PRESETS["quick"]
    assert getattr(script.template(preset), field) != value
    assert script.template(by_flag) == script.template(preset.replace(**changes))
    assert getattr(script.template(by_flag), field) == value


@by_experiment
def test_experiments_have_the_same_settings(script):
    names = {name for other, name in FIELDS if other is script}
    assert names == OTHER.keys() - set().union(*SOME.values()) | SOME.get(script, set())


@by_experiment
def test_a_template_is_a_function_of_its_preset(script):
    """Without flags and without data; its spec can be trained."""
    for preset in script.PRESETS.values():
        spec = script.template(preset)
        assert isinstance(spec, Spec) and spec.width == preset.base_width
        registries.check(spec)
        networks = script.networks(preset)
        assert {n.spec.dataset for n in networks} == {preset.dataset} and len(networks) >= len(preset.widths)


def test_another_optimizer_or_schedule_drops_the_settings_of_the_recipes():
    paper = resnet_width.PRESETS["paper"]
    adam = resnet_width.template(paper.replace(optimizer="adam"))
    assert (adam.momentum, adam.weight_decay, adam.schedule) == (0.0, 0.0, "steps")
    registries.check(adam)
    assert resnet_width.template(paper.replace(schedule="cosine")).decay_epochs == ()
    assert resnet_width.template(paper.replace(decay_epochs=(3,))).decay_epochs == (3,)
    with pytest.raises(UserError, match="^`momentum=0.9`: `optimizer=adam` does not read it"):
        registries.check(resnet_width.template(paper.replace(optimizer="adam", momentum=0.9)))


# Flags and fields.


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_made_from_a_field(name):
    command, values = COMMANDS[name], absl.FlagValues()
    flags.define(command, values)
    first = next(iter(command.presets.values()))
    fields = [*dataclasses.fields(command.run), *dataclasses.fields(first)]
    assert set(values) == {field.name for field in fields if "help" in field.metadata}
    settings, run = flags.parse(command, [])
    assert run == command.run
    assert settings == command.presets[getattr(run, "preset", "default")]
    folder = [name] if name != "report" else []  # which reads the folders of all others
    assert Path(run.workdir) == Path("results", *folder)


def test_a_folder_is_a_text_or_a_path_and_may_begin_with_the_home(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = launch.Run(Path("~/my results"), data_dir="~/data")
    assert (run.folder, run.data_dir) == (tmp_path / "my results", f"{tmp_path}/data")
    launch.publish(run, "a", [], ["width"], Figure())
    page = f"python -m experiments.report --workdir='{tmp_path}/my results'"
    files = f"{tmp_path}/my results/a.csv {tmp_path}/my results/a.png"
    assert capsys.readouterr().out == f"wrote {files} (open as a page: {page})\n"


@dataclasses.dataclass(frozen=True)
class Kinds:
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
    all_if_zero: int | None = setting("h", 3, none=0)
    no_flag: dict = dataclasses.field(default_factory=dict)


KINDS = flags.Command(lambda settings, run: None, {"default": Kinds()}, launch.Output("out"))
finite = st.floats(allow_nan=False, allow_infinity=False)
word = st.text("abc", min_size=1, max_size=3)
kinds = st.builds(
    Kinds,
    whole=st.integers(-(2**40), 2**40),
    number=finite,
    name=word,
    yes=st.booleans(),
    wholes=st.lists(st.integers(), max_size=3).map(tuple),
    numbers=st.lists(finite, min_size=1, max_size=3).map(tuple),
    names=st.lists(word, max_size=3, unique=True).map(tuple),
    choice=st.sampled_from("xy"),
    several=st.lists(st.sampled_from("xy"), min_size=1, unique=True).map(tuple),
    all_if_zero=st.none() | st.integers(1),
)


@given(kinds)
def test_flags_are_read_back(settings):
    arguments = []
    for field in dataclasses.fields(Kinds):
        value = getattr(settings, field.name)
        if field.name == "several":
            arguments += [f"--several={name}" for name in value]
        elif field.name == "all_if_zero":
            arguments.append(f"--all_if_zero={value or 0}")
        elif "help" in field.metadata:
            arguments.append(f"--{field.name}={text(value)}")
    assert flags.parse(KINDS, arguments)[0] == settings


@pytest.mark.parametrize("arguments", [["--several=x", "--several=y", "--several=x"], ["--names=a,b,a"]])
def test_a_name_given_twice_is_refused(arguments):
    with pytest.raises(UserError, match="^`(several=x|names=a)` is given twice$"):
        flags.parse(KINDS, arguments)


def test_one_base_width_replaces_several():
    paper = conv_masks.PRESETS["paper"]
    assert len(paper.base_widths) > 1 and paper.replace(epochs=3).base_widths == paper.base_widths
    assert paper.replace(base_width=8).base_widths == ()
    assert paper.replace(base_width=8, base_widths=(8, 12)).base_widths == (8, 12)


@pytest.mark.parametrize("script", [bottleneck, patterns])
def test_what_another_network_does_not_read_is_dropped_unless_it_is_given(script):
    quick = script.PRESETS["quick"]
    assert quick.hidden_layers == 2 == quick.replace(epochs=3).hidden_layers
    registries.check(script.template(quick.replace(model="resnet18")))
    with pytest.raises(UserError, match="^`hidden_layers=2`: `model=resnet18` does not read it"):
        registries.check(script.template(quick.replace(model="resnet18", hidden_layers=2)))
    with pytest.raises(UserError, match="^`model=vgg` is unknown"):
        quick.replace(model="vgg")


def test_a_preset_of_resnets_has_a_learning_rate_for_other_networks():
    assert patterns.template(patterns.PRESETS["cifar"].replace(model="mlp")).learning_rate == 0.1


@pytest.mark.parametrize("name", ["kernel_distance", "rate_transfer", "halting_time"])
def test_the_first_width_is_the_narrowest_in_whatever_order_they_are_given(name):
    settings, _ = flags.parse(COMMANDS[name], ["--widths=12,18,3"])
    assert settings.widths == settings.replace(widths=(18, 3, 12)).widths == (3, 12, 18)


def test_only_the_entry_of_a_run_reads_the_flags_of_the_process():
    for path in FOLDER.rglob("*.py"):
        reads = "FLAGS" in path.read_text() or "absl" in path.read_text()
        assert reads == (path.name in ("flags.py", "launch.py", "usage.py")), path


def test_entry_points_and_the_frame_are_short():
    lines = {path: len(path.read_text().splitlines()) for path in FOLDER.rglob("*.py")}
    assert all(count <= 350 for path, count in lines.items()), lines


# Records.

FEW = {
    kernel_distance: (("--widths=3,6", "--pairs=3", "--initialisations=2"), {"sparse", "dense"}),
    mlp_grid: (("--widths=3,6", "--last_connectivity=1.0"), {"sparse", "dense"}),
    bottleneck: (("--widths=32,40",), {"dense", "linear", "nonlinear"}),
    conv_masks: (("--widths=2,3",), {"elementwise", "io"}),
    resnet_width: (("--widths=2,3",), {"sparse", "dense"}),
}


@by_experiment
def test_records_name_the_experiment_and_its_figure_has_the_declared_axes(
    script, parsed, tmp_path, monkeypatch
):
    figures = []
    monkeypatch.setattr(output, "write_figure", lambda *figure: figures.append(figure) or tmp_path)
    monkeypatch.setattr(train, "train", tiny.stub_train)
    monkeypatch.setattr(plan, "cost", lambda *_: plan.Cost(1, (1,), 1.0, 1.0))
    arguments, kinds = FEW[script]
    preset, run = parsed(script.COMMAND, *arguments, "--epochs=1", "--seeds=1")
    script.main(preset, run)
    labels = [
        result.label
        for path in tmp_path.glob("out/runs/*/record.jsonl")
        for result in record.read(path).results
    ]
    assert {label[:3] for label in labels} == {(script.EXPERIMENT, "quick", preset.base_width)}
    assert {label.kind for label in labels} == kinds
    [(_, _, figure, plot)] = figures
    axes = figure.axes or figure.subfigs[0].axes
    assert any(panel.get_xlabel().startswith(plot.xlabel) for panel in axes)
    assert {plot.x, plot.y, *plot.curves} - {"widening"} <= {*script.COLUMNS}


def test_draw_only_trains_nothing_and_prints_what_is_missing(parsed, monkeypatch, capsys):
    monkeypatch.setattr(train, "train", tiny.stub_train)
    arguments = *FEW[kernel_distance][0], "--epochs=1"
    kernel_distance.main(*parsed(kernel_distance.COMMAND, *arguments, "--seeds=1"))
    monkeypatch.setattr(train, "train", None)
    kernel_distance.main(*parsed(kernel_distance.COMMAND, *arguments, "--seeds=2", "--draw_only"))
    missing = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no record")]
    assert missing == [
        "no record: sparse width 3 (base width 3), seed 1",
        "no record: sparse width 6 (base width 3), seed 1",
        "no record: dense width 6 (base width 3), seed 1",
    ]


def test_settings_of_the_kernel_experiments_are_checked_too():
    assert optimum.Settings(points=5).np == optimum.COMMAND.presets["default"].np
    with pytest.raises(UserError, match="^`points=2` is too small: give at least 3"):
        optimum.Settings(points=2)
