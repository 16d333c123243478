"""Figure 3 with stubbed training: networks, table, verdict, figure."""

import csv

import numpy as np
import pytest
import tiny
from matplotlib.figure import Figure

from experiments.width import bottleneck as script
from wsn.errors import UserError
from wsn.training import train


@pytest.fixture
def experiment(parsed, tmp_path, monkeypatch):
    """Run the experiment with stubbed training; returns the rows of its table."""
    monkeypatch.setattr(train, "train", tiny.stub_train)

    def run(*arguments: str) -> list[dict[str, str]]:
        script.main(*parsed(script.COMMAND, *arguments))
        table = tmp_path / "out" / "bottleneck.csv"
        return list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []

    return run


QUICK = ("--preset=quick", "--hidden_layers=4", "--base_width=24", "--epochs=2")


def test_the_table_counts_every_network(experiment, capsys, tmp_path):
    rows = experiment(*QUICK, "--widths=24,30,36,64", "--seeds=2", "--dense_seeds=1")
    assert ",".join(rows[0]) == (
        "dataset,base_width,width,kind,weights,budget,seeds,epochs,best_test_accuracy_mean,"
        "best_test_accuracy_std,final_test_accuracy_mean,best_train_accuracy_mean"
    )
    places = [(row["kind"], int(row["width"])) for row in rows]
    assert places == [("dense", w) for w in (24, 30, 36, 64)] + [
        *(("linear", w) for w in (24, 30, 36, 64)),
        *(("nonlinear", w) for w in (24, 30, 36)),
    ]
    weights = {place: int(row["weights"]) for place, row in zip(places, rows, strict=True)}
    budget = {place: int(row["budget"]) for place, row in zip(places, rows, strict=True)}
    assert weights["dense", 24] == weights["nonlinear", 24] == 64 * 24 + 3 * 24**2 + 240 == 3504
    assert budget["nonlinear", 36] == 3504 and budget["linear", 36] == weights["linear", 24]
    assert all(abs(weights[place] - budget[place]) < 0.01 * budget[place] for place in places)
    printed = capsys.readouterr().out
    assert "non-linear bottleneck, base width 24: width 64 is skipped (--widths: " in printed
    assert "linear bottleneck, base width 24: improves with width: " in printed
    assert (tmp_path / "out" / "bottleneck.png").stat().st_size > 10_000


def test_the_ways_stand_beside_each_other(experiment):
    rows = experiment(*QUICK, "--widths=30", "--seeds=1", "--dense_seeds=0", "--ways=sparse", "--ways=linear")
    assert [(row["kind"], row["width"]) for row in rows] == [
        ("dense", "24"),
        ("sparse", "30"),
        ("linear", "30"),
    ]
    assert rows[0]["weights"] == rows[1]["weights"] == rows[1]["budget"] == "3504"


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["--hidden_layers=1"], "`hidden_layers=1` is too small for a non-linear bottleneck"),
        (["--widths=200"], "`widths`: with bottlenecks of one unit"),
        (["--widths=20"], "`widths`: 20 is below the base width 24"),
    ],
)
def test_bad_flags_are_errors_of_one_line(experiment, tmp_path, arguments, start):
    with pytest.raises(UserError) as error:
        experiment(*QUICK, *arguments)
    assert str(error.value).startswith(start) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def row(kind, width, *test):
    mean, weights = float(np.mean(test)), 1000 * (1 if kind != "dense" else width)
    return {"base_width": 8, "kind": kind, "width": width, "widening": width / 8, "test": list(test)} | {
        "best_test_accuracy_mean": mean,
        "best_test_accuracy_std": float(np.std(test, ddof=1)),
        "weights": weights,
        "budget": 1000,
        "untransformed": 900,
        "seeds": len(test),
    }


DENSE = row("dense", 8, 0.90, 0.91, 0.905)
NARROW, WIDE = row("linear", 8, 0.80, 0.81, 0.805), row("linear", 12, 0.85, 0.86, 0.855)


def test_the_verdict_is_computed():
    first, second = script.verdict([DENSE, NARROW, WIDE], 8, "linear")
    assert "improves with width: holds: width 12 (the best of 1) against 8: +5.0 [" in first
    assert "stays below the original network: holds: that minus width 12: +5.0 [" in second
    better = row("linear", 12, 0.95, 0.96, 0.955)
    worse = row("linear", 12, 0.70, 0.71, 0.705)
    assert "original network: fails" in script.verdict([DENSE, NARROW, better], 8, "linear")[1]
    assert "with width: fails" in script.verdict([DENSE, NARROW, worse], 8, "linear")[0]
    noisy = row("nonlinear", 12, 0.80, 0.99, 0.90)
    [alone] = script.verdict([DENSE, row("nonlinear", 8, 0.90, 0.91, 0.905), noisy], 8, "nonlinear")
    assert "with width: inconclusive" in alone
    [missing] = script.verdict([DENSE, WIDE], 8, "linear")
    assert missing.endswith("no verdict without the base width and a wider network")


def test_the_figure_draws_the_untransformed_network_dashed():
    preset = script.PRESETS["paper"]
    figure = script.draw([DENSE, NARROW, WIDE], preset)
    assert isinstance(figure, Figure)
    [axes] = figure.axes
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in dashed] == [pytest.approx(90.5)]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "900: original network",
        "900: linear bottleneck",
    ]
