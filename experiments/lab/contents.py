"""What experiments there are, from the words at the head of their files: nothing of them is imported.

The first sentence says what is asked, and the comment behind the first command how long that takes.
"""

import ast
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wsn.errors import meant

FOLDER = Path(__file__).parents[1]


class Entry(NamedTuple):
    """An experiment: what it asks, and how long its first command takes (`digits, a minute on 2 cores`)."""

    question: str
    time: str


def names() -> list[str]:
    """The files that are commands with flags."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if "\nCOMMAND = " in path.read_text())


def words(name: str) -> str:
    """What an experiment says of itself."""
    return ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text())) or ""


def entry(name: str) -> Entry:
    text = words(name)
    command = re.search(rf"python -m experiments\.{name}\b[^#\n]*#([^\n]*)", text)
    return Entry(text.partition("\n")[0], command[1].strip() if command else "")


def main(arguments: Sequence[str]) -> int:
    """Print the list, or what the named experiments say; the exit code."""
    known = names()
    for name in arguments:
        if name not in known:
            print(unknown(name, known), file=sys.stderr)
            return 1
        print(words(name))
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
    place = FOLDER.joinpath(*name.split("."))
    if package == "experiments" and not place.is_dir() and not place.with_suffix(".py").exists():
        print(unknown(name, names()), file=sys.stderr)
        sys.exit(1)


def unknown(name: str, known: Sequence[str]) -> str:
    return f"error: there is no experiment {name}{meant(name, known)}; python -m experiments lists them"
