"""Records: labels and steps come back, those of before 0.2 too; a damaged one costs a warning, not the table."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny

from wsn import stored
from wsn.data.language.text import Text
from wsn.errors import Preempted, UserError
from wsn.records import record, runs
from wsn.records.claims import claim
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
    path = tmp_path / GROUP.name / "record.jsonl"
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
    metric = np.float32(np.abs(sums))
    path = tmp_path / GROUP.name / "record.jsonl"
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
    (told,) = caplog.messages
    assert told.startswith(f"{workdir / 'runs'}: records without a digest")


def test_a_damaged_record_is_skipped_with_a_warning_and_other_semantics_in_silence(workdir, caplog):
    damaged, other, *rest = (r.path for r in record.read_all(workdir))
    damaged.write_text(damaged.read_text()[:-20])
    header, *lines = map(json.loads, other.read_text().splitlines())
    changed = {name: value for name, value in header.items() if name != stored.DIGEST} | {"semantics": 0}
    other.write_text("".join(json.dumps(x) + "\n" for x in (stored.add_checksum(changed, *lines), *lines)))
    assert [r.path for r in record.read_all(workdir)] == rest
    (told,) = (message for message in caplog.messages if "without a digest" not in message)
    assert str(damaged) in told and "damaged" in told and "\n" not in told
    assert record.group_of(other) is None


# Damage.


@pytest.fixture
def written(tmp_path) -> Path:
    """A record of which every number is in range."""
    path = tmp_path / "runs" / GROUP.name / "record.jsonl"
    curves = {name: np.full((3, 4), 0.916, np.float32) for name in tiny.CURVES}
    record.write(path, GROUP, histories(curves), 1.0)
    return path


def without_digest(text: str) -> str:
    """As older versions wrote it."""
    header, *lines = text.splitlines()
    fields = {name: value for name, value in json.loads(header).items() if name != stored.DIGEST}
    return "\n".join([json.dumps(fields), *lines]) + "\n"


def test_no_flipped_bit_changes_what_is_read(written):
    """Each of some hundred flips is told, or leaves the results as they were."""
    whole, places = written.read_bytes(), np.random.default_rng(0)
    results = [(r.spec, r.seed, r.status, repr(r.curves)) for r in record.read(written).results]
    for _ in range(300):
        flipped = bytearray(whole)
        flipped[places.integers(len(whole))] ^= 1 << int(places.integers(8))
        written.write_bytes(flipped)
        try:
            found = [(r.spec, r.seed, r.status, repr(r.curves)) for r in record.read(written).results]
        except UserError as error:
            assert "damaged" in str(error) and "\n" not in str(error)
        else:
            assert found == results


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda text: text.replace("0.916", "2.916", 1), "test_accuracy of 2.916"),
        (lambda text: text.replace("0.916", "-0.916", 1), "test_accuracy of -0.916"),
        (lambda text: text.replace("0.916", "NaN", 1), "NaN is no number"),
        (lambda text: text.replace("[0.916, ", "[null, ", 1), "finished, which its curves are not"),
        (lambda text: text.replace("[0.916, ", "[", 1), "different lengths"),
        (lambda text: text.replace('"seed": 1', '"seed": 0', 1), "another's"),
        (lambda text: text.replace("[2, 4, 9]", "[2, 4, 3]"), "do not rise"),
        (lambda text: "[" * 100_000 + text, "nested too deeply"),
        (lambda text: text.replace('"learning_rate": 0.5', '"learning_rate": 0.7'), "record of the group"),
    ],
    ids=["accuracy", "negative", "nan", "null", "lengths", "seed", "steps", "nested", "rate"],
)
def test_records_without_a_digest_are_of_the_range_of_their_numbers(written, damage, told):
    old = without_digest(written.read_text())
    written.write_text(old)
    assert len(record.read(written).results) == 4
    assert damage(old) != old
    written.write_text(damage(old))
    with pytest.raises(UserError, match=f"damaged .*{told}"):
        record.read(written)


def test_what_was_measured_may_lie_beside_its_range_by_rounding(written):
    """The log-sum-exp of CTC: −1e-7 for a loss of 0."""
    curves = {name: np.full((3, 4), -1e-7, np.float32) for name in tiny.CURVES}
    record.write(written, GROUP, histories(curves), 1.0)
    assert all((r.curves["test_loss"] < 0).all() for r in record.read(written).results)


def test_the_record_of_another_group_is_refused(written, monkeypatch):
    """Which `cp` makes of it; nothing is taken for trained, and the folder can be set aside."""
    other = Group((tiny.spec(width=9),), (0, 1))
    workdir = written.parents[2]
    path = runs.record_path(workdir, other)
    path.parent.mkdir()
    shutil.copy(written, path)
    with pytest.raises(UserError, match=f"`workdir`: {path} is damaged .*record of the group {GROUP.name}"):
        runs.check([other], workdir, lambda spec: tiny.SPLITS)
    with pytest.raises(UserError, match="`resume=false`"):
        runs.results([other], workdir)
    assert [found.path for found in record.read_all(workdir)] == [written]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", None], ids=["empty", "half", "list", "bytes", "folder"]
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_damaged_description_is_written_anew(tmp_path, monkeypatch, caplog, content, finished):
    monkeypatch.setattr(train, "train", tiny.pretended)

    def stop() -> bool:
        return not finished

    with contextlib.suppress(Preempted):
        runs.run([GROUP], tmp_path, lambda spec: tiny.SPLITS, stop=stop)
    path = runs.directory(tmp_path, GROUP) / "group.json"
    if not finished:
        record.write_description(path, GROUP, None)
    whole = path.read_bytes()
    runs.check([GROUP], tmp_path, lambda spec: tiny.SPLITS)
    assert not caplog.messages
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    runs.check([GROUP], tmp_path, lambda spec: tiny.SPLITS)
    assert path.read_bytes() == whole
    (told,) = caplog.messages
    assert str(path) in told and "damaged, written anew" in told and "\n" not in told


def test_of_a_text_with_a_damaged_description_training_starts_afresh(tmp_path, caplog):
    """Nobody knows whether its checkpoints are of the text that there is now."""
    tokens = np.zeros(1, np.uint16)
    text = Text("text", tokens, tokens, ("a",), 1, "a" * 64)
    path = runs.directory(tmp_path, GROUP) / "group.json"
    record.write_description(path, GROUP, "b" * 64)
    (path.parent / "checkpoints").mkdir()
    path.write_text(path.read_text().replace("bb", "aa"))
    runs.check([GROUP], tmp_path, lambda spec: text)
    assert not (path.parent / "checkpoints").exists() and "first step" in caplog.messages[-1]
    runs.check([GROUP], tmp_path, lambda spec: text)


def test_what_is_no_file_is_not_waited_for(written):
    written.unlink()
    os.mkfifo(written)
    with pytest.raises(UserError, match="not a regular file"):
        record.read(written)
    lock = written.with_name("a.lock")
    os.mkfifo(lock)
    with pytest.raises(UserError, match="cannot write"), claim(lock):
        pass
