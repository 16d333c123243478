"""The first minutes: what there is, what it takes, and what was meant."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import wsn
from experiments.beyond import patterns
from experiments.lab import contents, launch, usage
from experiments.theory import optimum
from experiments.width import kernel_distance
from wsn.errors import UserError, choose
from wsn.spec import Data

ROOT = Path(wsn.__file__).parents[1]


def start(*arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


def test_every_experiment_is_a_line_with_its_time():
    ended = start("experiments")
    lines = ended.stdout.splitlines()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [line.split()[0] for line in lines[:-1]] == list(contents.files())
    for line in lines[:-1]:
        assert re.search(r"\(.*\b(seconds|minutes?|hours?)\b", line), line
    assert {"kernel_distance", "benchmark", "own_network"} <= set(list(contents.files()))


@pytest.mark.parametrize("command", [["experiments.kernel_distanze"], ["experiments", "kernel_distanze"]])
def test_an_unknown_name_suggests_the_nearest(command):
    ended = start(*command)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "error: there is no experiment kernel_distanze (did you mean kernel_distance?);"
        " python -m experiments lists them\n"
    )


def test_a_name_says_what_it_is(capsys):
    assert contents.main(["optimum"]) == 0
    assert capsys.readouterr().out.strip() == optimum.__doc__.strip()


def test_unknown_names_of_presets_and_entries_suggest_the_nearest():
    with pytest.raises(UserError, match=r"choose one of quick, paper \(did you mean quick\?\)$"):
        choose(kernel_distance.PRESETS, "preset", "quik")
    with pytest.raises(UserError, match="choose one of quick, paper$"):
        choose(kernel_distance.PRESETS, "preset", "imagenet")


# Help.


def sections(text: str) -> dict[str, dict[str, str]]:
    """Group → flag → value."""
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if line in usage.GROUPS:
            flags = found.setdefault(line, {})
        elif line.startswith("  --"):
            name, _, value = line.strip().removeprefix("--").partition("=")
            flags[name] = value
    return found


@pytest.mark.parametrize("name", kernel_distance.PRESETS)
def test_the_help_groups_flags_and_shows_the_values_of_the_preset(name):
    found = sections(usage.text(kernel_distance.COMMAND, [f"--preset={name}", "--help"], "Words."))
    preset = kernel_distance.PRESETS[name]
    assert list(found) == ["What to train", "Data", "How it runs", "Cluster"]
    train, data = found["What to train"], found["Data"]
    assert train["preset"] == name and train["widths"] == ",".join(map(str, preset.widths))
    assert (train["epochs"], train["momentum"], train["tune_lr"]) == (str(preset.epochs), "0.0", "false")
    assert (data["dataset"], data["train_samples"]) == (preset.dataset, str(preset.train_samples))
    assert data["order"] == Data.__dataclass_fields__["order"].default
    assert {"shard", "coordinator", "workers"} <= found["Cluster"].keys()
    assert {"workdir", "tensorboard", "resume"} <= found["How it runs"].keys()


def test_the_help_shows_what_other_flags_give():
    text = usage.text(patterns.COMMAND, ["--help", "--epochs=7", "--optimizer=adam"], "Words.")
    found = sections(text)["What to train"]
    assert (found["epochs"], found["optimizer"], found["beta1"]) == ("7", "adam", "0.9")
    assert "sgd, adam, adamw" in text
    with pytest.raises(UserError, match="^`preset=nosuch` is unknown"):
        usage.text(patterns.COMMAND, ["--preset=nosuch", "--help"], "Words.")


def test_experiments_that_train_nothing_have_no_clusters():
    found = sections(usage.text(optimum.COMMAND, ["--help"], "Words."))
    assert list(found) == ["What to compute", "Data", "How it runs"]
    assert found["What to compute"]["np"] == "2.0,8.0,32.0,128.0,512.0"


# The end.


def test_the_last_line_says_where_the_picture_is_and_how_to_open_the_page(capsys):
    launch.wrote(launch.Run("my results"), Path("my results/a.png"))
    launch.wrote(launch.Output("out"), Path("out/a.png"))
    page = "python -m experiments.report --workdir='my results'"
    told = f"wrote my results/a.png (open as a page: {page})\nwrote out/a.png\n"
    assert capsys.readouterr().out == told
