"""How a table becomes a chart: which columns are axes, which are measured, which tell its curves apart.

As the experiment declared its figure (`Plot`); where it declared none, guessed from the names and values of columns.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.lab.plots import Plot

AXES = (
    "width", "learning_rate", "np", "n", "weights", "connectivity", "p", "base_width", "depth", "fraction",
)  # fmt: skip
DERIVED = (
    "connectivity",
    "weights",
    "widening",
)  # decided by other columns, so that they tell no curves apart
SETTINGS = (
    *AXES, *DERIVED, "last_connectivity", "d", "radius", "batch", "threads", "train_samples", "factor",
)  # fmt: skip
COUNTS = ("seeds", "diverged", "censored", "epochs", "evaluations", "pairs", "networks", "masks", "seed")
DEVIATIONS = ("_std", "_stderr")
Row = Mapping[str, Any]
Columns = Mapping[str, list[Any]]


class Chart(NamedTuple):
    """Columns of a table and their roles."""

    columns: dict[str, list[Any]]
    axes: list[str]  # choices of x, the best first
    measures: list[str]  # choices of y, the best first
    deviations: dict[str, str]  # measure → column of its deviation
    curves: list[str]  # of every row, the name of its curve
    plot: Plot | None = None


def number(value: Any) -> Any:
    """A number where a text is one; None for what is empty or not finite."""
    if isinstance(value, str):
        try:
            real = float(value)
        except ValueError:
            return value or None
        value = int(real) if real.is_integer() and abs(real) < 1e15 else real
    return None if isinstance(value, float) and not math.isfinite(value) else value


def chart(rows: Sequence[Row], plot: Plot | None = None) -> Chart | None:
    """None where there is nothing to draw: no axis of two values, or no measure."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [number(row.get(name)) for row in rows] for name in names}
    if plot and plot.x == "widening" and {"width", "base_width"} <= columns.keys():
        columns["widening"] = [w / b for w, b in zip(columns["width"], columns["base_width"], strict=True)]
    plot = plot if plot and {plot.x, plot.y} <= columns.keys() else None
    numeric = [name for name, values in columns.items() if _is_numeric(values)]
    measures = [n for n in numeric if n not in (*SETTINGS, *COUNTS) and not n.endswith(DEVIATIONS)]
    measures.sort(key=lambda name: not name.endswith("_mean"))
    varying = [name for name in numeric if name in SETTINGS and len(set(columns[name])) > 1]
    axes = sorted(varying, key=lambda name: AXES.index(name) if name in AXES else len(AXES))
    if plot:
        axes, measures = _first(plot.x, axes), _first(plot.y, measures)
        keys = [name for name in plot.curves if len(set(columns.get(name, ()))) > 1 and name != plot.x]
    elif axes and measures:
        settings = [
            n for n in columns if n not in (*measures, *COUNTS, *DERIVED) and not n.endswith(DEVIATIONS)
        ]
        for name in reversed(axes):  # such as learning rates that are tuned for every width
            if name in settings and not _splits(
                columns, name, [other for other in settings if other != name]
            ):
                settings.remove(name)
        x = max((a for a in axes if a in settings), key=lambda a: len(set(columns[a])), default=axes[0])
        axes = _first(x, axes)
        keys = _keys(columns, axes[0], settings)
    else:
        return None
    deviations = {m: d for m in measures if (d := _deviation(m, columns)) is not None}
    if plot and plot.deviation in columns:
        deviations[plot.y] = plot.deviation
    curves = [", ".join(shown(key, columns[key][i]) for key in keys) or "all" for i in range(len(rows))]
    return Chart(columns, axes, measures, deviations, curves, plot)


def _is_numeric(values: Sequence[Any]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in known)


def _first(name: str, names: Sequence[str]) -> list[str]:
    return [name, *(other for other in names if other != name)]


def _deviation(measure: str, columns: Columns) -> str | None:
    stem = measure.removesuffix("_mean")
    return next((stem + suffix for suffix in DEVIATIONS if stem + suffix in columns), None)


def _splits(columns: Columns, name: str, keys: Sequence[str]) -> bool:
    """Whether a column takes several values where all `keys` are equal."""
    groups: dict[Any, set[Any]] = {}
    for i, value in enumerate(columns[name]):
        groups.setdefault(tuple(columns[key][i] for key in keys), set()).add(value)
    return any(len(values) > 1 for values in groups.values())


def _keys(columns: Columns, x: str, settings: Sequence[str]) -> list[str]:
    """The settings, from the left, that are needed so that no curve has two points at one x."""
    keys: list[str] = []
    for name in settings:
        if name != x and _splits(columns, name, [x, *keys]):
            keys.append(name)
    return keys


def shown(name: str, value: Any) -> str:
    """A value in the name of a curve; a number needs the name of its column."""
    if isinstance(value, str):
        return value
    return f"{name.replace('_', ' ')} {'none' if value is None else format(value, '.4g')}"


def compared(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows, with the difference from the paper beside every column of the paper's numbers.

    `X_paper` is compared to X; `paper_X` and `paper` to `exponent`, or else to the first mean.
    """
    names = list(rows[0]) if rows else []
    papers = [n for n in names if n == "paper" or n.startswith("paper_") or n.endswith("_paper")]
    usual = next((n for n in names if n == "exponent" or n.endswith("_mean")), "")
    with_differences = []
    for row in rows:
        new: dict[str, Any] = {}
        for name, value in row.items():
            new[name] = value
            if name in papers:
                ours = name.removesuffix("_paper") if name.endswith("_paper") else usual
                pair = number(row.get(ours)), number(value)
                both = all(isinstance(x, int | float) for x in pair)
                new[f"difference from {name}"] = float(f"{pair[0] - pair[1]:.4g}") if both else ""
        with_differences.append(new)
    return with_differences
