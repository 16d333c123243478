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

from experiments.lab import plots
from experiments.lab.output import SAID
from wsn import stored
from wsn.errors import UserError, one_line
from wsn.records import partial, record
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
    state: str = ""  # finished, training, stopped, silent


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
        folders = [self._folder(path, names, groups) for path, names, groups in walk(workdir)]
        self._cache = {name: self._cache[name] for name in self._seen}
        states = tuple(group.state for folder in folders for group in folder.groups)
        self.stamp = tuple(self._seen.items()), states
        return [folder for folder in folders if folder.tables or folder.said or folder.groups or folder.notes]

    def _folder(self, path: str, names: list[str], groups: list[str]) -> Folder:
        folder = Folder(Path(path), {}, {}, {}, {}, {}, [], [])
        loads: dict[str, tuple[dict[str, Any], Callable[[Path], Any]]] = {
            SAID: (folder.said, said),
            ".csv": (folder.tables, table),
            ".command": (folder.commands, lambda path: stored.read(path).strip()),
            ".png": (folder.figures, lambda path: path),
        }
        for name in sorted(names):
            if suffix := next((suffix for suffix in loads if name.endswith(suffix)), None):
                values, load = loads[suffix]
                stem, file = name.removesuffix(suffix), os.path.join(path, name)
                if (value := self._load(file, load, folder.notes)) is not None:
                    values[stem] = value
                    time = datetime.datetime.fromtimestamp(self._seen[file][0] / 1e9, datetime.UTC)
                    folder.times[stem] = max(time, folder.times.get(stem, time))
        for group in groups:
            if os.path.splitext(group)[1]:
                folder.notes.append(f"{group}: archived by `resume=false`")
                continue
            for name in ("record.jsonl", partial.NAME):  # finished, or not
                notes: list[str] = []
                value = self._load(os.path.join(group, name), trained, notes)
                folder.notes.extend(notes)
                if value is not None:
                    folder.groups.append(value._replace(state=state_of(value.header)))
                if value is not None or notes:
                    break
        return folder

    def _load(self, path: str, load: Callable[[Path], Any], notes: list[str]) -> Any:
        """`load(file)`, from memory if the file has not changed; None if there is none, or only a note on it."""
        try:
            status = os.stat(path)
        except OSError:
            return None
        stamp = self._seen[path] = status.st_mtime_ns, status.st_size
        if path not in self._cache or self._cache[path][0] != stamp:
            self._cache[path] = stamp, _value_or_note(load, Path(path))
        value, note = self._cache[path][1]
        notes += [note] if note else []
        return value


def _value_or_note(load: Callable[[Path], Any], path: Path) -> tuple[Any, str]:
    """What a file holds, or why it cannot be read."""
    try:
        return load(path), ""
    except FileNotFoundError:
        return None, ""  # files of a running training come and go
    except UserError as error:
        return None, str(error).removeprefix("`workdir`: ")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, csv.Error) as error:
        return None, f"{path} cannot be read ({one_line(error)})"


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
    read = record.read(path)
    if not len(read.results):
        raise ValueError("no networks")
    header = {name: value for name, value in read.header.items() if name not in ("specs", "steps", "digest")}
    header["sealed"] = stored.DIGEST in read.header
    header["other"] = read.header["semantics"] != SEMANTICS
    return Trained(header, [_member(result, path.parent.name) for result in read.results])


def state_of(header: dict[str, Any]) -> str:
    if "finished" in header:
        return "finished"
    return "stopped" if "owner" not in header else partial.state(header)


def _member(result: Result, group: str) -> Member:
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
    even = np.linspace(0, len(result.steps) - 1, points).round().astype(np.int64)
    curves = np.stack(list(result.curves.values()))
    least, largest = np.where(np.isnan(curves), np.inf, curves), np.where(np.isnan(curves), -np.inf, curves)
    kept = np.unique(np.concatenate([even, least.argmin(1), largest.argmax(1)]))
    thin = {name: values[kept] for name, values in result.curves.items()}
    return dataclasses.replace(result, curves=thin, steps=result.steps[kept])


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
