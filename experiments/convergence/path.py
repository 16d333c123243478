"""The optimization path up to the halting time, and the exact factors of that time.

In: runs with the sums of the probe `path`. Out: measures of every group of layers; T = distance × tortuosity ÷ mean
step, so exponents add up. The probe's sums are cumulative: they are read at T, not at the end of a run that overfitted.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np

from experiments.convergence.halting import (
    Curve,
    HaltedRun,
    Quantity,
    at_halting,
    deviation,
    mean,
    points,
    steps,
)
from experiments.lab.families import Row
from experiments.lab.intervals import Estimate
from wsn.spec import Spec

QUANTITIES = (
    "distance", "path_length", "step", "gradient", "tortuosity", "cosine_start", "angle_start",
    "sum_squared_steps",
)  # fmt: skip
# Section 4.3: (claim, quantity, sign of its exponent). The paper makes each claim about every group, but C9 about
# embeddings less: their mean step hardly changes.
CLAIMS = (
    ("C7 distance falls", "distance", -1),
    ("C8 path gets shorter", "path_length", -1),
    ("C8 faster than distance", "tortuosity", -1),
    ("C9 mean step grows", "step", 1),
    ("C10 angle opens", "angle_start", 1),
)
PAPER_WIDTHS = 764 / 185  # for 0.79 to 13 million weights, 22 H² + 2 V H with V = 98


def paper_exponent(percent: float) -> float:
    """The exponent in width of a change that the paper prints in percent from its narrowest to its widest network."""
    return float(np.log1p(percent / 100) / np.log(PAPER_WIDTHS))


PAPER_DISTANCES = {"embedding": -13, "hidden": -15, "softmax": -25}
# Section 4.3, the recurrent network: quantity → group → exponent in width.
PAPER = {
    "distance": {name: paper_exponent(percent) for name, percent in PAPER_DISTANCES.items()},
    "step": {"embedding": paper_exponent(10), "hidden": 0.21, "softmax": 0.5},
}
FACTORS = {"distance": 1, "tortuosity": 1, "step": -1}  # of T, with the signs of their exponents


def groups(curves: Sequence[Curve]) -> list[str]:
    """The groups of layers, `all` last."""
    columns = curves[0].points[0].runs[0].result.curves
    names = [name.partition("/")[0] for name in columns if name.endswith("/distance")]
    order = ("convolutions", "embedding", "hidden", "softmax")
    return sorted(names, key=lambda name: (name == "all", order.index(name) if name in order else 9, name))


def geometry(run: HaltedRun, group: str) -> Row:
    """Measures of a group's path up to the halting time; angles in radians.

    Squares are interpolated, so that 2·projection_start = distance² − sum_squared_steps also between evaluations.
    """
    curves = run.result.curves

    def total(name: str) -> float:
        return at_halting(run, curves[f"{group}/{name}"])

    distance = float(np.sqrt(at_halting(run, curves[f"{group}/distance"] ** 2)))
    length, angles, time = total("path_length"), total("angles"), steps(run)
    return {
        "distance": distance,
        "path_length": length,
        "step": length / time,
        "gradient": total("gradient") / time,
        "tortuosity": ratio(length, distance),
        "cosine_start": ratio(total("cosine_start"), angles),
        "angle_start": ratio(total("angle_start"), angles),
        "sum_squared_steps": total("squared_steps"),
        "projection_start": total("projection_start"),
    }


def ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else np.nan


def quantity(group: str, name: str) -> Quantity:
    return lambda run: geometry(run, group)[name]


def exponent(curve: Curve, group: str, name: str, x: str = "weights") -> Estimate:
    """The exponent of a quantity of a group in the number of weights, or in the width."""
    return curve.exponent(x, quantity(group, name))


def split(curve: Curve, group: str, x: str = "weights") -> dict[str, Estimate]:
    """The exponents in `x` of T and of its factors: T's is distance + tortuosity − step."""
    return {"T": curve.exponent(x, steps)} | {name: exponent(curve, group, name, x) for name in FACTORS}


Ends = Mapping[tuple[Spec, int, str], Row]  # (network, seed, group) → columns of `second_pass`


def rows(curves: Sequence[Curve], ends: Ends) -> Iterator[Row]:
    """A row per network and group: means over the seeds that are not censored, over all if all are."""
    for point in points(curves):
        for group in groups(curves):
            values = [geometry(run, group) | at_end(run, group, ends) for run in point.certain]
            row: Row = point.row | {"group": group, "seeds": len(point.certain)}
            for name in (*QUANTITIES, *(name for name in values[0] if name.endswith("_end"))):
                row[f"{name}_mean"] = mean([of_seed[name] for of_seed in values])
                row[f"{name}_std"] = deviation([of_seed[name] for of_seed in values])
            yield row


def at_end(run: HaltedRun, group: str, ends: Ends) -> Row:
    return ends.get((run.result.spec, run.result.seed, group), {})


def seeds(curves: Sequence[Curve], ends: Ends) -> Iterator[Row]:
    """A row per network, seed and group."""
    for point in points(curves):
        for run, group in product(point.runs, groups(curves)):
            row = {"seed": run.result.seed, "censored": int(not run.certain), "steps": steps(run)}
            yield point.row | row | {"group": group} | geometry(run, group) | at_end(run, group, ends)
