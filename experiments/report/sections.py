"""Sections of the page: an experiment in a folder, with its tables and the networks that belong to it.

In: `Folder`s. Out: `Section`s, each a question with what is known of its answer.
"""

import ast
import datetime
import importlib.util
import pkgutil
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import experiments
from experiments.report import chart
from experiments.report.networks import Table, table_of
from experiments.report.read import Folder, Member, Trained
from wsn.records.progress import duration

# What a table may say of a spec in words.
TOLD = ("kind", "activation", "optimizer", "parameterization", "mask")


class Section(NamedTuple):
    """An experiment in a folder."""

    title: str
    folder: str
    question: str
    command: str
    said: list[str]
    made: list[tuple[str, str]]  # what it was made with: name, value
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
    asked: dict[str, list[Trained]] = {}
    for group in folder.groups:
        asked.setdefault(group.members[0].result.label.experiment, []).append(group)
    stems: dict[str, list[str]] = {}  # title → its tables
    for stem in folder.figures.keys() & (folder.tables.keys() | folder.said.keys()):
        stems[stem] = [stem] if stem in folder.tables else []
    for stem in sorted(folder.tables.keys() - stems.keys()):
        stems.setdefault(_owner(stem, stems, folder), []).append(stem)
    named = _records_of(stems, asked, folder)
    return [
        _section(folder, workdir, title, stems.get(title, []), named.get(title, []), first=i == 0)
        for i, title in enumerate(sorted(stems.keys() | named.keys()))
    ]


def _owner(stem: str, stems: Iterable[str], folder: Folder) -> str:
    """Of a table without a figure: the longest name that it begins with, one of the same command, or its own."""
    begins = max((other for other in stems if stem.startswith(f"{other}_")), key=len, default=None)
    command = folder.commands.get(stem)
    same = (other for other in sorted(stems) if command and folder.commands.get(other) == command)
    return begins or next(same, stem)


def _records_of(
    stems: Iterable[str], asked: dict[str, list[Trained]], folder: Folder
) -> dict[str, list[Trained]]:
    """Section → the groups of its experiment; those that name none go to the only section, if there is one."""
    named: dict[str, list[Trained]] = {}
    titles = sorted(stems)
    for name, groups in asked.items():
        same = [title for title in titles if name and experiment_of(folder.commands.get(title, "")) == name]
        alone = titles[0] if len(titles) == 1 and not name else ""
        title = name if name in titles else same[0] if same else alone or name or "networks"
        named.setdefault(title, []).extend(groups)
    return named


def _section(
    folder: Folder, workdir: Path, title: str, stems: list[str], groups: list[Trained], first: bool
) -> Section:
    said = folder.said.get(title, {})
    command = said.get("command") or folder.commands.get(title) or folder.commands.get((stems or [""])[0], "")
    members = [member for group in groups for member in group.members]
    networks = table_of(members, groups)
    found = [Table(stem, rows := folder.tables[stem], _matched(rows, networks)) for stem in stems]
    experiment = experiment_of(command) or title
    notes = list(folder.notes) if first else []
    unsealed = sum(not group.header["sealed"] for group in groups)
    other = sum(group.header["other"] for group in groups)
    if unsealed:
        notes.append(f"{unsealed} of {len(groups)} records have no digest: an older version wrote them")
    if other:
        notes.append(
            f"{other} of {len(groups)} records are of other numerics (SEMANTICS), not to be compared"
        )
    return Section(
        title,
        "." if folder.path == workdir else str(folder.path.relative_to(workdir)),
        question(experiment),
        command,
        said.get("said", []),
        _made([said, *(group.header for group in groups)], groups),
        folder.times.get(title) or max((folder.times[stem] for stem in stems), default=None),
        [*found, *([networks] if networks.rows else [])],
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
    """The first sentence of an experiment's docstring, which is not imported for that."""
    if experiment not in {module.name for module in pkgutil.iter_modules(experiments.__path__)}:
        return ""
    spec = importlib.util.find_spec(f"experiments.{experiment}")
    assert spec is not None and spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


def _made(headers: Sequence[dict[str, Any]], groups: Sequence[Trained]) -> list[tuple[str, str]]:
    """Versions, devices and the time of training: every value that occurs, so a mixture shows."""

    def values(shown: Callable[[dict[str, Any]], str | None]) -> str:
        found = dict.fromkeys(text for header in headers if header and (text := shown(header)))
        return (
            ", ".join(found) if len(found) <= 4 else f"{', '.join(list(found)[:3])} and {len(found) - 3} more"
        )

    names = dict.fromkeys(name for header in headers for name in header.get("packages", {}))
    found = [
        ("code", values(lambda h: "{version} {commit:.12}".format(**h["code"]) if "code" in h else None)),
        *((name, values(lambda h, name=name: h.get("packages", {}).get(name))) for name in names),  # type: ignore[misc]
        ("device", values(lambda h: "{count} × {kind}".format(**h["device"]) if "device" in h else None)),
    ]
    seconds = sum(group.header.get("seconds", 0.0) for group in groups)
    if seconds:
        found.append(("training", duration(seconds)))
    return [(name, value) for name, value in found if value]


def _matched(rows: Sequence[dict[str, str]], networks: Table) -> list[list[int]]:
    """For every row of a table the members of the networks that agree with it in all that both say."""
    said = [name for name in (rows[0] if rows else {}) if name in chart.SETTINGS or name in TOLD]
    by_width: dict[Any, list[int]] = {}  # so that long tables are not compared to all networks
    for i, network in enumerate(networks.rows):
        by_width.setdefault(network["width"], []).append(i)
    found = []
    for row in rows:
        told = {name: value for name in said if (value := chart.number(row[name])) is not None}
        near = by_width.get(told.get("width"), [])
        fits = [i for i in near if all(_agree(told[name], networks.rows[i].get(name)) for name in told)]
        found.append([member for i in fits for member in networks.members[i]])
    return found


def _agree(told: Any, other: Any) -> bool:
    if other is None:
        return True
    if isinstance(told, int | float) and isinstance(other, int | float):
        return abs(told - other) <= 1e-3 * max(abs(told), abs(other))
    return told == other
