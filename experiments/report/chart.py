"""How a table becomes a figure: which columns are axes, which are measured, and which tell its curves apart.

In: rows. Out: a `Chart`, columns of values and their roles; nothing is known of any one experiment.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

AXES = (
    "width",
    "learning_rate",
    "np",
    "n",
    "weights",
    "connectivity",
    "p",
    "base_width",
    "depth",
    "fraction",
)
DERIVED = ("connectivity", "weights", "widening")  # tell no curves apart, as other columns decide them
SETTINGS = (
    *AXES,
    *DERIVED,
    "last_connectivity",
    "d",
    "radius",
    "batch",
    "threads",
    "train_samples",
    "factor",
)
COUNTS = ("seeds", "diverged", "censored", "epochs", "evaluations", "pairs", "networks", "masks", "seed")
DEVIATIONS = ("_std", "_stderr")
Row = Mapping[str, Any]


class Chart(NamedTuple):
    """Columns of a table and what a figure makes of them."""

    columns: dict[str, list[Any]]
    axes: list[str]  # that may be x, the best first
    measures: list[str]  # that may be y, the first the one to begin with
    deviations: dict[str, str]  # measure → the column of its deviation
    curves: list[str]  # of every row, the name of its curve


def number(text: Any) -> Any:
    """A number where a text is one, None for what is empty or not finite."""
    if isinstance(text, str):
        try:
            value = float(text)
        except ValueError:
            return text if text else None
        text = int(value) if value.is_integer() and abs(value) < 1e15 else value
    return None if isinstance(text, float) and not math.isfinite(text) else text


def chart(rows: Sequence[Row]) -> Chart | None:
    """None where there is nothing to draw: no axis of two values, or nothing measured."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [number(row.get(name)) for row in rows] for name in names}
    numeric = [
        name
        for name in names
        if any(v is not None for v in columns[name])
        and all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in columns[name])
    ]
    measures = _measures(numeric)
    several = [name for name in numeric if name in SETTINGS and len(set(columns[name])) > 1]
    axes = [name for name in AXES if name in several] + [name for name in several if name not in AXES]
    if not axes or not measures:
        return None
    first = max((a for a in axes if a not in DERIVED), key=lambda a: len(set(columns[a])), default=axes[0])
    axes = [first, *(name for name in axes if name != first)]
    settings = [name for name in names if name not in measures and name not in COUNTS and name != first]
    settings = [name for name in settings if not name.endswith(DEVIATIONS) and name not in DERIVED]
    deviations = {m: d for m in measures if (d := _deviation(m, names)) is not None}
    keys = _telling(columns, first, settings)
    curves = [", ".join(told(key, columns[key][i]) for key in keys) or "all" for i in range(len(rows))]
    return Chart(columns, axes, measures, deviations, curves)


def _measures(numeric: Sequence[str]) -> list[str]:
    """What is measured: means first, as the experiment orders them."""
    found = [n for n in numeric if n not in SETTINGS and n not in COUNTS and not n.endswith(DEVIATIONS)]
    return sorted(found, key=lambda name: not name.endswith("_mean"))


def _deviation(measure: str, names: Sequence[str]) -> str | None:
    stem = measure.removesuffix("_mean")
    return next((stem + suffix for suffix in DEVIATIONS if stem + suffix in names), None)


def _telling(columns: Mapping[str, list[Any]], x: str, settings: Sequence[str]) -> list[str]:
    """The columns, from the left, that are needed so that no curve has two points at one x."""
    keys: list[str] = []
    for name in settings:
        groups: dict[Any, set[Any]] = {}
        for i, value in enumerate(columns[name]):
            groups.setdefault((columns[x][i], *(columns[key][i] for key in keys)), set()).add(value)
        if any(len(values) > 1 for values in groups.values()):
            keys.append(name)
    return keys


def told(name: str, value: Any) -> str:
    """A value in the name of a curve: words speak for themselves, numbers need their column."""
    if isinstance(value, str):
        return value
    return f"{name.replace('_', ' ')} {'none' if value is None else format(value, '.4g')}"


def compared(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows, with the difference from the paper's number beside every column of it.

    `X_paper` is compared to X, `paper_X` and `paper` alone to `exponent`, or else to the first mean.
    """
    names = list(rows[0]) if rows else []
    papers = [n for n in names if n == "paper" or n.startswith("paper_") or n.endswith("_paper")]
    usual = next((n for n in names if n == "exponent" or n.endswith("_mean")), None)
    found = []
    for row in rows:
        new: dict[str, Any] = {}
        for name, value in row.items():
            new[name] = value
            if name in papers:
                ours = name.removesuffix("_paper") if name.endswith("_paper") else usual
                pair = number(row.get(ours or "")), number(value)
                numbers = all(isinstance(x, int | float) for x in pair)
                new[f"difference from {name}"] = float(f"{pair[0] - pair[1]:.4g}") if numbers else ""
        found.append(new)
    return found
