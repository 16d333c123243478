"""Figure 5 end to end on digits, and what it says of a grid of accuracies."""

import csv
import math

import pytest
import tiny

from experiments.lab import flags
from experiments.width import mlp_grid as script
from wsn.errors import UserError

COMMAND = "--base_width=2", "--widths=2,4", "--last_connectivity=1.0,0.5", "--activations=relu", "--epochs=2"


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """(folder, standard output) of the command."""
    folder = tmp_path_factory.mktemp("grid") / "out"
    ended = tiny.run_experiment("mlp_grid", f"--workdir={folder}", *COMMAND)
    assert ended.returncode == 0, ended.stderr
    return folder, ended.stdout


@pytest.fixture(scope="module")
def rows(grid):
    return list(csv.DictReader((grid[0] / "mlp_grid.csv").read_text().splitlines()))


def test_every_cell_that_can_hold_the_budget_has_a_row(rows):
    """Digits have 64 pixels: width 2 has 148 weights, and with a cut last layer no room for them."""
    assert list(rows[0]) == script.COLUMNS
    cells = [(row["activation"], row["width"], row["last_connectivity"]) for row in rows]
    assert cells == [("relu", "2", "1"), ("relu", "4", "1"), ("relu", "4", "0.5")]
    assert {row["weights"] for row in rows} == {"148"} and {row["seeds"] for row in rows} == {"3"}


def test_connectivity_is_kept_over_all_weights(rows):
    assert {row["width"]: float(row["connectivity"]) for row in rows} == {"2": 1.0, "4": 0.5}


def test_figure_command_and_verdict_are_written(grid):
    folder, said = grid
    assert (folder / "mlp_grid.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "mlp_grid.command").read_text().startswith("python -m experiments.mlp_grid")
    assert "relu: best" in said and "baseline" in said and "linear" not in said


def cell(width, last, accuracy, connectivity=0.5, activation="relu"):
    return {
        "activation": activation,
        "width": width,
        "last_connectivity": last,
        "connectivity": connectivity,
        "final_test_accuracy_mean": accuracy,
    }


def test_the_verdict_names_the_best_cell_the_baseline_and_the_peak():
    grid = [
        cell(2, 1.0, 0.80, connectivity=1.0),
        cell(4, 1.0, 0.90),
        cell(4, 0.8, 0.86),
        cell(8, 1.0, math.nan),
        cell(8, 0.8, 0.89),
        cell(8, 0.1, 0.95),
        cell(16, 1.0, math.nan),
        cell(8, 1.0, 0.99, activation="linear"),
    ]
    assert script.verdict(grid, "relu") == (
        "relu: best 95.00 % at width 8 (connectivity 0.500, last layer 0.1), baseline 80.00 %;"
        " mean over last-layer connectivity ≥ 0.8 peaks at width 8, 89.00 %"
    )


def test_the_verdict_leaves_out_what_the_grid_does_not_have():
    line = script.verdict([cell(4, 0.5, 0.9)], "relu")
    assert "baseline" not in line and "peaks" not in line


def test_a_grid_that_diverged_has_no_best_cell():
    assert script.verdict([cell(4, 1.0, math.nan)], "relu") == "relu: every cell diverged"


@pytest.mark.parametrize("value", ["", "1.0,x", "0", "1.5", "nan", "0.5,0.5"])
def test_bad_fractions_name_their_flag(value):
    with pytest.raises(UserError, match="^`last_connectivity[=`]"):
        flags.parse(script.COMMAND, [f"--last_connectivity={value}"])
