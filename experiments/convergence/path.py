"""The way through weight space up to the halting time, and the exact split of that time.

In: runs with the sums of the probe `path`. Out: numbers of every group of layers, and T = distance × tortuosity ÷ mean
step, whose exponents add up. The probes are cumulative: they are read at T, not at the end of a run that over-fitted.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from experiments.convergence.halting import Curve, Halted, at, deviation, mean, steps
from experiments.lab.families import Row
from experiments.lab.intervals import Estimate
from wsn.spec import Spec

QUANTITIES = (
    "distance",
    "path_length",
    "step",
    "gradient",
    "tortuosity",
    "cosine_start",
    "angle_start",
    "sum_squared_steps",
)
# Section 4.3: (claim, quantity, sign of its exponent); the paper says all of them of every group but C9, of which it
# says that embeddings hardly change.
CLAIMS = (
    ("C7 distance falls", "distance", -1),
    ("C8 path gets shorter", "path_length", -1),
    ("C8 faster than distance", "tortuosity", -1),
    ("C9 mean step grows", "step", 1),
    ("C10 angle opens", "angle_start", 1),
)
# What it prints, as exponents in width: falls by 13, 15, 25 % and a rise of 10 % over weights of 0.79 to 13 million.
PAPER_WIDTHS = 764 / 185
PAPER = {
    "distance": {
        group: float(np.log(1 - fall) / np.log(PAPER_WIDTHS))
        for group, fall in {"embedding": 0.13, "hidden": 0.15, "softmax": 0.25}.items()
    },
    "step": {"embedding": float(np.log(1.1) / np.log(PAPER_WIDTHS)), "hidden": 0.21, "softmax": 0.5},
}
FACTORS = {"distance": 1, "tortuosity": 1, "step": -1}  # of the time, with the sign of their exponents


def groups(curves: Sequence[Curve]) -> list[str]:
    """The groups of layers, `all` last."""
    columns = curves[0].points[0].runs[0].result.curves
    own = [name.partition("/")[0] for name in columns if name.endswith("/distance")]
    order = ("convolutions", "embedding", "hidden", "softmax")
    return sorted(own, key=lambda name: (name == "all", order.index(name) if name in order else 9, name))


def geometry(run: Halted, group: str) -> Row:
    """What the path of a group is up to the halting time; angles in radians.

    Squares are interpolated, so that 2·projection_start = distance² − sum_squared_steps holds between evaluations too.
    """
    curves = {
        name.partition("/")[2]: x for name, x in run.result.curves.items() if name.startswith(f"{group}/")
    }
    total = {
        name: at(run, curves[name])
        for name in (
            "path_length",
            "gradient",
            "cosine_start",
            "angle_start",
            "angles",
            "squared_steps",
            "projection_start",
        )
    }
    distance, time = float(np.sqrt(at(run, curves["distance"] ** 2))), steps(run)
    return {
        "distance": distance,
        "path_length": total["path_length"],
        "step": total["path_length"] / time,
        "gradient": total["gradient"] / time,
        "tortuosity": ratio(total["path_length"], distance),
        "cosine_start": ratio(total["cosine_start"], total["angles"]),
        "angle_start": ratio(total["angle_start"], total["angles"]),
        "sum_squared_steps": total["squared_steps"],
        "projection_start": total["projection_start"],
    }


def ratio(over: float, under: float) -> float:
    return over / under if under else np.nan


def of(group: str, name: str) -> Callable[[Halted], float]:
    return lambda run: geometry(run, group)[name]


def exponent(curve: Curve, group: str, name: str, x: str = "weights") -> Estimate:
    """Of a quantity of a group in the number of weights, or in the width."""
    return curve.by(x, of(group, name))


def split(curve: Curve, group: str, x: str = "weights") -> dict[str, Estimate]:
    """The exponents in `x` of T and of its factors: T's is that of distance + that of tortuosity − the step's."""
    return {"T": curve.by(x, steps)} | {name: exponent(curve, group, name, x) for name in FACTORS}


Ends = Mapping[tuple[Spec, int, str], Row]  # network, seed, group → what `second_pass` adds


def rows(curves: Sequence[Curve], ends: Ends) -> list[Row]:
    """A row per network and group: means over the seeds whose time is certain; over all, where none is."""
    found = []
    for curve in curves:
        for point in curve.points:
            for group in groups(curves):
                values = [geometry(run, group) | of_end(run, group, ends) for run in point.certain]
                row: Row = point.row | {"group": group, "seeds": len(point.certain)}
                for name in (*QUANTITIES, *(name for name in values[0] if name.endswith("_end"))):
                    row[f"{name}_mean"] = mean([one[name] for one in values])
                    row[f"{name}_std"] = deviation([one[name] for one in values])
                found.append(row)
    return found


def of_end(run: Halted, group: str, ends: Ends) -> Row:
    return ends.get((run.result.spec, run.result.seed, group), {})


def seeds(curves: Sequence[Curve], ends: Ends) -> list[Row]:
    """A row per network, seed and group."""
    return [
        point.row
        | {"seed": run.result.seed, "censored": int(not run.counts), "steps": steps(run), "group": group}
        | geometry(run, group)
        | of_end(run, group, ends)
        for curve in curves
        for point in curve.points
        for run in point.runs
        for group in groups(curves)
    ]
