"""The summary over kinds of networks: gains, the best of a family, and where it is worse than dense."""

import pytest

from experiments.results import gains
from experiments.results.__main__ import FIGURES
from experiments.results.derived import DERIVED, LOSS, interpolated
from experiments.results.tables import Tables


def network(width, value, weights=100, seeds=4, **columns):
    moments = {
        f"{gains.FINAL}": value,
        "test_accuracy_std": 0.01,
        LOSS: value,
        "best_validation_loss_std": 0.01,
    }
    return {"width": width, "weights": weights, "connectivity": 1.0, "seeds": seeds, **moments, **columns}


def summary(monkeypatch, rows, measure):
    family = gains.Family("MLP", "t", {"kind": ["sparse"]}, measure)
    monkeypatch.setattr(gains, "FAMILIES", {"f": family})
    tables = Tables(FIGURES, DERIVED | {"t": lambda _: rows})
    return tables["gains"], tables["best_gains"]


def test_half_of_the_error_is_a_gain_of_a_half(monkeypatch):
    rows = [network(width, value, kind="sparse") for width, value in ((32, 0.7), (8, 0.8), (16, 0.9))]
    wider, [best] = summary(monkeypatch, rows, gains.FINAL)
    assert [(row["factor"], pytest.approx(row["value"])) for row in wider] == [(2, 0.5), (4, -0.5)]
    assert best["width"] == 16 and best["low"] < 0.5 < best["high"] and best["worse"] == "4 times"


def test_a_lower_loss_is_a_gain_and_what_never_is_worse_says_how_far_it_was_tried(monkeypatch):
    rows = [network(width, value, kind="sparse") for width, value in ((8, 2.0), (16, 1.9), (64, 1.8))]
    wider, [best] = summary(monkeypatch, rows, LOSS)
    assert [pytest.approx(row["value"]) for row in wider] == [0.05, 0.1]
    assert (best["width"], best["worse"]) == (64, "never (up to 8 times)")


def test_networks_with_more_weights_are_compared_with_dense_ones_of_as_many(monkeypatch):
    dense = [
        network(width, 2.0 - width / 100, weights, kind="dense") for width, weights in ((8, 100), (16, 400))
    ]
    sparse = [network(8, 1.92, kind="sparse"), network(16, 1.78, 200, kind="sparse")]
    [row], _ = summary(monkeypatch, [*dense, *sparse], LOSS)
    assert row["value"] == pytest.approx((1.88 - 1.78) / 1.88)  # 200 is in the middle of 100 and 400


@pytest.mark.parametrize("width", [8, 16, 32])
def test_interpolation_at_a_network_is_that_network(width):
    dense = [network(8, 2.0, 100), network(16, 1.9, 250), network(32, 1.8, 900)]
    row = next(row for row in dense if row["width"] == width)
    assert sum(
        weight * other[LOSS] for weight, other in interpolated(dense, row, "weights")
    ) == pytest.approx(row[LOSS])


def test_the_figure_has_a_line_for_every_family():
    figure = gains.draw(Tables(FIGURES, DERIVED))
    labels = [text.get_text() for axes in figure.axes for text in axes.get_legend().get_texts()]
    assert len(labels) == len(gains.FAMILIES)
