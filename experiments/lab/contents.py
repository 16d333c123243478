"""What experiments there are, from the words at the head of their files: nothing of them is imported.

The first sentence says what is asked, and the comment behind the first command how long that takes.
"""

import ast
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments import FOLDERS
from wsn.errors import meant

ROOT = Path(__file__).parents[1]


class Entry(NamedTuple):
    """An experiment: what it asks, and how long its first command takes (`digits, a minute on 2 cores`)."""

    question: str
    time: str


def files() -> dict[str, Path]:
    """Command → its file: those with flags, and `report`."""
    modules = [path for folder in FOLDERS for path in (ROOT / folder).glob("*.py")]
    commands = {path.stem: path for path in modules if "\nCOMMAND = " in path.read_text(encoding="utf-8")}
    return dict(sorted({**commands, "report": ROOT / "report" / "__main__.py"}.items()))


def words(path: Path) -> str:
    """The docstring of a command."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def entry(name: str) -> Entry:
    text = words(files()[name])
    command = re.search(rf"python -m experiments\.{name}\b[^#\n]*#([^\n]*)", text)
    return Entry(text.partition("\n")[0], command[1].strip() if command else "")


def main(arguments: Sequence[str]) -> int:
    """Print the list, or what the named experiments say; the exit code."""
    known = files()
    for name in arguments:
        if name not in known:
            print(unknown(name, list(known)), file=sys.stderr)
            return 1
        print(words(known[name]))
    if not arguments:
        width = max(map(len, known))
        for name in known:
            question, time = entry(name)
            print(f"{name:{width}}  {question} ({time})")
        print("Run one: python -m experiments.NAME (--help: its flags, --dry_run: what it would train)")
    return 0


def check_name(command: Sequence[str]) -> None:
    """End `python -m experiments.NAME` with a line where there is no such experiment."""
    module = command[command.index("-m") + 1] if "-m" in command[:-1] else ""
    package, _, name = module.partition(".")
    places = [folder.joinpath(*name.split(".")) for folder in (ROOT, *(ROOT / folder for folder in FOLDERS))]
    if package == "experiments" and not any(p.is_dir() or p.with_suffix(".py").exists() for p in places):
        print(unknown(name, list(files())), file=sys.stderr)
        sys.exit(1)


def unknown(name: str, known: Sequence[str]) -> str:
    return f"error: there is no experiment {name}{meant(name, known)}; python -m experiments lists them"
