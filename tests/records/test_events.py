"""TensorBoard reads the curves of the records, without duplicates, however often training was stopped."""

import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny

from wsn.errors import Preempted, UserError
from wsn.machine import usable_cores
from wsn.records import events, runs, workers
from wsn.records.record import Label
from wsn.spec import Group
from wsn.training import train
from wsn.training.history import History

pytest.importorskip("tensorboardX", reason="tensorboardX writes the events")
SPECS = tiny.spec(epochs=6), tiny.spec(epochs=6, learning_rate=0.1, kept=tiny.kept(20, 10))
GROUP = Group(SPECS, (0, 1))
LABELS = {SPECS[0]: Label("mine", "quick", 5, "dense"), SPECS[1]: Label("mine", "quick", 3, "sparse")}


@pytest.fixture(autouse=True)
def stubbed_training(monkeypatch):
    monkeypatch.setattr(train, "train", tiny.stub_train)


@pytest.fixture
def read(monkeypatch):
    """Folder → run → tag → [(step, value), …], by TensorBoard's reader without TensorFlow."""
    pytest.importorskip("tensorboard", reason="TensorBoard reads the events")
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", types.ModuleType("notf"))
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    def read(folder: Path) -> dict:
        reader = EventMultiplexer(size_guidance={"scalars": 0, "tensors": 0})
        reader.AddRunsFromDirectory(str(folder / events.FOLDER)).Reload()
        return {
            name: {
                tag: [(event.step, event.value) for event in reader.Scalars(name, tag)]
                for tag in tags["scalars"]
            }
            for name, tags in reader.Runs().items()
        }

    return read


def run(folder: Path, groups=(GROUP,), count: str = "1", stop=lambda: False, tensorboard=True) -> None:
    workers.run(
        groups,
        folder,
        partial(tiny.stub_source, folder=folder, seconds=0.0 if count == "1" else 0.01),
        workers=count,
        costs=dict.fromkeys((group.name for group in groups), 1.0),
        labels=LABELS,
        checkpoint_seconds=0.0,
        tensorboard=tensorboard,
        stop=stop,
    )


def expected(group: Group = GROUP) -> dict[str, dict]:
    """Run → tag → [(step, value), …] of uninterrupted training."""
    *_, last = tiny.stub_train(group)
    steps, curves = last.history
    curves_of_run = {}
    for i, (spec, seed) in enumerate(group.members):
        folder = events.folder_of(Path(), spec, seed, LABELS.get(spec, Label()))
        curves_of_run[str(folder.relative_to(events.FOLDER))] = {
            events.tag(name): list(zip(steps.tolist(), values[:, i].tolist(), strict=True))
            for name, values in curves.items()
        }
    return curves_of_run


def test_every_evaluation_of_every_network_is_read_back(tmp_path, read):
    run(tmp_path)
    curves_of_run = read(tmp_path)
    assert curves_of_run == expected()
    families = {name.rpartition("/width_")[0] for name in curves_of_run}
    assert families == {"mine/dense_base_5", "mine/sparse_base_3"}
    assert {tag for tags in curves_of_run.values() for tag in tags} == {
        "train/loss",
        "train/accuracy",
        "test/loss",
        "test/accuracy",
    }


def test_a_resume_duplicates_nothing(tmp_path, read):
    """Stopped after every evaluation, the third time without events, and complete in the end."""
    for start in range(6):
        answers = iter([False, True])
        try:
            run(tmp_path, stop=lambda answers=answers: next(answers), tensorboard=start != 2)
        except Preempted:
            seen = {len(rows) for tags in read(tmp_path).values() for rows in tags.values()}
            assert seen == {start + (start != 2)}
    assert read(tmp_path) == expected()


def test_a_network_trained_without_events_gets_them_from_its_record(tmp_path, read):
    run(tmp_path, tensorboard=False)
    assert not (tmp_path / events.FOLDER).exists()
    run(tmp_path)
    run(tmp_path)
    assert read(tmp_path) == expected()


@pytest.mark.slow
@pytest.mark.skipif(usable_cores() < 2, reason="two workers need two cores")
def test_workers_write_the_events_of_the_networks_that_they_train(tmp_path, read):
    groups = [Group((tiny.spec(width=width, epochs=5),), (0, 1)) for width in range(1, 5)]
    run(tmp_path, groups[:1], tensorboard=False)
    run(tmp_path, groups, count="2")
    assert read(tmp_path) == {name: tags for group in groups for name, tags in expected(group).items()}


def test_a_diverged_network_is_nan_from_then_on_and_probes_have_their_group(tmp_path, read):
    group = Group(SPECS[:1], (0,))
    curves = {"test_loss": np.float32([[1.0], [np.nan]]), "all/path": np.array([[0.5], [np.nan]])}
    events.Events(tmp_path, None)(group, 1.0, History(np.array([3, 6]), curves))
    [tags] = read(tmp_path).values()
    assert list(tags) == ["test/loss", "all/path"]
    for values in tags.values():
        assert [step for step, _ in values] == [3, 6] and np.isnan(values[1][1]) and values[0][1] > 0


def test_every_network_has_another_folder():
    spec = tiny.spec(kept=tiny.kept(20, 10))
    others = [tiny.spec(kept=tiny.kept(10, 20)), tiny.spec(kept=tiny.kept(20, 10), epochs=9)]
    assert len({events.folder_of(Path(), one, 0, Label()) for one in (spec, *others)}) == 3


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("tensorboardX")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="^`tensorboard` needs tensorboardX: pip install"):
        events.library()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / events.FOLDER).write_text("a file")
    with pytest.raises(UserError, match="^`workdir`: cannot write [^\n]*$"):
        run(tmp_path)
    assert not runs.has_record(tmp_path, GROUP)
