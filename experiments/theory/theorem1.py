"""Theorem 1 against simulated networks, and against a file of cases.

    python -m experiments.theorem1                    # Gaussian inputs and digits, a minute on 2 cores
    python -m experiments.theorem1 --dataset=mnist    # Gaussian inputs and MNIST, some minutes
    python -m experiments.theorem1 --cases=FILE.json  # a file of cases, seconds to a minute
    python -m experiments.theorem1 --against=neural_tangents  # small networks, a minute; needs neural-tangents

For each input, connectivity and width: D of simulated networks, exact D with Bernoulli masks and equation (4), each a
mean over the same pairs. z is the difference of the first two in standard errors over networks (pairs share a network,
so they are not independent). Squared distances are far from normal, most of all with few weights: narrow networks are
therefore drawn more often (they are cheap), and z is corrected for the remaining skewness (with 200 networks the plain
t statistic has two to six times the normal tails). Writes WORKDIR/theorem1.csv and .png; prints the largest |z| and
the Bonferroni threshold at --level over all points; exits 0 if none exceeds it.

With --cases instead: FILE holds a list of objects with name, x, y, p, n, K1p, K2p, and optionally D, the moments of the
tangent kernel E_C_K0, E_C2_K0, E_C_K1, and repeats (how often each coordinate counts). Writes
WORKDIR/theorem1_cases.csv, where CK0, CCK0 and CK1 are the means over masks of C K_0, C^2 K_0 and C K_1; prints the
largest scaled error last, |error| / (|x||y|)^l and of D its error times (d / |x||y|)^2, and exits 0 if it is within
--tolerance.

With --against=neural_tangents the kernels of neural-tangents are compared with ours (experiments/theory/against.py): a
line and a row of WORKDIR/theorem1_against.csv each. Source: Theorem 1 and equations (1)-(4).
"""

import dataclasses
import itertools
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import NormalDist
from typing import Any

import jax
import numpy as np
from jaxtyping import Float64

from experiments.lab import launch, output
from experiments.lab.flags import Command
from experiments.lab.launch import Output
from experiments.theory import against
from experiments.theory import figures as theory
from experiments.theory import inputs as kinds
from experiments.theory.inputs import Inputs
from kernels.approximations import eq4
from kernels.closed_forms import arc_cosine
from kernels.empirical import MeanDistance, simulated_distance
from kernels.sparse_ntk import sparse_tangents
from kernels.theorem1 import squared_distance
from wsn import folders, stored
from wsn.errors import UserError
from wsn.machine import usable_cores
from wsn.spec import WIDEST, setting

EXPERIMENT = "theorem1"
TANGENT = {"CK0": "E_C_K0", "CCK0": "E_C2_K0", "CK1": "E_C_K1"}  # columns → keys of a case
ERRORS = ["scaled_error_K1p", "scaled_error_K2p", "scaled_error_D"]
TANGENT_ERRORS = [f"scaled_error_{name}" for name in TANGENT]
COLUMNS = ["name", "method", "K1p", "K2p", "D", "error_estimate", *ERRORS, *TANGENT, *TANGENT_ERRORS]
POINT_COLUMNS = [
    "inputs", "normalization", "d", "pairs", "p", "n", "networks", "simulated", "stderr", "exact", "eq4",
    "skewness", "z",
]  # fmt: skip
LEAST_NETWORKS = 200  # fewer give no reliable error bar
HIDDEN_UNITS = 2**17  # per point, at least, in all networks together: narrow networks are drawn more often
TOLERANCE = 1e-7  # scaled error of K_l: D is then exact to 1e-4 or better, far below the error of simulation
READ_BY = {"against": ("networks", "seed"), "cases": ("tolerance",)}  # what these modes read, of all settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(kinds.Settings):
    """The points to compare, or a file of cases."""

    pairs: int = setting("D is a mean over this many pairs of inputs.", 100, least=1, bytes=kinds.PAIR_BYTES)
    connectivities: tuple[float, ...] = setting(
        "Connectivities p, in (0, 1].", (1.0, 0.3, 0.1, 0.03, 0.01, 0.003), above=0, most=1, some=True
    )
    widths: tuple[int, ...] = setting("Widths n.", (8, 32, 128, 512, 2048), least=1, most=WIDEST, some=True)
    networks: int = setting(
        "Simulated networks per point, at least.", LEAST_NETWORKS, least=LEAST_NETWORKS, bytes=8
    )
    level: float = setting(
        "Probability of exit code 1 although theory and simulation agree.", 0.01, least=1e-300, below=1
    )
    cases: str | None = setting("Instead: JSON file of cases to evaluate.", None)
    against: str | None = setting(
        "Instead: compare with the kernels of this library.", None, choices=("neural_tangents",)
    )
    tolerance: float = setting("Largest scaled error of a case that counts as agreement.", 1e-7, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for mode, read in READ_BY.items():
            if getattr(self, mode) is not None:
                fields = [field for field in dataclasses.fields(self) if field.name not in {mode, *read}]
                if given := [f.name for f in fields if getattr(self, f.name) != f.default]:
                    names = ", ".join(f"`{name}`" for name in given)
                    raise UserError(f"{names}: not read where `{mode}` is given: leave it out")


def read_cases(path: Path) -> list[dict[str, Any]]:
    """The cases of a file, checked for the required keys. Raises UserError."""
    try:
        cases = stored.parse(stored.read(path))
    except (OSError, ValueError) as error:
        raise UserError(
            f"`cases={stored.reading_error(path, error)}`: give a JSON list of objects"
        ) from error
    if not (isinstance(cases, list) and cases and all(isinstance(case, dict) for case in cases)):
        raise UserError(f"`cases={path}` is not a list of cases: give a JSON list of objects")
    for index, case in enumerate(cases):
        missing = {"name", "x", "y", "p", "n", "K1p", "K2p"} - set(case)
        if missing:
            raise UserError(f"`cases={path}`: case {index} has no {', '.join(sorted(missing))}")
    return cases


def evaluate(case: dict[str, Any]) -> dict[str, Any]:
    """A row of the table: our moments and D, and their scaled differences from those that the case has."""
    expected = {"K1p": "K1p", "K2p": "K2p", "D": "D"} | TANGENT
    given = {name: case[key] for name, key in expected.items() if key in case}
    try:
        x, y = (np.repeat(np.asarray(case[z]), case.get("repeats", 1)) for z in "xy")
        tangents = sparse_tangents(x, y, case["p"])
        if tangents.ck0.shape or any(
            type(v) not in (int, float) for v in [case["p"], case["n"], *given.values()]
        ):
            raise UserError("a case has one pair, one p, one n, and single numbers as its moments")
        values = dict(zip(("K1p", "K2p", *TANGENT), map(float, tangents.moments), strict=True))
        # Bare means over masks, without the powers of 1/p.
        values |= {name: values[name] * case["p"] ** (2 if name != "CK0" else 1) for name in TANGENT}
        values["D"] = float(squared_distance(tangents.gp, case["n"]).total)
        if not np.isfinite([*map(float, given.values()), *values.values()]).all():
            raise UserError("K1p, K2p, D and the moments must be finite")
    except (UserError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"`cases`: {case['name']}: {error}") from error
    # No factor over- or underflows, since sparse_tangents has accepted the pair.
    scale = math.hypot(*x) * math.hypot(*y) or 1.0
    units = {name: scale**2 for name in values} | {"K1p": scale, "CK0": scale, "D": (scale / len(x)) ** 2}
    errors = {f"scaled_error_{name}": abs(values[name] - float(given[name])) / units[name] for name in given}
    method = {
        "name": case["name"],
        "method": str(tangents.gp.method),
        "error_estimate": float(tangents.error_estimate),
    }
    return dict.fromkeys(COLUMNS, "") | method | values | errors


def check_cases(settings: Settings, cases: str, run: Output) -> bool:
    """Whether all cases of a file are within the tolerance."""
    rows = [evaluate(case) for case in read_cases(folders.local("cases", cases))]
    output.write_table(run.folder, "theorem1_cases", rows, COLUMNS, digits=17)
    largest = max(row[error] for row in rows for error in (*ERRORS, *TANGENT_ERRORS) if row[error] != "")
    within = largest <= settings.tolerance
    print(f"{len(rows)} cases, {'all' if within else 'not all'} within {settings.tolerance:g}")
    print(f"largest scaled error: {largest:.3g}")
    return bool(within)


def z_score(values: Float64[np.ndarray, " networks"], expected: float) -> tuple[float, float]:
    """Distance of a sample's mean from the expected value in standard errors, and the sample's skewness.

    The t statistic of a skewed sample is skewed to the other side; Hall's monotone cubic removes that to first order
    in 1/sqrt(networks), so that its tails are normal. Source: Hall 1992, On the removal of skewness by transformation.
    """
    centered = values - values.mean()
    deviation = centered.std(ddof=1)
    if deviation == 0:
        raise UserError(
            "`networks`: all simulated networks have the same D, so there is no error bar: draw more"
        )
    t = (values.mean() - expected) / deviation * math.sqrt(len(values))
    skewness = float((centered**3).mean() / deviation**3)
    a = skewness / math.sqrt(len(values))
    return float(t + a * t**2 / 3 + a**2 * t**3 / 27 + a / 6), skewness


def threshold(points: int, level: float) -> float:
    """|z| that any of the points exceeds by chance with probability at most `level` (Bonferroni)."""
    return -NormalDist().inv_cdf(
        level / 2 / points
    )  # of the lower tail: 1 - level / 2 / points would round to 1


def simulate(
    inputs: Inputs, connectivities: Sequence[float], widths: Sequence[int], networks: int, key: jax.Array
) -> list[dict[str, Any]]:
    """A row for each connectivity and width: D of simulated networks, of Theorem 1 and of (4)."""
    x, y, _ = inputs.pairs
    pairs, features = x.shape
    reference = arc_cosine(x, y, 1) / features
    kernels = kinds.exact_kernels(
        inputs.pairs, np.asarray(connectivities), TOLERANCE, kinds.label(inputs.columns)
    )
    exact = [squared_distance(kernels, width).total.mean(0) for width in widths]
    draws = [max(networks, HIDDEN_UNITS // width) for width in widths]
    points = list(itertools.product(range(len(connectivities)), range(len(widths))))

    def at(point: tuple[int, int]) -> MeanDistance:
        i, j = point
        point_key = jax.random.fold_in(key, len(widths) * i + j)
        return simulated_distance(point_key, connectivities[i], widths[j], x, y, reference, draws[j])

    rows = []
    units = len(connectivities) * sum(count * n for count, n in zip(draws, widths, strict=True))
    cores = usable_cores() if jax.default_backend() == "cpu" else 1
    with (
        output.progress(units, f"simulated: {kinds.label(inputs.columns)}") as bar,
        ThreadPoolExecutor(cores) as pool,
    ):
        for (i, j), simulated in zip(points, pool.map(at, points), strict=True):
            p, n, expected = connectivities[i], widths[j], float(exact[j][i])
            z, skewness = z_score(simulated.per_network, expected)
            values = (features, pairs, p, n, draws[j], simulated.mean, simulated.stderr, expected)
            row = (*values, float(eq4(p, n, features)), skewness, z)
            rows.append(inputs.columns | dict(zip(POINT_COLUMNS[2:], row, strict=True)))
            bar.update(draws[j] * n)
    return rows


def verdicts(rows: Sequence[dict[str, Any]], level: float) -> tuple[list[str], bool]:
    """How well simulation and theory agree, as lines, and whether they agree at every point."""
    z, limit = np.array([row["z"] for row in rows]), threshold(len(rows), level)
    worst = rows[int(np.argmax(np.abs(z)))]
    within = bool(np.abs(z).max() <= limit)
    lines = [
        f"{len(rows)} points: mean of z {z.mean():+.3f} (expected 0 ± {1 / math.sqrt(len(z)):.3f}),"
        f" deviation {z.std():.2f} (expected 1)",
        f"largest |z| {abs(worst['z']):.2f} ({kinds.label(worst)}, p = {worst['p']:g},"
        f" n = {worst['n']}); Bonferroni threshold {limit:.2f} ({100 * level:g} %, two-sided):"
        f" {'all within' if within else 'NOT all within'}",
    ]
    return lines, within


def validate(settings: Settings, run: Output) -> bool:
    """Simulation against theory at every point; whether they agree."""
    connectivities, widths, networks = settings.connectivities, settings.widths, settings.networks
    level, key = settings.level, jax.random.key(settings.seed)
    rows = []
    for index, inputs in enumerate(kinds.chosen(settings, settings.pairs)):
        rows += simulate(inputs, connectivities, widths, networks, jax.random.fold_in(key, index))
    output.print_table(rows, POINT_COLUMNS)
    figure = theory.draw_simulation(rows, threshold(len(rows), level))
    lines, agree = verdicts(rows, level)
    launch.publish(run, EXPERIMENT, rows, POINT_COLUMNS, figure, theory.PLOT, lines)
    return agree


def check_against(settings: Settings, run: Output) -> bool:
    """Whether neural-tangents agrees with all of ours. Raises UserError where it is not installed."""
    rows = []
    try:
        for row in against.rows(settings.networks, settings.seed):
            print(against.line(row))
            rows.append(row)
    except ImportError as error:
        raise UserError(f"`against=neural_tangents`: {error}") from error
    launch.wrote(run, output.write_table(run.folder, "theorem1_against", rows, against.COLUMNS))
    return all(map(against.agrees, rows))


def main(settings: Settings, run: Output) -> None:
    if settings.against is not None:
        agree = check_against(settings, run)
    else:
        agree = (
            validate(settings, run) if settings.cases is None else check_cases(settings, settings.cases, run)
        )
    sys.exit(0 if agree else 1)


COMMAND = Command(main, {"default": Settings()}, Output(f"results/{EXPERIMENT}"))

if __name__ == "__main__":
    launch.run(COMMAND)
