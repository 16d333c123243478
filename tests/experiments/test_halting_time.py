"""Halting times of known curves, the claims about them, and both commands from a folder of text to their tables."""

import csv
import dataclasses
import hashlib
import json
import math
import re

import numpy as np
import pytest
from known_curves import SPEC, result

from experiments.convergence import halting, halting_time, path, path_geometry, study
from experiments.convergence.halting import Curve, Point
from wsn.data.language.text import Text
from wsn.errors import UserError
from wsn.training.registries import check

WIDTHS = (4, 8, 16, 32)


def curve(times, minima=(2.0,) * 4, spread=0.0, seeds=2, bends=(1.5,) * 4, **columns) -> Curve:
    row = {"fraction": 1.0, "depth": 2, "optimizer": "sgd", "learning_rate": 0.8} | columns
    results = [
        result(t * (1 + spread * (-1) ** seed), m, seed=seed, bend=b)
        for t, m, b in zip(times, minima, bends, strict=True)
        for seed in range(seeds)
    ]
    runs = halting.halted(results, math.inf)
    rows = [row | {"width": width, "weights": 10 * width**2} for width in WIDTHS]
    return Curve([Point(row, runs[i * seeds : (i + 1) * seeds]) for i, row in enumerate(rows)])


def power(k: float, floor: float = 0.0, scale: float = 1e8) -> list[float]:
    return [scale * (10 * width**2) ** -k + floor for width in WIDTHS]


def test_a_power_law_gives_its_exponent():
    exponent = curve(power(0.4), spread=0.02).exponent("weights", halting.steps)
    assert exponent.value == pytest.approx(-0.4, abs=1e-3) and exponent.low < -0.4 < exponent.high


def test_censored_runs_are_excluded_from_exponents_and_counted():
    uncensored = curve(power(0.4))
    first = uncensored.points[0]
    late = halting.halted([result(9e4, rises=False)] * 2, math.inf)
    runs = [run._replace(halting=run.halting._replace(censored=True)) for run in late]
    with_censored = Curve([Point(first.row, runs), *uncensored.points[1:]])
    assert with_censored.exponent("weights", halting.steps).value == pytest.approx(-0.4, abs=1e-3)
    row = halting.summary(with_censored.points[0], 10)
    assert row["censored"] == row["seeds"] == 2 and row["steps_mean"] == pytest.approx(9e4, rel=1e-3)


def test_every_run_reaches_the_common_losses_and_the_lower_one_later():
    falling = curve(power(0.4), minima=(3.0, 2.5, 2.2, 2.0))
    for point in falling.points:
        for run in point.runs:
            lower, higher = run.common
            assert higher <= lower <= run.result.steps[-1]
            level = halting.COMMON[0] * 3.0
            loss = np.interp(lower, run.result.steps, run.result.curves["validation_loss"])
            assert loss == pytest.approx(level, rel=1e-3)


def test_the_fit_recovers_exponent_and_floor():
    weights = [10 * width**2 for width in WIDTHS]
    fit = halting.fit_floor(weights, [[t, 1.001 * t] for t in power(0.7, floor=50.0, scale=1e4)])
    assert fit.k.value == pytest.approx(0.7, abs=0.02) and fit.b.value == pytest.approx(50, rel=0.05)
    assert fit.b.low <= fit.b.value <= fit.b.high
    no_floor = halting.fit_floor(weights, [[t, 1.001 * t] for t in power(0.7, scale=1e4)])
    assert no_floor.b.value < 1 and halting.fit_floor([1, 2, 3], [[1.0], [2.0], [3.0]]) is None


@pytest.mark.parametrize("bends", [(1.5,) * 4, (1.0, 1.5, 2.5, 3.0)])
def test_exponents_of_distance_tortuosity_and_step_add_up_to_that_of_time(bends):
    exponents = path.split(curve(power(0.3), spread=0.05, bends=bends), "all")
    total = sum(path.FACTORS[name] * exponents[name].value for name in path.FACTORS)
    assert total == pytest.approx(exponents["T"].value, abs=1e-12)


def test_the_path_is_read_at_the_halting_time():
    (run,) = halting.halted([result(500.0)], math.inf)
    measures = path.geometry(run, "all")
    time = run.halting.step
    assert measures["path_length"] == pytest.approx(0.1 * time) and measures["step"] == pytest.approx(0.1)
    assert measures["tortuosity"] == pytest.approx(1.5, rel=1e-3)
    assert measures["cosine_start"] == pytest.approx(-0.1) and measures["angle_start"] == pytest.approx(1.6)
    twice = 2 * measures["projection_start"]
    assert twice == pytest.approx(measures["distance"] ** 2 - measures["sum_squared_steps"], rel=1e-9)


def lines(*curves: Curve) -> list[str]:
    return list(halting_time.lines(list(halting_time.claims(curves, study.names(curves)))))


def test_claims_about_times_that_fall_with_weights_and_grow_with_data():
    text = "\n".join(
        lines(
            curve([t / 2 for t in power(0.4)], spread=0.02, fraction=0.5),
            curve(power(0.4), minima=(2.0, 1.8, 1.7, 1.9), spread=0.02),
        )
    )
    assert text.count("C1 T falls as M grows") == text.count(": holds, exponent -0.40") == 2
    assert "C2 T grows with the data: holds, exponent in fraction +1.00" in text
    assert "C3" not in text and "C5" not in text
    assert re.search(r"C11 .*\(100 % of the data\): holds", text)


def test_claims_about_learning_rates_and_optimizers():
    first, second = curve(power(0.4), spread=0.01), curve(power(0.4), spread=0.01, learning_rate=0.3)
    assert any(line.startswith("C3") and "holds" in line for line in lines(first, second))
    adam = curve(power(0.9), spread=0.01, optimizer="adam")
    assert any(line.startswith("C4") and "holds" in line for line in lines(first, adam))
    steeper = curve(power(0.9), spread=0.01, learning_rate=0.3)
    assert any(line.startswith("C3") and "fails" in line for line in lines(first, steeper))


def test_one_seed_has_no_interval_and_is_inconclusive():
    all_lines = lines(curve(power(0.4), seeds=1))
    assert all("inconclusive" in line and "(no interval)" in line for line in all_lines) and all_lines


# From a folder of text.

CONTRACT = (
    "task,dataset,network,width,depth,kind,connectivity,weights,fraction,optimizer,learning_rate,seeds,censored,"
    "steps_mean,steps_std,common_steps_mean,epochs_mean,best_validation_loss_mean,best_validation_loss_std"
)

ARGUMENTS = (
    *("--dataset=text", "--widths=2,3", "--depths=1", "--train_samples=300", "--fractions=0.5", "--epochs=2"),
    *("--validation_samples=200", "--sequence=5", "--batch_size=4", "--eval_every=4", "--learning_rate=0.5"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("text")
    random = np.random.default_rng(0)
    for name, count in (("train", 400), ("valid", 250), ("test", 50)):
        (place / f"{name}.txt").write_text("".join(random.choice(list("abba c\n"), count)))
    return place


def rows_of(path) -> list[dict]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_both_commands_write_their_tables_from_the_same_records(
    parsed, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("WSN_CACHE_DIR", str(tmp_path / "cache"))
    preset, run = parsed(halting_time.COMMAND, f"--data_dir={folder}", *ARGUMENTS)
    halting_time.main(preset, run)
    table = rows_of(run.folder / "halting_time.csv")
    assert ",".join(table[0]) == CONTRACT
    symbols = 5
    assert [(row["fraction"], int(row["weights"])) for row in table] == [
        ("0.5", 2 * symbols * h + 4 * h * h) for h in (2, 3)
    ]
    assert {row["censored"] for row in table} == {"2"}  # two epochs on noise show no certain minimum
    assert (run.folder / "halting_time.png").read_bytes().startswith(b"\x89PNG")
    records = sorted(run.folder.glob("runs/*/record.jsonl"))
    parts = {"train": "train", "validation": "valid", "test": "test"}
    files = {split: (folder / f"{name}.txt").read_text() for split, name in parts.items()}
    texts = "".join(f"{text}{split}: {len(text)}" for split, text in files.items())
    digests = {json.loads(record.read_text().splitlines()[0])["data"] for record in records}
    assert digests == {hashlib.sha256(texts.encode()).hexdigest()}
    times = [record.stat().st_mtime_ns for record in records]
    path_geometry.main(*parsed(path_geometry.COMMAND, f"--data_dir={folder}", *ARGUMENTS))
    assert [record.stat().st_mtime_ns for record in sorted(run.folder.glob("runs/*/record.jsonl"))] == times
    seeds = rows_of(run.folder / "path_geometry_seeds.csv")
    assert len(seeds) == 2 * 2 * 4
    for row in seeds:
        distance, squares, along = (
            float(row[name]) for name in ("distance", "sum_squared_steps", "projection_start")
        )
        assert abs(2 * along - distance**2 + squares) <= 1e-4 * (distance**2 + squares)
        assert float(row["path_length"]) >= distance * (1 - 1e-5)
    groups = rows_of(run.folder / "path_geometry.csv")
    assert [row["group"] for row in groups[:4]] == ["embedding", "hidden", "softmax", "all"]
    assert list(groups[0])[:12] == [*list(table[0])[:11], "group"]
    printed = capsys.readouterr().out
    assert "C1 T falls" in printed and "C10 angle opens" in printed and "wrote" in printed


def test_another_network_or_task_drops_the_settings_that_it_does_not_read(parsed):
    preset, _ = parsed(halting_time.COMMAND, "--preset=paper", "--model=lstm")
    assert (preset.gate_bias, preset.sequence) == (None, 150)
    check(study.template(preset))
    images = ("--dataset=digits", "--task=classification", "--model=mlp", "--depths=1")
    preset, _ = parsed(halting_time.COMMAND, "--preset=paper", *images)
    check(study.template(preset))
    preset, _ = parsed(halting_time.COMMAND, *images, "--sequence=5")
    with pytest.raises(UserError, match="^`sequence=5`: `task=classification` does not read it"):
        check(study.template(preset))


@pytest.mark.parametrize(
    "argument",
    ["fractions=0,1", "fractions=2", "widths=4,4", "depths=0", "probes=norm", "validation_samples=-1"],
)
def test_bad_input_names_its_argument(parsed, argument):
    with pytest.raises(UserError, match=f"{argument.partition('=')[0]}[^\n]*$"):
        preset, _ = parsed(halting_time.COMMAND, f"--{argument}")
        study.template(preset)


def test_a_fraction_of_the_data_gets_as_many_steps():
    base = dataclasses.replace(SPEC, epochs=10)
    for fraction in (0.1, 0.3, 1.0):
        part = study.fraction_of(base, fraction, 1000)
        assert (part.train_samples or 1000) * part.epochs >= 10_000


def test_a_minimum_counts_below_the_loss_of_a_model_that_knows_frequencies_only():
    random = np.random.default_rng(0)
    shares = np.array([0.6, 0.3, 0.1])
    train, held_out = (random.choice(3, n, p=shares).astype(np.uint16) for n in (200_000, 50_000))
    entropy = -(shares * np.log(shares)).sum()
    ceiling = study.ceiling(Text("abc", train, held_out, ("a", "b", "c"), 5))
    assert ceiling == pytest.approx(study.PLATEAU * entropy, rel=0.01)
    # A short text of many symbols hardly repeats one: its own entropy would be ln 50 at the most.
    many = random.integers(0, 10_000, 50).astype(np.uint16)
    longer = random.integers(0, 10_000, 200_000).astype(np.uint16)
    symbols = tuple(map(str, range(10_000)))
    rare = study.ceiling(Text("rare", longer, many, symbols, 5))
    assert rare == pytest.approx(study.PLATEAU * np.log(10_000), rel=0.02)
