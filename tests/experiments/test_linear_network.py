import subprocess
import sys

import pytest

from experiments.convergence import appendix_b
from experiments.convergence import linear_network as script
from experiments.lab import flags
from wsn.errors import UserError


@pytest.fixture(scope="module")
def tables():
    return script.distance_rows([0.5, 4.0], draws=500), script.step_rows(), script.layer_rows([40, 320], 2)


def test_distances_are_the_printed_ones_where_no_start_lies_beyond(tables):
    rows, _, _ = tables
    assert len(rows) == 4 * len(script.WIDTHS)
    for row in rows:
        if row["parameterization"] == "standard" and row["within"]:
            assert row["exact"] == pytest.approx(row["printed"])
        if row["start"] == "ball":
            assert row["within"] == (row["radius"] <= row["printed"])
            assert row["exact"] >= row["printed"] * (1 - 1e-12)
        if row["parameterization"] == "ntk":
            assert row["exact"] == pytest.approx(2, abs=1e-3)


def test_steps_are_those_of_the_formula_in_every_arm(tables):
    _, rows, _ = tables
    assert all(row["steps"] == row["simulated"] for row in rows)
    fixed = [row for row in rows if row["arm"] == "one rate"]
    assert [row["simulated"] == float("inf") for row in fixed] == [
        row["width"] > script.EDGE for row in fixed
    ]
    assert len({row["steps"] for row in rows if row["arm"] != "one rate"}) == 1


def test_exponents_have_the_signs_of_the_paper_in_the_standard_parameterisation(tables):
    _, _, rows = tables
    own = {row["measure"]: row for row in rows if row["parameterization"] == "standard"}
    assert own["steps"]["exponent"] < -0.5 and own["distance, last"]["exponent"] < -0.1
    assert own["mean step, last"]["exponent"] > 0.3
    for row in own.values():
        assert row["low"] < row["exponent"] < row["high"]
    assert {
        m: {k[6:]: row[k] for k in row if k.startswith("paper_") and row[k] != ""} for m, row in own.items()
    } == {measure: script.PAPER.get(measure, {}) for measure in own}


def test_the_papers_exponents_are_those_of_its_percentages():
    assert appendix_b.exponent(-25) == pytest.approx(-0.20, abs=0.005)
    assert appendix_b.exponent(10) == pytest.approx(0.067, abs=0.001)
    assert (764 / 185) ** appendix_b.exponent(10) == pytest.approx(1.1)


def test_verdicts_carry_the_numbers(tables):
    distances, steps, layers = tables
    said = "\n".join(script.distance_verdicts(distances))
    assert "R = 4: 2.5000 for 2.0000 at K = 1" in said and "R = 0.5: 0.3536 for 0.3536 at K = 32" in said
    assert "never below 0.4607" in said and "fails with 1 / sqrt K, where they are at 2.000 to 2.000" in said
    assert "holds where R <= C / sqrt K, fails beyond" in said and "holds with output weights 1" in said
    said = "\n".join(script.step_verdicts(steps))
    assert "862, 431, 215" in said and "inf (K = 525)" in said and f"{len(steps)} of {len(steps)}" in said
    assert "holds at one learning rate, with steps ~ K^-1.0" in said and "fails at rate / K" in said
    assert "standard: steps -" in script.layer_verdicts(layers)[0]


def test_the_figure_draws_every_table(tables):
    left, middle, right = script.draw(*tables).axes
    assert left.get_xlabel() == middle.get_xlabel() == "width K"
    assert [text.get_text() for text in right.get_yticklabels()][0] == "steps"


def run(*arguments):
    command = [sys.executable, "-m", "experiments.linear_network", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_writes_tables_and_figure(tmp_path):
    done = run(f"--workdir={tmp_path}/out", "--radii=4", "--widths=20,40", "--seeds=1")
    assert done.returncode == 0, done.stderr
    assert "simulated and exact differ" in done.stdout
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    tables = ("", "_layers", "_steps")
    expected = {f"linear_network{t}.{kind}" for t in tables for kind in ("csv", "command")}
    assert set(names) == expected | {"linear_network.png", "linear_network.said.json"}


@pytest.mark.parametrize(
    "given", ["--radii=0", "--radii=x", "--widths=20", "--widths=0,20", "--widths=a", "--seeds=0"]
)
def test_bad_flags_are_one_line(given):
    with pytest.raises(UserError, match=f"^{given.split('=')[0]}[^\n]*$"):
        flags.parse(script.COMMAND, [given])
