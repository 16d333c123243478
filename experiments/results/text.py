"""The numbers of a text against the tables that it names.

A paragraph, list or table of a text that says what came out ends with a comment:

    <!-- numbers: kernel_distance.csv mlp_grid.csv; not: 0.94 (the paper's), 1.3 (a remark) -->

Every number of it must then be that of a cell of those tables (or of `claims.csv`, of the same tables), rounded as it
is printed, where the text speaks of % or points also in percent; or it is listed with the reason why no table has it.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from experiments.results import tables
from experiments.results.tables import Row

# Numbers that are names; code and addresses are none either.
NAMES = [
    r"`[^`]*`",
    r"\]\([^)]*\)",
    r"\b(Figures?|Tables?|Theorem|Section|[Ee]quations?) \(?\d+\w?\)?(, \d+)*(( and| to) \d+)?",
    r"\b(Deep Speech|PyTorch|Python|ICLR|Billion) \d+(\.\d+)?",
    r"\b1 Billion Words",
    r"95 % (intervals?|bootstrap)",
    r"√\([^)]*\)",
]
NUMBER = re.compile(r"(?<![\w.,/^@-])[+−]?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?(?!\w|\.\d)")
COMMENT = re.compile(r"<!-- numbers:(?P<tables>[^;]*)(?:;\s+not:(?P<rest>.*))?-->", re.DOTALL)
EXCEPTION = re.compile(r"((?:[+−]?\d[\d,.e-]*\s*)+)\(([^()]+)\)")


class Block(NamedTuple):
    """A paragraph, list or table: its numbers, the tables that it names, and its exceptions with their reasons."""

    heading: str
    text: str
    numbers: list[str]
    tables: list[str]
    exceptions: dict[str, str]


def blocks(markdown: str) -> Iterator[Block]:
    """Those of a text that have numbers, without code, pictures and headings."""
    heading = ""
    prose = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    for block in re.split(r"\n\s*\n", prose):
        for line in block.splitlines():
            heading = line.lstrip("#").strip() if line.startswith("#") else heading
        if found := block_of(heading, block):
            yield found


def block_of(heading: str, block: str) -> Block | None:
    comment = COMMENT.search(block)
    text = re.sub(r"<!--.*?-->|^#.*$|^!\[.*$", "", block, flags=re.DOTALL | re.MULTILINE)
    for name in NAMES:
        text = re.sub(name, " ", text)
    numbers = NUMBER.findall(text)
    tables = comment["tables"].split() if comment else []
    exceptions: dict[str, str] = {}
    for listed, reason in EXCEPTION.findall((comment and comment["rest"]) or ""):
        exceptions |= dict.fromkeys((number.strip(",") for number in listed.split()), reason)
    return Block(heading, text.strip(), numbers, tables, exceptions) if numbers or comment else None


def cells(folder: Path, claims: Sequence[Row]) -> dict[str, list[float]]:
    """The numbers of every table: its finite cells, and those in the words of its claims."""
    found: dict[str, list[float]] = {}
    for path in folder.glob("*.csv"):
        values = [x for row in tables.read(path) for x in row.values()]
        numbers = [float(x) for x in values if isinstance(x, int | float) and math.isfinite(x)]
        words = [row["claim"].replace("-", "−") for row in claims if row["figure"] == path.stem]
        said = [NUMBER.findall(line) for line in words]
        found[path.name] = numbers + [float(_decimal(number)) for line in said for number in line]
    return found


def _decimal(number: str) -> Decimal:
    return Decimal(number.replace(",", "").replace("−", "-").replace("+", ""))


def is_in(number: str, cells: Sequence[float], scales: Sequence[float] = (1,)) -> bool:
    """Whether a cell, times a scale, is that number as it is printed; one without a sign may be negative."""
    printed = _decimal(number)
    half = 0.5 * 10.0 ** int(printed.as_tuple().exponent) * (1 + 1e-6)
    signed = number[0] in "+−"
    return any(
        abs((value if signed else abs(value)) - float(printed)) <= half
        for cell in cells
        for value in (scale * cell for scale in scales)
    )


def wrong(block: Block, cells: Mapping[str, Sequence[float]]) -> list[str]:
    """What is wrong with a block, in words: `cells` are the numbers of every table."""
    unknown = [table for table in block.tables if table not in cells]
    own = [x for table in block.tables if table in cells for x in cells[table]]
    scales = (1, 100) if "%" in block.text or "points" in block.text else (1,)
    asked = [n for n in dict.fromkeys(block.numbers) if n not in block.exceptions]
    absent = [n for n in asked if not is_in(n, own, scales)]
    stale = [number for number in block.exceptions if number not in block.numbers]
    return [
        *(f"there is no {table}" for table in unknown),
        *(f"{number} is not in {' '.join(block.tables) or 'a table that is named'}" for number in absent),
        *(f"{number} is an exception, and not in the text" for number in stale),
    ]
