"""Families and arms of `width_or_weights`, and the verdicts on known curves."""

import csv
import dataclasses
import itertools

import jax
import numpy as np
import pytest
from known_curves import SPEC, result

from experiments.beyond import width, width_or_weights, width_verdict
from experiments.convergence import halting
from experiments.convergence.halting import Curve, Point
from experiments.lab.intervals import Estimate
from wsn.errors import UserError

WIDTHS = (8, 16, 32, 64)


def curve(exponent: float, kind: str, arm: str, traces=(1.0,) * 4, scale=1e3, spread=0.01) -> Curve:
    """Halting and common times that follow a power of the width."""
    points = []
    for wide, trace in zip(WIDTHS, traces, strict=True):
        spec = dataclasses.replace(SPEC, width=wide, dataset=f"{kind} {arm}")
        runs = []
        for seed in range(3):
            time = scale * wide**exponent * (1 + spread * (seed - 1))
            runs += halting.halted([dataclasses.replace(result(time, seed=seed), spec=spec)], np.inf)
        row = {"kind": kind, "arm": arm, "base_width": 8, "width": wide, "weights": 10, "rate_trace": trace}
        points.append(Point(row, runs))
    return Curve(points)


def four(dense: float, dense_over: float, sparse: float, sparse_over: float) -> list[Curve]:
    arms = itertools.product(("dense", "sparse"), ("one", "fan_in"))
    return [
        curve(value, *arm) for value, arm in zip((dense, dense_over, sparse, sparse_over), arms, strict=True)
    ]


@pytest.mark.parametrize(
    ("exponents", "right"),
    [
        ((-0.5, -0.5, 0.0, 0.0), "weights decide"),
        ((-0.5, -0.5, -0.5, -0.5), "width decides"),
        ((-0.5, 0.3, 0.5, 0.0), "the effective rate decides"),
    ],
)
def test_curves_that_a_hypothesis_predicts_agree_with_it_and_contradict_the_others(exponents, right):
    for line in width_verdict.hypotheses(list(width_verdict.claims(four(*exponents)))):
        assert (line.startswith(right)) == line.endswith("of 4 curves agrees with 4"), line
        assert line.startswith(right) or "contradicted by" in line


@pytest.mark.parametrize("prediction", ["falls", "rises", "flat", "not down"])
def test_a_wide_interval_is_inconclusive(prediction):
    assert width_verdict.agrees(Estimate(0.0, -1.0, 1.0), prediction) == "inconclusive"
    assert width_verdict.agrees(Estimate(0.0), prediction) == "inconclusive"  # one seed


def test_times_proportional_to_one_over_the_effective_rate_are_explained_by_it():
    traces = tuple(float(wide) for wide in WIDTHS)
    inverse = tuple(1 / wide for wide in WIDTHS)
    curves = [curve(-1.0, "dense", "one", traces), curve(1.0, "sparse", "one", inverse)]
    fit = width_verdict.collapse(curves)
    assert fit.exponent.value == pytest.approx(-1, abs=0.01) and fit.explained > 0.999
    assert fit.width.value == pytest.approx(0, abs=0.01)
    curves = [curve(-1.0, "dense", "one", tuple(np.sqrt(traces))), curve(1.0, "sparse", "one", inverse)]
    other = width_verdict.collapse(curves)
    assert other.explained < fit.explained and abs(other.width.value) > 0.01


def networks_of(parsed, *arguments):
    preset, run = parsed(width_or_weights.COMMAND, "--preset=quick", *arguments)
    return preset, run, width.networks(preset, run)


def test_families_have_the_weights_of_their_base_and_dense_networks_grow(parsed):
    preset, run, networks = networks_of(parsed)
    source = run.source_of(networks[0].spec)
    weights = {
        (n.kind, n.base_width, n.spec.width): width.study.describe(n, run)["weights"] for n in networks
    }
    assert {n.spec.width for n in networks if n.kind == "dense"} == set(preset.widths)
    for (kind, base, wide), count in weights.items():
        shapes = width.study.shapes_of(source, dataclasses.replace(networks[0].spec, width=wide, kept=()))
        full = sum(int(np.prod(shape)) for shape in shapes.values())
        assert count == (full if kind == "dense" else weights["sparse", base, base])
        assert wide >= base


def test_learning_rates_follow_the_arm_but_not_in_the_reference_network(parsed):
    preset, _, networks = networks_of(parsed)
    tuned = {network.spec: 3.0 for network in networks}
    arms = width.in_arms(preset, networks, tuned)
    assert len(arms) == 3 * len(networks)
    for network, plain in zip(arms, networks * 3, strict=True):
        arm, spec = network.columns["arm"], network.spec
        reference = spec.width == preset.rate_width and not spec.kept
        assert spec.learning_rate == (3.0 if arm == "tuned" else plain.spec.learning_rate)
        assert spec.rate_width == (preset.rate_width if arm == "fan_in" and not reference else 0)
    assert {n.columns["arm"] for n in width.in_arms(preset, networks, {})} == {"one", "fan_in"}


@pytest.mark.parametrize(
    "argument", ["arms=two", "base_widths=", "rate_width=0", "sparsify=softmax", "base_widths=1000"]
)
def test_bad_input_names_its_argument(parsed, argument):
    with pytest.raises(UserError, match=f"{argument.partition('=')[0]}[^\n]*$"):
        networks_of(parsed, f"--{argument}")


def test_the_command_writes_its_table_and_figure(parsed, capsys):
    line = "--widths=2,3 --base_widths=2 --rate_width=2 --seeds=2 --epochs=2 --tuning_epochs=1 --arms=tuned"
    preset, run = parsed(width_or_weights.COMMAND, *line.split(), "--train_samples=100")
    width_or_weights.main(preset, run)
    table = list(csv.DictReader((run.folder / "width_or_weights.csv").read_text().splitlines()))
    assert [(row["arm"], row["kind"], row["width"]) for row in table] == [
        ("tuned", kind, wide) for kind in ("dense", "sparse") for wide in ("2", "3")
    ]
    assert all(float(row["rate_trace"]) > 0 for row in table)
    base = [row | {"kind": ""} for row in table if row["width"] == "2"]
    assert base[0] == base[1]  # a family is the dense network at its base
    chosen = list(csv.DictReader((run.folder / "learning_rates.csv").read_text().splitlines()))
    assert sum(int(row["chosen"]) for row in chosen) == 3  # networks
    assert (run.folder / "width_or_weights.png").read_bytes().startswith(b"\x89PNG")
    assert "T ~ width^" in capsys.readouterr().out


@pytest.mark.slow
def test_a_network_with_batch_normalization_is_traced_in_training_mode(parsed, monkeypatch):
    """Outputs do not depend on the scale of normalized layers, so their trace is proportional to 1 / scale²."""
    monkeypatch.setattr(width, "SAMPLES", 2)
    monkeypatch.setattr(width, "TRACED_SEEDS", 1)
    line = "--preset=resnet --dataset=digits --widths=2 --base_widths=2 --rate_width=2 --arms=one --batch_size=50"
    samples = "--train_samples=100", "--validation_samples=100"
    preset, run, networks = networks_of(parsed, *line.split(), *samples)
    expected = width.start_traces(networks[0].spec, run)
    assert (
        all(np.isfinite(value) and value >= 0 for value in expected.values()) and sum(expected.values()) > 0
    )
    initial = width.initial_members

    def doubled_kernels(*arguments):
        members = initial(*arguments)
        params = jax.tree_util.tree_map_with_path(
            lambda path, x: 2 * x if "conv" in jax.tree_util.keystr(path) else x, members.state.params
        )
        return members._replace(state=members.state._replace(params=params))

    monkeypatch.setattr(width, "initial_members", doubled_kernels)
    width.start_traces.cache_clear()
    doubled = width.start_traces(networks[0].spec, run)
    tolerance = 1e-6 * sum(expected.values())
    for path, trace in expected.items():
        trace /= 4 if "conv" in path else 1
        assert doubled[path] == pytest.approx(trace, rel=0.02, abs=tolerance), path
