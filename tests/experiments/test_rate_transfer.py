"""Learning-rate curves: the networks, the best rate and its exponent from known losses, the cost of one rate."""

import csv
import math

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from experiments.beyond import rate_transfer as script
from wsn.training import train

TRANSFORMER = ("--preset=transformer", "--dataset=python_docs", "--train_samples=4000", "--base_width=16")
TRANSFORMER += ("--sequence=8", "--batch_size=20", "--validation_samples=900")


@pytest.mark.parametrize(
    ("flags", "weights", "parameterizations"),
    [(("--widths=3,6",), {"222"}, 3), ((*TRANSFORMER, "--widths=16,32", "--head_dim=8"), None, 2)],
    ids=["digits", "transformer"],
)
def test_the_grid_has_every_parameterization_width_and_rate(
    flags, weights, parameterizations, parsed, tmp_path, monkeypatch, capsys
):
    def stub(group, splits, **settings):
        for evaluation in tiny.stub_train(group, splits, **settings):
            renamed = {k.replace("test", "validation"): v for k, v in evaluation.history.curves.items()}
            if weights is None:  # a text
                renamed = {k: v for k, v in renamed.items() if "accuracy" not in k}
            history = evaluation.history._replace(curves=renamed)
            yield evaluation._replace(
                history=history, snapshot=lambda e=evaluation, h=history: e.snapshot()._replace(history=h)
            )

    monkeypatch.setattr(train, "train", stub)
    script.main(*parsed(script.COMMAND, *flags, "--epochs=2", "--seeds=2", "--octaves=2"))
    rows = list(csv.DictReader((tmp_path / "out" / "rate_transfer.csv").read_text().splitlines()))
    assert [name for name in script.COLUMNS if name in rows[0]] == list(rows[0])
    assert len(rows) == parameterizations * 2 * 5
    if weights:
        assert {row["weights"] for row in rows} == weights
    claims = list(csv.DictReader((tmp_path / "out" / "rate_transfer_claims.csv").read_text().splitlines()))
    lost = "accuracy lost" if weights else "loss lost"
    wider = rows[-1]["width"]
    assert [row["quantity"] for row in claims[:3]] == [
        "exponent of the best rate in width",
        lost,
        f"loss below that of the base, width {wider}",
    ]
    assert "smup: best rate ∝ width^" in capsys.readouterr().out
    assert (tmp_path / "out" / "rate_transfer.png").stat().st_size > 10_000


@given(st.floats(0.6, 5.4), st.floats(0.1, 10))
def test_the_best_rate_of_a_parabola_is_its_vertex(vertex, curvature):
    losses = curvature * (np.arange(7) - vertex) ** 2
    assert script.octave(losses) == pytest.approx(vertex, abs=1e-6)
    losses[0] = math.inf
    assert abs(script.octave(losses) - vertex) <= 0.51


def test_the_best_rate_can_be_at_the_edge_of_the_grid():
    assert script.octave(np.array([1.0, 2, 3])) == 0 and script.octave(np.array([3.0, 2, 1])) == 2


def test_exponent_and_cost_of_known_curves():
    """The best octave rises by two per doubling of the width; at the base width's rate the widest loses all."""
    widths = (4, 8, 16)
    octaves = np.arange(9)
    loss = np.stack([(octaves - 2 - 2 * i) ** 2 / 10 + 1.0 for i in range(3)])
    loss = np.stack([loss, loss])
    accuracy = np.where(loss > 2, 0.0, 1.0)
    slope, cost = script.transfer(loss, accuracy, widths)
    assert slope.value == pytest.approx(2) and slope.low == pytest.approx(2) == slope.high
    assert cost.value == pytest.approx(1)


def test_the_gain_of_a_width_is_over_the_base_width_each_at_its_best_rate():
    loss = np.array([[[3.0, 2.0, 4.0], [1.5, 5.0, 9.0]], [[3.2, 2.2, 4.0], [1.3, 5.0, 9.0]]])
    [gain] = script.gains(loss)
    assert gain.value == pytest.approx(2.1 - 1.4)
