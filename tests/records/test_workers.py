"""Worker processes, with stubbed training: work is shared, reported and never lost."""

import json
import os
import re
import threading
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from wsn.devices import shares
from wsn.errors import Preempted, UserError
from wsn.machine import usable_cores
from wsn.networks import models
from wsn.records import runs, workers
from wsn.spec import Group
from wsn.training import train

GROUPS = [Group((tiny.spec(width=width, epochs=20),), (0, 1)) for width in range(1, 6)]
COSTS = {group.name: float(group.specs[0].width) for group in GROUPS}

pytestmark = pytest.mark.skipif(usable_cores() < 2, reason="two workers need two cores")


@pytest.fixture(autouse=True)
def restored_training(monkeypatch):
    """Training that a test stubs in this process is restored after it."""
    monkeypatch.setattr(train, "train", train.train)


def run(folder: Path, count: str = "2", groups=GROUPS, watch=lambda *_: None, stop=lambda: False, **stub):
    workers.run(
        groups,
        folder,
        partial(tiny.stub_source, folder=folder, **stub),
        workers=count,
        costs=COSTS,
        checkpoint_seconds=1000.0,
        watch=watch,
        stop=stop,
    )


def assert_finished(folder: Path) -> None:
    """Every network has the values of uninterrupted training, bit for bit, and no other files are left."""
    for group in GROUPS:
        tiny.assert_holds(runs.results([group], folder), group)
        names = {path.name for path in runs.directory(folder, group).iterdir()}
        assert names == {"group.json", "record.jsonl"}


def pids(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob("*.share")]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_share_the_groups_each_on_its_own_core(tmp_path):
    seen = []
    run(tmp_path, groups=GROUPS[:1], count="1")
    before = pids(tmp_path)
    run(  # long enough that the first worker does not end before the second has begun
        tmp_path,
        watch=lambda group, share, history: seen.append((group, round(20 * share), history)),
        seconds=0.1,
    )
    assert_finished(tmp_path)
    assert seen[0] == (GROUPS[0], 20, None), "what was finished before is reported first"
    epochs = sorted((group.specs[0].width, epoch) for group, epoch, _ in seen[1:])
    assert epochs == [(width, epoch) for width in range(2, 6) for epoch in range(1, 21)], (
        "and every epoch once"
    )
    *_, point = tiny.stub_train(GROUPS[4])
    expected = point.history
    last = [history for group, epoch, history in seen if (group, epoch) == (GROUPS[4], 20)][0]
    assert last.curves.keys() == expected.curves.keys() and list(last.step) == list(expected.step[-2:])
    np.testing.assert_array_equal(last.curves["test_accuracy"], expected.curves["test_accuracy"][-2:])
    assert {group.specs[0].width for group, _, _ in seen[1:3]} <= {4, 5}, "the longest first"
    workers = [pid for pid in pids(tmp_path) if pid not in before]
    cores = [json.loads((tmp_path / f"{pid}.share").read_text())["cores"] for pid in workers]
    assert sorted(cores) == [sorted(part.cores) for part in shares.shares(2)]
    assert before == [os.getpid()] and not any(map(is_running, workers))


def test_a_stop_saves_what_all_have_and_the_same_call_resumes(tmp_path, capfd):
    begun = threading.Event()
    with pytest.raises(Preempted):
        run(tmp_path, watch=lambda *_: begun.set(), stop=begun.is_set, seconds=0.1)
    saved = list(tmp_path.glob("runs/*/checkpoints/*.sha256"))
    assert 1 <= len(saved) <= 2 and not list(tmp_path.glob("runs/*/record.jsonl"))
    run(tmp_path, count="1")
    assert_finished(tmp_path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("deaths", [1, 2])
def test_killed_workers_are_a_line_each_and_others_take_over_their_networks(tmp_path, capfd, deaths):
    """By the others, and when there is none by a new one."""
    run(tmp_path, deaths=deaths)
    assert_finished(tmp_path)
    assert (
        capfd.readouterr().err
        == deaths * "a worker was killed (signal 9): other processes take over its networks\n"
    )


@pytest.mark.parametrize(
    ("error", "message", "printed"),
    [
        (UserError("`data_dir`: not here"), "^`data_dir`: not here$", "^$"),
        (ValueError("a bug"), "^a worker failed; [^\n]*$", "ValueError: a bug\n$"),
    ],
)
def test_an_error_of_a_worker_ends_all(tmp_path, capfd, error, message, printed):
    with pytest.raises(UserError, match=message):
        run(tmp_path, groups=[GROUPS[0], GROUPS[4]], seconds=0.3, error=error)
    assert re.search(printed, capfd.readouterr().err)
    assert not runs.record_path(tmp_path, GROUPS[4]).exists(), "the other one stopped"


def test_an_interrupt_leaves_no_process(tmp_path, capfd):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, watch=interrupt, seconds=0.05)
    assert pids(tmp_path) and not any(map(is_running, pids(tmp_path)))
    assert capfd.readouterr().err == ""


# How many.


@pytest.mark.parametrize("count", ["0", "-1", "many", "1.5", "", "²"])
def test_a_bad_number_is_one_line(count):
    with pytest.raises(UserError, match=f"^`workers={count}` is not [^\n]*$"):
        workers.prepare(count, several_hosts=False)


def test_too_many_workers_and_several_hosts_are_one_line(monkeypatch):
    monkeypatch.setattr(workers, "max_shares", lambda: 4)
    workers.prepare("4", several_hosts=False)
    workers.prepare("1", several_hosts=True)
    with pytest.raises(UserError, match="^`workers=5`: each takes a core [^\n]*at most 4$"):
        workers.prepare("5", several_hosts=False)
    for count in ("2", "auto"):
        with pytest.raises(UserError, match=f"^`workers={count}` [^\n]*`coordinator`[^\n]*$"):
            workers.prepare(count, several_hosts=True)


def test_the_parent_leaves_several_gpus_to_its_workers(monkeypatch):
    settings = []
    monkeypatch.setattr(jax.config, "update", lambda *setting: settings.append(setting))
    for count, gpus, expected in (("auto", 4, True), ("2", 4, True), ("1", 4, False), ("auto", 1, False)):
        monkeypatch.setattr(workers, "gpus", lambda gpus=gpus: tuple("0123"[:gpus]))
        monkeypatch.setattr(workers, "max_shares", lambda gpus=gpus: gpus)
        workers.prepare(count, several_hosts=False)
        assert settings == ([("jax_platforms", "cpu")] if expected else [])
        settings.clear()


def test_auto_starts_workers_where_they_pay(monkeypatch):
    monkeypatch.setattr(workers, "max_shares", lambda: 4)
    kinds = {"mlp": False, "resnet18": True}
    monkeypatch.setattr(workers, "goes_step_by_step", kinds.__getitem__)
    monkeypatch.setattr(models, "build", lambda spec, *_: spec.model)
    mlp, resnet = (
        [Group((tiny.spec(model=model, width=width),), (0,)) for width in range(1, 7)] for model in kinds
    )
    number = partial(workers.number, source_of=lambda spec: tiny.SPLITS)
    assert number("auto", resnet) == 4 and number("auto", mlp) == 1 and number("auto", [*mlp, *resnet]) == 1
    assert number("auto", resnet[:2]) == 2 and number("3", mlp) == 3 and number("3", mlp[:2]) == 2
    assert number("auto", []) == number("2", []) == 1
    monkeypatch.setattr(workers, "gpus", lambda: tuple("0123"))
    assert number("auto", mlp) == 4
