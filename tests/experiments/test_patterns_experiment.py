"""Patterns and distributions with stubbed training: networks, table, verdicts, step times."""

import csv
import itertools

import numpy as np
import pytest
import tiny

from experiments.benchmarks.settings import epoch, interleaved
from experiments.beyond import patterns as script
from wsn.errors import UserError
from wsn.sparsity.budget import DISTRIBUTIONS
from wsn.sparsity.patterns import PATTERNS
from wsn.spec import Group
from wsn.training import train


@pytest.fixture
def experiment(parsed, tmp_path, monkeypatch):
    """Run it with stubbed training and times; returns the rows of its table."""
    monkeypatch.setattr(train, "train", tiny.stub_train)
    monkeypatch.setattr(script, "step_milliseconds", lambda networks, *_: {n.spec: 1.5 for n in networks})

    def run(*arguments: str) -> list[dict[str, str]]:
        script.main(*parsed(script.COMMAND, *arguments))
        return list(csv.DictReader((tmp_path / "out" / "patterns.csv").read_text().splitlines()))

    return run


def test_every_pattern_and_distribution_is_trained_at_one_budget(experiment, capsys, tmp_path):
    rows = experiment("--epochs=2", "--seeds=2")
    assert ",".join(rows[0]) == ",".join(script.COLUMNS)
    preset = script.PRESETS["quick"]
    places = [(row["pattern"], row["distribution"]) for row in rows]
    pairs = [(p, d) for p in preset.patterns for d in preset.distributions]
    assert places == [("dense", "dense"), *pairs]
    assert {row["weights"] for row in rows} == {str(64 * 8 + 8 * 8 + 8 * 10)}
    assert {row["step_milliseconds"] for row in rows} == {"1.5"}
    printed = capsys.readouterr().out
    assert "n_m over the dense network of base width 8: " in printed
    assert (
        "pattern fan_in over elementwise: " in printed
        and "distribution uniform over largest_first: " in printed
    )
    assert (tmp_path / "out" / "patterns.png").stat().st_size > 10_000


def test_several_widths_are_a_curve(experiment, tmp_path):
    rows = experiment("--epochs=1", "--seeds=1", "--widths=16,32", "--patterns=fan_in")
    assert {row["width"] for row in rows} == {"8", "16", "32"}
    assert (tmp_path / "out" / "patterns.png").stat().st_size > 10_000


def test_every_curve_has_its_own_style():
    kinds = list(itertools.product([*PATTERNS][:5], [*DISTRIBUTIONS][:5]))
    rows = [
        {"pattern": p, "distribution": d, "width": width, "weights": 99, "seeds": 1, "step_milliseconds": 1.5}
        | {script.ACCURACY: 0.5, "best_test_accuracy_std": 0.1}
        for width, (p, d) in [(8, ("dense", "dense")), *itertools.product((16, 32), kinds)]
    ]
    figure = script.draw(rows, script.PRESETS["quick"], "MLP")
    assert len({(line.get_color(), line.get_marker()) for line in figure.axes[1].lines}) == len(kinds)


def test_combinations_that_the_budget_does_not_allow_are_left_out(experiment, capsys):
    rows = experiment("--epochs=1", "--seeds=1", "--widths=110", "--patterns=fan_in")
    assert "dense_last" not in {row["distribution"] for row in rows} and len(rows) == 4
    assert "width 110, fan_in, dense_last is skipped (" in capsys.readouterr().out
    with pytest.raises(UserError, match="`widths`: 7 is below"):
        experiment("--widths=7")


def test_resnets_have_whole_kernels_too():
    networks = script.networks(script.PRESETS["cifar"].replace(dataset="digits", widths=(9,)))
    assert {"io", "block"} < {n.spec.mask for n in networks} and networks[0].spec.rate_width == 8


def test_gains_are_means_over_pairs_that_differ_in_nothing_else():
    accuracy = {
        ("elementwise", "a"): 0.5,
        ("fan_in", "a"): 0.75,
        ("elementwise", "b"): 0.25,
        ("fan_in", "b"): 0.75,
    }
    rows = [
        {"pattern": p, "distribution": d, "width": 3, "test": [value, value]}
        for (p, d), value in accuracy.items()
    ]
    [(name, gain)] = script.gains(rows, "pattern").items()
    assert name == "fan_in" and gain.value == pytest.approx(0.375)
    assert script.gains([*rows, rows[1] | {"pattern": "block", "test": []}], "pattern").keys() == {"fan_in"}


def test_every_timed_call_trains_one_more_epoch():
    prepared = train.prepare(Group((tiny.spec(),), (0,)), tiny.SPLITS, tiny.SINGLE)
    run = epoch(prepared)
    assert run() is None and run() is None
    seconds = interleaved({"one": run}, 2)["one"]
    assert seconds.shape == (2,) and np.all(seconds > 0)
