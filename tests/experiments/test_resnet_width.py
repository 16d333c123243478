"""Families of ResNet-18: which networks, the table, the claims. Records are written by hand; nothing is trained."""

import csv
import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.lab import families, launch, tuning
from experiments.lab.intervals import Estimate
from experiments.width import bottleneck, conv_masks, figure6, resnet_width
from wsn.errors import UserError
from wsn.records import plan, runs
from wsn.records import record as records
from wsn.sparsity.shapes import sizes
from wsn.spec import Group
from wsn.training import optimizers
from wsn.training.history import History

CONTRACT = (
    "dataset,base_width,width,kind,connectivity,weights,seeds,epochs,best_test_accuracy_mean,"
    "best_test_accuracy_std,final_test_accuracy_mean,best_train_accuracy_mean,improvement_fraction"
)
TWO_FAMILIES = ("--preset=short", "--base_widths=8,12", "--widths=8,12,18,27")


@pytest.fixture
def given_flags(parsed, tmp_path):
    """(preset, run) of a command in a folder; the shapes of the data sets are known without their images."""

    def parse(*arguments, experiment=resnet_width):
        return parsed(experiment.COMMAND, *arguments, workdir=tmp_path)

    return parse


def record(folder, network, test, train=None, seeds=None):
    """Write the record of a network: its accuracy by seed is best in the middle of three epochs."""
    seeds = tuple(range(len(test))) if seeds is None else seeds
    rise = np.array([[-0.05], [0.0], [-0.01]], np.float32)
    group = Group((network.spec,), seeds)
    curves = {"test_accuracy": test + rise, "train_accuracy": (train or test) + rise}
    curves = {name: values.astype(np.float32) for name, values in curves.items()}
    records.write(runs.record_path(folder, group), group, History(np.arange(3), curves))


def rows_of(experiment, folder):
    text = (folder / f"{experiment.EXPERIMENT}.csv").read_text().splitlines()
    return text[0], list(csv.DictReader(text))


def cells(rows, *columns):
    return [" ".join(row[column] for column in columns) for row in rows]


# The networks.


def test_the_short_preset_is_a_cosine_over_a_tenth_of_the_epochs(given_flags):
    networks = resnet_width.networks(given_flags("--preset=short", "--widths=8,12,18")[0])
    assert [(n.kind, n.spec.width, n.seeds) for n in networks] == [
        *(("sparse", width, 2) for width in (8, 12, 18)),
        *(("dense", width, seeds) for width, seeds in ((8, 2), (12, 1), (18, 1))),
    ]
    rows = [families.describe(n) for n in networks]
    assert [row["weights"] for row in rows] == [180_952] * 4 + [402_180, 897_462]
    assert networks[0].spec == networks[3].spec and not networks[0].spec.kept
    # The recipe of records on people's disks.
    names = [Group((networks[i].spec,), (0,)).name for i in (0, 1, 5)]
    assert names == ["9e803506b31cd891", "c1e3dd7b99b2dd7d", "9e84020d7b1355e2"]


@pytest.mark.parametrize("experiment", [resnet_width, conv_masks, bottleneck])
def test_a_removed_preset_names_its_successor(given_flags, experiment):
    with pytest.raises(UserError, match="^`preset=small` was removed: give `preset=short`, or [^\n]*$"):
        given_flags("--preset=small", experiment=experiment)


@pytest.mark.parametrize(("dataset", "weights"), [("svhn_cropped", 175_192), ("cifar100", 180_952)])
def test_the_paper_preset_decays_as_the_paper_and_keeps_the_budget_at_every_width(
    given_flags, dataset, weights
):
    networks = resnet_width.networks(given_flags("--preset=paper", f"--dataset={dataset}")[0])
    assert {n.spec.decay_epochs for n in networks} == {(50, 120, 200)}
    assert {families.describe(n)["weights"] for n in networks if n.kind == "sparse"} == {weights}


@pytest.mark.parametrize("epochs", [1, 2, 20])
def test_no_decay_of_a_shortened_recipe_comes_after_its_end(given_flags, epochs):
    preset, _ = given_flags("--preset=paper", f"--epochs={epochs}")
    spec = resnet_width.template(preset)
    optimizers.check(spec)
    optimizers.check(tuning.shortened(spec, 1))


def test_imagenet_has_the_weights_of_table_1(given_flags):
    preset, _ = given_flags("--preset=imagenet")
    networks = resnet_width.networks(preset)
    millions = {(n.kind, n.spec.width): families.describe(n)["weights"] / 1e6 for n in networks}
    dense = {64: 11.68, 90: 22.8, 128: 45.67, 181: 90.72, 256: 180.6}
    for width, expected in dense.items():
        assert millions["dense", width] == pytest.approx(expected, abs=0.01)
        assert millions["sparse", width] == millions["dense", 64]
    spec = networks[0].spec
    assert (spec.schedule, spec.weight_decay, spec.epochs) == ("cosine", 1e-4, 150) and not spec.decay_epochs


def test_whole_kernels_are_kept_and_the_base_network_is_that_of_single_weights(given_flags):
    networks = conv_masks.networks(
        given_flags("--preset=short", "--widths=8,12,18", experiment=conv_masks)[0]
    )
    elementwise, io = networks[:3], networks[3:]
    assert [n.spec.mask for n in io] == ["elementwise", "io", "io"] and io[0].spec == elementwise[0].spec
    for n in io[1:]:
        shapes = families.shapes_of(n.spec)(n.spec.width)
        kept = dict(n.spec.kept)
        assert all(kept[name] % 9 == 0 for name, shape in shapes.items() if shape[:2] == (3, 3))
        assert 180_952 - 9 < sum(kept.values()) <= 180_952
        assert all(kept[name] <= size for name, size in sizes(shapes).items())
    resnet = resnet_width.networks(given_flags("--preset=short", "--widths=8,12,18")[0])
    assert [n.spec for n in elementwise] == [n.spec for n in resnet if n.kind == "sparse"]


def test_families_hold_the_widths_that_are_not_below_their_base(given_flags):
    assert families.members(given_flags(*TWO_FAMILIES)[0]) == {8: [8, 12, 18, 27], 12: [12, 18, 27]}
    paper, _ = given_flags("--preset=paper", experiment=conv_masks)
    assert list(families.members(paper)) == [8, 12, 18]
    one, _ = given_flags("--preset=paper", "--base_width=12", "--widths=12,18", experiment=conv_masks)
    assert families.members(one) == {12: [12, 18]}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--base_widths=8,8"], "`base_widths`"),
        (["--base_widths=0,8"], "`base_widths=0`"),
        (["--base_widths=8,x"], "`base_widths=8,x`"),
        (["--base_widths=8,65"], "`base_widths`: [^\n]*65"),
        (["--base_widths=12,18"], "`widths`: 8 is below the base width 12"),
        (["--base_width=12"], "`widths`: 8 is below the base width 12"),
        (["--dense_seeds=-1"], "`dense_seeds=-1`"),
    ],
    ids=" ".join,
)
def test_bad_input_names_its_flag(given_flags, arguments, parts):
    with pytest.raises(UserError, match=f"^{parts}"):
        resnet_width.networks(given_flags("--preset=short", *arguments)[0])


# Records, table and figure.


def test_the_table_of_a_family_by_hand(given_flags, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(figure6, "draw", lambda *_: Figure())
    preset, run = given_flags("--preset=short", "--draw_only", "--widths=8,12")
    base, sparse, _, dense = resnet_width.networks(preset)
    record(tmp_path, base, [0.20, 0.22], [0.30, 0.32])
    record(tmp_path, sparse, [0.24, 0.26], [0.36, 0.34])
    record(tmp_path, dense, [0.27], [0.5])
    resnet_width.main(preset, run)
    header, rows = rows_of(resnet_width, tmp_path)
    assert header == CONTRACT
    assert cells(rows, "kind", "width", "seeds") == ["sparse 8 2", "sparse 12 2", "dense 8 2", "dense 12 1"]
    wide = {name: rows[1][name] for name in rows[1] if name not in ("dataset", "kind")}
    assert {name: float(value) for name, value in wide.items()} == pytest.approx(
        {
            "base_width": 8,
            "width": 12,
            "connectivity": 180_952 / 402_180,
            "weights": 180_952,
            "seeds": 2,
            "epochs": 30,
            "best_test_accuracy_mean": 0.25,
            "best_test_accuracy_std": math.sqrt(2) * 0.01,
            "final_test_accuracy_mean": 0.24,
            "best_train_accuracy_mean": 0.35,
            "improvement_fraction": (0.25 - 0.21) / (0.27 - 0.21),
        },
        rel=1e-5,
    )
    assert [math.isnan(float(r["improvement_fraction"])) for r in rows] == [True, False, True, True]
    printed = capsys.readouterr().out
    assert "no record" not in printed and "beats dense and narrow" in printed


def test_missing_records_are_printed_and_the_rest_is_drawn(given_flags, tmp_path, capsys):
    preset, run = given_flags(*TWO_FAMILIES, "--draw_only")
    networks = {(n.base_width, n.kind, n.spec.width): n for n in resnet_width.networks(preset)}
    record(tmp_path, networks[8, "sparse", 8], [0.2], seeds=(1,))
    record(tmp_path, networks[8, "sparse", 18], [0.3, 0.31])
    record(tmp_path, networks[12, "sparse", 12], [0.25, 0.26])
    resnet_width.main(preset, run)
    assert (tmp_path / "resnet_width.png").read_bytes().startswith(b"\x89PNG")
    _, rows = rows_of(resnet_width, tmp_path)
    of_8 = ["8 sparse 8 1", "8 sparse 18 2", "8 dense 8 1", "8 dense 12 2"]
    assert cells(rows, "base_width", "kind", "width", "seeds") == [*of_8, "12 sparse 12 2", "12 dense 12 2"]
    missing = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no record")]
    assert missing == [
        "no record: sparse width 8 (base width 8), seed 0",
        "no record: sparse width 12 (base width 8), seeds 0, 1",
        "no record: sparse width 27 (base width 8), seeds 0, 1",
        "no record: dense width 18 (base width 8), seed 0",
        "no record: dense width 27 (base width 8), seed 0",
        "no record: sparse width 18 (base width 12), seeds 0, 1",
        "no record: sparse width 27 (base width 12), seeds 0, 1",
    ]


def test_a_diverged_seed_is_counted_and_left_out(given_flags, tmp_path, capsys):
    preset, run = given_flags("--preset=short", "--draw_only", "--widths=8,12", "--dense_seeds=0")
    base, sparse, *_ = resnet_width.networks(preset)
    record(tmp_path, base, [0.2, math.nan])
    record(tmp_path, sparse, [math.nan, math.nan])
    resnet_width.main(preset, run)
    _, rows = rows_of(resnet_width, tmp_path)
    assert float(rows[0]["best_test_accuracy_mean"]) == pytest.approx(0.2, rel=1e-5)
    assert rows[1]["best_test_accuracy_mean"] == "nan"
    printed = capsys.readouterr().out
    assert "no verdict" in printed and "no record" not in printed
    lines = [line.split() for line in printed.splitlines()[:3]]
    assert [line[lines[0].index("diverged")] for line in lines] == ["diverged", "1", "2"]


@pytest.mark.parametrize("experiment", [resnet_width, conv_masks])
def test_an_empty_folder_is_an_error(given_flags, tmp_path, experiment):
    given = given_flags("--preset=short", "--draw_only", experiment=experiment)
    with pytest.raises(UserError, match="^`workdir`: [^\n]*no record"):
        experiment.main(*given)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_plans_every_network_and_draws_nothing(given_flags, tmp_path, monkeypatch):
    planned = []
    monkeypatch.setattr(launch, "train", lambda run, asked, labels: planned.extend(asked))
    resnet_width.main(*given_flags("--preset=short", "--widths=8,12,18"))
    assert [(len(specs), seeds) for specs, seeds in planned] == [(1, 2), (1, 2), (1, 2), (1, 1), (1, 1)]
    assert not list(tmp_path.iterdir())


def test_shares_count_networks_of_any_number_of_seeds(given_flags, monkeypatch):
    shares = []
    monkeypatch.setattr(launch.Run, "source_of", lambda run, spec: None)
    monkeypatch.setattr(plan, "cost", lambda *_: None)
    monkeypatch.setattr(plan, "describe", lambda groups, *rest: shares.append(list(groups)) or "")
    for i in (1, 2, 3):
        resnet_width.main(*given_flags("--preset=short", "--widths=8,12,18", "--dry_run", f"--shard={i}/3"))
    assert [len(share) for share in shares] == [2, 2, 1]
    assert len({group.name for share in shares for group in share}) == 5


def test_imagenet_stands_beside_table_1(given_flags, tmp_path, capsys):
    preset, run = given_flags("--preset=imagenet", "--draw_only", "--widths=64,90")
    base, sparse, _, dense = resnet_width.networks(preset)
    for network, accuracy in ((base, 0.68), (sparse, 0.7), (dense, 0.69)):
        record(tmp_path, network, [accuracy])
    resnet_width.main(preset, run)
    printed = capsys.readouterr().out
    assert [line.split()[-1] for line in printed.splitlines()[:5]] == [
        "paper", "0.6803", "0.6956", "0.6803", "0.6911",
    ]  # fmt: skip
    assert "(no interval)" in printed
    paper = {(r["kind"], r["width"]): r for r in resnet_width.paper_rows(preset)}
    assert paper["sparse", 90]["improvement_fraction"] == pytest.approx(1.53 / 1.08)


def test_conv_masks_from_records(given_flags, tmp_path, capsys):
    preset, run = given_flags("--preset=short", "--draw_only", "--widths=8,18", experiment=conv_masks)
    base, single, _, kernels = conv_masks.networks(preset)
    for network, test in ((base, [0.2, 0.2]), (single, [0.30, 0.32]), (kernels, [0.28, 0.28])):
        record(tmp_path, network, test)
    conv_masks.main(preset, run)
    header, rows = rows_of(conv_masks, tmp_path)
    assert header == ",".join(conv_masks.COLUMNS)
    assert [(r["mask"], r["width"]) for r in rows] == [
        ("elementwise", "8"),
        ("elementwise", "18"),
        ("io", "8"),
        ("io", "18"),
    ]
    assert "whole kernels +3.0 [" in capsys.readouterr().out
    assert (tmp_path / "conv_masks.png").exists()


# Intervals and claims.


def row(base, kind, width, test, train=None):
    mean = np.mean(test)
    return {
        "base_width": base, "kind": kind, "width": width, "widening": width / base, "weights": 100 * base,
        "connectivity": (base / width) ** 2, "test": test, "train": train or test,
        "best_test_accuracy_mean": mean, "best_train_accuracy_mean": np.mean(train or test),
    }  # fmt: skip


def family_of(base, tests, trains=None, spread=0.001):
    """Sparse networks of widening factors 1, 2, …, with two seeds `spread` around each accuracy."""
    trains = trains or tests
    return [
        row(base, "sparse", base * (i + 1), [test - spread, test + spread], [train - spread, train + spread])
        for i, (test, train) in enumerate(zip(tests, trains, strict=True))
    ]


def test_wide_and_sparse_is_better_worse_or_inconclusive():
    def verdict(tests, spread=0.001):
        return figure6.family_verdicts(family_of(4, tests, spread=spread), 4)[0]

    assert "narrow: holds: width 8 (25.0%) against 4: +10.0 [" in verdict([0.2, 0.3, 0.25])
    assert "narrow: fails: width 8 (25.0%) against 4: -10.0 [" in verdict([0.4, 0.3, 0.25])
    assert "narrow: inconclusive: " in verdict([0.2, 0.21], spread=0.1)


def test_where_accuracies_peak():
    def verdicts(tests, trains=None):
        _, peaks, connectivity, widening, *_ = figure6.family_verdicts(family_of(4, tests, trains), 4)
        return [line.split(": ")[1] for line in (peaks, connectivity, widening)]

    inside = [0.1, 0.2, 0.3, 0.4, 0.2]  # best at 4 times the width, connectivity 1/16
    assert verdicts(inside) == ["holds", "holds", "holds"]
    assert verdicts(inside, [0.1, 0.5, 0.3, 0.2, 0.2]) == ["fails", "holds", "holds"]
    assert verdicts([0.1, 0.4, 0.3]) == ["holds", "fails", "fails"]
    assert verdicts([0.4, 0.3, 0.2]) == ["holds", "fails", "fails"]
    unknown = "inconclusive (the widest trained is the best)"
    assert verdicts([0.1, 0.2, 0.3]) == [unknown] * 3


def test_what_width_alone_gives():
    sparse = family_of(4, [0.2, 0.35])
    share = figure6.width_alone(sparse, row(4, "dense", 8, [0.4, 0.401]))
    assert share.value == pytest.approx(0.15 / 0.2005) and 0.6 < share.low < share.value < share.high < 0.9
    flat = figure6.width_alone(sparse, row(4, "dense", 8, [0.19, 0.21]))
    assert math.isnan(flat.low)


def test_gains_of_small_and_large_networks_are_compared():
    rows = family_of(4, [0.2, 0.3, 0.25]) + family_of(8, [0.5, 0.52, 0.51])
    *_, line, method = figure6.verdicts(rows)
    assert (
        "smaller networks: holds: +10.0 at 400 weights, +2.0 at 800 weights; smallest minus largest +8.0"
        in line
    )
    assert "95 %" in method
    *_, line, _ = figure6.verdicts(family_of(4, [0.2, 0.22]) + family_of(8, [0.5, 0.6]))
    assert "smaller networks: fails" in line
    assert not any("smaller networks" in line for line in figure6.verdicts(family_of(4, [0.2, 0.3])))


def test_gains_on_hard_and_easy_data_are_compared():
    easy, hard = family_of(4, [0.8, 0.82]), family_of(4, [0.2, 0.28])
    line = figure6.data_verdict({"easy": easy, "hard": hard})
    assert "holds: +8.0 on hard (base network 20%), +2.0 on easy (base network 80%)" in line
    assert "hardest minus easiest +6.0 [" in line
    assert "fails" in figure6.data_verdict({"easy": family_of(4, [0.8, 0.9]), "hard": hard})
    assert "no verdict" in figure6.data_verdict({"easy": easy[:1], "hard": hard})


def test_other_data_are_compared_from_their_records(given_flags, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(figure6, "draw", lambda *_: Figure())
    arguments = ["--preset=short", "--draw_only", "--widths=8,12", "--dense_seeds=0"]
    for dataset, gain in (("cifar10", 0.02), ("cifar100", 0.06)):
        base, wide, *_ = resnet_width.networks(given_flags(*arguments, f"--dataset={dataset}")[0])
        accuracy = {"cifar10": 0.6, "cifar100": 0.2}[dataset]
        record(tmp_path, base, [accuracy, accuracy + 0.01])
        record(tmp_path, wide, [accuracy + gain, accuracy + gain + 0.01])
    resnet_width.main(*given_flags(*arguments, "--dataset=cifar100", "--compare=cifar10"))
    assert "harder data: holds: +6.0 on cifar100" in capsys.readouterr().out
    given = given_flags(*arguments, "--dataset=cifar100", "--compare=svhn_cropped")
    with pytest.raises(UserError, match="^`compare`: [^\n]*width 8, on svhn_cropped$"):
        resnet_width.main(*given)


def test_no_verdict_without_the_base_network():
    wider = family_of(4, [0.2, 0.3, 0.4])[1:]
    assert figure6.verdicts(wider)[0] == "base width 4: no verdict without the base network and a wider one"


def test_an_optimum_is_placed_by_its_whole_interval():
    assert figure6.place(Estimate(4, 3, 6), (3, 10), False) == "holds"
    assert figure6.place(Estimate(4, 2, 6), (3, 10), False) == "inconclusive"
    assert figure6.place(Estimate(2, 1, 2), (3, 10), False) == "fails"
    assert figure6.place(Estimate(4), (3, 10), False) == "inconclusive"


def test_an_improvement_needs_all_three_networks():
    rows = [row(4, "sparse", 4, [0.2]), row(4, "sparse", 8, [0.3])]
    base, wide = resnet_width.with_improvement(rows)
    assert wide["improvement"] == pytest.approx(0.1) and math.isnan(wide["improvement_fraction"])
    assert base["improvement"] == 0 and math.isnan(base["improvement_fraction"])
    _, wide, _ = resnet_width.with_improvement([*rows, row(4, "dense", 8, [0.6])])
    assert wide["improvement_fraction"] == pytest.approx(0.25)
