"""The command line of an experiment: errors in one line, the plan, the table, what is trained again.

Experiments run in this process, with stubbed training; in a subprocess where the exit of the process matters.
"""

import csv
import math
import re

import numpy as np
import pytest
import tiny
from absl import flags as absl
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.lab import families, flags
from experiments.lab.intervals import difference
from experiments.width import figure8, kernel_distance, mlp_grid
from experiments.width.rates import rate_at
from wsn.data import prepared
from wsn.errors import UserError
from wsn.records import record
from wsn.training import train
from wsn.training.history import History

QUICK = ("--base_width=4", "--widths=4,8", "--epochs=3", "--seeds=2", "--pairs=20", "--initialisations=10")
FEW_CELLS = (*QUICK[:4], "--last_connectivity=1.0,0.5")


@pytest.fixture
def trained(monkeypatch) -> list:
    """Stubs training; a list of the groups that were trained."""
    groups = []

    def pretend(group, splits, *, resume=None, execution="masked"):
        groups.append(group)
        return tiny.stub_train(group, splits, resume=resume)

    monkeypatch.setattr(train, "train", pretend)
    return groups


@pytest.fixture
def experiment(parsed, tmp_path, trained):
    """A function: runs kernel_distance with these flags in a temporary folder, returns the rows of its table."""

    def run(*arguments: str) -> list[dict[str, str]]:
        command = kernel_distance.COMMAND
        kernel_distance.main(*parsed(command, "--pairs=3", "--initialisations=2", *arguments))
        table = tmp_path / "out" / "kernel_distance.csv"
        return list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []

    return run


def last(curves: dict[str, np.ndarray]) -> train.EvalPoint:
    """The evaluation at the end of a stubbed training."""
    return train.EvalPoint(1, 1, True, History(np.array([1]), curves), lambda: None)


# Bad input.


@pytest.mark.parametrize(
    "line",
    [
        "--dataset=fashion → --dataset=fashion … digits", "--preset=slow → --preset=slow … quick, paper",
        "--base_width=4 --widths=3,8 → --widths: 3 is below the base width 4",
        "--base_width=4 --widths=8,30 → --widths… 296", "--base_width=4 --widths=8,x → --widths=8,x … whole numbers",
        "--base_width=4 --widths=8, → --widths=8, … whole numbers", "--widths=8.5 → --widths=8.5 … whole numbers",
        "--widths= → --widths… at least one",
        "--widths=0 → --widths… at least 1", "--widths=8,8 → --widths=8,8 … twice",
        "--learning_rate=0 → --learning_rate=0.0 … positive", "--learning_rate=-0.1 → --learning_rate=-0.1 … positive",
        "--learning_rate=nan → --learning_rate=nan … positive", "--learning_rate=inf → --learning_rate=inf … positive",
        "--seeds=0 → --seeds=0 … at least 1", "--epochs=0 → --epochs=0 … at least 1",
        "--base_width=0 → --base_width=0 … at least 1", "--train_samples=-1 → --train_samples=-1",
        "--train_samples=5000 → --train_samples=5000 … 1297", "--data_seed=-1 → --data_seed=-1",
        "--pairs=0 → --pairs=0 … at least 1", "--initialisations=1 → --initialisations=1 … at least 2",
        "--shard=0/4 → --shard=0/4 … i from 1 to n", "--shard=5/4 → --shard=5/4 … i from 1 to n",
        "--shard=2 → --shard=2 … i/n", "--shard=1/2 --tune_lr → --shard… --tune_lr",
    ],
)  # fmt: skip
def test_bad_input_ends_in_one_line_before_anything_is_written(experiment, trained, tmp_path, line):
    arguments, _, message = line.partition(" → ")
    pattern = "[^\n]*".join(re.escape(part.strip()) for part in message.split("…"))
    with pytest.raises(UserError) as error:
        experiment(*arguments.split())
    assert re.fullmatch(f"{pattern}[^\n]*", flags.as_flags(str(error.value)))
    assert not trained and not (tmp_path / "out").exists()


def test_missing_data_are_an_error(experiment, monkeypatch, tmp_path):
    def offline(url):
        raise OSError("no network")

    monkeypatch.setattr(prepared, "require_network", offline)
    monkeypatch.setenv("WSN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="^`dataset=mnist`: [^\n]*`data_dir=[^\n]*empty") as error:
        experiment("--dataset=mnist", "--preset=paper")
    assert "`dataset=digits`" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_workdir_that_is_a_file_is_an_error(experiment, trained, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="^`workdir`: cannot write [^\n]*$"):
        experiment(*QUICK)
    assert (tmp_path / "out").read_text() == "a file" and not trained


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("kernel_distance", ["--base_width=4", "--widths=3"], "--widths: 3 is below"),
        ("optimum", ["--np=0"], "--np=0"),
        ("theorem1", ["--widths=0"], "--widths"),
        ("layer_sparsity", ["--widths=8,x"], "--widths"),
    ],
)
def test_an_error_ends_the_process_in_one_line(tmp_path, script, arguments, message):
    ended = tiny.run_experiment(script, *arguments, cwd=tmp_path)
    assert ended.returncode == 1 and ended.stdout == ""
    assert ended.stderr.startswith(f"error: {message}") and ended.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path):
    ended = tiny.run_experiment("kernel_distance", "--dry_run", *QUICK, "--seeds=5", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert list(tmp_path.iterdir()) == []
    plan = [line.split() for line in ended.stdout.splitlines() if not line.startswith("learning rate")]
    assert plan[0][:5] == ["kind", "base", "width", "networks", "weights"] and "time" in plan[0]
    # Width 4 has no rate of its own in the preset; as the base of both kinds it is still trained once.
    rows = [
        ["sparse", "4", "4", "5", "296"],
        ["sparse", "4", "8", "5", "296"],
        ["dense", "4", "8", "5", "592"],
    ]
    assert [line[:5] for line in plan[1:4]] == rows
    assert all(float(line[7]) >= 0 and line[8] in ("s", "min", "h") for line in plan[1:4])
    assert plan[-1][:2] == ["15", "networks;"] and "hours" in plan[-1] and "GiB" in plan[-1]


def test_an_argument_that_is_not_a_flag_is_refused(tmp_path):
    ended = tiny.run_experiment("kernel_distance", "8,32", cwd=tmp_path)
    assert ended.returncode == 1 and ended.stderr.startswith("error: 8,32: unexpected argument")
    with pytest.raises(UserError, match="^8,32: unexpected argument"):
        flags.parse(kernel_distance.COMMAND, ["8,32"])


# The table.


def test_the_table_has_a_row_per_network_and_the_base_network_under_both_kinds(experiment, trained, capsys):
    rows = experiment(*QUICK, "--learning_rate=2")
    assert [(row["kind"], row["width"], row["weights"]) for row in rows] == [
        ("sparse", "4", "296"),
        ("sparse", "8", "296"),
        ("dense", "4", "296"),
        ("dense", "8", "592"),
    ]
    assert [float(row["connectivity"]) for row in rows] == [1, 0.5, 1, 1]
    assert {name: x for name, x in rows[0].items() if name != "kind"} == {
        name: x for name, x in rows[2].items() if name != "kind"
    }
    assert len(trained) == 3
    contract = (
        "kind width connectivity weights seeds epochs test_accuracy_mean test_accuracy_std"
        " distance_empirical distance_empirical_stderr distance_exact distance_eq4"
    )
    assert {*contract.split(), "best_test_accuracy_mean"} <= rows[0].keys()
    assert all(row["seeds"] == "2" and row["epochs"] == "3" and row["learning_rate"] == "2" for row in rows)
    assert "interpolated" not in capsys.readouterr().out


def test_shards_train_every_network_once_and_the_last_one_draws_them_all(
    experiment, trained, tmp_path, capsys
):
    flags_of_all = *QUICK, "--widths=4,8,12,16", "--learning_rate=2"
    rows: list[dict] = []
    for i in (1, 2, 3):
        more = experiment(*flags_of_all, f"--shard={i}/3")
        assert len(more) > len(rows) and (tmp_path / "out" / "kernel_distance.png").stat().st_size > 0
        assert ("networks have no record yet" in capsys.readouterr().out) == (i < 3)
        rows = more
    assert len({group.name for group in trained}) == len(trained) == 7
    assert [int(row["width"]) for row in rows] == [4, 8, 12, 16] * 2
    # A shard that is started again, and the command without one, find everything done.
    assert experiment(*flags_of_all, "--shard=2/3") == experiment(*flags_of_all) == rows
    assert len(trained) == 7


@pytest.mark.parametrize("module", [kernel_distance, mlp_grid])
def test_every_share_alone_is_drawn(module, trained, parsed, tmp_path, capsys):
    """Whatever is missing, base network or all of one kind, the figure is of what there is."""
    given = [*QUICK, "--learning_rate=2"] if module is kernel_distance else [*FEW_CELLS, "--dataset=digits"]
    for i in range(1, 6):
        folder = tmp_path / str(i)
        module.main(*parsed(module.COMMAND, f"--shard={i}/5", *given, workdir=folder))
        written = {path.suffix for path in folder.glob("*")} - {""} if folder.exists() else set()
        count = len(list(folder.glob("runs/*/record.jsonl")))
        assert written == ({".csv", ".png", ".command"} if count else set())
        assert "no record yet" in capsys.readouterr().out


def test_the_table_is_of_the_records(experiment, tmp_path):
    rows = experiment(*QUICK, "--learning_rate=2", "--seeds=3")
    for row in rows:
        found = [
            result
            for path in (tmp_path / "out").glob("runs/*/record.jsonl")
            for result in record.read(path).results
            if str(result.spec.width) == row["width"]
            and bool(result.spec.kept) == (float(row["connectivity"]) < 1)
        ]
        curves = np.array([result.curves["test_accuracy"] for result in found], np.float64)
        assert curves.shape == (3, 3)
        assert float(row["test_accuracy_mean"]) == pytest.approx(curves[:, -1].mean(), rel=1e-5)
        assert float(row["test_accuracy_std"]) == pytest.approx(curves[:, -1].std(ddof=1), rel=1e-5)
        assert float(row["best_test_accuracy_mean"]) == pytest.approx(curves.max(axis=1).mean(), rel=1e-5)


def test_the_gain_of_the_best_width_has_an_interval_over_the_seeds_that_finished():
    def row(width, *accuracies):
        known = {"kind": "sparse", "width": width, "weights": 99, "seeds": 5}
        return known | {figure8.BY_SEED: accuracies, figure8.ACCURACY: np.mean(accuracies or np.nan)}

    gain = difference([0.8, 0.84], [0.5, 0.52], comparisons=2).show(100)
    line = figure8.verdict([row(4, 0.5, 0.52), row(8, 0.8, 0.84), row(16, 0.6), row(32)])
    assert line == f"With 99 weights, width 8 reaches 0.820 and width 4 0.510: {gain} percentage points."
    assert figure8.verdict([row(4, 0.5), row(8, 0.7)]).endswith(": +20.0 (no interval) percentage points.")


def test_widths_need_not_include_the_base_width(experiment, trained, tmp_path):
    rows = experiment(*QUICK, "--widths=8")
    assert [(row["kind"], row["width"], row["weights"]) for row in rows] == [
        ("sparse", "8", "296"),
        ("dense", "8", "592"),
    ]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"kernel_distance.csv", "kernel_distance.png", "kernel_distance.command", "runs"}
    command = (tmp_path / "out" / "kernel_distance.command").read_text()
    assert command.startswith("python -m experiments.kernel_distance --workdir=") and command.endswith(
        "--widths=8\n"
    )


def test_flags_take_the_place_of_the_preset(experiment, trained):
    experiment("--widths=5", "--train_samples=0", "--data_seed=3", "--epochs=2", "--seeds=1")
    for group in trained:
        spec = group.specs[0]
        assert (spec.train_samples, spec.data_seed, spec.epochs, group.seeds) == (None, 3, 2, (0,))
        assert spec.dataset == "digits" and spec.batch_size == kernel_distance.PRESETS["quick"].batch_size


# The distance.


def test_both_references_and_the_claim_are_printed(experiment, trained, capsys):
    """Four widths that learn; the network of the finite reference is another, and only measured D depends on it."""
    flags_of_four = ("--widths=3,4,6,9", "--epochs=3", "--seeds=2")
    exact = experiment(*flags_of_four)
    assert "has a mean squared distance of" in capsys.readouterr().out
    finite = experiment(*flags_of_four, "--reference=finite")
    out = capsys.readouterr().out
    assert "Spearman's, of all: " in out and "by Fisher's z: " in out
    for one, other in zip(exact, finite, strict=True):
        assert one["distance_empirical"] != other["distance_empirical"]
        assert one["distance_exact"] == other["distance_exact"]


def test_networks_that_cannot_learn_are_named(experiment, monkeypatch, capsys):
    def chance(group, splits, *, resume=None, execution="masked"):
        level = np.float32(0.1 if group.specs[0].width == 9 else group.specs[0].width / 10)
        return iter([last({name: np.full((1, len(group.members)), level) for name in tiny.CURVES})])

    monkeypatch.setattr(train, "train", chance)
    experiment("--widths=3,4,5,6,9", "--epochs=1", "--seeds=2")
    out = capsys.readouterr().out
    assert "Spearman's, of all: " in out and "chance (without width 9): " in out


def test_another_reference_is_refused():
    with pytest.raises(absl.IllegalFlagValueError, match="reference=wide"):
        flags.parse(kernel_distance.COMMAND, ["--reference=wide"])


# Runs.


def test_finished_groups_are_not_repeated_and_more_seeds_add_to_them(experiment, trained, tmp_path):
    first = experiment(*QUICK)
    records = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("runs/*/record.jsonl")}
    table = (tmp_path / "out" / "kernel_distance.csv").read_bytes()
    assert len(trained) == len(records) == 3
    assert experiment(*QUICK) == first and len(trained) == 3
    assert (tmp_path / "out" / "kernel_distance.csv").read_bytes() == table
    assert [row["seeds"] for row in experiment(*QUICK, "--seeds=3")] == ["3"] * 4
    assert [group.seeds for group in trained[3:]] == [(2,)] * 3
    # Fewer seeds are a part of what is there, and give the first table again.
    assert experiment(*QUICK) == first and len(trained) == 6
    assert {path: path.stat().st_mtime_ns for path in records} == records


def test_resume_false_sets_aside_and_trains_again(experiment, trained, tmp_path):
    first = experiment(*QUICK)
    experiment(*QUICK, "--seeds=3")
    before = {path.read_bytes() for path in (tmp_path / "out").glob("runs/*/record.jsonl")}
    plan = len(trained)
    experiment(*QUICK, "--resume=false", "--dry_run")
    assert len(trained) == plan and not list((tmp_path / "out").glob("runs/*.aside-*"))
    assert experiment(*QUICK, "--resume=false") == first
    assert [group.seeds for group in trained[plan:]] == [(0, 1)] * 3
    assert {path.read_bytes() for path in (tmp_path / "out").glob("runs/*/record.jsonl")} >= before
    assert len(list((tmp_path / "out").glob("runs/*.aside-1/record.jsonl"))) == 3


def test_a_corrupt_record_is_an_error_and_resume_false_helps(experiment, trained, tmp_path):
    first = experiment(*QUICK)
    path = next((tmp_path / "out").glob("runs/*/record.jsonl"))
    path.write_text(path.read_text()[:-40])
    with pytest.raises(UserError, match="^`workdir`: [^\n]* is corrupt [^\n]*`resume=false`$"):
        experiment(*QUICK)
    assert experiment(*QUICK, "--resume=false") == first


def test_the_dry_run_says_what_is_done(experiment, capsys):
    experiment(*QUICK)
    capsys.readouterr()
    experiment(*QUICK, "--dry_run", "--widths=4,8,9")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.split()[0] in ("sparse", "dense")]
    states = [line.rsplit("  ", 1)[-1].strip() for line in rows]
    assert states == ["done", "done", "to train", "done", "to train"]


# Learning rates.


@settings(deadline=None)
@given(
    st.floats(0.01, 100), st.floats(-2, 2), st.lists(st.integers(2, 900), min_size=2, max_size=5, unique=True)
)
def test_rates_between_and_beyond_the_given_widths_follow_the_power_law(scale, slope, widths):
    """Through points of a power law the interpolation is that law, to its four digits; a given rate stays exact."""
    rates = {width: scale * width**slope for width in widths}
    for width in (1, *widths, min(widths) + 1, 1000):
        found = rate_at(rates, width)
        assert (
            found == rates[width]
            if width in rates
            else found == pytest.approx(scale * width**slope, rel=1e-3)
        )


@settings(deadline=None)
@given(st.dictionaries(st.integers(1, 900), st.floats(0.01, 900), min_size=2), st.integers(1, 900))
def test_a_rate_lies_between_those_of_its_neighbours(rates, width):
    below, above = ([w for w in rates if w <= width], [w for w in rates if w >= width])
    if below and above:
        low, high = sorted((rates[max(below)], rates[min(above)]))
        assert low * 0.999 <= rate_at(rates, width) <= high * 1.001


def test_a_single_rate_serves_every_width():
    assert [rate_at({8: 5}, width) for width in (1, 8, 900)] == [5.0] * 3


def test_interpolated_rates_are_printed(experiment, trained, capsys):
    experiment("--base_width=3", "--widths=3,18,7", "--epochs=1", "--seeds=1")
    out = capsys.readouterr().out
    printed = [line for line in out.splitlines() if line.endswith("interpolated from the preset's")]
    assert len(printed) == 2 and all(" for width 7 " in line for line in printed)
    rates = kernel_distance.PRESETS["quick"].rates
    used = {(bool(g.specs[0].kept), g.specs[0].width): g.specs[0].learning_rate for g in trained}
    assert used[True, 18] == rates["sparse"][18] and used[False, 18] == rates["dense"][18]
    assert used[True, 7] == rate_at(rates["sparse"], 7)


def test_tuning_takes_the_best_rate_on_held_out_samples(experiment, trained, monkeypatch, tmp_path):
    """A pretended optimum of half the preset's rate is found; the highest rates diverge and are passed over."""
    tuned = []

    def pretend(group, splits, *, resume=None, execution="masked"):
        spec = group.specs[0]
        if not spec.validation_samples:
            trained.append(group)
            return tiny.stub_train(group, splits)
        tuned.append(group)
        assert len(splits.validation_labels) == 297 and len(splits.train_labels) == 1000
        centre = rate_at(kernel_distance.PRESETS["quick"].rates["dense"], spec.width)
        rates = np.array([s.learning_rate for s, _ in group.members])
        score = np.exp(-np.abs(np.log(rates / centre * 2)))
        score = np.where(rates > 4 * centre, np.nan, score)[None].astype(np.float32)
        splits = ("train", "validation")
        return iter([last({f"{split}_{value}": score for split in splits for value in ("loss", "accuracy")})])

    monkeypatch.setattr(train, "train", pretend)
    rows = experiment("--base_width=6", "--widths=6", "--epochs=2", "--seeds=1", "--tune_lr")
    assert all(len(group.members) == 13 * 2 and group.seeds == (0, 1) for group in tuned)
    centre = rate_at(kernel_distance.PRESETS["quick"].rates["dense"], 6)
    assert float(rows[1]["learning_rate"]) == pytest.approx(centre / 2, rel=1e-3)
    assert all(group.specs[0].validation_samples == 0 for group in trained)
    table = list(csv.DictReader((tmp_path / "out" / "learning_rates.csv").read_text().splitlines()))
    assert len(table) == 26 and {row["kind"] for row in table} == {"sparse", "dense"}


def test_another_parameterisation_has_one_rate_and_the_tuned_networks_beside_it(experiment, trained, capsys):
    rows = experiment("--parameterization=smup", "--widths=3,6", "--epochs=2", "--seeds=2")
    preset = kernel_distance.PRESETS["quick"]
    by_kind = {(row["kind"], int(row["width"])): float(row["learning_rate"]) for row in rows}
    assert by_kind == {
        (kind, width): preset.rates["sparse"][width] if kind == "tuned" else preset.one_rate
        for kind in ("sparse", "dense", "tuned")
        for width in (3, 6)
    }
    found = {(s.parameterization, s.rate_width) for group in trained for s in group.specs}
    assert found == {("smup", 3), ("ntk", 0)}
    printed = capsys.readouterr().out
    assert "width 6: one learning rate against the tuned one: " in printed and "interpolated" not in printed


# Summaries and files.


def result(*accuracy: float, seed: int = 0) -> record.Result:
    status = "diverged" if any(map(math.isnan, accuracy)) else "finished"
    curves = {name: np.array(accuracy, np.float32) for name in tiny.CURVES}
    return record.Result(
        tiny.spec(epochs=len(accuracy)), seed, status, curves, np.arange(1, len(accuracy) + 1)
    )


def test_summaries_leave_diverged_runs_out_of_the_means():
    row = families.summary([result(0.5, 0.25), result(0.75, 0.75, seed=1), result(0.9, math.nan, seed=2)])
    assert (row["seeds"], row["diverged"]) == (3, 1)
    assert (row["test_accuracy_mean"], row["best_test_accuracy_mean"]) == (0.5, 0.625)
    assert row["test_accuracy_std"] == pytest.approx(math.sqrt(0.125))
    assert "validation_accuracy_mean" not in row
    alone = families.summary([result(0.5, 0.25)])
    assert (alone["test_accuracy_mean"], alone["test_accuracy_std"]) == (0.25, 0)
    lost = families.summary([result(math.nan)])
    assert math.isnan(lost["test_accuracy_mean"]) and math.isnan(lost["best_test_accuracy_mean"])


def test_a_run_in_which_everything_diverged_still_has_its_table(experiment, monkeypatch):
    def diverging(group, splits, *, resume=None, execution="masked"):
        lost = np.full((1, len(group.members)), np.nan, np.float32)
        return iter([last(dict.fromkeys(tiny.CURVES, lost))])

    monkeypatch.setattr(train, "train", diverging)
    rows = experiment(*QUICK)
    assert all(row["diverged"] == row["seeds"] == "2" and row["test_accuracy_mean"] == "nan" for row in rows)


def test_the_same_table_draws_the_same_bytes(experiment, tmp_path):
    experiment(*QUICK)
    picture = (tmp_path / "out" / "kernel_distance.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    experiment(*QUICK)
    assert (tmp_path / "out" / "kernel_distance.png").read_bytes() == picture


def test_presets_of_the_paper():
    """Appendix A and the authors' code: 2048 samples, batches of 256, 300 epochs, 10 seeds, 6352 weights."""
    paper = kernel_distance.PRESETS["paper"]
    assert (paper.train_samples, paper.batch_size, paper.epochs, paper.seeds) == (2048, 256, 300, 10)
    assert paper.widths == (8, 32, 128, 216, 328, 512, 635)
    for preset in kernel_distance.PRESETS.values():
        assert len(preset.widths) >= 5 and min(preset.widths) == preset.base_width
        assert preset.rates["sparse"][preset.base_width] == preset.rates["dense"][preset.base_width]
