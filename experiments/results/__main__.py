"""Write the results from their tables: experiments/RESULTS.md, the table in README.md, experiments/README.md.

    python -m experiments.results              # committed tables, seconds
    python -m experiments.results --redraw     # and the records in experiments/records, seconds per figure

Nothing is trained; `--redraw` first draws every figure that has records from them, and the summary by kind of network
(`gains`). The texts are templates in experiments/results (`results.md`, `glance.md`), whose numbers come from
experiments/figures/*.csv (see `template`); the list of commands comes from the commands' docstrings.
"""

import re
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from experiments.lab import contents, endings, output
from experiments.results import gains, records, template
from experiments.results import theory as theory  # registers its tables
from experiments.results.derived import DERIVED
from experiments.results.tables import Tables
from wsn.errors import UserError

ROOT = Path(__file__).parents[2]
FIGURES, HERE = ROOT / "experiments" / "figures", Path(__file__).parent
EMBEDDED = re.compile(r"\{(figure|also) (\w+): ([^{}]*)\}")
GLANCE = re.compile(r"(?<=\n## Results at a glance\n)(.*?\n)?(\|.*?\|\n)(?!\|)", re.DOTALL)


def results(figures: Path = FIGURES) -> str:
    """The text of experiments/RESULTS.md. Raises UserError."""
    text = (HERE / "results.md").read_text(encoding="utf-8")
    text = EMBEDDED.sub(lambda match: embedded(figures, *match.groups()), text)
    return wrapped(template.fill(text, Tables(figures, DERIVED)))


def embedded(figures: Path, how: str, name: str, text: str) -> str:
    """A picture (or a link to it), its tables and its command. Raises UserError for a figure that is not there."""
    path = figures / f"{name}.command"
    if not path.exists():
        raise UserError(f"{{{how} {name}: {text}}}: no {path}")
    command = path.read_text(encoding="utf-8").strip()
    tables = [
        table.stem
        for table in sorted(figures.glob(f"{name}*.csv"))
        if table.with_suffix(".command").read_text(encoding="utf-8").strip() == command
    ]
    sources = f"{', '.join(f'[{table}.csv](figures/{table}.csv)' for table in tables)}: `{command}`"
    if how == "also":
        return f"- {text}: [figure](figures/{name}.png), {sources}"
    return f"![{text}](figures/{name}.png)\n\n{sources}"


def glance(figures: Path = FIGURES) -> str:
    """The table of README.md."""
    return template.fill((HERE / "glance.md").read_text(encoding="utf-8"), Tables(figures, DERIVED))


def with_glance(readme: str, table: str) -> str:
    """README.md with the table under its heading. Raises UserError where it has no such heading and table."""
    text, replaced = GLANCE.subn(lambda match: (match[1] or "") + table, readme, count=1)
    if not replaced:
        raise UserError("README.md has no section `Results at a glance` with a table")
    return text


# The list of commands.


GROUPS = {
    "The first paper: width at a fixed number of weights": ["width"],
    "Its theory": ["theory"],
    "The second paper: how fast wider networks learn": ["convergence"],
    "Beyond both papers": ["beyond"],
    "Speed": ["benchmarks"],
    "Tools": ["report", "results"],
}
HEAD = """# Experiments

Each command writes a table (`.csv`), a figure (`.png`) and its own command line (`.command`) to `--workdir`, by default
`results/<experiment>`. The first line of each block is the quick one. `--help` lists the flags, `--dry_run` says what
would be trained and how long that takes. What came out: [RESULTS.md](RESULTS.md). This page is written from the
docstrings by `python -m experiments.results`; `python -m experiments NAME` prints the docstring of a command. The idea
in eight cells, as a script and a notebook: [quickstart.py](quickstart.py).
"""


def command_list() -> str:
    """The text of experiments/README.md."""
    files = {**contents.files(), "results": Path(__file__)}
    parts = [HEAD]
    for title, folders in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [block(name, path) for name, path in files.items() if path.parent.name in folders]
    return "\n".join(parts)


def block(name: str, path: Path) -> str:
    """A command's question and its command lines."""
    text = contents.docstring(path)
    rows = [f"| `{line.command}` | {line.needs} |" for line in contents.lines(text)]
    question = text.partition("\n")[0]
    return "\n".join([f"**{name}.** {question}", "", "| command | data and time |", "|---|---|", *rows, ""])


def texts() -> dict[Path, str]:
    """File → its text, all that the command writes. Raises UserError."""
    readme = ROOT / "README.md"
    return {
        ROOT / "experiments" / "RESULTS.md": results(),
        ROOT / "experiments" / "README.md": command_list(),
        readme: with_glance(readme.read_text(encoding="utf-8"), glance()),
    }


def wrapped(text: str) -> str:
    """Paragraphs and lists of a markdown text with even lines; tables, headings, pictures and code as they are."""
    blocks = re.split(r"(\n\n+|```.*?```)", text, flags=re.DOTALL)
    return "".join(block if re.match(r"\n|```|[|#!\[]", block) else _lines(block) for block in blocks)


def _lines(block: str) -> str:
    fill = partial(textwrap.fill, width=120, break_long_words=False, break_on_hyphens=False)
    items = [" ".join(item.split()) for item in re.split(r"\n(?=- )", block)]
    kept = [re.sub(r"`[^`]*`| %", lambda span: span[0].replace(" ", "\0"), item) for item in items]
    lines = [fill(item, subsequent_indent="  " * item.startswith("- ")) for item in kept]
    return "\n".join(lines).replace("\0", " ")


def main(arguments: Sequence[str]) -> int:
    if set(arguments) - {"--redraw"}:
        print(f"error: no argument but --redraw, not {' '.join(arguments)}", file=sys.stderr)
        return 1
    try:
        for figure in records.figures() if arguments else []:
            with tempfile.TemporaryDirectory() as folder:
                records.update(figure, Path(folder, figure))
            print(f"drew {figure}")
        if arguments:
            output.write_figure(FIGURES, "gains", gains.draw(Tables(FIGURES, DERIVED)))
        for path, text in texts().items():
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with endings.streams():
        code = main(sys.argv[1:])
    sys.exit(code)
