"""Groups trained into a folder, with stubbed training: records, interruption, other processes, corruption."""

import contextlib
import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tiny

import wsn
from wsn.data import Splits
from wsn.devices import hosts
from wsn.errors import UserError
from wsn.records import record, runs
from wsn.records.locks import try_lock
from wsn.spec import Group
from wsn.stored import replacing
from wsn.training import train
from wsn.training.history import History

FOLDERS = [Path(tiny.__file__).parent, Path(wsn.__file__).parents[1]]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, FOLDERS))}


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The names of the groups whose training was started."""
    started = []

    def noting(group, splits, *, resume=None, execution="masked"):
        started.append(group.name)
        return tiny.stub_train(group, splits, resume=resume)

    monkeypatch.setattr(train, "train", noting)
    return started


def group(*seeds: int, **changes) -> Group:
    return Group((tiny.spec(**changes),), seeds or (0, 1))


def run(groups, workdir, **options) -> None:
    runs.run(groups, workdir, lambda spec: tiny.SPLITS, **options)


def uninterrupted(of: Group) -> History:
    *_, last = tiny.stub_train(of)
    return last.history


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Records.


def test_a_record_says_what_was_trained_by_which_code_and_where(tmp_path, trained, monkeypatch):
    """The name of the group depends on neither devices nor versions."""
    name = group().name
    monkeypatch.setattr(record.jax, "device_count", lambda: 64)
    monkeypatch.setattr(record, "_version", lambda package: "99")
    assert group().name == name
    run([group()], tmp_path)
    header, *members = map(json.loads, runs.record_path(tmp_path, group()).read_text().splitlines())
    assert header["specs"] == [
        {"dataset": "tiny", "width": 5, "epochs": 3, "batch_size": 8, "learning_rate": 0.3}
    ]
    assert header["group"] == name and header["seeds"] == [0, 1]
    assert header["semantics"] == 1 and header["format"] == 1
    assert header["code"].keys() == {"version", "commit"}
    assert header["packages"] == dict.fromkeys(record.PACKAGES, "99")
    assert header["device"]["platform"] and header["device"]["count"] == 64
    assert header["execution"] == {"asked": "masked", "sparse": []}
    assert header["seconds"] >= 0 and header["finished"].endswith("+00:00")
    assert [(m["spec"], m["seed"], m["status"]) for m in members] == [(0, 0, "finished"), (0, 1, "finished")]
    assert all(len(m[name]) == 3 for m in members for name in tiny.CURVES)
    assert files(runs.directory(tmp_path, group())) == {"group.json", "record.jsonl"}


def test_nothing_is_trained_twice(tmp_path, trained):
    groups = [group(), group(width=6)]
    seen = []
    run(groups, tmp_path)
    before = {g.name: runs.record_path(tmp_path, g).stat().st_mtime_ns for g in groups}
    run(groups, tmp_path, watch=lambda g, fraction, history: seen.append((g.name, fraction, history)))
    assert trained == [g.name for g in groups]
    assert seen == [(g.name, 1.0, None) for g in groups]
    assert before == {g.name: runs.record_path(tmp_path, g).stat().st_mtime_ns for g in groups}
    for g in groups:
        tiny.assert_holds(runs.results([g], tmp_path), g)


def test_more_seeds_are_another_group_and_results_merge_them(tmp_path, trained):
    families = [(tiny.spec(),), (tiny.spec(width=6),)]
    first = runs.plan_groups(tmp_path, families, range(2))
    assert first == [Group(families[0], (0, 1)), Group(families[1], (0, 1))]
    run(first, tmp_path)
    assert runs.plan_groups(tmp_path, families, iter(range(2))) == first
    more = runs.plan_groups(tmp_path, families, range(5))
    assert more == [g for f in families for g in (Group(f, (0, 1)), Group(f, (2, 3, 4)))]
    run(more, tmp_path)
    assert len(trained) == 4
    results = runs.results(more, tmp_path)
    assert [(r.spec.width, r.seed) for r in results] == [(w, s) for w in (5, 6) for s in range(5)]
    tiny.assert_holds([r for r in results if r.seed > 1 and r.spec.width == 6], more[3])
    # Fewer seeds need nothing new, and seeds of a larger group are taken from it.
    for seeds, groups in ([0], [(0, 1)]), ([3], [(2, 3, 4)]), ([7, 1], [(0, 1), (7,)]):
        assert runs.plan_groups(tmp_path, families[:1], seeds) == [Group(families[0], g) for g in groups]


def test_a_seed_in_two_records_counts_once(tmp_path, trained):
    run([group(0, 1), group(1, 2)], tmp_path)
    assert [r.seed for r in runs.results([group(0, 1), group(1, 2)], tmp_path)] == [0, 1, 2]


def test_records_of_other_semantics_are_left_out(tmp_path, trained):
    run([group()], tmp_path)
    path = runs.record_path(tmp_path, group())
    header, rest = path.read_text().split("\n", 1)
    path.write_text(json.dumps(json.loads(header) | {"semantics": 0}) + "\n" + rest)
    assert runs.plan_groups(tmp_path, [group().specs], range(3)) == [group(0, 1, 2)]


# Interruption, and starting afresh.


def interrupted_after(epochs: int | None):
    def watch(group, fraction, history):
        if history.rows == epochs:
            raise KeyboardInterrupt

    return watch


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1000.0])
def test_an_interrupted_group_resumes_to_the_same_record(tmp_path, trained, checkpoint_seconds):
    g = group(epochs=6)
    for epochs in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            run([g], tmp_path, checkpoint_seconds=checkpoint_seconds, watch=interrupted_after(epochs))
        # The epoch in which it was interrupted has no checkpoint: it is trained again.
        left = {"group.json", "partial.jsonl"} | ({"checkpoints"} if not checkpoint_seconds else set())
        assert files(runs.directory(tmp_path, g)) == left
    epochs_done = []
    run([g], tmp_path, watch=lambda g, fraction, history: epochs_done.append(round(6 * fraction)))
    assert epochs_done == ([4, 5, 6] if not checkpoint_seconds else [1, 2, 3, 4, 5, 6])
    assert files(runs.directory(tmp_path, g)) == {"group.json", "record.jsonl"}
    tiny.assert_holds(runs.results([g], tmp_path), g)


def test_what_a_killed_process_was_writing_is_removed(tmp_path, trained):
    folder = runs.directory(tmp_path, group())
    folder.mkdir(parents=True)
    (folder / ".record.jsonl.abcdefgh").write_bytes(b"half")
    (folder / ".ipynb_checkpoints").mkdir()  # not ours
    run([group()], tmp_path)
    assert files(folder) == {"group.json", "record.jsonl", ".ipynb_checkpoints"}


def other(digit: str) -> Splits:
    return dataclasses.replace(tiny.SPLITS, sha256=digit * 64)


def test_networks_trained_on_other_data_are_refused(tmp_path, trained):
    """Finished or interrupted. Records of wsn 0.1 say nothing of their data, except for texts."""
    now, later = other("a"), other("b")
    finished, half, old = (group(width=width) for width in (1, 2, 3))
    runs.run([finished, old], tmp_path, lambda spec: now)
    with pytest.raises(KeyboardInterrupt):
        runs.run([half], tmp_path, lambda spec: now, watch=interrupted_after(1))
    assert record.read(runs.record_path(tmp_path, finished)).header["data"] == "a" * 64
    for path in (runs.record_path(tmp_path, old), runs.directory(tmp_path, old) / "group.json"):
        text = re.sub(r',\s*"(digest|data)": "\w+"', "", path.read_text())
        path.write_text(text)
    runs.check([old, group(width=4), finished, half], tmp_path, lambda spec: now)
    for g in (finished, half):
        match = (
            f"^`workdir`: [^\n]*{g.name} was trained on other data [^\n]*aaaaaaaaaaaa…[^\n]*`resume=false`$"
        )
        with pytest.raises(UserError, match=match):
            runs.check([old, g], tmp_path, lambda spec: later)
        with pytest.raises(UserError, match=match):
            runs.run([group(width=4), g], tmp_path, lambda spec: later)
    assert not runs.has_record(tmp_path, group(width=4))  # nothing was trained
    (runs.directory(tmp_path, finished) / "group.json").unlink()
    with pytest.raises(UserError, match="was trained on other data"):  # its record says so, too
        runs.check([finished], tmp_path, lambda spec: later)


@pytest.mark.parametrize("finishes", [True, False])
def test_networks_that_another_process_trains_on_other_data_meanwhile_are_refused(
    tmp_path, trained, finishes
):
    """Neither is its record taken nor its checkpoint continued."""
    ours, theirs = group(width=1), group(width=2)

    def watch(g, fraction, history):
        if g == ours and fraction == 1:
            with contextlib.suppress(KeyboardInterrupt):
                stopped = interrupted_after(None if finishes else 1)
                runs.run([theirs], tmp_path, lambda spec: other("b"), checkpoint_seconds=0.0, watch=stopped)

    with pytest.raises(UserError, match=f"{theirs.name} was trained on other data"):
        runs.run([ours, theirs], tmp_path, lambda spec: other("a"), watch=watch)
    assert trained == [ours.name, theirs.name]


@pytest.mark.parametrize("digit", ["a", "b"])
def test_a_follower_trains_only_on_the_data_of_the_leader(trained, monkeypatch, capsys, digit):
    """What it says to the leader, and to whoever reads its output."""
    messages, said = iter([(None, group(), "a" * 64, (None, "masked")), 1]), []
    monkeypatch.setattr(hosts, "broadcast", lambda: next(messages))
    monkeypatch.setattr(hosts, "any_process", lambda flag: said.append(flag) or flag)
    assert runs.follow(lambda spec: other(digit), lambda: False) == 1
    assert said == [digit == "b"] and trained == [group().name] * (digit == "a")
    error = "error: `data_dir`: the data of this process (SHA-256 bbbbbbbbbbbb…) are not those of process 0"
    assert capsys.readouterr().err.startswith(error if digit == "b" else "")


def test_a_leader_sends_the_digest_of_its_data_and_ends_if_another_process_has_others(
    tmp_path, trained, monkeypatch
):
    sent = []
    monkeypatch.setattr(hosts, "broadcast", sent.append)
    monkeypatch.setattr(hosts, "any_process", lambda flag: True)
    with pytest.raises(UserError, match="^`data_dir`: another process [^\n]* or has other data"):
        runs.run([group()], tmp_path, lambda spec: other("a"))
    assert [data for _, _, data, _ in sent] == ["a" * 64] and not trained


def test_with_a_corrupt_description_of_its_data_training_starts_afresh(tmp_path, caplog):
    """Nobody knows whether its checkpoints are of the data that there are now."""
    path = runs.directory(tmp_path, group()) / "group.json"
    record.write_description(path, group(), "b" * 64)
    (path.parent / "checkpoints").mkdir()
    path.write_text(path.read_text().replace("bb", "aa"))
    runs.check([group()], tmp_path, lambda spec: other("a"))
    assert not (path.parent / "checkpoints").exists() and "first step" in caplog.messages[-1]
    runs.check([group()], tmp_path, lambda spec: other("a"))


def test_archiving_keeps_the_old_folders(tmp_path, trained):
    folder = runs.directory(tmp_path, group())
    runs.archive(tmp_path, group())  # nothing there
    texts = []
    for _ in range(2):
        run([group()], tmp_path)
        texts.append((folder / "record.jsonl").read_text())
        runs.archive(tmp_path, group())
        assert not folder.exists()
        assert runs.results([group()], tmp_path) == []
        assert runs.plan_groups(tmp_path, [group().specs], range(2)) == [group()]
    archived = sorted((tmp_path / "runs").glob("*/record.jsonl"))
    assert [path.read_text() for path in archived] == texts
    run([group()], tmp_path)
    assert len(trained) == 3
    tiny.assert_holds(runs.results([group()], tmp_path), group())


def test_a_group_that_another_process_trains_is_not_archived(tmp_path):
    with (
        try_lock(tmp_path / "runs" / f"{group().name}.lock"),
        pytest.raises(UserError, match="^`resume=false`: another process [^\n]*$"),
    ):
        runs.archive(tmp_path, group())


# Corruption, full disks, folders that cannot be written.


@pytest.mark.parametrize(
    "corrupt",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text[: text.rindex("{")],
        lambda text: "",
        lambda text: text.replace("]", "", 1),
        lambda text: text.splitlines()[0] + "\n1\n2\n",
        lambda text: text.replace('"epochs": 3', '"epochs": 0'),
        lambda text: "\x00" * len(text),
    ],
    ids=["half", "last line", "empty", "header", "numbers", "spec", "zeros"],
)
def test_a_corrupt_record_is_one_line_and_can_be_archived(tmp_path, trained, corrupt):
    run([group()], tmp_path)
    path = runs.record_path(tmp_path, group())
    path.write_text(corrupt(path.read_text()))
    broken = path.read_text()
    groups = runs.plan_groups(tmp_path, [group().specs], range(2))
    with pytest.raises(UserError, match=f"^`workdir`: {path} is corrupt [^\n]*`resume=false`$"):
        runs.results(groups, tmp_path)
    for g in groups:
        runs.archive(tmp_path, g)
    again = runs.plan_groups(tmp_path, [group().specs], range(2))
    run(again, tmp_path)
    tiny.assert_holds(runs.results(again, tmp_path), group())
    assert [p.read_text() for p in (tmp_path / "runs").glob("*.aside-1/record.jsonl")] == [broken]


@pytest.mark.parametrize("place", ["", "runs"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, trained, place):
    """A file stands where a folder is needed (root may write everywhere else)."""
    workdir = tmp_path / "out"
    if place:
        workdir.mkdir()
    (workdir / place).write_text("a file")
    groups = runs.plan_groups(workdir, [group().specs], range(2))
    with pytest.raises(UserError, match="^`workdir`: [^\n]*choose another folder$"):
        run(groups, workdir)
    with pytest.raises(UserError), replacing(workdir / place / "table.csv") as file:
        file.write("x")
    assert (workdir / place).read_text() == "a file" and trained == []


def test_training_resumes_once_there_is_space_again(tmp_path, trained, monkeypatch):
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
    tiny.assert_holds(runs.results([group()], tmp_path), group())


# Other processes.


def test_two_processes_share_the_groups_of_a_folder(tmp_path):
    """Every epoch of every group is trained once, by either, and both end when all is done."""
    commands = [[sys.executable, "-m", "tiny", str(tmp_path), name, "6"] for name in ("a", "b")]
    processes = [subprocess.Popen(command, env=ENVIRONMENT) for command in commands]
    assert [process.wait(timeout=600) for process in processes] == [0, 0]
    logs = [
        [json.loads(line) for line in (tmp_path / f"{name}.log").read_text().splitlines()] for name in "ab"
    ]
    assert sorted(logs[0] + logs[1]) == [[width, epoch] for width in range(1, 7) for epoch in range(1, 21)]
    assert all(logs)
    for width in range(1, 7):
        g = group(width=width, epochs=20)
        tiny.assert_holds(runs.results([g], tmp_path), g)
        assert files(runs.directory(tmp_path, g)) == {"group.json", "record.jsonl"}


def test_the_groups_of_another_process_are_waited_for_and_not_trained_again(tmp_path, trained):
    ours, theirs = group(width=6, epochs=1), group()
    locked, release = threading.Event(), threading.Event()

    def train_theirs():
        with try_lock(tmp_path / "runs" / f"{theirs.name}.lock"):
            locked.set()
            release.wait(10)
            record.write(runs.record_path(tmp_path, theirs), theirs, uninterrupted(theirs))

    thread = threading.Thread(target=train_theirs)
    thread.start()
    locked.wait(10)
    seen = []

    def watch(g, fraction, history):
        seen.append((g.name, history is not None))
        release.set()

    run([theirs, ours], tmp_path, watch=watch)
    thread.join()
    assert seen == [(ours.name, True), (theirs.name, False)] and trained == [ours.name]
