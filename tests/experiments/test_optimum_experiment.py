"""experiments.optimum on images of six pixels: its table, its findings, its flags."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.theory import optimum
from wsn.errors import UserError

FEW = ("--pairs=12", "--gaussian_pairs=5", "--features=4", "--np=8,64", "--points=13", "--bootstrap=50")


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_kurtosis_is_between_equal_sizes_and_one_spike(features, seed, scale):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, features))
    assert 1 - 1e-9 <= optimum.kurtosis(x) <= features * (1 + 1e-9)
    assert optimum.kurtosis(scale * x) == pytest.approx(optimum.kurtosis(x))
    assert optimum.kurtosis(np.sign(x)) == pytest.approx(1)
    assert optimum.kurtosis(np.eye(features)) == pytest.approx(features)
    assert optimum.kurtosis(np.vstack([x, 0 * x])) == pytest.approx(optimum.kurtosis(x))  # black images


def row(p_exact: float | str = 0.05, low=0.03, high=0.07, share=1.0, fixed=8.0, p_eq25=0.05) -> dict:
    least = 0.001 if p_exact == "" else p_exact
    return dict(inputs="mnist", normalization="pixel", np=fixed, d=784, kurtosis=40.0, largest_input=120.0) | dict(
        p_exact=p_exact, p_eq25=p_eq25, p_exact_low=low, p_exact_high=high, bootstrap_with_minimum=share,
        p_median="", p_least=least, share_of_pairs_with_90_percent=0.02,
    )  # fmt: skip


def test_findings_and_verdict():
    rows = [
        row(),
        row(p_eq25=0.08, fixed=32.0),
        row(share=0.94, fixed=128.0),
        row(p_exact="", low="", high="", share=0.3, fixed=2.0),
    ]
    assert [optimum.finding(one) for one in rows] == ["holds", "elsewhere", "doubtful", "none"]
    text = optimum.verdict(rows)
    assert "\n" not in text and text.startswith(
        "mnist, pixel, d = 784: sqrt(np/4d) within the interval at np = 8 "
    )
    assert "another optimum at np = 32" in text and "no optimum inside at np = 2 (least at p = 0.001)" in text
    assert "in doubt at np = 128" in text and "94 % of the bootstrap samples" in text
    assert "2 % of the pairs carry 90 %" in text and "optimum of the median: none" in text
    assert "within the interval" not in optimum.verdict(rows[1:])


@pytest.fixture
def script(parsed, tmp_path, six_pixels):
    """Run the script with some flags; returns the rows of its table."""

    def run(*arguments: str) -> list[dict[str, str]]:
        optimum.main(*parsed(optimum.COMMAND, *FEW, *arguments))
        return list(csv.DictReader((tmp_path / "out" / "optimum.csv").read_text().splitlines()))

    return run


def test_the_table_has_a_row_for_each_input_and_np(script, tmp_path, capsys):
    rows = script()
    first = ["inputs", "normalization", "np", "d", "p_exact", "p_eq25", "distance_at_p_exact"]
    assert list(rows[0])[:7] == first
    assert [(one["inputs"], one["normalization"], one["d"], one["pairs"]) for one in rows[::2]] == [
        ("gaussian", "none", "4", "5"),
        ("gaussian", "none", "6", "5"),
        ("digits", "scalar", "6", "12"),
        ("digits", "pixel", "6", "12"),
    ]
    assert [one["np"] for one in rows] == ["8", "64"] * 4
    for one in rows:
        assert float(one["p_eq25"]) == pytest.approx((float(one["np"]) / 4 / int(one["d"])) ** 0.5, rel=1e-5)
        assert (one["p_exact"] == "") == (one["distance_at_p_exact"] == "")
        if one["p_exact"]:
            assert 1e-3 < float(one["p_exact"]) < 1 and float(one["distance_at_p_exact"]) > 0
    assert len({one["p_exact"] for one in rows[1::2]} - {""}) >= 1  # bias counts where networks are wide
    assert (tmp_path / "out" / "optimum.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.count("of the pairs carry 90 %") == 4
    assert script("--features=", "--inputs=digits") == rows[4:]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--dataset=fashion", "`dataset=fashion`"),
        ("--np=0.5", "`np=0.5`"),
        ("--lowest_p=1.0", "`lowest_p=1.0`"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(script, tmp_path, flag, message):
    with pytest.raises(UserError, match=f"^{message}[^\n]*$"):
        script(flag)
    assert not (tmp_path / "out").exists()
