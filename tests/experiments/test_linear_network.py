"""Distances, steps and exponents of linear networks, their verdicts, figure and command."""

import pytest
import tiny

from experiments.convergence import linear_network as script
from experiments.convergence import path
from experiments.lab import flags
from wsn.errors import UserError


@pytest.fixture(scope="module")
def tables():
    return script.distance_rows([0.5, 4.0], draws=500), script.step_rows(), script.layer_rows([40, 320], 2)


def test_printed_distances_hold_where_no_start_lies_beyond_the_solutions(tables):
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


def test_gradient_descent_takes_the_steps_of_the_formula_in_every_arm(tables):
    _, rows, _ = tables
    assert all(row["steps"] == row["simulated"] for row in rows)
    fixed = [row for row in rows if row["arm"] == "one rate"]
    assert [row["simulated"] == float("inf") for row in fixed] == [
        row["width"] > script.EDGE for row in fixed
    ]
    assert len({row["steps"] for row in rows if row["arm"] != "one rate"}) == 1


def test_exponents_have_the_signs_of_the_paper_in_the_standard_parameterization(tables):
    _, _, rows = tables
    standard = {row["measure"]: row for row in rows if row["parameterization"] == "standard"}
    assert standard["steps"]["exponent"] < -0.5 and standard["distance, last"]["exponent"] < -0.1
    assert standard["mean step, last"]["exponent"] > 0.3
    for row in standard.values():
        assert row["low"] < row["exponent"] < row["high"]
    assert {
        m: {k[6:]: row[k] for k in row if k.startswith("paper_") and row[k] != ""}
        for m, row in standard.items()
    } == {measure: script.PAPER.get(measure, {}) for measure in standard}


def test_the_papers_exponents_are_those_of_its_percentages():
    assert path.paper_exponent(-25) == pytest.approx(-0.20, abs=0.005)
    assert path.paper_exponent(10) == pytest.approx(0.067, abs=0.001)
    assert path.PAPER_WIDTHS ** path.paper_exponent(10) == pytest.approx(1.1)


def test_verdicts_state_their_numbers(tables):
    distances, steps, layers = tables
    text = "\n".join(script.distance_verdicts(distances))
    assert "R = 4: 2.5000, not 2.0000, at K = 1" in text and "R = 0.5: 0.3536, not 0.3536, at K = 32" in text
    assert (
        "never below 0.4607" in text and "fails with 1 / sqrt K, where the distance is 2.000 to 2.000" in text
    )
    assert "holds where R <= C / sqrt K, fails beyond" in text and "holds with output weights 1" in text
    text = "\n".join(script.step_verdicts(steps))
    assert "862, 431, 215" in text and "inf (K = 525)" in text and f"{len(steps)} of {len(steps)}" in text
    assert "holds at one learning rate, with steps ~ K^-1.0" in text and "fails at rate / K" in text
    assert "standard: steps -" in script.layer_verdicts(layers)[0]


def test_the_figure_draws_every_table(tables):
    left, middle, right = script.draw(*tables).axes
    assert left.get_xlabel() == middle.get_xlabel() == "width K"
    assert [text.get_text() for text in right.get_yticklabels()][0] == "steps"


def test_the_command_writes_tables_and_figure(tmp_path):
    done = tiny.run_experiment(
        "linear_network", f"--workdir={tmp_path}/out", "--radii=4", "--widths=20,40", "--seeds=1"
    )
    assert done.returncode == 0, done.stderr
    assert "simulation and theory differ" in done.stdout
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    tables = ("", "_layers", "_steps")
    expected = {f"linear_network{t}.{kind}" for t in tables for kind in ("csv", "command")}
    assert set(names) == expected | {"linear_network.png", "linear_network.said.json"}


@pytest.mark.parametrize(
    "argument", ["radii=0", "radii=x", "widths=20", "widths=0,20", "widths=a", "seeds=0"]
)
def test_bad_flags_are_one_line(argument):
    with pytest.raises(UserError, match=rf"^\W*{argument.partition('=')[0]}[^\n]*$"):
        flags.parse(script.COMMAND, [f"--{argument}"])
