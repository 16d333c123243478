"""Intervals of what is computed from a few seeds: closed forms, and how often they hold the truth."""

import numpy as np
import pytest
from scipy import stats

from experiments.lab import intervals
from experiments.lab.intervals import Estimate

RANDOM = np.random.default_rng(0)


def test_the_difference_of_two_networks_is_that_of_welch():
    one, other = RANDOM.normal(0, 0.1, 4), RANDOM.normal(1, 2, 7)
    found = intervals.linear(np.array([1.0, -1.0]), [one, other])
    theirs = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert found == pytest.approx((one.mean() - other.mean(), theirs.low, theirs.high))


@pytest.mark.parametrize("seeds", [2, 3, 10])
@pytest.mark.parametrize("deviations", [(0.2,) * 5, (0.4, 0.25, 0.15, 0.08, 0.05)], ids=["alike", "falling"])
def test_an_interval_of_a_slope_holds_the_truth_as_often_as_it_says(seeds, deviations):
    """Over five widths, also where narrow networks differ more from seed to seed than wide ones."""
    random, x = np.random.default_rng(1), np.arange(5.0) - 2
    found = [
        intervals.linear(x / (x @ x), [random.normal(0, d, seeds) for d in deviations]) for _ in range(1000)
    ]
    assert 0.93 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.99


def test_the_best_of_several_networks_keeps_its_level():
    """Five equal networks and a base: the gain of the best is biased upward, and its interval still holds 0."""
    random, holds = np.random.default_rng(1), 0
    for _ in range(500):
        networks = list(random.normal(0, 1, (6, 5)))
        contrast = np.eye(6)[1 + np.argmax([np.mean(values) for values in networks[1:]])] - np.eye(6)[0]
        holds += intervals.linear(contrast, networks, comparisons=5).low <= 0
    assert holds / 500 >= 0.95


def test_one_seed_has_the_deviation_of_the_others_and_none_alone():
    found = intervals.linear(np.array([1.0, 0.0]), [[3.0], [1.0, 2.0]])
    assert found.value == 3 and found.low < 3 < found.high
    assert np.isnan(intervals.linear(np.array([1.0]), [[3.0]]).low)


def test_a_regression_is_that_of_scipy():
    x, y = np.arange(9.0), RANDOM.normal(size=9)
    (slope,), explained = intervals.regression([x], y)
    theirs = stats.linregress(x, y)
    half = stats.t.ppf(0.975, 7) * theirs.stderr
    assert slope == pytest.approx((theirs.slope, theirs.slope - half, theirs.slope + half))
    assert explained == pytest.approx(theirs.rvalue**2)
    assert np.isnan(intervals.regression([x[:1]], y[:1])[0][0].value)


def test_what_is_equal_lies_within_the_margin_whole():
    assert intervals.equal(Estimate(0.0, -0.05, 0.05), 0.1) == "holds"
    assert intervals.equal(Estimate(0.3, 0.11, 0.5), 0.1) == "fails"
    assert (
        intervals.equal(Estimate(0.3, 0.05, 0.5), 0.1) == intervals.equal(Estimate(0.0), 0.1) == "undecided"
    )
    assert -Estimate(1.0, 0.0, 3.0) == Estimate(-1.0, -3.0, 0.0)
