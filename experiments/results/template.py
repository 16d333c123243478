"""Texts whose numbers come from tables.

    {kernel_distance_mnist: kind=sparse width=128, test_accuracy_mean ± test_accuracy_std, .3f}

is replaced by the cells of the one row of a table with those values: `0.899 ± 0.003`. Columns may stand in any text
without letters; every name in it is a column. Formats are Python's, and

- `.1%` and `.3g%` have a space before the sign, `.1p` is in percentage points (times 100, no sign);
- `s` is the text of a cell, `small` and `full` turn the verdict of a cell into one of the five words, at a smaller
  scale than the paper's and at its full scale; `---` is the rule under the head of a table;
- a list (`width=8,32`) or `width=*`, all rows, gives one cell each, joined by ` | `, for a row of a markdown table.

A column after `mean`, `min`, `max`, `sum` or `count` (of distinct values) is that of all rows with those values:
`{halting_time_an4_seeds: width=8, mean letter_error_rate, .0%}`. Values with spaces stand in quotes. Several rows may
match if they all give the same text, as in `{resnet_width: kind=sparse, weights, ,}`.
"""

import math
import re
from collections.abc import Callable
from itertools import product
from statistics import mean
from typing import Any

from experiments.results.tables import Row, Tables
from wsn.errors import UserError

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
PARTS = re.compile(r'(\w+)(?::((?:\s+\w+=(?:"[^"]*"|[^\s"]+?))*))?\s*,\s+(.+),\s*(\S+)', re.DOTALL)
CONDITION = re.compile(r'(\w+)=(?:"([^"]*)"|(\S+))')
AGGREGATE = re.compile(r"(mean|min|max|sum|count)\s+(\w+)")
AGGREGATES: dict[str, Callable[[list[Any]], Any]] = {
    "mean": mean,
    "min": min,
    "max": max,
    "sum": sum,
    "count": lambda values: len(set(values)),
}
VERDICTS = {"holds": "consistent", "fails": "contradicted", "inconclusive": "inconclusive"}


def fill(text: str, tables: Tables) -> str:
    """The text with every placeholder replaced. Raises UserError, which names the placeholder."""

    def replaced(match: re.Match[str]) -> str:
        try:
            return cells(match[1], tables)
        except UserError as error:
            raise UserError(f"{match[0]}: {error}") from error

    return PLACEHOLDER.sub(replaced, text)


def cells(placeholder: str, tables: Tables) -> str:
    """What replaces a placeholder. Raises UserError."""
    parts = PARTS.fullmatch(placeholder)
    if not parts:
        raise UserError("write {table: key=value, columns, format}")
    rows, conditions = tables[parts[1]], CONDITION.findall(parts[2] or "")
    names: list[str] = [name for name, _, _ in conditions]
    for name in names:
        if name not in rows[0]:
            raise UserError(f"{parts[1]} has no column {name}, but {', '.join(rows[0])}")
    choices = [
        [quoted]
        if quoted
        else list(dict.fromkeys(str(row[name]) for row in rows))
        if bare == "*"
        else bare.split(",")
        for name, quoted, bare in conditions
    ]
    texts: list[str] = []
    for values in product(*choices):
        matching = [row for row in rows if all(map(_equal, (row[name] for name in names), values))]
        columns, aggregate = parts[3], AGGREGATE.fullmatch(parts[3])
        if aggregate and matching:
            columns = aggregate[2]
            value = AGGREGATES[aggregate[1]]([_cell(row, columns) for row in matching])
            matching = [{columns: value}]
        shown = {_show(row, columns, parts[4]) for row in matching}
        if len(shown) > 1 or (not shown and not any(bare == "*" for _, _, bare in conditions)):
            place = " ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
            raise UserError(f"{len(matching) or 'no'} rows of {parts[1]} have {place or 'no condition'}")
        texts += shown
    return " | ".join(texts)


def _equal(cell: object, value: str) -> bool:
    if isinstance(cell, int | float):
        try:
            return cell == float(value)
        except ValueError:
            return False
    return cell == value


def _show(row: Row, columns: str, form: str) -> str:
    return re.sub(
        r"[A-Za-z]\w*", lambda name: formatted(_cell(row, name[0]), form), " ".join(columns.split())
    )


def _cell(row: Row, column: str) -> Any:
    if column not in row:
        raise UserError(f"no column {column}, but {', '.join(row)}")
    return row[column]


def formatted(value: object, form: str) -> str:
    """A cell in a format. Raises UserError for an empty cell and a format that does not fit."""
    if value == "" or (isinstance(value, float) and math.isnan(value)):
        raise UserError("the cell is empty")
    if form in ("small", "full"):
        word = VERDICTS[str(value)]
        return "reproduced" if form == "full" and word == "consistent" else word
    if form == "---":
        return form
    try:
        if form.endswith(("p", "g%")):
            text = f"{100 * float(str(value)):{form.replace('p', 'f').replace('%', '')}}" + form[-1].strip(
                "p"
            )
        else:
            text = f"{value:{form}}"
    except ValueError as error:
        raise UserError(f"{value!r} has no format {form}") from error
    return re.sub(r"^-(?=[0.]*$)", "", text).replace("-", "−").replace("%", " %") if form != "s" else text
