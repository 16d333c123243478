"""The curves of a group that is training: a record that grows, with how far it is and which process trains it."""

import datetime
import os
import platform
import subprocess

import numpy as np
import pytest
import tiny

from wsn.errors import Preempted, UserError
from wsn.records import partial, record, runs
from wsn.spec import Group
from wsn.training import train
from wsn.training.history import EMPTY

GROUP = Group((tiny.spec(epochs=6),), (0, 1))


@pytest.fixture
def seen(monkeypatch, tmp_path) -> list[record.Record]:
    """The partial record at the start of every epoch."""
    records = []

    def reading(group, splits, **settings):
        for point in tiny.stub_train(group, splits, resume=settings["resume"]):
            records.append(record.read(runs.directory(tmp_path, group) / partial.NAME))
            yield point

    monkeypatch.setattr(train, "train", reading)
    monkeypatch.setattr(partial, "SECONDS", 0.0)
    monkeypatch.setattr(partial, "PATIENCE", 0.0)
    return records


def run(workdir, **options) -> None:
    runs.run([GROUP], workdir, lambda spec: tiny.SPLITS, **options)


def test_it_is_the_first_rows_of_the_record_with_the_fraction_done_and_the_time_left(seen, tmp_path):
    run(tmp_path)
    final = record.read(runs.record_path(tmp_path, GROUP))
    assert [len(partial.results[0].steps) for partial in seen] == list(range(6))
    for rows, growing in enumerate(seen):
        for now, end in zip(growing.results, final.results, strict=True):
            assert (now.spec, now.seed) == (end.spec, end.seed)
            for name, values in now.curves.items():
                np.testing.assert_array_equal(values, end.curves[name][:rows])
    assert not (runs.directory(tmp_path, GROUP) / partial.NAME).exists()
    fractions, left = zip(
        *((growing.header["share"], growing.header["left"]) for growing in seen), strict=True
    )
    assert fractions == (None, *(pytest.approx(rows / 6) for rows in range(1, 6)))
    assert left[:2] == (None, None) and all(seconds >= 0 for seconds in left[2:])


def test_it_stays_when_training_stops_and_starts_from_the_checkpoint_when_it_resumes(seen, tmp_path):
    with pytest.raises(Preempted):
        run(tmp_path, stop=lambda: len(seen) == 3)
    stopped = record.read(runs.directory(tmp_path, GROUP) / partial.NAME)
    assert len(stopped.results[0].steps) == 3 and stopped.header["share"] == 0.5
    run(tmp_path)
    assert len(seen[3].results[0].steps) == 3
    assert seen[3].header["share"] is None, "not known before the first evaluation"


def test_it_is_written_now_and_then_and_a_full_disk_is_ignored(tmp_path, monkeypatch):
    writes = []

    def full(*args, **facts):
        writes.append(args)
        raise UserError("`workdir`: cannot write")

    monkeypatch.setattr(record, "write", full)
    writer = partial.Partial(tmp_path, GROUP, EMPTY, None, None)
    for point in tiny.stub_train(GROUP):
        writer(point.fraction_done, point.history)
    assert len(writes) == 1


def test_its_state_says_whether_the_process_that_wrote_it_still_trains(seen, tmp_path):
    run(tmp_path)
    header = seen[-1].header
    assert header["owner"] == {"host": platform.node(), "pid": os.getpid()}
    assert partial.state(header) == "training"
    with subprocess.Popen(["true"]) as gone:
        pass
    assert partial.state(header | {"owner": header["owner"] | {"pid": gone.pid}}) == "stopped"
    elsewhere = header | {"owner": {"host": "elsewhere", "pid": gone.pid}}
    assert partial.state(elsewhere) == "training"
    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    assert partial.state(elsewhere | {"written": long_ago.isoformat()}) == "silent"
