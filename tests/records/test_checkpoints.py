"""Checkpoints: every bit comes back, two are kept, corrupt ones are skipped, a full disk is one line."""

import os
import random
import resource
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tiny

from wsn.errors import Preempted, UserError
from wsn.records import checkpoints, runs
from wsn.spec import Group
from wsn.training import train
from wsn.training.history import History, Snapshot

GROUP = Group((tiny.spec(epochs=6),), (0, 1))


def snapshot(epochs: int) -> Snapshot:
    state = {
        ".params['hidden_0']['kernel']": np.random.default_rng(epochs).standard_normal(
            (2, 90, 5), np.float32
        ),
        ".params['hidden_0']['bias']": np.array([[0.0], [-0.0]], np.float32),
        ".optimizer[0].trace['hidden_0']['kernel']": np.full((2, 9, 5), np.nan, np.float32),
        ".optimizer[1].count": np.array([epochs, epochs], np.int32),
        ".half": np.arange(4, dtype=ml_dtypes.bfloat16),
    }
    curves = {name: np.ones((epochs, 2), np.float32) for name in tiny.CURVES}
    return Snapshot(state, History(3 * np.arange(1, epochs + 1), curves))


def assert_equal(loaded: Snapshot | None, expected: Snapshot) -> None:
    assert loaded is not None
    steps = [{"step": snapshot.history.step} for snapshot in (loaded, expected)]
    curves = [snapshot.history.curves for snapshot in (loaded, expected)]
    for left, right in ((loaded.state, expected.state), curves, steps):
        assert left.keys() == right.keys()
        for name in right:
            assert left[name].tobytes() == right[name].tobytes()
            assert left[name].dtype == right[name].dtype and left[name].shape == right[name].shape


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    """A folder in which three checkpoints were saved."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    for epochs in (1, 2, 10):
        checkpoints.save(folder, epochs, snapshot(epochs))
    return folder


def test_the_newest_of_two_checkpoints_gives_every_bit_back(three, tmp_path):
    assert names(three) == {"2", "2.sha256", "10", "10.sha256"}
    assert_equal(checkpoints.load(three), snapshot(10))
    assert checkpoints.load(tmp_path / "none") is None


def flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


CORRUPTIONS = {
    "bit": flip,
    "end": lambda content, rng: content[: rng.randrange(len(content))],
    "zeros": lambda content, rng: bytes(len(content)),
}


@pytest.mark.parametrize("corruption", [*CORRUPTIONS, "missing"])
def test_corruption_of_any_file_of_the_newest_is_a_warning_and_the_one_before_is_used(
    three, tmp_path, caplog, corruption
):
    files = [f for f in sorted(three.rglob("*")) if f.is_file() and "10" in f.relative_to(three).parts[0]]
    assert len(files) > 5
    for number, intact in enumerate(files):
        folder = tmp_path / str(number)
        shutil.copytree(three, folder)
        file = folder / intact.relative_to(three)
        if corruption == "missing":
            file.unlink()
        else:
            file.write_bytes(CORRUPTIONS[corruption](intact.read_bytes(), random.Random(number)))
        assert_equal(checkpoints.load(folder), snapshot(2))
        warnings = list(caplog.messages)
        caplog.clear()
        if file.suffix == ".sha256" and corruption == "missing":  # as after a kill just before it is written
            assert warnings == []
        else:
            assert len(warnings) == 1 and "\n" not in warnings[0]
            assert warnings[0].startswith(f"{folder / '10'}: corrupt checkpoint")
        checkpoints.save(folder, 3, snapshot(3))
        assert names(folder) == {"2", "2.sha256", "3", "3.sha256"}, "the intact one stays"


def test_the_checkpoint_of_another_group_is_not_used(tmp_path, caplog):
    checkpoints.save(tmp_path, 3, snapshot(3), "mine")
    assert_equal(checkpoints.load(tmp_path, "mine"), snapshot(3))
    assert not caplog.messages and checkpoints.load(tmp_path, "yours") is None
    assert "it is of the group mine" in caplog.messages[0]
    assert caplog.messages[-1].endswith("no checkpoint is intact, starting from the first step")


def test_a_full_disk_is_one_line_and_loses_nothing(three, tmp_path, caplog):
    """A limit on the size of files fails as a full disk does, in the middle of a write."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(three, folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(
            UserError, match=rf"^`workdir`: cannot write {folder / '11'} \(File too large\)[^\n]*$"
        ):
            checkpoints.save(folder, 11, snapshot(11))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caplog.messages == []
    assert_equal(checkpoints.load(folder), snapshot(10))
    checkpoints.save(folder, 11, snapshot(11))
    assert names(folder) == {"10", "10.sha256", "11", "11.sha256"}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(UserError, match="^`workdir`: cannot write [^\n]*$"):
        checkpoints.save(tmp_path / "checkpoints", 1, snapshot(1))


# In a run, with stubbed training.


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Train GROUP in a folder; returns the numbers of the epochs that were trained."""

    def run(folder: Path = tmp_path, **options) -> list[int]:
        epochs: list[int] = []
        watch = options.pop("watch", lambda group, fraction, history: None)

        def note(group, fraction, history):
            epochs.append(round(6 * fraction))
            watch(group, fraction, history)

        runs.run([GROUP], folder, lambda spec: tiny.SPLITS, watch=note, **options)
        return epochs

    monkeypatch.setattr(train, "train", tiny.stub_train)
    return run


def record(workdir: Path) -> list[str]:
    return runs.record_path(workdir, GROUP).read_text().splitlines()[1:]


@pytest.fixture
def uninterrupted(run, tmp_path) -> list[str]:
    run(tmp_path / "whole")
    return record(tmp_path / "whole")


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1000.0])
@pytest.mark.parametrize("epochs", [1, 5])
def test_a_run_that_is_stopped_saves_that_epoch(run, tmp_path, uninterrupted, epochs, checkpoint_seconds):
    answers = iter([False] * epochs + [True])  # once before the group, then after every epoch
    with pytest.raises(Preempted):
        run(stop=lambda: next(answers), checkpoint_seconds=checkpoint_seconds)
    assert str(3 * epochs) in names(runs.directory(tmp_path, GROUP) / "checkpoints")
    assert run() == list(range(epochs + 1, 7))
    assert record(tmp_path) == uninterrupted
    assert names(runs.directory(tmp_path, GROUP)) == {"group.json", "record.jsonl"}


def test_a_run_that_is_stopped_after_its_last_epoch_is_finished(run, tmp_path, uninterrupted):
    answers = iter([False] * 6 + [True])
    assert run(stop=lambda: next(answers)) == [1, 2, 3, 4, 5, 6]
    assert record(tmp_path) == uninterrupted
    with pytest.raises(Preempted):
        run(stop=lambda: True)


def test_a_run_resumes_from_the_checkpoint_before_a_corrupt_one(run, tmp_path, uninterrupted):
    def interrupt(group, fraction, history):
        if history.rows == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(checkpoint_seconds=0.0, watch=interrupt)
    folder = runs.directory(tmp_path, GROUP) / "checkpoints"
    assert names(folder) == {"9", "9.sha256", "12", "12.sha256"}
    os.truncate(folder / "12" / "_METADATA", 10)
    assert run(checkpoint_seconds=0.0) == [4, 5, 6]
    assert record(tmp_path) == uninterrupted
