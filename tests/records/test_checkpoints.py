"""Checkpoints: every bit back, the newest two kept, damage skipped, a full disk told in one line."""

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


def assert_equal(found: Snapshot | None, expected: Snapshot) -> None:
    assert found is not None
    steps = [{"step": snapshot.history.step} for snapshot in (found, expected)]
    curves = [snapshot.history.curves for snapshot in (found, expected)]
    for left, right in ((found.state, expected.state), curves, steps):
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


def test_a_checkpoint_gives_every_bit_back(three, tmp_path):
    assert_equal(checkpoints.load(three), snapshot(10))
    assert checkpoints.load(tmp_path / "none") is None


def test_the_newest_two_are_kept_and_nothing_else(three):
    assert names(three) == {"2", "2.sha256", "10", "10.sha256"}


def flip(content: bytes, place: random.Random) -> bytes:
    changed = bytearray(content)
    changed[place.randrange(len(changed))] ^= 1 << place.randrange(8)
    return bytes(changed)


DAMAGE = {
    "bit": flip,
    "end": lambda content, place: content[: place.randrange(len(content))],
    "zeros": lambda content, place: bytes(len(content)),
}


@pytest.mark.parametrize("damage", [*DAMAGE, "missing"])
def test_damage_of_any_file_of_the_newest_is_told_and_the_one_before_is_used(three, tmp_path, caplog, damage):
    files = [
        path
        for path in sorted(three.rglob("*"))
        if path.is_file() and "10" in path.relative_to(three).parts[0]
    ]
    assert len(files) > 5
    for number, whole in enumerate(files):
        folder = tmp_path / str(number)
        shutil.copytree(three, folder)
        file = folder / whole.relative_to(three)
        if damage == "missing":
            file.unlink()
        else:
            file.write_bytes(DAMAGE[damage](whole.read_bytes(), random.Random(number)))
        assert_equal(checkpoints.load(folder), snapshot(2))
        told = list(caplog.messages)
        caplog.clear()
        if file.suffix == ".sha256" and damage == "missing":  # as after a kill just before it is written
            assert told == []
        else:
            assert len(told) == 1 and "\n" not in told[0]
            assert told[0].startswith(f"{folder / '10'}: damaged checkpoint")
        # The next one takes its place; the one that was whole stays.
        checkpoints.save(folder, 3, snapshot(3))
        assert names(folder) == {"2", "2.sha256", "3", "3.sha256"}


def test_nobody_goes_on_from_the_checkpoint_of_another(tmp_path, caplog):
    checkpoints.save(tmp_path, 3, snapshot(3), "mine")
    assert_equal(checkpoints.load(tmp_path, "mine"), snapshot(3))
    assert not caplog.messages and checkpoints.load(tmp_path, "yours") is None
    assert "it is of mine" in caplog.messages[0]


def test_without_a_whole_one_training_starts_from_the_first_epoch(three, tmp_path, caplog):
    shutil.copytree(three, tmp_path / "checkpoints")
    for digest in (tmp_path / "checkpoints").glob("*.sha256"):
        digest.write_text("")
    assert checkpoints.load(tmp_path / "checkpoints") is None
    assert caplog.messages[-1].endswith("no checkpoint is whole, starting from the first step")


def test_a_full_disk_is_told_in_one_line_and_loses_nothing(three, tmp_path, caplog):
    """The limit on the size of files fails as a full disk does, in the middle of a write."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(three, folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError) as error:
            checkpoints.save(folder, 11, snapshot(11))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    message = str(error.value)
    assert message.startswith("--workdir: cannot write ") and "\n" not in message and len(message) < 300
    assert str(folder / "11") in message and "File too large" in message
    assert caplog.messages == []
    assert_equal(checkpoints.load(folder), snapshot(10))
    checkpoints.save(folder, 11, snapshot(11))
    assert names(folder) == {"10", "10.sha256", "11", "11.sha256"}


def test_a_workdir_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(UserError, match="^`workdir`: cannot write [^\n]*$"):
        checkpoints.save(tmp_path / "checkpoints", 1, snapshot(1))


# In a run; training itself is pretended.


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Train GROUP in a folder; returns the numbers of the epochs that were trained."""

    def run(**options) -> list[int]:
        epochs: list[int] = []
        watch = options.pop("watch", lambda g, done, history: None)

        def note(g, done, history):
            epochs.append(round(6 * done))
            watch(g, done, history)

        runs.run([GROUP], tmp_path, lambda spec: tiny.SPLITS, watch=note, **options)
        return epochs

    monkeypatch.setattr(train, "train", tiny.pretended)
    return run


def record(workdir: Path) -> list[str]:
    return runs.record_path(workdir, GROUP).read_text().splitlines()[1:]


@pytest.fixture
def uninterrupted(monkeypatch, tmp_path) -> list[str]:
    monkeypatch.setattr(train, "train", tiny.pretended)
    runs.run([GROUP], tmp_path / "whole", lambda spec: tiny.SPLITS)
    return record(tmp_path / "whole")


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1000.0])
@pytest.mark.parametrize("epochs", [1, 5])
def test_a_run_that_is_told_to_stop_saves_that_epoch(
    run, tmp_path, uninterrupted, epochs, checkpoint_seconds
):
    asked = iter([False] * epochs + [True])  # once before the group, then after every epoch
    with pytest.raises(Preempted):
        run(stop=lambda: next(asked), checkpoint_seconds=checkpoint_seconds)
    assert str(3 * epochs) in names(runs.directory(tmp_path, GROUP) / "checkpoints")
    assert run() == list(range(epochs + 1, 7))
    assert record(tmp_path) == uninterrupted
    assert names(runs.directory(tmp_path, GROUP)) == {"group.json", "record.jsonl"}


def test_a_run_that_is_told_to_stop_after_its_last_epoch_is_finished(run, tmp_path, uninterrupted):
    asked = iter([False] * 6 + [True])
    assert run(stop=lambda: next(asked)) == [1, 2, 3, 4, 5, 6]
    assert record(tmp_path) == uninterrupted
    with pytest.raises(Preempted):
        run(stop=lambda: True)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(run, tmp_path, uninterrupted):
    def interrupt(g, done, history):
        if history.rows == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(checkpoint_seconds=0.0, watch=interrupt)
    folder = runs.directory(tmp_path, GROUP) / "checkpoints"
    assert names(folder) == {"9", "9.sha256", "12", "12.sha256"}
    os.truncate(folder / "12" / "_METADATA", 10)
    assert run(checkpoint_seconds=0.0) == [4, 5, 6]
    assert record(tmp_path) == uninterrupted
