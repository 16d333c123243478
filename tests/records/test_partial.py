"""What a group has so far: a record that grows while it trains, and who trains it."""

import datetime
import os
import subprocess

import numpy as np
import pytest
import tiny

from wsn.errors import Preempted, UserError
from wsn.records import partial, record, runs
from wsn.spec import Group
from wsn.training import train

GROUP = Group((tiny.spec(epochs=6),), (0, 1))


@pytest.fixture
def seen(monkeypatch, tmp_path) -> list[record.Record]:
    """What lies in the folder at the start of every epoch of pretended training."""
    found = []

    def pretend(group, splits, **settings):
        for moment in tiny.pretended(group, splits, resume=settings["resume"]):
            found.append(record.read(runs.directory(tmp_path, group) / partial.NAME))
            yield moment

    monkeypatch.setattr(train, "train", pretend)
    monkeypatch.setattr(partial, "SECONDS", 0.0)
    monkeypatch.setattr(partial, "PATIENCE", 0.0)
    return found


def run(workdir, **options) -> None:
    runs.run([GROUP], workdir, lambda spec: tiny.SPLITS, **options)


def test_it_is_the_beginning_of_the_record(seen, tmp_path):
    run(tmp_path)
    whole = record.read(runs.record_path(tmp_path, GROUP))
    assert [len(found.results[0].steps) for found in seen] == list(range(6))
    for rows, found in enumerate(seen):
        for now, end in zip(found.results, whole.results, strict=True):
            assert (now.spec, now.seed) == (end.spec, end.seed)
            for name, values in now.curves.items():
                np.testing.assert_array_equal(values, end.curves[name][:rows])
    assert not (runs.directory(tmp_path, GROUP) / partial.NAME).exists()


def test_it_says_how_far_training_is_and_the_time_left(seen, tmp_path):
    run(tmp_path)
    shares, left = zip(*((found.header["share"], found.header["left"]) for found in seen), strict=True)
    assert shares == (None, *(pytest.approx(rows / 6) for rows in range(1, 6)))
    assert left[:2] == (None, None) and all(seconds >= 0 for seconds in left[2:])


def test_what_is_stopped_stays_and_goes_on(seen, tmp_path):
    with pytest.raises(Preempted):
        run(tmp_path, stop=lambda: len(seen) == 3)
    found = record.read(runs.directory(tmp_path, GROUP) / partial.NAME)
    assert len(found.results[0].steps) == 3 and found.header["share"] == 0.5
    run(tmp_path)
    assert len(seen[3].results[0].steps) == 3, "the curves of the checkpoint, at once"
    assert seen[3].header["share"] is None, "not known before the first evaluation"


def test_it_is_written_now_and_then(tmp_path, monkeypatch):
    writings = []
    monkeypatch.setattr(record, "save", lambda *args: writings.append(args))
    begun = partial.Partial(tmp_path, GROUP, None, None, None)
    for moment in tiny.pretended(GROUP):
        begun(moment.fraction_done, moment.history)
    assert len(writings) == 1


def test_a_full_disk_ends_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise UserError("--workdir: cannot write")

    monkeypatch.setattr(record, "save", full)
    partial.Partial(tmp_path, GROUP, None, None, None)


def test_who_trains(seen, tmp_path):
    run(tmp_path)
    header = seen[-1].header
    assert header["owner"] == {"host": os.uname().nodename, "pid": os.getpid()}
    assert partial.state(header) == "training"
    with subprocess.Popen(["true"]) as gone:
        pass
    assert partial.state(header | {"owner": header["owner"] | {"pid": gone.pid}}) == "stopped"
    elsewhere = header | {"owner": {"host": "elsewhere", "pid": gone.pid}}
    assert partial.state(elsewhere) == "training"
    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    assert partial.state(elsewhere | {"written": long_ago.isoformat()}) == "silent"
