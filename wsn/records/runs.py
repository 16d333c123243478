"""Runs on disk: group → record. Resumable, never recomputed, never half-written.

WORKDIR/runs/NAME/group.json       what the hash stands for
WORKDIR/runs/NAME/checkpoints/     while training: state and history after some evaluation
WORKDIR/runs/NAME/partial.jsonl    while training: the curves so far, the time left and who trains, to look at
WORKDIR/runs/NAME/record.jsonl     when done: a header line, then one line per member
WORKDIR/runs/NAME.lock             the claim of the process that trains it
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from absl import logging

from wsn.data.feeds import Source
from wsn.devices import hosts
from wsn.devices.hosts import Action
from wsn.errors import Preempted, UserError, one_line
from wsn.records import checkpoints, record
from wsn.records.claims import claim
from wsn.records.partial import NAME as PARTIAL
from wsn.records.partial import Partial
from wsn.records.record import Labels, Result
from wsn.spec import Group, Spec
from wsn.stored import clear
from wsn.training import train
from wsn.training.history import EMPTY, History

# (group, share of its training that is done, history; None where another process finished it)
Watch = Callable[[Group, float, History | None], None]


def run(
    groups: Iterable[Group],
    workdir: Path,
    source_of: Callable[[Spec], Source],
    *,
    labels: Labels | None = None,
    checkpoint_seconds: float = 30.0,
    execution: str = "masked",
    watch: Watch = lambda group, share, history: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train every group that has no record yet; returns when all have one.

    Several processes may run the same groups in one folder: they share the work. `labels` go into the records;
    `execution` is how `train` runs layers that lose weights.
    `watch` is called after every evaluation with (group, share done, history), and once with None for a group that is
    done already, or that another process finished. `stop` is asked after every evaluation; when it is true there is a
    checkpoint, and Preempted is raised.
    """
    waiting = list(groups)
    while waiting:
        blocked = []
        for group in waiting:
            if stop():
                raise Preempted
            with claim(_lock(workdir, group)) as owned:
                if not owned:
                    blocked.append(group)
                elif not has_record(workdir, group):
                    source = source_of(group.specs[0])
                    _train(group, workdir, source, labels, checkpoint_seconds, execution, watch, stop)
                else:
                    watch(group, 1.0, None)
                    _forget(workdir, group)
        if len(blocked) == len(waiting):
            time.sleep(0.5)
        waiting = blocked


def _train(
    group: Group,
    workdir: Path,
    source: Source,
    labels: Labels | None,
    checkpoint_seconds: float,
    execution: str,
    watch: Watch,
    stop: Callable[[], bool],
) -> None:
    folder = directory(workdir, group)
    for path in (folder / "group.json", folder / PARTIAL, record_path(workdir, group)):
        clear(path)  # what a killed owner was writing
    started = saved = time.monotonic()
    text = text_of(source)
    record.write_description(folder / "group.json", group, text)
    snapshot = checkpoints.load(folder / "checkpoints", group.name)
    hosts.broadcast((group, snapshot, execution))
    if hosts.any_process(False):
        raise UserError("`data_dir`: another process of this run cannot read its data; its output says why")
    history, how = snapshot.history if snapshot else EMPTY, record.Execution(execution)
    partial = Partial(folder, group, snapshot.history if snapshot else None, labels, text)
    for moment in train.train(group, source, resume=snapshot, execution=execution):
        history, how = moment.history, record.Execution(execution, moment.sparse)
        with hosts.followers_stop_on_error():
            watch(group, moment.fraction_done, moment.history)
            partial(moment.fraction_done, moment.history)
            due = time.monotonic() - saved >= checkpoint_seconds
        action = hosts.agree(Action.STOP if stop() else Action.SAVE if due else Action.CONTINUE)
        if action == Action.CONTINUE or moment.last:
            continue
        snapshot = moment.snapshot()
        with hosts.followers_stop_on_error():
            checkpoints.save(folder / "checkpoints", moment.step, snapshot, group.name)
            saved = time.monotonic()
        hosts.agree(Action.CONTINUE)  # it is saved
        if action == Action.STOP:
            partial.write(moment.fraction_done, moment.history)
            raise Preempted
    seconds = time.monotonic() - started
    record.write(record_path(workdir, group), group, history, seconds, labels, text, how)
    _forget(workdir, group)


def follow(source_of: Callable[[Spec], Source], stop: Callable[[], bool]) -> int:
    """What every process but the leader does in a run over several: train what it tells; returns its exit code."""
    while not isinstance(message := hosts.broadcast(), int):
        group, snapshot, execution = message
        source = None
        try:
            source = source_of(group.specs[0])
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
        if hosts.any_process(source is None) or source is None:
            continue
        for moment in train.train(group, source, resume=snapshot, execution=execution):
            action = hosts.agree(Action.STOP if stop() else Action.CONTINUE)
            if action in (Action.SAVE, Action.STOP) and not moment.last:
                moment.snapshot()  # the leader needs the part of the state that is here
                action = max(action, hosts.agree(Action.CONTINUE))
            if action >= Action.STOP:
                break
    return message


def _forget(workdir: Path, group: Group) -> None:
    """Remove what a finished group needs no more."""
    shutil.rmtree(directory(workdir, group) / "checkpoints", ignore_errors=True)
    (directory(workdir, group) / PARTIAL).unlink(missing_ok=True)


def cover(workdir: Path, families: Iterable[Sequence[Spec]], seeds: Iterable[int]) -> list[Group]:
    """The groups that give those seeds of those families (lists of specs that train as one program).

    Seeds that have a record in `workdir` come from there; all that are missing make one new group a family.
    """
    recorded: dict[tuple[Spec, ...], list[Group]] = {}
    for path in sorted(workdir.glob("runs/*/record.jsonl")):
        group = record.group_of(path)
        if group is not None and path == record_path(workdir, group):
            recorded.setdefault(group.specs, []).append(group)
    groups = []
    for family in families:
        missing = dict.fromkeys(seeds)
        for group in recorded.get(tuple(family), []):
            if any(seed in missing for seed in group.seeds):
                groups.append(group)
                missing = {seed: None for seed in missing if seed not in group.seeds}
        if missing:
            groups.append(Group(tuple(family), tuple(missing)))
    return groups


def set_aside(workdir: Path, group: Group) -> None:
    """Rename a group's folder so that it starts afresh; nothing is deleted, and tables leave it out."""
    folder = directory(workdir, group)
    with claim(_lock(workdir, group)) as owned:
        if not owned:
            raise UserError(
                f"`resume=false`: another process is training {folder}; wait for it or stop it first"
            )
        if folder.exists():
            number = 1
            while (aside := folder.with_name(f"{folder.name}.aside-{number}")).exists():
                number += 1
            os.rename(folder, aside)


def results(groups: Iterable[Group], workdir: Path) -> list[Result]:
    """The members of those groups that have a record, in order; the same (spec, seed) counts once."""
    found: dict[tuple[Spec, int], Result] = {}
    for group in groups:
        if has_record(workdir, group):
            for result in record.read(record_path(workdir, group)).results:
                found.setdefault((result.spec, result.seed), result)
    return list(found.values())


def text_of(source: Source) -> str | None:
    """The SHA-256 of the text that a source is, if it is one: a name does not say which."""
    return getattr(source, "sha256", None)


def check(
    groups: Iterable[Group], workdir: Path, source_of: Callable[[Spec], Source], *, mend: bool = True
) -> None:
    """Look at what is in the folder of those groups before any of it is used.

    A damaged description is written anew (unless not to `mend`), with a warning; where it may have been of another text
    than there is now, what was trained without a record starts afresh. Raises UserError for a damaged record, and for
    what was trained on another text: that of `python_docs` changes with Python, that of `text` with its folder.
    """
    for group in groups:
        path = directory(workdir, group) / "group.json"
        header = record.read(record_path(workdir, group)).header if has_record(workdir, group) else None
        try:
            before = record.described(path, group).get("text")
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            before = header.get("text") if header else None
            if mend:
                _mend(path, group, header, text_of(source_of(group.specs[0])), error)
        now = text_of(source_of(group.specs[0])) if before else None
        if before and now and now != before:
            raise UserError(
                f"`workdir`: {path.parent} was trained on another text (SHA-256 {before[:12]}…, now {now[:12]}…):"
                " take another folder, the text as it was, or `resume=false`"
            )


def _mend(path: Path, group: Group, header: dict | None, text: str | None, error: Exception) -> None:
    """Write a damaged description anew: from the record, else from the text that there is now."""
    with claim(path.parent.with_suffix(".lock")) as owned:
        if not owned:  # whoever trains it has written it
            return
        logging.warning("%s: damaged, written anew (%s)", path, one_line(error))
        if path.is_dir():
            shutil.rmtree(path)
        record.write_description(path, group, header.get("text") if header else text)
        if text and not header and (path.parent / "checkpoints").exists():
            logging.warning("%s: of what text is not known, starting from the first step", path.parent)
            shutil.rmtree(path.parent / "checkpoints")


def directory(workdir: Path, group: Group) -> Path:
    """The folder of a group."""
    return workdir / "runs" / group.name


def record_path(workdir: Path, group: Group) -> Path:
    """Where the record of a group is, or will be."""
    return directory(workdir, group) / "record.jsonl"


def has_record(workdir: Path, group: Group) -> bool:
    """Whether there is something under the name of its record; `record.read` says whether it is one."""
    return os.path.lexists(record_path(workdir, group))


def _lock(workdir: Path, group: Group) -> Path:
    return workdir / "runs" / f"{group.name}.lock"
