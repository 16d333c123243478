"""Runs on disk: records, claims, full disks, damage, interruption; training itself is pretended."""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import wsn
from wsn.data.language.text import Text
from wsn.errors import UserError
from wsn.records import claims, progress, record, runs
from wsn.spec import Group, Spec, changed_fields, from_fields
from wsn.stored import cannot_write, replacing
from wsn.training import train
from wsn.training.history import History

FOLDERS = [Path(tiny.__file__).parent, Path(wsn.__file__).parents[1]]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, FOLDERS))}


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """Pretend training; the names of the groups that were trained, a name per start."""
    started = []

    def pretend(group, splits, *, resume=None, execution="masked"):
        started.append(group.name)
        return tiny.pretended(group, splits, resume=resume)

    monkeypatch.setattr(train, "train", pretend)
    return started


def group(*seeds: int, **changes) -> Group:
    return Group((tiny.spec(**changes),), seeds or (0, 1))


def run(groups, workdir, **options) -> None:
    runs.run(groups, workdir, lambda spec: tiny.SPLITS, **options)


def expected(of: Group) -> History:
    *_, last = tiny.pretended(of)
    return last.history


def assert_holds(results: list[record.Result], of: Group) -> None:
    """Every member of the group once, in order, with the values of uninterrupted training, bit for bit."""
    assert [(r.spec, r.seed) for r in results] == list(of.members)
    for i, result in enumerate(results):
        assert result.status == "finished"
        np.testing.assert_array_equal(result.steps, expected(of).step)
        for name, values in expected(of).curves.items():
            np.testing.assert_array_equal(result.curves[name], values[:, i])
            assert result.curves[name].dtype == np.float32


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def one_line(error: pytest.ExceptionInfo, *parts: str) -> None:
    message = str(error.value)
    assert message.startswith("--") and "\n" not in message
    for part in parts:
        assert part in message


# Names.

CHANGES = {
    "dataset": "mnist",
    "normalization": "pixel",
    "train_samples": 10,
    "validation_samples": 3,
    "data_seed": 1,
    "model": "other",
    "width": 6,
    "hidden_layers": 2,
    "activation": "linear",
    "bias": True,
    "parameterization": "ntk",
    "kept": tiny.kept(3, 4),
    "mask": "io",
    "epochs": 4,
    "batch_size": 12,
    "learning_rate": 0.30000000000000004,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "decay_epochs": (2,),
    "decay_factor": 0.2,
    "order": "seed",
    "compute_dtype": "bfloat16",
    "augmentation": "crop_flip",
    "bottleneck": "linear",
    "inner": (("hidden_0", 2),),
    "task": "regression",
    "optimizer": "adam",
    "beta1": 0.8,
    "beta2": 0.99,
    "epsilon": 1e-6,
    "sequence": 16,
    "vocabulary": 500,
    "depth": 3,
    "gate_bias": -2.0,
    "front_end": "stack",
    "channels": 8,
    "bands": 16,
    "rate_width": 4,
    "stop": "minimum",
    "eval_every": 2,
    "clip": 1.0,
    "probes": ("path",),
}


def test_every_field_and_every_seed_is_in_the_name():
    assert CHANGES.keys() == {field.name for field in dataclasses.fields(Spec)}
    groups = [
        group(),
        group(1, 0),
        group(0),
        group(0, 1, 2),
        *(group(**{name: x}) for name, x in CHANGES.items()),
    ]
    assert len({g.name for g in groups}) == len(groups)
    assert group().name == group().name


def test_a_field_at_its_default_is_not_in_the_name():
    """So a field that a later version adds leaves every record in its place."""
    wider = dataclasses.make_dataclass("Wider", [("later", int, 0)], bases=(Spec,), frozen=True, kw_only=True)
    fields = changed_fields(tiny.spec())
    assert Group((wider(**fields),), (0, 1)).name == group().name
    assert Group((wider(**fields, later=1),), (0, 1)).name != group().name
    assert "momentum" not in fields and group(momentum=0.0).name == group().name


def test_neither_the_devices_nor_the_versions_are_in_the_name(monkeypatch, tmp_path, trained):
    name = group().name
    monkeypatch.setattr(record.jax, "device_count", lambda: 64)
    monkeypatch.setattr(record, "_version", lambda package: "99")
    assert group().name == name
    run([group()], tmp_path)
    header = json.loads(runs.record_path(tmp_path, group()).read_text().splitlines()[0])
    assert header["device"]["count"] == 64 and header["group"] == name


def test_specs_survive_json():
    for changes in ({}, CHANGES):
        spec = tiny.spec(**changes)
        assert from_fields(json.loads(json.dumps(changed_fields(spec)))) == spec


def test_groups_hold_specs_of_one_shape_once():
    Group((tiny.spec(), tiny.spec(learning_rate=1.0), tiny.spec(kept=tiny.kept(3, 4))), (0,))
    with pytest.raises(ValueError, match="may differ in"):
        Group((tiny.spec(), tiny.spec(width=6)), (0,))
    for specs, seeds in (((tiny.spec(), tiny.spec()), (0,)), ((tiny.spec(),), (0, 0))):
        with pytest.raises(ValueError, match="twice"):
            Group(specs, seeds)
    for specs, seeds in (((), (0,)), ((tiny.spec(),), ())):
        with pytest.raises(UserError, match="`seeds`"):
            Group(specs, seeds)


# Records.


@settings(deadline=None, max_examples=50)
@given(npst.arrays(np.float32, (3, 2), elements=st.floats(width=32, allow_infinity=False)))
def test_a_record_gives_every_bit_back(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("record") / group().name / "record.jsonl"
    curves = dict.fromkeys(("train_measure", "test_measure"), values)  # no metric, so of any value
    record.write(path, group(), History(np.array([3, 6, 9]), curves), 1.0)
    for i, result in enumerate(record.read(path).results):
        assert result.status == ("diverged" if np.isnan(values[:, i]).any() else "finished")
        for curve in result.curves.values():
            np.testing.assert_array_equal(curve, values[:, i])  # NaN equals NaN
            np.testing.assert_array_equal(
                np.signbit(curve), np.signbit(values[:, i]) & ~np.isnan(values[:, i])
            )


def test_a_record_says_what_was_trained_by_what_and_where(tmp_path, trained):
    run([group()], tmp_path)
    lines = [json.loads(line) for line in runs.record_path(tmp_path, group()).read_text().splitlines()]
    header, *members = lines
    assert header["specs"] == [
        {"dataset": "tiny", "width": 5, "epochs": 3, "batch_size": 8, "learning_rate": 0.3}
    ]
    assert header["seeds"] == [0, 1] and header["semantics"] == 1 and header["format"] == 1
    assert header["code"].keys() == {"version", "commit"} and set(header["packages"]) == set(record.PACKAGES)
    assert header["device"]["platform"] and header["seconds"] >= 0 and header["finished"].endswith("+00:00")
    assert [(m["spec"], m["seed"], m["status"]) for m in members] == [(0, 0, "finished"), (0, 1, "finished")]
    assert all(len(m[name]) == 3 for m in members for name in tiny.CURVES)
    assert files(runs.directory(tmp_path, group())) == {"group.json", "record.jsonl"}


def test_the_commit_of_an_enclosing_repository_is_not_ours(tmp_path, monkeypatch):
    author = "-c", "user.name=a", "-c", "user.email=a@example.org"
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, *author, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
    for package, commit in ((tmp_path / "lib" / "wsn", "unknown"), (tmp_path / "wsn", "[0-9a-f]{40}")):
        package.mkdir(parents=True)
        monkeypatch.setattr(wsn, "__file__", str(package / "__init__.py"))
        assert re.fullmatch(commit, record._commit.__wrapped__())


def test_a_group_that_diverges_in_part_is_finished(tmp_path, monkeypatch):
    def diverging(group, splits, *, resume=None, execution="masked"):
        for moment in tiny.pretended(group, resume=resume):
            curves = {
                name: np.where([[False, True]], np.nan, x).astype(np.float32)
                for name, x in moment.history.curves.items()
            }
            yield moment._replace(history=moment.history._replace(curves=curves))

    monkeypatch.setattr(train, "train", diverging)
    run([group()], tmp_path)
    assert [r.status for r in runs.results([group()], tmp_path)] == ["finished", "diverged"]
    assert np.isnan(runs.results([group()], tmp_path)[1].curves["test_loss"]).all()


def test_nothing_is_trained_twice(tmp_path, trained):
    groups = [group(), group(width=6)]
    seen = []
    run(groups, tmp_path)
    before = {g.name: runs.record_path(tmp_path, g).stat().st_mtime_ns for g in groups}
    run(groups, tmp_path, watch=lambda g, share, history: seen.append((g.name, share, history)))
    assert trained == [g.name for g in groups]
    assert seen == [(g.name, 1.0, None) for g in groups]
    assert before == {g.name: runs.record_path(tmp_path, g).stat().st_mtime_ns for g in groups}
    for g in groups:
        assert_holds(runs.results([g], tmp_path), g)


def test_more_seeds_make_another_group_and_the_table_merges_them(tmp_path, trained):
    families = [(tiny.spec(),), (tiny.spec(width=6),)]
    first = runs.cover(tmp_path, families, range(2))
    assert first == [Group(families[0], (0, 1)), Group(families[1], (0, 1))]
    run(first, tmp_path)
    more = runs.cover(tmp_path, families, range(5))
    assert more == [g for f in families for g in (Group(f, (0, 1)), Group(f, (2, 3, 4)))]
    run(more, tmp_path)
    assert len(trained) == 4
    found = runs.results(more, tmp_path)
    assert [(r.spec.width, r.seed) for r in found] == [(w, s) for w in (5, 6) for s in range(5)]
    assert_holds([r for r in found if r.seed > 1 and r.spec.width == 6], more[3])
    # Fewer seeds need nothing new, and seeds inside a larger group are found there.
    assert runs.cover(tmp_path, families[:1], range(1)) == [Group(families[0], (0, 1))]
    assert runs.cover(tmp_path, families[:1], [3]) == [Group(families[0], (2, 3, 4))]
    assert runs.cover(tmp_path, families[:1], [7, 1]) == [
        Group(families[0], (0, 1)),
        Group(families[0], (7,)),
    ]


def test_a_seed_in_two_records_counts_once(tmp_path, trained):
    run([group(0, 1), group(1, 2)], tmp_path)
    found = runs.results([group(0, 1), group(1, 2)], tmp_path)
    assert [r.seed for r in found] == [0, 1, 2]


def test_records_of_other_semantics_are_left_out(tmp_path, trained):
    run([group()], tmp_path)
    path = runs.record_path(tmp_path, group())
    header, rest = path.read_text().split("\n", 1)
    path.write_text(json.dumps(json.loads(header) | {"semantics": 0}) + "\n" + rest)
    assert runs.cover(tmp_path, [group().specs], range(3)) == [group(0, 1, 2)]


# Interruption and starting afresh.


def interrupted_after(epochs: int):
    def watch(group, done, history):
        if history.rows == epochs:
            raise KeyboardInterrupt

    return watch


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1000.0])
def test_an_interrupted_group_goes_on_to_the_same_record(tmp_path, trained, checkpoint_seconds):
    folder = runs.directory(tmp_path, group(epochs=6))
    for epochs in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            run(
                [group(epochs=6)],
                tmp_path,
                checkpoint_seconds=checkpoint_seconds,
                watch=interrupted_after(epochs),
            )
        # The epoch in which it was interrupted has no checkpoint: it is trained again.
        left = {"group.json", "partial.jsonl"}
        assert files(folder) == left | ({"checkpoints"} if not checkpoint_seconds else set())
    epochs_done = []
    run([group(epochs=6)], tmp_path, watch=lambda g, share, history: epochs_done.append(round(6 * share)))
    assert epochs_done == ([4, 5, 6] if not checkpoint_seconds else [1, 2, 3, 4, 5, 6])
    assert files(folder) == {"group.json", "record.jsonl"}
    assert_holds(runs.results([group(epochs=6)], tmp_path), group(epochs=6))


def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path, trained):
    folder = runs.directory(tmp_path, group())
    folder.mkdir(parents=True)
    (folder / ".record.jsonl.abcdefgh").write_bytes(b"half")
    (folder / ".ipynb_checkpoints").mkdir()  # somebody else's
    run([group()], tmp_path)
    assert files(folder) == {"group.json", "record.jsonl", ".ipynb_checkpoints"}


def test_a_record_says_of_which_text_it_is_and_another_text_is_told(tmp_path, trained, monkeypatch):
    """Finished or interrupted; what is no text, and what older versions wrote, says nothing."""
    tokens = np.zeros(1, np.uint16)
    now, later = (Text("text", tokens, tokens, ("a",), 1, digit * 64) for digit in "ab")
    finished, half, images = (group(width=width) for width in (1, 2, 3))
    runs.run([finished], tmp_path, lambda spec: now)
    with pytest.raises(KeyboardInterrupt):
        runs.run([half], tmp_path, lambda spec: now, watch=interrupted_after(1))
    run([images], tmp_path)
    headers = [record.read(runs.record_path(tmp_path, g)).header for g in (finished, images)]
    assert headers[0]["text"] == "a" * 64 and "text" not in headers[1]
    everything = [images, group(width=4), finished, half]
    runs.check(everything, tmp_path, lambda spec: now)
    for one in (finished, half):
        with pytest.raises(UserError) as error:
            runs.check([images, one], tmp_path, lambda spec: later)
        one_line(error, "--workdir", one.name, "another text", "aaaaaaaaaaaa…", "--resume=false")


def test_setting_aside_keeps_the_old_folders(tmp_path, trained):
    folder = runs.directory(tmp_path, group())
    runs.set_aside(tmp_path, group())  # nothing there
    texts = []
    for _ in range(2):
        run([group()], tmp_path)
        texts.append((folder / "record.jsonl").read_text())
        runs.set_aside(tmp_path, group())
        assert not folder.exists()
        assert runs.results([group()], tmp_path) == []
        assert runs.cover(tmp_path, [group().specs], range(2)) == [group()]
    aside = sorted((tmp_path / "runs").glob("*/record.jsonl"))
    assert [path.read_text() for path in aside] == texts
    run([group()], tmp_path)
    assert len(trained) == 3
    assert_holds(runs.results([group()], tmp_path), group())


def test_a_group_that_another_process_trains_is_not_set_aside(tmp_path):
    with claims.claim(tmp_path / "runs" / f"{group().name}.lock"), pytest.raises(UserError) as error:
        runs.set_aside(tmp_path, group())
    one_line(error, "--resume=false")


# Damage, full disks, folders that cannot be written.


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text[: text.rindex("{")],
        lambda text: "",
        lambda text: text.replace("]", "", 1),
        lambda text: text.replace('"spec": 0', '"spec": 7'),
        lambda text: text.splitlines()[0] + "\n1\n2\n",
        lambda text: text.replace('"epochs": 3', '"epochs": 0'),
        lambda text: "\x00" * len(text),
    ],
    ids=["half", "last line", "empty", "header", "index", "numbers", "spec", "zeros"],
)
def test_a_damaged_record_is_told_and_can_be_set_aside(tmp_path, trained, damage):
    run([group()], tmp_path)
    path = runs.record_path(tmp_path, group())
    path.write_text(damage(path.read_text()))
    broken = path.read_text()
    with pytest.raises(UserError) as error:
        runs.results(runs.cover(tmp_path, [group().specs], range(2)), tmp_path)
    one_line(error, str(path), "damaged", "--resume=false")
    for g in runs.cover(tmp_path, [group().specs], range(2)):
        runs.set_aside(tmp_path, g)
    again = runs.cover(tmp_path, [group().specs], range(2))
    run(again, tmp_path)
    assert_holds(runs.results(again, tmp_path), group())
    assert [p.read_text() for p in (tmp_path / "runs").glob("*.aside-1/record.jsonl")] == [broken]


@pytest.mark.parametrize("place", ["", "runs"])
def test_a_workdir_that_cannot_be_written_is_told(tmp_path, trained, place):
    """A file stands where a folder is needed (root may write everywhere else)."""
    workdir = tmp_path / "out"
    if place:
        workdir.mkdir()
    (workdir / place).write_text("a file")
    groups = runs.cover(workdir, [group().specs], range(2))
    with pytest.raises(UserError) as error:
        run(groups, workdir)
    one_line(error, "--workdir", "choose another folder")
    with pytest.raises(UserError), replacing(workdir / place / "table.csv") as file:
        file.write("x")
    assert (workdir / place).read_text() == "a file" and trained == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "table.csv"
    with replacing(path) as file:
        file.write("old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError) as error, replacing(path) as file:
        file.write("new")
    one_line(error, "--workdir", str(path), "No space left")
    assert files(tmp_path) == {"table.csv"} and path.read_text() == "old"


@pytest.mark.parametrize(
    ("error", "parts", "absent"),
    [
        (
            ValueError("{json: 1}" * 200 + " No space left on device [errno=28]"),
            ("No space left", "free space"),
            "json",
        ),
        (OSError(errno.EACCES, "Permission denied"), ("Permission denied", "choose another"), "free space"),
        (RuntimeError("x" * 1000 + "\n" + "y" * 1000), ("RuntimeError", "..."), "y"),
    ],
    ids=["another library's", "locked", "unknown"],
)
def test_what_cannot_be_written_is_told_by_its_cause_alone(tmp_path, error, parts, absent):
    message = str(cannot_write(tmp_path, error))
    assert message.startswith("--workdir: cannot write ") and "\n" not in message and len(message) < 500
    assert all(part in message for part in parts) and absent not in message.replace(str(tmp_path), "")


def test_what_a_killed_process_was_writing_goes_with_the_next_writing(tmp_path):
    """Not what somebody is writing at this moment, nor what is somebody else's."""
    old, fresh, other = (tmp_path / name for name in (".a.csv.abcdefgh", ".a.csv.hgfedcba", ".a.csv.mine"))
    for path in (old, fresh, other):
        path.write_text("half")
    for path in (old, other):
        os.utime(path, (time.time() - 1e4,) * 2)
    with replacing(tmp_path / "a.csv") as file:
        file.write("whole")
    assert files(tmp_path) == {"a.csv", fresh.name, other.name}


def test_training_goes_on_once_there_is_space_again(tmp_path, trained, monkeypatch):
    replace = os.replace

    def full_for_records(source, target):
        if str(target).endswith(".jsonl"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full_for_records)
    with pytest.raises(UserError):
        run([group()], tmp_path, checkpoint_seconds=0.0)
    assert files(runs.directory(tmp_path, group())) == {"group.json", "checkpoints"}
    monkeypatch.setattr(os, "replace", replace)
    run([group()], tmp_path)
    assert_holds(runs.results([group()], tmp_path), group())


def test_a_block_that_fails_writes_nothing(tmp_path):
    with pytest.raises(RuntimeError), replacing(tmp_path / "new" / "a.txt") as file:
        file.write("half")
        raise RuntimeError
    assert files(tmp_path / "new") == set()
    mask = os.umask(0o027)
    try:
        with replacing(tmp_path / "a.bin", "wb") as file:
            file.write(b"\r\n")
    finally:
        os.umask(mask)
    assert (tmp_path / "a.bin").read_bytes() == b"\r\n"
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o640


# Claims.


def test_a_claim_is_exclusive_and_ends_with_its_block(tmp_path):
    lock = tmp_path / "runs" / "a.lock"
    with (
        claims.claim(lock) as first,
        claims.claim(lock) as second,
        claims.claim(tmp_path / "b.lock") as other,
    ):
        assert (first, second, other) == (True, False, True)
    with contextlib.suppress(RuntimeError), claims.claim(lock) as again:
        assert again
        raise RuntimeError
    with claims.claim(lock) as afterwards:
        assert afterwards


HOLD = """
import sys, time
from pathlib import Path
from wsn.records.claims import claim
with claim(Path(sys.argv[1])) as owned:
    print(owned, flush=True)
    time.sleep(60)
"""


def test_the_claim_of_a_killed_process_is_free_at_once(tmp_path):
    lock = tmp_path / "a.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == "True\n"
        with claims.claim(lock) as owned:
            assert not owned
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        with claims.claim(lock) as owned:
            assert owned


def test_two_processes_share_the_groups_of_a_folder(tmp_path):
    """Every epoch of every group is trained once, by either, and both end when all is done."""
    commands = [[sys.executable, "-m", "tiny", str(tmp_path), name, "6"] for name in ("a", "b")]
    processes = [subprocess.Popen(command, env=ENVIRONMENT) for command in commands]
    assert [process.wait(timeout=600) for process in processes] == [0, 0]
    logs = {
        name: [json.loads(line) for line in (tmp_path / f"{name}.log").read_text().splitlines()]
        for name in ("a", "b")
    }
    assert sorted(logs["a"] + logs["b"]) == [
        [width, epoch] for width in range(1, 7) for epoch in range(1, 21)
    ]
    assert all(logs.values())
    for width in range(1, 7):
        g = group(width=width, epochs=20)
        assert_holds(runs.results([g], tmp_path), g)
        assert files(runs.directory(tmp_path, g)) == {"group.json", "record.jsonl"}


def test_the_groups_of_another_process_are_waited_for(tmp_path, trained):
    """What it finishes is not trained again; what it leaves is."""
    lock = tmp_path / "runs" / f"{group().name}.lock"
    owned, release = threading.Event(), threading.Event()

    def other():
        with claims.claim(lock):
            owned.set()
            release.wait(10)
            record.write(runs.record_path(tmp_path, group()), group(), expected(group()), 0.0)

    thread = threading.Thread(target=other)
    thread.start()
    owned.wait(10)
    seen = []

    def watch(g, share, history):
        seen.append((g.name, history is not None))
        release.set()

    run([group(), group(width=6, epochs=1)], tmp_path, watch=watch)
    thread.join()
    assert seen == [(group(width=6, epochs=1).name, True), (group().name, False)]
    assert trained == [group(width=6, epochs=1).name]


def test_without_flock_a_lease_stands_in(tmp_path, monkeypatch):
    def no_flock(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", no_flock)
    lock = tmp_path / "a.lock"
    for _ in range(2):
        with claims.claim(lock) as first, claims.claim(lock) as second:
            assert (first, second) == (True, False)
            assert files(tmp_path) == {"a.lock", "a.lease"}
        assert files(tmp_path) == {"a.lock"}


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_a_stale_lease_is_taken_over_and_a_fresh_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "SETTLE_SECONDS", 0.01)
    path = tmp_path / "a.lease"
    for seconds, expected_owner in ((5, False), (61, True)):
        path.write_text("an owner that was killed")
        age(path, seconds)
        with claims.lease(path) as owned:
            assert owned == expected_owner
            assert (path.read_text() == "an owner that was killed") != expected_owner
        assert path.exists() != expected_owner
    assert files(tmp_path) <= {"a.lease"}


def test_the_heartbeat_keeps_a_lease(tmp_path):
    path = tmp_path / "a.lease"
    with claims.lease(path, heartbeat=0.02, stale=5.0) as owned:
        assert owned
        age(path, 100)
        end = time.monotonic() + 10
        while time.time() - path.stat().st_mtime > 5 and time.monotonic() < end:
            time.sleep(0.01)
        with claims.lease(path, stale=5.0) as second:
            assert not second


def test_an_owner_that_was_taken_for_dead_leaves_its_successor_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "SETTLE_SECONDS", 0.01)
    path = tmp_path / "a.lease"
    with contextlib.ExitStack() as successor:
        with claims.lease(path, heartbeat=1000.0) as first:
            assert first
            age(path, 100)
            assert successor.enter_context(claims.lease(path))
        assert path.exists()
        with claims.lease(path) as third:
            assert not third
    assert not path.exists()


def test_of_several_that_find_a_lease_stale_one_takes_it(tmp_path, monkeypatch):
    """All judge before any acts: each may remove the lease of another, and one is left in the end."""
    path = tmp_path / "a.lease"
    path.write_text("an owner that was killed")
    age(path, 100)
    count = 5
    judged, decided = threading.Barrier(count), threading.Barrier(count)
    true_age = claims._age

    def judge(path):
        seconds = true_age(path)
        judged.wait(10)
        return seconds

    monkeypatch.setattr(claims, "_age", judge)
    owners = []

    def compete():
        with claims.lease(path) as owned:
            owners.append(owned)
            decided.wait(10)

    threads = [threading.Thread(target=compete) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(owners) == [False] * (count - 1) + [True]
    assert files(tmp_path) == set()


# Progress.


@settings(deadline=None, max_examples=50)
@given(st.floats(1, 1e15), st.integers(1, 300), st.integers(0, 5))
def test_progress_ends_with_a_line_at_100_percent(cost, epochs, resumed):
    g = group(epochs=epochs)
    accuracy = {"train_accuracy": np.ones((epochs, 1)), "test_accuracy": np.full((epochs, 1), 0.5)}
    history = History(np.arange(1, epochs + 1), accuracy)
    with tempfile.TemporaryFile("w+") as stream:

        def lines():
            stream.seek(0)
            return stream.read().splitlines()

        later = group(epochs=1, width=9)
        watch = progress.Progress({g.name: cost, later.name: 3.7}, stream)
        for done in range(min(resumed, epochs - 1) + 1, epochs + 1):
            curves = {name: values[:done] for name, values in accuracy.items()}
            watch(g, done / epochs, History(history.step[:done], curves))
        assert lines() == []
        watch(later, 1.0, None)
        watch.close()
        assert lines() == [
            "100 % 0 s left; width 9, epoch 1/1",
        ]


def test_durations_can_be_read():
    seconds = (0.4, 89.0, 90.0, 3600.0, 5400.0)
    assert [progress.duration(s) for s in seconds] == ["0 s", "89 s", "2 min", "60 min", "1.5 h"]


def test_a_share_of_training_is_told_in_epochs():
    text = [
        progress.described(group(epochs=e), share, None)
        for e, share in ((3, 1 / 9), (2000, 1.0), (4000, 0.37))
    ]
    assert text == [f"width 5, epoch {epoch}" for epoch in ("0.33/3", "2000/2000", "1480/4000")]


def test_training_that_may_end_early_is_told_in_steps():
    history = History(np.array([7]), {"validation_loss": np.array([[0.5]])})
    text = progress.described(group(stop="minimum", validation_samples=5), 1.0, history)
    assert text == "width 5, step 7, validation loss 0.500"
