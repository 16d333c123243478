"""Commands on predicted widths: what they write, bad input in one line, and the arithmetic of the test."""

import csv
import importlib.util
import math

import numpy as np
import pytest

from experiments.theory import against, best_width, predictors, theorem1, width_predictions, width_test
from experiments.theory.width_test import Prediction, Trained
from wsn.errors import UserError

FEW = ("--base_width=2", "--pairs=6", "--points=5", "--bootstrap=20")


@pytest.fixture
def run(parsed, six_pixels):
    def main(*arguments):
        settings, output = parsed(best_width.COMMAND, *arguments)
        best_width.main(settings, output)
        return list(csv.DictReader((output.folder / "best_width.csv").read_text().splitlines()))

    return main


def test_the_table_has_three_distances_and_the_errors_of_a_table_are_drawn(run, tmp_path, capsys):
    table = tmp_path / "errors.csv"
    table.write_text("width,test_accuracy_mean\n2,0.8\n3,0.9\n")
    rows = run(*FEW, f"--records={table}")
    assert len(rows) == 5 and list(rows[0]) == best_width.COLUMNS
    assert float(rows[0]["width"]) == 2 and float(rows[0]["connectivity"]) == 1
    said = capsys.readouterr().out
    assert all(name in said for name in ("GP kernel", "NTK", "the paper's rule, p* = sqrt(np/4d)"))
    assert (tmp_path / "out" / "best_width.png").read_bytes().startswith(b"\x89PNG")
    assert run("--weights=32", *FEW[1:]) == rows  # the same budget


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--weights=9", "--base_width=2"), "`weights`, `base_width`: give either, not both"),
        (("--weights=4",), "`weights=4`"),
        (("--dataset=fashion",), "`dataset=fashion`"),
        (("--pairs=1",), "`pairs=1`"),
        (("--records=absent.csv",), "`records=.*absent.csv`"),
    ],
)
def test_bad_input_is_one_line(run, flags, message):
    with pytest.raises(UserError, match=f"^{message}[^\n]*$"):
        run(*flags)


def test_the_widths_of_rules_from_the_budget_alone():
    n = predictors.eq25_width(6352, 10)
    assert (6352 - 10 * n) / (784 * n) == pytest.approx(n / (4 * 784))  # p = sqrt(np/4d) at np = n p
    assert 6352 / predictors.kept_inputs_width(6352, 10) - 10 == pytest.approx(predictors.KEPT_INPUTS)


def test_kernels_of_a_finite_network_are_sums_over_its_weights():
    rng = np.random.default_rng(0)
    u, v = predictors.sampled_network(300, 500, 5, 3, rng)
    assert (u != 0).sum() == 500
    x, y = rng.normal(size=(2, 4, 5)).astype(np.float32)
    gp, first = predictors.finite_kernel(u, v, x, y)
    a, b = u @ x[1], u @ y[2]
    assert gp[1, 2] == pytest.approx(np.maximum(a, 0) @ np.maximum(b, 0), rel=1e-4)
    expected = ((v**2).mean(1) * (a > 0) * (b > 0) * ((u != 0) @ (x[1] * y[2]))).sum()
    assert first[1, 2] == pytest.approx(expected, rel=1e-4)
    labels = np.array([[1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, 1.0]])
    assert predictors.alignment(labels @ labels.T, labels) == pytest.approx(1)


def test_a_right_prediction_loses_nothing_and_a_wrong_one_what_it_costs():
    width = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    error = (np.log2(width) - 2) ** 2 / 100
    trained = Trained(width, np.repeat(error[:, None], 3, axis=1))
    predictions = {"right": Prediction(4.0, error), "wrong": Prediction(16.0, -error)}
    samples = width_test.resampled(trained)
    assert samples[1] == pytest.approx(4)
    right, wrong = (width_test.measures(width, *samples, predictions[name]) for name in predictions)
    assert right["points_lost"] == pytest.approx((0, 0, 0)) and right["correlation"][0] == pytest.approx(1)
    assert wrong["points_lost"][0] == pytest.approx(4) and wrong["log_ratio"][0] == pytest.approx(2)
    everything = dict.fromkeys(predictors.PREDICTORS, predictions["right"])
    rows = width_test.verdicts({"a": trained, "b": trained}, {"a": everything, "b": everything})
    assert len(rows) == 3 * len(predictors.PREDICTORS)
    assert "Over 2 families" in width_test.verdict(rows)


@pytest.mark.parametrize(
    "tables", [{}, {"width_predictions": "family\nx\n", "width_predictions_curves": "a\n1\n"}]
)
def test_predictions_that_are_missing_or_malformed_are_an_error_of_one_line(tmp_path, tables):
    for name, text in tables.items():
        (tmp_path / f"{name}.csv").write_text(text)
    with pytest.raises(UserError, match="^`predictions=[^\n]*$"):
        width_test.read_predictions(tmp_path)


def test_every_family_has_twelve_widths_that_hold_the_budget():
    predictions = width_test.read_predictions(width_test.FIGURES)
    for name in predictions:
        family = width_predictions.FAMILIES[name]
        networks = family.networks(1)
        assert len(networks) == 12 == len(predictions[name]["first"].values)
        features, outputs, budget = family.sizes
        for network in networks:
            kept = dict(network.spec.kept).get("hidden_0", features * network.spec.width)
            assert kept + outputs * network.spec.width == budget
        assert len(width_predictions.between(family.widths)) == 23


@pytest.mark.skipif(
    importlib.util.find_spec("neural_tangents") is None, reason="neural-tangents is not installed"
)
def test_neural_tangents_agrees_at_infinite_width():
    x, y = np.random.default_rng(0).normal(size=(2, 4, 6))
    rows = list(against.infinite(x, y))
    assert len(rows) == 6 and all(map(against.agrees, rows))


def test_where_neural_tangents_is_missing_one_line_says_what_to_install(parsed, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "neural_tangents" else find(name, *rest),
    )
    settings, output = parsed(theorem1.COMMAND, "--against=neural_tangents")
    with pytest.raises(
        UserError, match="^`against=neural_tangents`: neural-tangents is not installed[^\n]*$"
    ):
        theorem1.main(settings, output)


def test_a_curve_that_is_least_at_an_end_says_so():
    width = np.array([1.0, 2.0, 4.0])
    assert width_test.least(width, np.array([3.0, 2.0, 1.0])) == 4
    assert not math.isnan(width_test.least(width, np.array([3.0, 1.0, 2.0])))
