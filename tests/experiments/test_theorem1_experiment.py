"""experiments.theorem1 as a validation: its statistic, its verdict and its flags, on images of six pixels."""

import csv
import json

import jax
import numpy as np
import pytest
from scipy.stats import norm

from experiments.theory import inputs as kinds
from experiments.theory import theorem1
from kernels.empirical import simulated_distance
from wsn.errors import UserError

FEW = ("--pairs=4", "--connectivities=1,0.3", "--widths=8,64", "--networks=200")


@pytest.fixture(autouse=True)
def few_networks(monkeypatch):
    monkeypatch.setattr(theorem1, "HIDDEN_UNITS", 2**12)


@pytest.fixture
def script(parsed, tmp_path, six_pixels):
    """Run the script with some flags; returns exit code and rows."""

    def run(*arguments: str) -> tuple[int, list[dict[str, str]]]:
        settings, output = parsed(theorem1.COMMAND, *FEW, *arguments)
        with pytest.raises(SystemExit) as ended:
            theorem1.main(settings, output)
        return ended.value.code, list(
            csv.DictReader((tmp_path / "out" / "theorem1.csv").read_text().splitlines())
        )

    return run


def test_simulation_and_theory_agree_for_each_kind_of_input(script, tmp_path, capsys):
    code, rows = script()
    assert code == 0 and len(rows) == 3 * 2 * 2 and list(rows[0]) == theorem1.POINT_COLUMNS
    assert {(row["inputs"], row["normalization"]) for row in rows} == {
        ("gaussian", "none"),
        ("digits", "scalar"),
        ("digits", "pixel"),
    }
    assert {row["networks"] for row in rows if row["n"] == "64"} == {"200"}  # narrower ones: more
    assert {row["networks"] for row in rows if row["n"] == "8"} == {"512"}
    limit = theorem1.threshold(12, 0.01)
    assert f"Bonferroni threshold {limit:.2f} (1 %, two-sided): all within" in capsys.readouterr().out
    for row in rows:
        difference = float(row["simulated"]) - float(row["exact"])
        assert abs(difference) < limit * float(row["stderr"]) * 1.5 and abs(float(row["z"])) < limit
    assert (tmp_path / "out" / "theorem1.png").read_bytes().startswith(b"\x89PNG")
    assert script("--inputs=gaussian") == (0, rows[:4])


def test_networks_of_another_connectivity_are_detected(script, monkeypatch, capsys):
    def wrong(key, connectivity, *rest):
        return simulated_distance(key, 0.5 * connectivity, *rest)

    monkeypatch.setattr(theorem1, "simulated_distance", wrong)
    assert script("--inputs=gaussian")[0] == 1
    assert "NOT all within" in capsys.readouterr().out


def test_threshold_is_bonferroni():
    assert theorem1.threshold(1, 0.05) == pytest.approx(1.95996, abs=1e-5)
    assert 90 * 2 * norm.sf(theorem1.threshold(90, 0.01)) == pytest.approx(0.01)


def test_z_of_a_skewed_sample_has_the_tails_of_a_normal_number():
    """Squares of normal numbers, as D of one pair in wide networks: the plain t statistic has twice the tail."""
    samples = np.random.default_rng(0).standard_normal((6000, 200)) ** 2
    z = np.array([theorem1.z_score(sample, 1.0)[0] for sample in samples])
    t = (samples.mean(1) - 1) / samples.std(1, ddof=1) * np.sqrt(200)
    assert (np.abs(t) > 2.576).mean() > 0.016 and t.mean() < -0.08
    assert 0.005 < (np.abs(z) > 2.576).mean() < 0.015 and abs(z.mean()) < 0.04


def test_z_of_a_symmetric_sample_is_t_and_grows_with_the_mean():
    values = np.array([1.0, 2.0, 3.0])
    assert theorem1.z_score(values, 1.0) == (pytest.approx(np.sqrt(3)), pytest.approx(0))
    skewed = np.random.default_rng(0).exponential(size=200)
    z = [theorem1.z_score(skewed, expected)[0] for expected in np.linspace(0, 2, 50)]
    assert (np.diff(z) < 0).all()
    with pytest.raises(UserError, match="`networks`"):
        theorem1.z_score(np.zeros(200), 1.0)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--dataset=fashion", "`dataset=fashion`"),
        ("--inputs=gauss", "`dataset=gauss`"),
        ("--normalizations=row", "`normalization=row`"),
        ("--normalizations=", "`normalizations`: give at least one"),
        ("--connectivities=0,1", "`connectivities=0.0`"),
        ("--connectivities=1.5", "`connectivities=1.5`"),
        ("--networks=199", "`networks=199`"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(script, tmp_path, flag, message):
    with pytest.raises(UserError, match=f"^{message}[^\n]*$"):
        script(flag)
    assert not (tmp_path / "out").exists()


# --cases.

GOOD = {"name": "one line", "x": [3, 4.0], "y": [6, 8.0], "p": 0.5, "n": 2, "K1p": 25.0}
# y = 2 x: K_2 = (3 + 3 (1 - p)/p sum u^2 u^2)/2 |x|^2 |y|^2 with the unit vector u = (0.6, 0.8).
GOOD["K2p"] = (3 + 3 * (0.6**4 + 0.8**4)) / 2 * 25 * 100
# One survivor at most counts, so K_1 = 1/2 · 1 · 2 and K_2 = 3/2 · 4 / p.
ONE_HOT = {"name": "one-hot", "x": [1, 0], "y": [2, 0], "p": 0.1, "n": 3, "K1p": 1.0, "K2p": 60.0}


@pytest.fixture
def cases(tmp_path, parsed):
    """Evaluate a file of cases; returns exit code and rows."""

    def run(content, tolerance=1e-7):
        path, out = tmp_path / "cases.json", tmp_path / "out"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        settings, output = parsed(theorem1.COMMAND, f"--cases={path}", f"--tolerance={tolerance}")
        with pytest.raises(SystemExit) as ended:
            theorem1.main(settings, output)
        return ended.value.code, list(csv.DictReader((out / "theorem1_cases.csv").read_text().splitlines()))

    return run


def test_a_file_of_cases_gives_a_table_and_the_largest_error_last(cases, capsys):
    code, rows = cases([GOOD, ONE_HOT])
    assert code == 0 and [row["name"] for row in rows] == ["one line", "one-hot"]
    assert list(rows[0]) == theorem1.COLUMNS
    assert float(rows[0]["K2p"]) == pytest.approx(GOOD["K2p"])
    # D = variance alone: (K_2 - K_1^2) / (d^2 n).
    assert float(rows[1]["D"]) == pytest.approx((60 - 1) / 4 / 3)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("largest scaled error: ") and float(last.split(": ")[1]) < 1e-11


def test_a_wrong_case_exits_with_1_unless_it_is_within_the_tolerance(cases, capsys):
    off = GOOD | {"K1p": GOOD["K1p"] * (1 + 2e-6)}  # a scaled error of 1e-6, since K_1 is half of |x||y|
    assert cases([ONE_HOT, off])[0] == 1
    assert float(capsys.readouterr().out.splitlines()[-1].split(": ")[1]) == pytest.approx(1e-6, rel=1e-3)
    assert cases([ONE_HOT, off], tolerance=1e-5)[0] == 0


def test_the_distance_of_a_case_counts_too(cases, capsys):
    right = ONE_HOT | {"D": (60 - 1) / 4 / 3}
    assert cases([ONE_HOT, right])[0] == 0
    code, rows = cases([ONE_HOT, right | {"D": right["D"] * (1 + 1e-3)}])
    assert code == 1 and [row["scaled_error_D"] == "" for row in rows] == [True, False]
    assert "not all within" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[" * 100_000,
        '[{"name": "\\ud800", "x": [1], "y": [1], "p": 1, "n": NaN, "K1p": 1, "K2p": 1}]',
        "{}",
        "[]",
        "[1]",
        [{"name": "short"}],
        *(
            [GOOD, GOOD | changes]
            for changes in (
                {"x": [1, [2]]}, {"x": ["1", "2"]}, {"x": [1]}, {"x": []}, {"x": [None, 1]},
                {"x": [1e200, 1], "y": [1e200, 2]}, {"x": [1e-200, 0], "y": [1e-200, 0]}, {"x": [10**400, 1]},
                {"p": 0}, {"p": [0.5, 0.5]}, {"p": "0.5"}, {"p": True}, {"n": 0}, {"n": 10**400},
                {"K1p": float("nan")}, {"K2p": None},
            )
        ),
    ],
    ids=str,
)  # fmt: skip
def test_a_malformed_file_of_cases_is_an_error_of_one_line(cases, tmp_path, content):
    with pytest.raises(UserError, match="^`cases[=`][^\n]*$"):
        cases(content)
    assert not (tmp_path / "out").exists()


def test_a_point_does_not_depend_on_the_others():
    """A network depends on the key, and the index of its point; the pairs on the seed alone."""
    gaussian = kinds.Inputs("gaussian", "none", kinds.gaussian(6, 4, 0))
    one, same, other = (
        theorem1.simulate(gaussian, [1.0, p], [8], 200, jax.random.key(seed))[0]
        for p, seed in ((0.3, 0), (0.5, 0), (0.5, 1))
    )
    assert one == same
    assert one["exact"] == other["exact"] and one["simulated"] != other["simulated"]
