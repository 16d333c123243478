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


def test_the_grid_has_every_parameterization_width_and_rate(parsed, tmp_path, monkeypatch, capsys):
    def stub(group, splits, **settings):
        for evaluation in tiny.stub_train(group, splits, **settings):
            renamed = {k.replace("test", "validation"): v for k, v in evaluation.history.curves.items()}
            history = evaluation.history._replace(curves=renamed)
            yield evaluation._replace(
                history=history, snapshot=lambda e=evaluation, h=history: e.snapshot()._replace(history=h)
            )

    monkeypatch.setattr(train, "train", stub)
    script.main(*parsed(script.COMMAND, "--epochs=2", "--seeds=2", "--widths=3,6", "--octaves=2"))
    rows = list(csv.DictReader((tmp_path / "out" / "rate_transfer.csv").read_text().splitlines()))
    assert ",".join(rows[0]) == ",".join(script.COLUMNS) and len(rows) == 3 * 2 * 5
    assert {row["weights"] for row in rows} == {"222"}
    printed = capsys.readouterr().out
    assert "smup: best rate ∝ width^" in printed
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
