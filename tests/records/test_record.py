"""Records: labels and steps come back, those of before 0.2 too; a damaged one costs a warning, not the table."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny

from wsn.records import record, runs
from wsn.records.record import Label
from wsn.spec import Group
from wsn.training import train
from wsn.training.history import History

FINISHED = Path(__file__).parents[1] / "pins" / "finished"  # written by 0.1.0
GROUP = Group((tiny.spec(), tiny.spec(learning_rate=0.5)), (0, 1))
LABELS = {
    GROUP.specs[0]: Label("mlp_grid", "quick", 5, "sparse"),
    GROUP.specs[1]: Label(experiment="mine"),
    tiny.spec(width=99): Label("of nobody here"),
}


def histories(columns: dict[str, np.ndarray]) -> History:
    return History(np.array([2, 4, 9], np.int64), columns)


def test_labels_and_steps_round_trip(tmp_path):
    curves = dict.fromkeys(tiny.CURVES, np.ones((3, 4), np.float32))
    path = tmp_path / "record.jsonl"
    record.write(path, GROUP, histories(curves), 1.0, LABELS)
    found = record.read(path)
    assert found.path == path and found.header["group"] == GROUP.name
    assert [(r.spec, r.seed) for r in found.results] == list(GROUP.members)
    assert [r.label for r in found.results] == [LABELS[spec] for spec, _ in GROUP.members]
    for result in found.results:
        assert result.steps is not None and result.steps.tolist() == [2, 4, 9]
    record.write(path, GROUP, histories(curves), 1.0)
    assert all(r.label == Label() for r in record.read(path).results)
    assert record.group_of(path) == GROUP


def test_columns_of_probes_keep_the_bits_of_float64(tmp_path):
    """The sums of a long run have more digits than float32."""
    sums = np.random.default_rng(0).normal(size=(3, 4)) * 1e5
    sums[1:, 2] = np.nan
    metric = np.float32(sums)
    path = tmp_path / "record.jsonl"
    record.write(path, GROUP, histories({"test_loss": metric, "all/path_length": sums}), 1.0)
    for i, result in enumerate(record.read(path).results):
        np.testing.assert_array_equal(result.curves["all/path_length"], sums[:, i])
        np.testing.assert_array_equal(result.curves["test_loss"], metric[:, i])
        assert result.curves["all/path_length"].dtype == np.float64
        assert result.curves["test_loss"].dtype == np.float32
        assert result.status == ("diverged" if i == 2 else "finished")


def test_the_labels_of_a_run_are_in_its_record(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "train", tiny.pretended)
    runs.run([GROUP], tmp_path, lambda spec: tiny.SPLITS, labels=LABELS)
    found = runs.results([GROUP], tmp_path)
    assert [r.label for r in found] == [LABELS[r.spec] for r in found]


@pytest.fixture
def workdir(tmp_path, monkeypatch) -> Path:
    """Records of 0.1.0, one of today, and one that was set aside."""
    workdir = tmp_path / "out"
    shutil.copytree(FINISHED, workdir)
    monkeypatch.setattr(train, "train", tiny.pretended)
    runs.run([GROUP], workdir, lambda spec: tiny.SPLITS, labels=LABELS)
    folder = runs.directory(workdir, GROUP)
    shutil.copytree(folder, folder.with_name(f"{folder.name}.aside-1"))
    return workdir


def test_records_of_every_version_are_read_together(workdir, caplog):
    old = {path.parent.name for path in FINISHED.glob("runs/*/record.jsonl")}
    found = {r.path.parent.name: r for r in record.read_all(workdir)}
    assert len(old) == 6 and found.keys() == old | {GROUP.name} and list(found) == sorted(found)
    for name, r in found.items():
        group = record.group_of(r.path)
        assert group is not None and group.name == name == r.header["group"]
        assert [(result.spec, result.seed) for result in r.results] == list(group.members)
        for result in r.results:
            assert (result.steps is None) == (result.label == Label()) == (name in old)
            assert all(len(curve) == group.specs[0].epochs for curve in result.curves.values())
    assert caplog.messages == []


def test_a_damaged_record_is_skipped_with_a_warning_and_other_semantics_in_silence(workdir, caplog):
    damaged, other, *rest = (r.path for r in record.read_all(workdir))
    damaged.write_text(damaged.read_text()[:-20])
    header, lines = other.read_text().split("\n", 1)
    other.write_text(json.dumps(json.loads(header) | {"semantics": 0}) + "\n" + lines)
    assert [r.path for r in record.read_all(workdir)] == rest
    (told,) = caplog.messages
    assert str(damaged) in told and "damaged" in told and "\n" not in told
    assert record.group_of(other) is None
