"""The list of commands, from their docstrings; nothing is imported.

The first line of a docstring is the question that an experiment answers; the comment behind its first command line is
the data and the time that it takes, as in `# MNIST, half an hour on 2 cores`.
"""

import ast
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import FOLDERS
from wsn.errors import did_you_mean

ROOT = Path(__file__).parents[1]


class Line(NamedTuple):
    """A command line of a docstring, and its comment `DATA, TIME`."""

    command: str
    needs: str


def files() -> dict[str, Path]:
    """Command → its file: the modules with a COMMAND, and `report`."""
    modules = [path for folder in FOLDERS for path in (ROOT / folder).glob("*.py")]
    commands = {path.stem: path for path in modules if "\nCOMMAND = " in path.read_text(encoding="utf-8")}
    return dict(sorted({**commands, "report": ROOT / "report" / "__main__.py"}.items()))


def command(name: str) -> Any:
    """The COMMAND of an experiment, which is imported."""
    module = "experiments.report.__main__" if name == "report" else f"experiments.{name}"
    return importlib.import_module(module).COMMAND


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def lines(docstring: str) -> list[Line]:
    """The command lines of a docstring, which are indented by four, continued ones joined."""
    joined = re.sub(r"\s*\\\n\s*", " ", docstring)
    commands = re.findall(r"^ {4}(python -m experiments[^#\n]*)(?:#([^\n]*))?$", joined, re.MULTILINE)
    return [Line(command.strip(), needs.strip()) for command, needs in commands]


def main(names: Sequence[str]) -> int:
    """Print the list, or the docstrings of the named commands; the exit code."""
    known = files()
    if unknown := [name for name in names if name not in known]:
        return _unknown(unknown[0])
    for name in names:
        print(docstring(known[name]))
    if not names:
        for name in known:
            text = docstring(known[name])
            print(f"{name:{max(map(len, known))}}  {text.partition(chr(10))[0]} ({lines(text)[0].needs})")
        print("Run one: python -m experiments.NAME (--help: its flags, --dry_run: what it would train)")
    return 0


def check_name(command: Sequence[str]) -> None:
    """End `python -m experiments.NAME` with one line where NAME does not exist."""
    module = command[command.index("-m") + 1] if "-m" in command[:-1] else ""
    package, _, name = module.partition(".")
    places = [folder.joinpath(*name.split(".")) for folder in (ROOT, *(ROOT / folder for folder in FOLDERS))]
    if package == "experiments" and not any(p.is_dir() or p.with_suffix(".py").exists() for p in places):
        sys.exit(_unknown(name))


def _unknown(name: str) -> int:
    suggestion = did_you_mean(name, files())
    print(
        f"error: there is no experiment {name}{suggestion}; python -m experiments lists them", file=sys.stderr
    )
    return 1
