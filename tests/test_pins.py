"""Earlier versions' group names, records and checkpoints still work; pins/README.md says what wrote them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.lab import contents, flags
from wsn import data
from wsn.records import checkpoints, plan, record, runs
from wsn.spec import Spec

PINS = Path(__file__).parent / "pins"
# The preset `small` of ResNet-18 was removed: the flags that name its networks.
SMALL = "--preset=paper --base_width=8 --widths=8,12,18 --train_samples=10000 --epochs=20 --seeds=2"
REMOVED = {"bottleneck": SMALL, "resnet_width": f"{SMALL} --dense_seeds=1"}
COMMANDS = [json.loads(line) for line in (PINS / "groups.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("pin", COMMANDS, ids=lambda pin: pin["command"])
def test_every_command_trains_groups_of_the_same_names(pin, tmp_path, monkeypatch):
    for name in ("mnist", "cifar10", "cifar100"):
        if f"dataset={name}" in pin["command"] or ("preset" in pin["command"] and name == "cifar100"):
            folder = Path(os.environ.get("TFDS_DATA_DIR", "")) / name
            if not os.environ.get("TFDS_DATA_DIR") or not folder.exists():
                pytest.skip(f"no prepared copy of {name} in TFDS_DATA_DIR")
    experiment, _, given = pin["command"].partition(" ")
    arguments = given.replace("--preset=small", REMOVED.get(experiment, "--preset=small")).split()
    command = contents.command(experiment)
    names: list[str] = []
    monkeypatch.setattr(plan, "cost", lambda *_: plan.Cost(1, (1,), 1.0, 1.0))
    monkeypatch.setattr(plan, "describe", lambda groups, *_: names.extend(group.name for group in groups))
    command.main(*flags.parse(command, [*arguments, "--dry_run", f"--workdir={tmp_path}"]))
    assert names == pin["groups"]


def source_of(spec: Spec) -> data.Splits:
    return data.split(
        data.load("digits"),
        train_samples=spec.train_samples,
        validation_samples=spec.validation_samples,
        data_seed=spec.data_seed,
        normalization=spec.normalization,
    )


@pytest.mark.parametrize(
    "finished", sorted(PINS.glob("uninterrupted/runs/*/record.jsonl")), ids=lambda p: p.parent.name
)
def test_a_checkpoint_resumes_to_the_record_of_an_uninterrupted_run(finished, tmp_path):
    """Up to rounding, since another machine may sum in another order."""
    workdir = tmp_path / "out"
    shutil.copytree(PINS / "interrupted", workdir)
    group = record.group_of(finished)
    snapshot = checkpoints.load(workdir / "runs" / group.name / "checkpoints")
    epochs = []
    runs.run([group], workdir, source_of, watch=lambda group, share, history: epochs.append(history.rows))
    assert epochs[0] == 1 + len(snapshot.history.curves["train_loss"]), "it resumes"
    for ours, theirs in zip(runs.results([group], workdir), record.read(finished).results, strict=True):
        assert (ours.spec, ours.seed, ours.status) == (theirs.spec, theirs.seed, theirs.status)
        for name, curve in theirs.curves.items():
            np.testing.assert_allclose(ours.curves[name], curve, rtol=1e-3, atol=1e-3)
            np.testing.assert_array_equal(ours.curves[name][: epochs[0] - 1], curve[: epochs[0] - 1])


def test_records_give_the_same_table_and_nothing_is_trained(tmp_path):
    workdir = tmp_path / "out"
    shutil.copytree(PINS / "finished", workdir)
    before = (workdir / "kernel_distance.csv").read_text()
    records = {path: path.stat().st_mtime_ns for path in workdir.glob("runs/*/*")}
    flags = ["--base_width=3", "--widths=3,6", "--seeds=3", "--epochs=3", "--pairs=20", "--initialisations=3"]
    command = [sys.executable, "-m", "experiments.kernel_distance", f"--workdir={workdir}", *flags]
    subprocess.run(command, check=True, capture_output=True)
    names = (
        "test_accuracy_mean",
        "test_accuracy_std",
        "best_test_accuracy_mean",
        "train_accuracy_mean",
        "weights",
    )

    def trained(text: str) -> list[list[str]]:
        header, *rows = (line.split(",") for line in text.splitlines())
        return [[row[header.index(name)] for name in names] for row in rows]

    assert records == {path: path.stat().st_mtime_ns for path in workdir.glob("runs/*/*")}
    assert trained((workdir / "kernel_distance.csv").read_text()) == trained(before)
