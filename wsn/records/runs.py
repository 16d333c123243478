"""Runs on disk: group → record. Resumable, never recomputed, never half-written.

WORKDIR/runs/NAME/group.json       what the hash stands for
WORKDIR/runs/NAME/checkpoints/     while training: state and history after some epoch
WORKDIR/runs/NAME/record.jsonl     when done: a header line, then one line per member
WORKDIR/runs/NAME.lock             the claim of the process that trains it
"""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

import wsn
from wsn.data.feeds import Source
from wsn.devices import hosts
from wsn.errors import Preempted, UserError
from wsn.records import checkpoints
from wsn.records.claims import claim
from wsn.records.files import replacing
from wsn.spec import SEMANTICS, Group, Spec, changed_fields, from_fields
from wsn.training import train

FORMAT = 1
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
Watch = Callable[[Group, int, train.History], None]


@dataclasses.dataclass(frozen=True)
class Result:
    """One trained network: its spec, seed, status and a value per epoch of each curve (NaN after divergence)."""

    spec: Spec
    seed: int
    status: str  # "finished" or "diverged"
    curves: dict[str, Float[np.ndarray, " epochs"]]


def run(
    groups: Iterable[Group],
    workdir: Path,
    source_of: Callable[[Spec], Source],
    *,
    checkpoint_seconds: float = 30.0,
    watch: Watch = lambda group, epochs, history: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train every group that has no record yet; returns when all have one.

    Several processes may run the same groups in one folder: they share the work. `watch` is called after every epoch
    with (group, epochs done, history), and once for a group that is done already, or that another process finished.
    `stop` is asked after every epoch; when it is true there is a checkpoint, and Preempted is raised.
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
                    _train(group, workdir, source_of(group.specs[0]), checkpoint_seconds, watch, stop)
                else:
                    watch(group, group.specs[0].epochs, {})
                    _forget_checkpoints(workdir, group)
        if len(blocked) == len(waiting):
            time.sleep(0.5)
        waiting = blocked


def _train(
    group: Group,
    workdir: Path,
    source: Source,
    checkpoint_seconds: float,
    watch: Watch,
    stop: Callable[[], bool],
) -> None:
    folder = directory(workdir, group)
    for leftover in folder.glob(".*"):  # what a killed owner was writing
        leftover.unlink()
    started = saved = time.monotonic()
    with replacing(folder / "group.json") as file:
        json.dump(_description(group), file, indent=1)
    snapshot = checkpoints.load(folder / "checkpoints")
    hosts.tell((group, snapshot))
    if hosts.anywhere(False):
        raise UserError("--data_dir: another process of this run cannot read its data; its output says why")
    for epochs, history, take_snapshot in train.train(group, source, resume=snapshot):
        last = epochs == group.specs[0].epochs
        with hosts.followers_stop_on_error():
            watch(group, epochs, history)
            due = not last and time.monotonic() - saved >= checkpoint_seconds
            if due:
                checkpoints.save(folder / "checkpoints", epochs, take_snapshot())
                saved = time.monotonic()
        if hosts.anywhere(stop()) and not last:
            if not due:
                checkpoints.save(folder / "checkpoints", epochs, take_snapshot())
            raise Preempted
    write_record(record_path(workdir, group), group, history, time.monotonic() - started)
    _forget_checkpoints(workdir, group)


def follow(source_of: Callable[[Spec], Source], stop: Callable[[], bool]) -> int:
    """What every process but the leader does in a run over several: train what it tells; returns its exit code."""
    while not isinstance(message := hosts.tell(), int):
        group, snapshot = message
        source = None
        try:
            source = source_of(group.specs[0])
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
        if hosts.anywhere(source is None) or source is None:
            continue
        for _ in train.train(group, source, resume=snapshot):
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
        group = _read_group(path)
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


def _read_group(path: Path) -> Group | None:
    """The group of a record from its header line; None for one of another semantics, or a damaged one."""
    try:
        with open(path) as file:
            header = json.loads(file.readline())
        if header["semantics"] != SEMANTICS:
            return None
        return Group(tuple(from_fields(fields) for fields in header["specs"]), tuple(header["seeds"]))
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None


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
            for result in read_record(path):
                found.setdefault((result.spec, result.seed), result)
    return list(found.values())


def write_record(path: Path, group: Group, history: train.History, seconds: float) -> None:
    """Write the record of a finished group; `seconds` is the time since it was last started."""
    device = jax.devices()[0]
    header = _description(group) | {
        "code": {"version": _version("wsn"), "commit": _commit()},
        "packages": {name: _version(name) for name in PACKAGES},
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        },
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
    }
    with replacing(path) as file:
        file.write(json.dumps(header) + "\n")
        for i, (_, seed) in enumerate(group.members):
            curves = {name: _listed(values[:, i]) for name, values in sorted(history.items())}
            status = "diverged" if any(None in values for values in curves.values()) else "finished"
            line = {"spec": i // len(group.seeds), "seed": seed, "status": status} | curves
            file.write(json.dumps(line) + "\n")


def read_record(path: Path) -> list[Result]:
    """Every member of a record. Raises UserError, saying what to do, when the file is damaged."""
    try:
        header, *lines = (json.loads(line) for line in path.read_text().splitlines())
        specs = [from_fields(fields) for fields in header["specs"]]
        if header["format"] != FORMAT or len(lines) != len(specs) * len(header["seeds"]):
            raise ValueError("lines are missing")
        return [
            Result(
                specs[line.pop("spec")],
                line.pop("seed"),
                line.pop("status"),
                {name: np.array(values, np.float32) for name, values in line.items()},
            )
            for line in lines
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, UserError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"--workdir: {path} is damaged ({error}): remove it, or start afresh with --resume=false"
    )


def directory(workdir: Path, group: Group) -> Path:
    return workdir / "runs" / group.name


def record_path(workdir: Path, group: Group) -> Path:
    return directory(workdir, group) / "record.jsonl"


def _lock(workdir: Path, group: Group) -> Path:
    return workdir / "runs" / f"{group.name}.lock"


def _description(group: Group) -> dict[str, Any]:
    specs = [changed_fields(spec) for spec in group.specs]
    return {
        "format": FORMAT,
        "semantics": SEMANTICS,
        "group": group.name,
        "specs": specs,
        "seeds": group.seeds,
    }


def _listed(values: Float[np.ndarray, " epochs"]) -> list[float | None]:
    """Shortest decimals that give the float32 back; None for NaN."""
    return [float(str(value)) if np.isfinite(value) else None for value in values]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@cache
def _commit() -> str:
    """The commit of the code, with `-dirty` when files differ from it; `unknown` outside a checkout."""
    root = Path(wsn.__file__).parents[1]
    if not (root / ".git").exists():  # an installed package: git would find whatever encloses it
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
