"""The list of commands, suggestions for misspelled names, and --help."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import wsn
from experiments.beyond import patterns
from experiments.convergence import halting_time
from experiments.lab import contents, usage
from experiments.theory import optimum
from experiments.width import kernel_distance
from wsn.errors import UserError, choose
from wsn.spec import Data

ROOT = Path(wsn.__file__).parents[1]


def start(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, cwd=ROOT)


def test_every_command_is_a_line_with_its_time(capsys):
    assert contents.main([]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(contents.files())
    for line in lines:
        assert re.search(r"\(.*\b(seconds|minutes?|hours?)\b", line), line
    assert {"kernel_distance", "benchmark", "own_network", "report"} <= contents.files().keys()
    assert contents.main(["optimum"]) == 0
    assert capsys.readouterr().out.strip() == optimum.__doc__.strip()


@pytest.mark.parametrize("command", [["experiments.kernel_distanze"], ["experiments", "kernel_distanze"]])
def test_a_misspelled_command_suggests_the_nearest(command):
    ended = start(*command)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "error: there is no experiment kernel_distanze (did you mean kernel_distance?);"
        " python -m experiments lists them\n"
    )


def test_a_misspelled_preset_suggests_the_nearest():
    with pytest.raises(UserError, match=r"choose one of quick, paper \(did you mean quick\?\)$"):
        choose(kernel_distance.PRESETS, "preset", "quik")
    with pytest.raises(UserError, match="choose one of quick, paper$"):
        choose(kernel_distance.PRESETS, "preset", "imagenet")


# Help.


def groups_of(command, *arguments: str) -> tuple[dict[str, dict[str, str]], str]:
    """Group → flag → value; and the whole text."""
    text = usage.text(command, ["--help", *arguments], "Words.")
    groups: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if line in usage.GROUPS:
            flags = groups.setdefault(line, {})
        elif line.startswith("  --"):
            name, _, value = line.strip().removeprefix("--").partition("=")
            flags[name] = value
    return groups, text


@pytest.mark.parametrize("name", kernel_distance.PRESETS)
def test_the_help_groups_flags_and_shows_the_values_of_the_preset(name):
    groups, text = groups_of(kernel_distance.COMMAND, f"--preset={name}")
    preset = kernel_distance.PRESETS[name]
    assert list(groups) == ["What to train", "Data", "How it runs", "Cluster"]
    train, data = groups["What to train"], groups["Data"]
    assert train["preset"] == name and train["widths"] == ",".join(map(str, preset.widths))
    assert (train["epochs"], train["momentum"], train["tune_lr"]) == (str(preset.epochs), "0.0", "false")
    assert (data["dataset"], data["train_samples"]) == (preset.dataset, str(preset.train_samples))
    assert data["order"] == Data.__dataclass_fields__["order"].default
    assert {"shard", "coordinator", "workers"} <= groups["Cluster"].keys()
    assert {"workdir", "tensorboard", "resume"} <= groups["How it runs"].keys()
    assert "One of quick, paper." in text and text.startswith("Words.\n\nValues are those of --preset=")


def test_the_help_shows_the_values_of_other_flags():
    groups, text = groups_of(
        patterns.COMMAND, "--epochs=7", "--optimizer=adam", "--decay_epochs=2,4", "--schedule=steps"
    )
    train = groups["What to train"]
    assert (train["epochs"], train["optimizer"], train["beta1"]) == ("7", "adam", "0.9")
    assert (train["schedule"], train["decay_epochs"], train["decay_factor"]) == ("steps", "2,4", "0.1")
    assert "sgd, adam, adamw" in text
    with pytest.raises(UserError, match="^`preset=nosuch` is unknown"):
        groups_of(patterns.COMMAND, "--preset=nosuch")


def test_the_help_shows_what_the_network_and_the_task_read():
    _, text = groups_of(kernel_distance.COMMAND)
    assert "One of classification, regression." in " ".join(text.split()) and "speech" not in text
    groups, text = groups_of(halting_time.COMMAND)
    assert "sequence" in groups["Data"] and "front_end" not in groups["What to train"]
    assert "vocabulary" not in groups["Data"] and "--mlp" not in text
    groups, _ = groups_of(halting_time.COMMAND, "--preset=digit_lines")
    assert "front_end" in groups["What to train"] and "sequence" not in groups["Data"]


def test_experiments_that_train_nothing_have_no_clusters():
    groups, _ = groups_of(optimum.COMMAND)
    assert list(groups) == ["What to compute", "Data", "How it runs"]
    assert groups["What to compute"]["np"] == "2.0,8.0,32.0,128.0,512.0"
