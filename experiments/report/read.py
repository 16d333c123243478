"""Reading a folder tree: tables, printed lines beside figures, records of finished and unfinished groups.

A file is read again when its time or size has changed. Corrupt files become notes and raise nothing.
"""

import csv
import dataclasses
import datetime
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from experiments.lab import plots
from experiments.lab.output import SAID
from wsn import stored
from wsn.errors import UserError, one_line
from wsn.records import checkpoints, partial, record
from wsn.records.record import Result
from wsn.spec import SEMANTICS

POINTS = 200  # of a curve that are kept in memory; besides, its extremes


class Member(NamedTuple):
    """A network and seed: its result so far, thinned, its state (`finished`, `diverged`), number of evaluations."""

    result: Result
    state: str
    evaluations: int
    group: str


class Trained(NamedTuple):
    """A group: the header of its record, and its members."""

    header: dict[str, Any]
    members: list[Member]
    state: str  # finished, training, stopped, silent


class Folder(NamedTuple):
    """The files of one folder, by stem."""

    path: Path
    tables: dict[str, list[dict[str, str]]]
    commands: dict[str, str]
    said: dict[str, dict[str, Any]]
    figures: dict[str, Path]
    times: dict[str, datetime.datetime]
    groups: list[Trained]
    notes: list[str]


class Reader:
    """Reads a tree repeatedly; `stamp` differs after every change of what a page shows."""

    def __init__(self) -> None:
        self._cache: dict[str, tuple[tuple[int, int], Any]] = {}
        self._seen: dict[str, tuple[int, int]] = {}
        self.stamp: Any = None

    def read(self, workdir: Path) -> list[Folder]:
        self._seen = {}
        found = [self._folder(path, names, groups) for path, names, groups in walk(workdir)]
        self._cache = {name: self._cache[name] for name in self._seen}
        states = tuple(group.state for folder in found for group in folder.groups)
        self.stamp = tuple(self._seen.items()), states
        return [folder for folder in found if folder.tables or folder.said or folder.groups or folder.notes]

    def _once(self, path: str, load: Callable[[Path], Any]) -> Any:
        """`load(file)`, from memory if the file has not changed; None if there is none."""
        try:
            status = os.stat(path)
        except OSError:
            return None
        stamp = self._seen[path] = status.st_mtime_ns, status.st_size
        if path not in self._cache or self._cache[path][0] != stamp:
            self._cache[path] = stamp, load(Path(path))
        return self._cache[path][1]

    def _folder(self, path: str, names: list[str], groups: list[str]) -> Folder:
        folder = Folder(Path(path), {}, {}, {}, {}, {}, [], [])
        loads: dict[str, tuple[dict[str, Any], Callable[[Path], Any]]] = {
            SAID: (folder.said, said),
            ".csv": (folder.tables, table),
            ".command": (folder.commands, lambda path: stored.read(path).strip()),
            ".png": (folder.figures, lambda path: path),
        }
        for name in sorted(names):
            suffix = next((suffix for suffix in loads if name.endswith(suffix)), None)
            if suffix is not None:
                into, load = loads[suffix]
                file = os.path.join(path, name)
                value = self._once(file, noted(load))
                self._add(folder, into, name.removesuffix(suffix), file, value)
        for group in groups:
            self._group(folder, group)
        return folder

    def _add(self, folder: Folder, into: dict[str, Any], stem: str, file: str, value: Any) -> None:
        if isinstance(value, Note):
            folder.notes.append(value.text)
        elif value is not None:
            into[stem] = value
            time = datetime.datetime.fromtimestamp(self._seen[file][0] / 1e9, datetime.UTC)
            folder.times[stem] = max(time, folder.times.get(stem, time))

    def _group(self, folder: Folder, path: str) -> None:
        """The record of a group, finished or not."""
        if os.path.splitext(path)[1]:
            folder.notes.append(f"{path}: set aside by `resume=false`")
            return
        value = self._once(os.path.join(path, "record.jsonl"), noted(trained))
        value = value or self._once(os.path.join(path, partial.NAME), noted(trained))
        value = value or self._once(os.path.join(path, "group.json"), noted(checkpointed))
        if isinstance(value, Note):
            folder.notes.append(value.text)
        elif value is not None:
            state = "finished" if "finished" in value.header else state_of(value.header)
            folder.groups.append(value._replace(state=state))


class Note(NamedTuple):
    """A problem with a file."""

    text: str


def noted(load: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def attempt(path: Path) -> Any:
        try:
            return load(path)
        except FileNotFoundError:
            return None  # gone meanwhile: files of a running training come and go
        except UserError as error:
            return Note(str(error).removeprefix("`workdir`: "))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, csv.Error) as error:
            return Note(f"{path} cannot be read ({one_line(error)})")

    return attempt


def walk(workdir: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """(folder, names of its files, folders of its groups), from the top down, by name."""
    for path, folders, names in os.walk(workdir):
        groups = []
        if "runs" in folders:
            folders.remove("runs")
            with os.scandir(os.path.join(path, "runs")) as entries:
                groups = sorted(entry.path for entry in entries if entry.is_dir())
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield path, names, groups


def trained(path: Path) -> Trained:
    """A record, finished or not. Raises UserError."""
    found = record.read(path)
    if not len(found.results):
        raise ValueError("no networks")
    header = {name: value for name, value in found.header.items() if name not in ("specs", "steps", "digest")}
    header["sealed"] = stored.DIGEST in found.header
    header["other"] = found.header["semantics"] != SEMANTICS
    state = "finished" if "finished" in header else ""
    return Trained(header, [_member(result, path.parent.name, header) for result in found.results], state)


def checkpointed(path: Path) -> Trained | None:
    """The history in the newest checkpoint of an unfinished group of an older version."""
    found = stored.parse(stored.read(path))
    group = record.described_group(found)
    snapshot = checkpoints.load(path.parent / "checkpoints", group.name)
    if snapshot is None:
        return None
    header = {"sealed": True, "other": found["semantics"] != SEMANTICS, "checkpoint": True}
    curves = snapshot.history.curves
    steps = np.arange(1, 1 + max(map(len, curves.values()), default=0))
    members = [
        _member(
            Result(spec, seed, "finished", {name: x[:, i] for name, x in curves.items()}, steps),
            group.name,
            header,
        )
        for i, (spec, seed) in enumerate(group.members)
    ]
    return Trained(header, members, "stopped")


def state_of(header: dict[str, Any]) -> str:
    return "stopped" if "owner" not in header else partial.state(header)


def _member(result: Result, group: str, header: dict[str, Any]) -> Member:
    count = max((len(values) for values in result.curves.values()), default=0)
    curves = {name: values for name, values in result.curves.items() if "/" not in name}  # not of probes
    lost = result.status == "diverged" or any(np.isnan(values).any() for values in curves.values())
    whole = dataclasses.replace(result, curves=curves)
    return Member(thinned(whole, POINTS), "diverged" if lost else "finished", count, group)


def thinned(result: Result, points: int) -> Result:
    """Evenly spaced evaluations, the first and the last, and the extremes of every curve, so that best and final values
    are those of the whole curves."""
    if len(result.steps) <= points:
        return result
    kept = thin(result, points)
    curves = {name: values[kept] for name, values in result.curves.items()}
    return dataclasses.replace(result, curves=curves, steps=result.steps[kept])


def thin(result: Result, points: int) -> Int64[np.ndarray, " kept"]:
    """Which evaluations are kept."""
    even = np.linspace(0, len(result.steps) - 1, points).round().astype(np.int64)
    curves = np.stack(list(result.curves.values()))
    least, largest = np.where(np.isnan(curves), np.inf, curves), np.where(np.isnan(curves), -np.inf, curves)
    return np.unique(np.concatenate([even, least.argmin(1), largest.argmax(1)]))


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV, as text. Raises ValueError where a row is longer than the header."""
    rows = list(csv.DictReader(stored.read(path).splitlines()))
    if any(None in row for row in rows):
        raise ValueError("a row is longer than the header")
    return [{name: value or "" for name, value in row.items()} for row in rows]


def said(path: Path) -> dict[str, Any]:
    """The lines that a command printed, its plot and versions. Raises ValueError."""
    content = stored.parse(stored.read(path))
    stored.verify_checksum(content)
    read: dict[str, Any] = {
        "said": [str(line) for line in content["said"]],
        "command": str(content["command"]),
    }
    read |= {name: dict(content[name]) for name in ("code", "packages", "device")}
    return read | {"plot": plots.of_fields(content["plot"]) if "plot" in content else None}
