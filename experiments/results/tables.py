"""Committed tables: CSV → rows of numbers, as the experiments that wrote them have them."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsn.stored import replacing

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a CSV; what is a number is one."""
    with path.open(newline="") as file:
        return [{name: _number(text) for name, text in row.items()} for row in csv.DictReader(file)]


def write(path: Path, rows: Sequence[Row]) -> None:
    with replacing(path) as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def with_seeds(rows: Sequence[Row], mean: str = "best_test_accuracy_mean") -> list[Row]:
    """The rows with a `test` of as many values as seeds, of their mean and deviation: all that intervals need."""
    deviation = mean.replace("_mean", "_std")
    return [row | {"test": values(row[mean], row[deviation], row["seeds"])} for row in rows]


def values(mean: float, deviation: float, count: int) -> list[float]:
    if count == 1:
        return [mean]
    spread = np.linspace(-1, 1, count)
    return (mean + deviation * spread / spread.std(ddof=1)).tolist()


def one(rows: Iterable[Row], **told: Any) -> Row:
    """The only row of those values."""
    [found] = [row for row in rows if all(row[name] == value for name, value in told.items())]
    return found
