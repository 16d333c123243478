"""Runs on disk: group → record. Resumable, never recomputed, never half-written.

WORKDIR/runs/NAME/group.json       what the hash stands for
WORKDIR/runs/NAME/checkpoints/     while training: state and history after some evaluation
WORKDIR/runs/NAME/record.jsonl     when done: a header line, then one line per member
WORKDIR/runs/NAME.lock             the claim of the process that trains it
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from wsn.data.feeds import Source
from wsn.devices import hosts
from wsn.errors import Preempted, UserError
from wsn.records import checkpoints, record
from wsn.records.claims import claim
from wsn.records.files import replacing
from wsn.records.record import Labels, Result
from wsn.spec import Group, Spec
from wsn.training import train
from wsn.training.history import History

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
                elif not record_path(workdir, group).exists():
                    source = source_of(group.specs[0])
                    _train(group, workdir, source, labels, checkpoint_seconds, execution, watch, stop)
                else:
                    watch(group, 1.0, None)
                    _forget_checkpoints(workdir, group)
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
    for leftover in folder.glob(".*"):  # what a killed owner was writing
        leftover.unlink()
    started = saved = time.monotonic()
    text = text_of(source)
    with replacing(folder / "group.json") as file:
        json.dump(record.description(group, text), file, indent=1)
    snapshot = checkpoints.load(folder / "checkpoints")
    hosts.tell((group, snapshot, execution))
    if hosts.anywhere(False):
        raise UserError("--data_dir: another process of this run cannot read its data; its output says why")
    for moment in train.train(group, source, resume=snapshot, execution=execution):
        with hosts.followers_stop_on_error():
            watch(group, moment.share, moment.history)
            due = not moment.last and time.monotonic() - saved >= checkpoint_seconds
            if due:
                checkpoints.save(folder / "checkpoints", moment.step, moment.snapshot())
                saved = time.monotonic()
        if hosts.anywhere(stop()) and not moment.last:
            if not due:
                checkpoints.save(folder / "checkpoints", moment.step, moment.snapshot())
            raise Preempted
    seconds, how = time.monotonic() - started, record.Execution(execution, moment.sparse)
    record.write(record_path(workdir, group), group, moment.history, seconds, labels, text, how)
    _forget_checkpoints(workdir, group)


def follow(source_of: Callable[[Spec], Source], stop: Callable[[], bool]) -> int:
    """What every process but the leader does in a run over several: train what it tells; returns its exit code."""
    while not isinstance(message := hosts.tell(), int):
        group, snapshot, execution = message
        source = None
        try:
            source = source_of(group.specs[0])
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
        if hosts.anywhere(source is None) or source is None:
            continue
        for _ in train.train(group, source, resume=snapshot, execution=execution):
            if hosts.anywhere(stop()):
                break
    return message


def _forget_checkpoints(workdir: Path, group: Group) -> None:
    shutil.rmtree(directory(workdir, group) / "checkpoints", ignore_errors=True)


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
                f"--resume=false: another process is training {folder}; wait for it or stop it first"
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
        path = record_path(workdir, group)
        if path.exists():
            for result in record.read(path).results:
                found.setdefault((result.spec, result.seed), result)
    return list(found.values())


def text_of(source: Source) -> str | None:
    """The SHA-256 of the text that a source is, if it is one: a name does not say which."""
    return getattr(source, "sha256", None)


def check_texts(groups: Iterable[Group], workdir: Path, source_of: Callable[[Spec], Source]) -> None:
    """Raises UserError where what is in the folder was trained on another text than there is now.

    The text of a name may change: that of `python_docs` with Python, that of `text` with its folder.
    """
    for group in groups:
        path = directory(workdir, group) / "group.json"
        try:
            before = json.loads(path.read_text()).get("text")
        except (OSError, ValueError):
            continue
        now = text_of(source_of(group.specs[0])) if before else None
        if now and now != before:
            raise UserError(
                f"--workdir: {path.parent} was trained on another text (SHA-256 {before[:12]}…, now {now[:12]}…):"
                " take another folder, the text as it was, or --resume=false"
            )


def directory(workdir: Path, group: Group) -> Path:
    return workdir / "runs" / group.name


def record_path(workdir: Path, group: Group) -> Path:
    return directory(workdir, group) / "record.jsonl"


def _lock(workdir: Path, group: Group) -> Path:
    return workdir / "runs" / f"{group.name}.lock"
