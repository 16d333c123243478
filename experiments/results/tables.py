"""The tables that texts draw on: committed CSVs, and tables derived from them."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsn.errors import UserError

Row = dict[str, Any]


class Tables:
    """Name → rows, read or derived when first used."""

    def __init__(
        self, folder: Path, derived: Mapping[str, Callable[["Tables"], Iterable[Row]]] | None = None
    ) -> None:
        self.folder, self._derived = folder, derived or {}
        self._rows: dict[str, list[Row]] = {}

    def __getitem__(self, name: str) -> list[Row]:
        if name not in self._rows:
            self._rows[name] = list(self._derived[name](self)) if name in self._derived else self._read(name)
        return self._rows[name]

    def _read(self, name: str) -> list[Row]:
        path = self.folder / f"{name}.csv"
        if not path.exists():
            raise UserError(f"no table {name}: neither {path} nor derived")
        with path.open(newline="", encoding="utf-8") as file:
            return [{key: _number(text) for key, text in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def one(rows: Sequence[Row], **values: Any) -> Row:
    """The only row with those values. Raises UserError where there is none, or more than one."""
    matching = [row for row in rows if all(row[name] == value for name, value in values.items())]
    if len(matching) != 1:
        place = " ".join(f"{name}={value}" for name, value in values.items())
        raise UserError(f"{len(matching)} rows have {place}")
    return matching[0]


def seed_values(row: Row, mean: str) -> list[float]:
    """As many values as the row has seeds, with its mean and deviation: all that intervals by Student's t need."""
    if row["seeds"] == 1:
        return [row[mean]]
    spread = np.linspace(-1, 1, row["seeds"])
    values = row[mean] + row[mean.replace("_mean", "_std")] * spread / spread.std(ddof=1)
    return [float(value) for value in values]
