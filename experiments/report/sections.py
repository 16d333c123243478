"""Sections of the page: an experiment in a folder, with its tables and the networks that belong to it."""

import datetime
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from experiments.lab import contents
from experiments.report.chart import SETTINGS, number
from experiments.report.networks import Table, table_of
from experiments.report.read import Folder, Member, Trained
from wsn.records.progress import duration

NAMES = (
    "kind",
    "activation",
    "optimizer",
    "parameterization",
    "mask",
)  # fields of a spec in a table, as words


class Section(NamedTuple):
    """An experiment in a folder."""

    title: str
    folder: str
    question: str
    command: str
    said: list[str]  # the lines that it printed
    made: list[tuple[str, str]]  # versions, devices, time of training: name, value
    time: datetime.datetime | None
    tables: list[Table]
    members: list[Member]
    groups: list[Trained]
    figure: Path | None
    notes: list[str]


def sections(folders: Iterable[Folder], workdir: Path) -> list[Section]:
    return [section for folder in folders for section in _of_folder(folder, workdir)]


def _of_folder(folder: Folder, workdir: Path) -> list[Section]:
    """A section for every figure of a folder, or command, or experiment that its records name."""
    by_experiment: dict[str, list[Trained]] = {}
    for group in folder.groups:
        by_experiment.setdefault(group.members[0].result.label.experiment, []).append(group)
    stems: dict[str, list[str]] = {}  # title → its tables
    for stem in folder.figures.keys() & (folder.tables.keys() | folder.said.keys()):
        stems[stem] = [stem] if stem in folder.tables else []
    for stem in sorted(folder.tables.keys() - stems.keys()):
        stems.setdefault(_owner(stem, stems, folder), []).append(stem)
    records = _records_of(stems, by_experiment, folder)
    return [
        _section(folder, workdir, title, stems.get(title, []), records.get(title, []), first=i == 0)
        for i, title in enumerate(sorted(stems.keys() | records.keys()))
    ]


def _owner(stem: str, stems: Iterable[str], folder: Folder) -> str:
    """The title of a table without a figure: the longest that it begins with, one of the same command, or its own."""
    begins = max((other for other in stems if stem.startswith(f"{other}_")), key=len, default=None)
    command = folder.commands.get(stem)
    same = (other for other in sorted(stems) if command and folder.commands.get(other) == command)
    return begins or next(same, stem)


def _records_of(
    stems: Iterable[str], by_experiment: dict[str, list[Trained]], folder: Folder
) -> dict[str, list[Trained]]:
    """Title → the groups of its experiment; groups that name none go to the only section, if there is one."""
    records: dict[str, list[Trained]] = {}
    titles = sorted(stems)
    for name, groups in by_experiment.items():
        same = [title for title in titles if name and experiment_of(folder.commands.get(title, "")) == name]
        alone = titles[0] if len(titles) == 1 and not name else ""
        title = name if name in titles else same[0] if same else alone or name or "networks"
        records.setdefault(title, []).extend(groups)
    return records


def _section(
    folder: Folder, workdir: Path, title: str, stems: list[str], groups: list[Trained], first: bool
) -> Section:
    said = folder.said.get(title, {})
    command = said.get("command") or folder.commands.get(title) or folder.commands.get((stems or [""])[0], "")
    members = [member for group in groups for member in group.members]
    networks = table_of(members, groups)
    tables = [
        Table(stem, rows, _matched(rows, networks), said.get("plot") if stem == title else None)
        for stem in stems
        for rows in [folder.tables[stem]]
    ]
    notes = list(folder.notes) if first else []
    for count, problem in (
        (
            sum(not group.header["sealed"] for group in groups),
            "have no checksum: an older version wrote them",
        ),
        (
            sum(group.header["other"] for group in groups),
            "have other numerics (SEMANTICS), not to be compared",
        ),
    ):
        notes += [f"{count} of {len(groups)} records {problem}"] if count else []
    return Section(
        title,
        "." if folder.path == workdir else str(folder.path.relative_to(workdir)),
        question(experiment_of(command) or title),
        command,
        said.get("said", []),
        _made([said, *(group.header for group in groups)], groups),
        folder.times.get(title) or max((folder.times[stem] for stem in stems), default=None),
        [*tables, *([networks] if networks.rows else [])],
        members,
        groups,
        folder.figures.get(title),
        notes,
    )


def experiment_of(command: str) -> str:
    match = re.match(r"python -m experiments\.(\w+)", command)
    return match[1] if match else ""


@cache
def question(experiment: str) -> str:
    """The first paragraph of an experiment's docstring."""
    path = contents.files().get(experiment)
    return " ".join(contents.docstring(path).partition("\n\n")[0].split()) if path else ""


def _made(headers: Sequence[dict[str, Any]], groups: Sequence[Trained]) -> list[tuple[str, str]]:
    """Versions, devices and the time of training: every value that occurs, so that a mixture shows."""

    def values(shown: Callable[[dict[str, Any]], str | None]) -> str:
        texts = list(dict.fromkeys(text for header in headers if header and (text := shown(header))))
        return ", ".join(texts if len(texts) <= 4 else [*texts[:3], f"and {len(texts) - 3} more"])

    names = dict.fromkeys(name for header in headers for name in header.get("packages", {}))
    made = [
        ("code", values(lambda h: "{version} {commit:.12}".format(**h["code"]) if "code" in h else None)),
        *((name, values(lambda h, name=name: h.get("packages", {}).get(name))) for name in names),  # type: ignore[misc]
        ("device", values(lambda h: "{count} × {kind}".format(**h["device"]) if "device" in h else None)),
        (
            "training",
            duration(seconds) if (seconds := sum(g.header.get("seconds", 0.0) for g in groups)) else "",
        ),
    ]
    return [(name, value) for name, value in made if value]


def _matched(rows: Sequence[dict[str, str]], networks: Table) -> list[list[int]]:
    """For every row of a table the members of the networks that agree with it in all columns that both have."""
    columns = [name for name in (rows[0] if rows else {}) if name in SETTINGS or name in NAMES]
    by_width: dict[Any, list[int]] = {}  # so that long tables are not compared to all networks
    for i, network in enumerate(networks.rows):
        by_width.setdefault(network["width"], []).append(i)
    members = []
    for row in rows:
        values = {name: value for name in columns if (value := number(row[name])) is not None}
        near = by_width.get(values.get("width"), [])
        same = [i for i in near if all(_agree(values[n], networks.rows[i].get(n)) for n in values)]
        members.append([member for i in same for member in networks.members[i]])
    return members


def _agree(one: Any, other: Any) -> bool:
    if other is None:
        return True
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= 1e-3 * max(abs(one), abs(other))
    return one == other
