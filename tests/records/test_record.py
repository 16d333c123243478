"""Records: every value comes back, those of wsn 0.1 are read, corrupt ones are refused or repaired."""

import contextlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import wsn
from wsn import stored
from wsn.errors import Preempted, UserError
from wsn.records import record, runs
from wsn.records.record import Label
from wsn.spec import Group
from wsn.training import train
from wsn.training.history import History

FINISHED = Path(__file__).parents[1] / "pins" / "finished"  # written by wsn 0.1
GROUP = Group((tiny.spec(), tiny.spec(learning_rate=0.5)), (0, 1))
LABELS = {
    GROUP.specs[0]: Label("mlp_grid", "quick", 5, "sparse"),
    GROUP.specs[1]: Label(experiment="mine"),
    tiny.spec(width=99): Label("of another group"),
}


def history(curves: dict[str, np.ndarray]) -> History:
    return History(np.array([2, 4, 9], np.int64), curves)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "runs" / GROUP.name / "record.jsonl"


def test_labels_and_steps_come_back(path):
    curves = dict.fromkeys(tiny.CURVES, np.ones((3, 4), np.float32))
    record.write(path, GROUP, history(curves), LABELS)
    read = record.read(path)
    assert read.path == path and read.header["group"] == GROUP.name
    assert [(r.spec, r.seed) for r in read.results] == list(GROUP.members)
    assert [r.label for r in read.results] == [LABELS[spec] for spec, _ in GROUP.members]
    assert all(result.steps.tolist() == [2, 4, 9] for result in read.results)
    record.write(path, GROUP, history(curves))
    assert all(r.label == Label() for r in record.read(path).results)
    assert record.group_of(path) == GROUP


@settings(deadline=None, max_examples=50)
@given(
    npst.arrays(np.float32, (3, 4), elements=st.floats(width=32, allow_infinity=False)),
    npst.arrays(np.float64, (3, 4), elements=st.floats(allow_infinity=False)),
)
def test_every_bit_comes_back(tmp_path_factory, metric, sums):
    """Metrics are float32; the sums of probes are float64, as a long run needs."""
    path = tmp_path_factory.mktemp("record") / GROUP.name / "record.jsonl"
    record.write(path, GROUP, history({"test_loss": metric, "all/path_length": sums}))
    for i, result in enumerate(record.read(path).results):
        diverged = np.isnan(metric[:, i]).any() or np.isnan(sums[:, i]).any()
        assert result.status == ("diverged" if diverged else "finished")
        for curve, values in (("test_loss", metric[:, i]), ("all/path_length", sums[:, i])):
            values = np.where(np.isnan(values), values.dtype.type(np.nan), values)
            assert result.curves[curve].dtype == values.dtype
            np.testing.assert_array_equal(result.curves[curve], values)
            np.testing.assert_array_equal(np.signbit(result.curves[curve]), np.signbit(values))


def test_the_labels_of_a_run_are_in_its_record(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "train", tiny.stub_train)
    runs.run([GROUP], tmp_path, lambda spec: tiny.SPLITS, labels=LABELS)
    results = runs.results([GROUP], tmp_path)
    assert [r.label for r in results] == [LABELS[r.spec] for r in results]


def test_the_commit_is_that_of_the_code_and_not_of_a_repository_around_it(tmp_path, monkeypatch):
    author = "-c", "user.name=a", "-c", "user.email=a@example.org"
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, *author, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
    for package, commit in ((tmp_path / "lib" / "wsn", "unknown"), (tmp_path / "wsn", "[0-9a-f]{40}")):
        package.mkdir(parents=True)
        monkeypatch.setattr(wsn, "__file__", str(package / "__init__.py"))
        assert re.fullmatch(commit, record._commit.__wrapped__())


@pytest.mark.parametrize(
    "path", sorted(FINISHED.glob("runs/*/record.jsonl")), ids=lambda path: path.parent.name
)
def test_records_of_wsn_0_1_are_read_without_labels(path):
    read, group = record.read(path), record.group_of(path)
    assert group is not None and group.name == path.parent.name == read.header["group"]
    assert [(result.spec, result.seed) for result in read.results] == list(group.members)
    for result in read.results:
        assert result.label == Label() and len(result.steps) == group.specs[0].epochs
        assert {len(curve) for curve in result.curves.values()} == {len(result.steps)}


# Corruptions.


@pytest.fixture
def written(path) -> Path:
    record.write(path, GROUP, history({name: np.full((3, 4), 0.916, np.float32) for name in tiny.CURVES}))
    return path


def test_no_flipped_bit_changes_what_is_read(written):
    intact, rng = written.read_bytes(), np.random.default_rng(0)
    results = [(r.spec, r.seed, r.status, repr(r.curves)) for r in record.read(written).results]
    for _ in range(300):
        flipped = bytearray(intact)
        flipped[rng.integers(len(intact))] ^= 1 << int(rng.integers(8))
        written.write_bytes(flipped)
        try:
            reread = [(r.spec, r.seed, r.status, repr(r.curves)) for r in record.read(written).results]
        except UserError as error:
            assert "corrupt" in str(error) and "\n" not in str(error)
        else:
            assert reread == results


@pytest.mark.parametrize(
    ("corrupt", "reason"),
    [
        (lambda text: text.replace("0.916", "NaN", 1), "NaN is not valid JSON"),
        (lambda text: text.replace("[0.916, ", "[null, ", 1), "not finished by its curves"),
        (lambda text: text.replace("[0.916, ", "[", 1), "different lengths"),
        (lambda text: text.replace('"seed": 1', '"seed": 0', 1), "line of another"),
        (lambda text: text.replace("[2, 4, 9]", "[2, 4, 3]"), "do not increase"),
        (lambda text: text.replace("[2, 4, 9]", f"[2, 4, {10**30}]"), "OverflowError"),
        (lambda text: "[" * 100_000 + text, "nested too deeply"),
        (lambda text: text.replace('"learning_rate": 0.5', '"learning_rate": 0.7'), "record of the group"),
    ],
    ids=["nan", "null", "lengths", "seed", "steps", "number", "nested", "rate"],
)
def test_records_without_a_checksum_are_checked_for_what_they_must_hold(written, corrupt, reason):
    header, *lines = written.read_text().splitlines()
    fields = {name: value for name, value in json.loads(header).items() if name != stored.DIGEST}
    old = "\n".join([json.dumps(fields), *lines]) + "\n"
    written.write_text(old)
    assert len(record.read(written).results) == 4
    assert corrupt(old) != old
    written.write_text(corrupt(old))
    with pytest.raises(UserError, match=f"corrupt .*{reason}"):
        record.read(written)


def test_the_record_of_another_group_is_refused(written):
    """As `cp` makes it; nothing is taken for trained, and the folder can be archived."""
    other = Group((tiny.spec(width=9),), (0, 1))
    workdir = written.parents[2]
    path = runs.record_path(workdir, other)
    path.parent.mkdir()
    shutil.copy(written, path)
    with pytest.raises(UserError, match=f"`workdir`: {path} is corrupt .*record of the group {GROUP.name}"):
        runs.check([other], workdir, lambda spec: tiny.SPLITS)
    with pytest.raises(UserError, match="`resume=false`"):
        runs.results([other], workdir)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", None], ids=["empty", "half", "list", "bytes", "folder"]
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_corrupt_description_is_rewritten(tmp_path, monkeypatch, caplog, content, finished):
    monkeypatch.setattr(train, "train", tiny.stub_train)
    with contextlib.suppress(Preempted):
        runs.run([GROUP], tmp_path, lambda spec: tiny.SPLITS, stop=lambda: not finished)
    path = runs.directory(tmp_path, GROUP) / "group.json"
    if not finished:
        record.write_description(path, GROUP, tiny.SPLITS.digest)
    intact = path.read_bytes()
    runs.check([GROUP], tmp_path, lambda spec: tiny.SPLITS)
    assert not caplog.messages
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    runs.check([GROUP], tmp_path, lambda spec: tiny.SPLITS)
    assert path.read_bytes() == intact
    (warning,) = caplog.messages
    assert str(path) in warning and "corrupt, rewriting it" in warning and "\n" not in warning


def test_a_fifo_is_refused_and_not_waited_for(written):
    written.unlink()
    os.mkfifo(written)
    with pytest.raises(UserError, match="not a regular file"):
        record.read(written)
