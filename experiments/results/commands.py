"""experiments/README.md: every command with the data and the time that it takes, from the docstrings.

A docstring has command lines, indented by four, each with a comment `# DATA, TIME`.
"""

import re
from pathlib import Path
from typing import NamedTuple

from experiments.lab import contents

HERE = Path(__file__).parents[1]
GROUPS = {
    "The first paper: width at a fixed number of weights": ["width"],
    "Its theory": ["theory"],
    "The second paper: how fast wider networks learn": ["convergence"],
    "Beyond both papers": ["beyond"],
    "Speed": ["benchmarks"],
    "Tools": ["report", "results"],
}
HEAD = """# Experiments

Each command writes a table (`.csv`), a figure (`.png`) and itself (`.command`) to `--workdir`, by default
`results/<experiment>`. The first line of each block is the quick one. `--help` lists the flags, `--dry_run` says what
would be trained and how long that takes. What came out: [RESULTS.md](RESULTS.md). This page is written from the
docstrings by `python -m experiments.results`; `python -m experiments NAME` prints the docstring of a command. The idea
in eight cells, as a script and a notebook: [quickstart.py](quickstart.py).
"""


class Line(NamedTuple):
    command: str
    needs: str


def lines(docstring: str) -> list[Line]:
    """The command lines of a docstring, continued ones joined, with their comments."""
    joined = re.sub(r"\s*\\\n\s*", " ", docstring)
    found = re.findall(r"^ {4}(python -m experiments[^#\n]*)(?:#([^\n]*))?$", joined, re.MULTILINE)
    return [Line(command.strip(), needs.strip()) for command, needs in found]


def readme() -> str:
    """The text of experiments/README.md."""
    files = {**contents.files(), "results": HERE / "results" / "__main__.py"}
    parts = [HEAD]
    for title, folders in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [block(name, path) for name, path in files.items() if path.parent.name in folders]
    return "\n".join(parts)


def block(name: str, path: Path) -> str:
    """A command's question and its command lines."""
    text = contents.docstring(path)
    rows = [f"| `{line.command}` | {line.needs} |" for line in lines(text)]
    question = text.partition("\n")[0]
    return "\n".join([f"**{name}.** {question}", "", "| command | data and time |", "|---|---|", *rows, ""])
