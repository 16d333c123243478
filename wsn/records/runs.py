"""Training groups into a folder: resumable, without training anything twice, shared by processes.

WORKDIR/runs/NAME/group.json       the description of the group that the hash NAME stands for
WORKDIR/runs/NAME/checkpoints/     while training: states and histories
WORKDIR/runs/NAME/partial.jsonl    while training: the curves so far, for the results page
WORKDIR/runs/NAME/record.jsonl     when finished: a header line, then a line per network
WORKDIR/runs/NAME.lock             the lock of the process that trains it
"""

import contextlib
import datetime
import itertools
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from wsn import folders, machine
from wsn.data.feeds import Source
from wsn.devices import hosts
from wsn.devices.hosts import Action
from wsn.errors import Preempted, UserError, one_line
from wsn.records import checkpoints, record
from wsn.records.locks import try_lock
from wsn.records.partial import NAME as PARTIAL
from wsn.records.partial import Partial
from wsn.records.record import Labels, Result
from wsn.spec import Group, Spec
from wsn.stored import clear
from wsn.training import train
from wsn.training.history import EMPTY, History, Snapshot

# (group, fraction of its training done, its history, or None if another process or an earlier run finished it)
Watch = Callable[[Group, float, History | None], None]


def run(
    groups: Iterable[Group],
    workdir: Path | str,
    source_of: Callable[[Spec], Source],
    *,
    labels: Labels | None = None,
    checkpoint_seconds: float = 30.0,
    execution: str = "masked",
    watch: Watch = lambda group, fraction, history: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train every group that has no record yet; returns when all have one.

    Several processes may run the same groups in one folder: each takes those that no other has locked. `labels` are
    stored in the records; `execution` is that of `train`. `watch` is called after every evaluation, and once for a
    group that is finished already. When `stop()` is true after an evaluation, a checkpoint is written and Preempted
    raised. Raises UserError as `check` does: before anything is trained, and once more before each group.
    """
    machine.check_platform()
    waiting = list(groups)
    check(waiting, workdir, source_of)
    while waiting:
        locked = []
        for group in waiting:
            if stop():
                raise Preempted
            with try_lock(_lock_path(workdir, group)) as ours:
                if not ours:
                    locked.append(group)
                    continue
                # Again: since the first check another process may have trained it, on other data.
                check([group], workdir, source_of, repair=False)
                if has_record(workdir, group):
                    watch(group, 1.0, None)
                else:
                    source = source_of(group.specs[0])
                    _train(group, workdir, source, labels, checkpoint_seconds, execution, watch, stop)
                _remove_checkpoints(workdir, group)
        if len(locked) == len(waiting):
            time.sleep(0.5)
        waiting = locked


def _train(
    group: Group,
    workdir: Path | str,
    source: Source,
    labels: Labels | None,
    checkpoint_seconds: float,
    execution: str,
    watch: Watch,
    stop: Callable[[], bool],
) -> None:
    folder = directory(workdir, group)
    for path in (folder / "group.json", folder / PARTIAL, record_path(workdir, group)):
        clear(path)  # we have the lock, so whatever process was writing them was killed
    started = saved = time.monotonic()
    data = source.digest
    record.write_description(folder / "group.json", group, data)
    snapshot = checkpoints.load(folder / "checkpoints", group.name)
    start_followers(None, group, data, snapshot, execution)
    history, sparse = snapshot.history if snapshot else EMPTY, tuple[str, ...]()
    partial = Partial(folder, group, history, labels, data)
    for point in train.train(group, source, resume=snapshot, execution=execution):
        history, sparse = point.history, point.sparse
        with hosts.followers_stop_on_error():
            watch(group, point.fraction_done, history)
            partial(point.fraction_done, history)
            due = time.monotonic() - saved >= checkpoint_seconds
        action = hosts.agree(Action.STOP if stop() else Action.SAVE if due else Action.CONTINUE)
        if action == Action.CONTINUE or point.last:
            continue
        snapshot = point.snapshot()
        with hosts.followers_stop_on_error():
            checkpoints.save(folder / "checkpoints", point.step, snapshot, group.name)
            saved = time.monotonic()
        hosts.agree(Action.CONTINUE)  # it is saved
        if action == Action.STOP:
            partial.write(point.fraction_done, history)
            raise Preempted
    record.write(
        record_path(workdir, group),
        group,
        history,
        labels,
        data,
        execution={"asked": execution, "sparse": sparse},
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),  # since it was last started
    )


def start_followers(
    replay: Callable[..., Iterable] | None, group: Group, data: str | None, *arguments: Any
) -> None:
    """In a run over several processes, start the others on a group, which process 0 trains at the same time.

    They iterate over `replay(group, source, *arguments)`, as process 0 does, or with None train as it decides. Raises
    UserError if one of them cannot read its data, or if the digest of its data is not `data`.
    """
    hosts.broadcast((replay, group, data, arguments))
    if hosts.any_process(False):
        raise UserError(
            "`data_dir`: another process of this run cannot read its data, or has other data; its output says why"
        )


def follow(source_of: Callable[[Spec], Source], stop: Callable[[], bool]) -> int:
    """The part of the other processes in a run over several; returns the exit code of process 0."""
    while not isinstance(message := hosts.broadcast(), int):
        replay, group, data, arguments = message
        source = None
        try:
            source = _same_source(group, source_of, data)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
        if hosts.any_process(source is None) or source is None:
            continue
        with contextlib.suppress(UserError):  # process 0 raises it, too
            if replay is None:
                _follow(group, source, stop, *arguments)
            else:
                deque(replay(group, source, *arguments), maxlen=0)
    return message


def _same_source(group: Group, source_of: Callable[[Spec], Source], data: str | None) -> Source:
    """The data of a group. Raises UserError unless their digest is that of process 0."""
    source = source_of(group.specs[0])
    if source.digest != data:
        raise UserError(
            f"`data_dir`: the data of this process (SHA-256 {source.digest[:12]}…) are not those of process 0"
            f" ({str(data)[:12]}…): copy them from there"
        )
    return source


def _follow(
    group: Group, source: Source, stop: Callable[[], bool], snapshot: Snapshot | None, execution: str
) -> None:
    for point in train.train(group, source, resume=snapshot, execution=execution):
        action = hosts.agree(Action.STOP if stop() else Action.CONTINUE)
        if action in (Action.SAVE, Action.STOP) and not point.last:
            point.snapshot()  # the leader needs the part of the state that is here
            action = max(action, hosts.agree(Action.CONTINUE))
        if action >= Action.STOP:
            break


def _remove_checkpoints(workdir: Path | str, group: Group) -> None:
    """Remove what a finished group needs no more."""
    shutil.rmtree(directory(workdir, group) / "checkpoints", ignore_errors=True)
    (directory(workdir, group) / PARTIAL).unlink(missing_ok=True)


def plan_groups(workdir: Path | str, families: Iterable[Sequence[Spec]], seeds: Iterable[int]) -> list[Group]:
    """The groups whose records together hold those seeds of those families (lists of specs of one program).

    Seeds that have a record in `workdir` are taken from there; all missing seeds of a family are one new group.
    """
    recorded: dict[tuple[Spec, ...], list[Group]] = {}
    for path in sorted(_folder(workdir).glob("*/record.jsonl")):
        group = record.group_of(path)
        if group is not None and path == record_path(workdir, group):
            recorded.setdefault(group.specs, []).append(group)
    groups, seeds = [], list(seeds)
    for family in families:
        missing = dict.fromkeys(seeds)
        for group in recorded.get(tuple(family), []):
            if any(seed in missing for seed in group.seeds):
                groups.append(group)
                missing = {seed: None for seed in missing if seed not in group.seeds}
        if missing:
            groups.append(Group(tuple(family), tuple(missing)))
    return groups


def archive(workdir: Path | str, group: Group) -> None:
    """Rename a group's folder to NAME.aside-N, so that it starts afresh; tables ignore it. Raises UserError."""
    folder = directory(workdir, group)
    with try_lock(_lock_path(workdir, group)) as ours:
        if not ours:
            raise UserError(
                f"`resume=false`: another process is training {folder}; wait for it or stop it first"
            )
        if folder.exists():
            names = (folder.with_name(f"{folder.name}.aside-{number}") for number in itertools.count(1))
            os.rename(folder, next(name for name in names if not name.exists()))


def results(groups: Iterable[Group], workdir: Path | str) -> list[Result]:
    """The networks of the groups that have a record, in order; each (spec, seed) once. Raises UserError."""
    networks: dict[tuple[Spec, int], Result] = {}
    for group in groups:
        if has_record(workdir, group):
            for result in record.read(record_path(workdir, group)).results:
                networks.setdefault((result.spec, result.seed), result)
    return list(networks.values())


def check(
    groups: Iterable[Group], workdir: Path | str, source_of: Callable[[Spec], Source], *, repair: bool = True
) -> None:
    """Check the folder of those groups before anything in it is used.

    A corrupt description is rewritten (if `repair`), with a warning; where the data of its checkpoints are then
    unknown, training starts afresh. Raises UserError for a corrupt record, and for networks trained on other data.
    """
    for group in groups:
        path = directory(workdir, group) / "group.json"
        header = record.read(record_path(workdir, group)).header if has_record(workdir, group) else None
        try:
            before = record.read_description(path, group).get("data")  # wsn 0.1 wrote none
        except (OSError, ValueError) as error:
            before = header.get("data") if header else None
            if repair and not isinstance(error, FileNotFoundError):
                _repair(path, group, header, source_of(group.specs[0]).digest, error)
        now = source_of(group.specs[0]).digest if before else None
        if before and now and now != before:
            raise UserError(
                f"`workdir`: {path.parent} was trained on other data (SHA-256 {before[:12]}…, now {now[:12]}…):"
                " choose another folder, restore the data, or start afresh with `resume=false`"
            )


def _repair(path: Path, group: Group, header: dict | None, data: str | None, error: Exception) -> None:
    """Rewrite a corrupt description: of the data in the record's header, else of the data as they are now."""
    with try_lock(_lock_path(path.parents[2], group)) as ours:
        if not ours:  # the process that trains it has rewritten it
            return
        logging.warning("%s: corrupt, rewriting it (%s)", path, one_line(error))
        if path.is_dir():
            shutil.rmtree(path)
        record.write_description(path, group, header.get("data") if header else data)
        if data and not header and (path.parent / "checkpoints").exists():
            logging.warning("%s: the data are unknown, starting from the first step", path.parent)
            shutil.rmtree(path.parent / "checkpoints")


def directory(workdir: Path | str, group: Group) -> Path:
    """The folder of a group."""
    return _folder(workdir) / group.name


def record_path(workdir: Path | str, group: Group) -> Path:
    """The path of a group's record, which need not exist."""
    return directory(workdir, group) / "record.jsonl"


def has_record(workdir: Path | str, group: Group) -> bool:
    """Whether the path of its record exists; `record.read` checks whether it is one."""
    return os.path.lexists(record_path(workdir, group))


def _lock_path(workdir: Path | str, group: Group) -> Path:
    return _folder(workdir) / f"{group.name}.lock"


def _folder(workdir: Path | str) -> Path:
    return folders.local("workdir", workdir) / "runs"
