import numpy as np
import pytest

from experiments.benchmarks import of_theory as script
from experiments.theory import inputs
from wsn.data import sources
from wsn.errors import UserError


def test_a_row_per_connectivity_with_errors_within_the_estimate():
    rows, seconds = script.measure_pairs("gaussian", inputs.gaussian(8, 5, seed=0), checked=3, tolerance=1e-6)
    assert [row["connectivity"] for row in rows] == list(script.CONNECTIVITIES)
    for row in rows:
        assert row["error"] <= row["error_estimate"]
        assert row["seconds"] == pytest.approx(seconds / 50)
        assert row["ratio"] == pytest.approx(row["monte_carlo_seconds"] / row["seconds"])
        # As much time for Monte Carlo as the ratio says, and its error is the same.
        assert row["monte_carlo_error"] == pytest.approx(row["error_estimate"] * row["ratio"] ** 0.5)
    assert script.draw(rows, 1e-6).axes


def test_the_deviation_over_masks_of_a_single_weight():
    """K_{2,p} of x = y = 1 is 3 s / (2 p^2) under the mask s, and K_{1,p} varies less."""
    ones = np.ones((script.PILOT_PAIRS, 1), np.float32)
    found = script.pilot(inputs.Pairs(ones, 3 * ones, np.zeros((len(ones), 2), np.int64)))
    p = script.CONNECTIVITIES[5:]
    np.testing.assert_allclose(found.deviation[5:], 1.5 * np.sqrt((1 - p) / p**3), rtol=0.1)


def test_the_error_is_scaled_by_the_lengths():
    pairs = inputs.gaussian(6, 4, seed=1)
    kernels = script.sparse_kernels(pairs.x, pairs.y, script.CONNECTIVITIES)
    scale = script.lengths(pairs)[:, None]
    off = kernels._replace(k1=kernels.k1 + 1e-3 * scale, k2=kernels.k2 - 2e-3 * scale**2)
    np.testing.assert_allclose(script.scaled_error(kernels, off, pairs), 2e-3)


def test_without_mnist_the_inputs_are_gaussian_and_the_output_says_so(monkeypatch, capsys):
    def missing(name, data_dir):
        raise UserError(f"`dataset={name}` is missing")

    monkeypatch.setattr(sources, "dataset", missing)
    name, pairs = script.draw_pairs(None, 3)
    assert name == "gaussian" and pairs.x.shape == (3, script.FEATURES)
    assert "`dataset=mnist` is missing" in capsys.readouterr().out
    with pytest.raises(UserError, match="`dataset=mnist`"):
        script.draw_pairs("mnist", 3)
