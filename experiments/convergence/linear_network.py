"""Are solutions nearer, and is training shorter, in wider networks? A linear network, exactly.

    python -m experiments.linear_network  # no data, seconds

Appendix B of "Empirically Characterizing Overparameterization Impact on Convergence" answers yes for f(x) = sum_k w_k x
with K weights: the mean distance from a random start to the solutions sum w = C is C / sqrt K. We compute this distance
exactly and by simulation, for starts in a ball of radius R (as in the paper) and in a cube (independent weights), and
the steps of gradient descent. We also train both layers of a network, 20 inputs → width → 5 outputs, and compare the
exponents in width of steps, distance, path length and mean step with those of the paper's language model.
Expect: the paper's formula holds only for R <= C / sqrt K (at R = 4, K = 1 and 2 the distance is 2.5 and 2.013, not 2
and 1.414); steps ~ 1/K at one learning rate up to the edge of stability, K = 1/(rate mean x^2). Neither depends on K
with output weights 1 / sqrt K (NTK parameterization): the effect is one of the parameterization, not of width.

Writes WORKDIR/linear_network.csv (distances), linear_network_steps.csv, linear_network_layers.csv (geometric means at
the smallest and largest width; exponents with 95 % intervals over seeds, in the kernel regime and in the paper) and
linear_network.png.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from experiments.convergence import halting
from experiments.convergence.appendix_b import (
    ARMS,
    CUBE_RADIUS,
    DRAWS,
    EDGE,
    INPUTS,
    LAYER_RATES,
    LAYER_SAMPLES,
    MARKS,
    OUTPUTS,
    PAPER,
    RATE,
    SAMPLES,
    SOLUTION,
    TOLERANCE,
    WIDTHS,
    draw,
)
from experiments.lab import intervals, launch, output
from experiments.lab.flags import Command
from experiments.lab.launch import Output
from kernels import linear_network as theory
from wsn.errors import UserError
from wsn.machine import NETWORK_BYTES
from wsn.spec import WIDEST, check_bounds, setting

EXPERIMENT = "linear_network"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Raises UserError for numbers out of range."""

    radii: tuple[float, ...] = setting(
        "Radii R of the ball from which the start is drawn; C is 2.", (0.5, 2.0, 4.0), above=0, some=True
    )
    widths: tuple[int, ...] = setting(
        "Widths of the network with two trained layers, comma-separated.",
        (20, 40, 80, 160, 320),
        least=1,
        most=WIDEST,
    )
    seeds: int = setting("Number of seeds of these networks at each width.", 10, least=1, bytes=NETWORK_BYTES)

    def __post_init__(self) -> None:
        check_bounds(self)
        if len(set(self.widths)) < 2:
            raise UserError("`widths`: give at least two widths")


def verdict(claim: bool) -> str:
    return "holds" if claim else "fails"


def distance_rows(radii: Sequence[float], draws: int = DRAWS) -> list[dict]:
    """A row per parameterization, start, radius and width; `within`: no start lies beyond the solutions."""
    cases = [("standard", "ball", r) for r in radii] + [(name, "cube", CUBE_RADIUS) for name in LAYER_RATES]
    rows = []
    for case, (name, kind, radius) in enumerate(cases):
        for width in WIDTHS:
            plane = float(theory.plane_distance(width, SOLUTION, theory.output_weight(name, width)))
            sampled = theory.sampled_distance(theory.STARTS[kind], draws, width, plane, radius, seed=case)
            within = radius * (width**0.5 if kind == "cube" else 1) <= plane
            row = {"parameterization": name, "start": kind, "radius": radius, "width": width}
            row |= {"within": within, "printed": SOLUTION / width**0.5}
            row |= {"exact": float(theory.STARTS[kind].mean_distance(width, plane, radius))}
            rows.append(row | {"simulated": sampled.mean, "stderr": sampled.stderr})
    return rows


def step_rows() -> list[dict]:
    """A row per arm and width: steps by the formula, and steps and path of gradient descent from 0."""
    x = np.random.default_rng(0).choice([-1.0, 1.0], SAMPLES)
    rows = []
    for arm in ARMS:
        for width in (*WIDTHS, *(int(EDGE * share) for share in (0.8, 0.95, 1.05))):
            rate = RATE / width if arm == ARMS[1] else RATE
            output = float(theory.output_weight("ntk" if arm == ARMS[2] else "standard", width))
            factor = theory.error_factor(width, rate, 1.0, output)
            run = theory.descend(x, SOLUTION * x, np.zeros(width), output, rate, TOLERANCE)
            row = {"arm": arm, "width": width, "learning_rate": rate, "factor": float(factor)}
            row |= {"steps": float(theory.steps_to(TOLERANCE, factor)), "simulated": run.steps}
            rows.append(row | {"distance": run.distance, "path": run.length})
    return rows


def two_layers(name: str, width: int, seed: int) -> dict[str, float]:
    """The measures of one network. All widths of a seed share samples and teacher, whose outputs have unit variance."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((LAYER_SAMPLES, INPUTS))
    teacher = random.standard_normal((OUTPUTS, INPUTS)) / INPUTS**0.5
    return theory.train_two_layers(x, teacher, width, name, LAYER_RATES[name], seed=seed).measures()


def layer_rows(widths: Sequence[int], seeds: int) -> list[dict]:
    """A row per parameterization and measure."""
    rows = []
    for name in LAYER_RATES:
        runs = [[two_layers(name, width, seed) for seed in range(seeds)] for width in widths]
        regime = [theory.kernel_regime(width, INPUTS, name).measures() for width in widths]
        for measure in regime[0]:
            values = [[run[measure] for run in of_width] for of_width in runs]
            slope = halting.slope(widths, values)
            narrowest, *_, widest = np.exp(np.log(values).mean(axis=1)).tolist()
            predicted = round(log_slope(widths, [path[measure] for path in regime]), 9) + 0.0
            row = {"parameterization": name, "measure": measure, "narrowest": narrowest, "widest": widest}
            row |= {"exponent": slope.value, "low": slope.low, "high": slope.high, "kernel_regime": predicted}
            rows.append(row | {f"paper_{of}": PAPER.get(measure, {}).get(of, "") for of in MARKS})
    return rows


def log_slope(x: Sequence[float], y: Sequence[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def distance_verdicts(rows: Sequence[dict]) -> list[str]:
    """The distance of Appendix B: where it holds, how far it is off elsewhere, other starts and parameterization."""
    balls = [row for row in rows if row["start"] == "ball"]
    cube = [row for row in rows if (row["start"], row["parameterization"]) == ("cube", "standard")]
    ntk = [row["exact"] for row in rows if row["parameterization"] == "ntk"]
    first_beyond = {row["radius"]: row for row in reversed(balls) if not row["within"]}
    holds = {
        w: all(np.isclose(r["exact"], r["printed"]) for r in balls if r["within"] == w) for w in (True, False)
    }
    nearer = [all(np.diff([row["exact"] for row in cube]) < 0), ntk[-1] < 0.99 * ntk[0]]
    off = max(abs(row["simulated"] - row["exact"]) / row["stderr"] for row in rows)
    return [
        f"mean distance C / sqrt K: {verdict(holds[True])} where R <= C / sqrt K, {verdict(holds[False])} beyond",
        *(
            f"  R = {r:g}: {row['exact']:.4f}, not {row['printed']:.4f}, at K = {row['width']};"
            f" {float(theory.ball_excess_limit(SOLUTION / r)):.6f} times the printed distance for K → ∞"
            for r, row in first_beyond.items()
        ),
        f"  independent weights, R = {CUBE_RADIUS:g}: {cube[-1]['exact']:.4f}, not {cube[-1]['printed']:.4f}, at"
        f" K = {cube[-1]['width']}, never below {float(theory.cube_floor(CUBE_RADIUS)):.4f}",
        f"  simulation and theory differ by at most {off:.1f} standard errors in {len(rows)} points",
        f"solutions are nearer in wider networks: {verdict(nearer[0])} with output weights 1; {verdict(nearer[1])} with"
        f" 1 / sqrt K, where the distance is {min(ntk):.3f} to {max(ntk):.3f}",
    ]


def step_verdicts(rows: Sequence[dict]) -> list[str]:
    """The consequence for the number of steps, which the appendix does not discuss."""
    fixed = {row["width"]: row["simulated"] for row in rows if row["arm"] == ARMS[0]}
    stable = {width: steps for width, steps in fixed.items() if width < EDGE / 2}
    slope = log_slope(list(stable), list(stable.values()))
    others = sorted({row["simulated"] for row in rows if row["arm"] != ARMS[0]})
    flat = ", ".join(f"{steps:g}" for steps in others)
    equal = sum(row["simulated"] == row["steps"] for row in rows)
    return [
        f"width shortens training: {verdict(slope < 0)} at one learning rate, with steps ~ K^{slope:.2f}: "
        + ", ".join(f"{steps:g}" for steps in stable.values()),
        f"  but networks oscillate beyond K = {EDGE / 2:g} and diverge beyond {EDGE:g}: "
        + ", ".join(f"{steps:g} (K = {width})" for width, steps in fixed.items() if width >= EDGE / 2),
        f"  {verdict(len(others) > 1)} at rate / K and with output weights 1 / sqrt K: {flat} at every K",
        f"  gradient descent takes as many steps as the formula says in {equal} of {len(rows)} points",
    ]


def layer_verdicts(rows: Sequence[dict]) -> list[str]:
    """The paper's exponents in width, in a network that needs no width to learn its task."""
    by_measure = {(row["parameterization"], row["measure"]): row for row in rows}

    def exponent(name: str, measure: str) -> str:
        row = by_measure[name, measure]
        return intervals.Estimate(row["exponent"], row["low"], row["high"]).show(form="+.2f")

    return [
        f"two layers, exponents in width, {name}: steps {exponent(name, 'steps')}; in the last layer distance"
        f" {exponent(name, 'distance, last')} and mean step {exponent(name, 'mean step, last')};"
        f" steps in the kernel regime {by_measure[name, 'steps']['kernel_regime']:+.2f}"
        for name in LAYER_RATES
    ] + [f"  the paper's softmax: distance {PAPER['distance, last']['softmax']:+.2f}, mean step +0.5"]


def main(settings: Settings, run: Output) -> None:
    radii, widths = sorted(set(settings.radii)), sorted(set(settings.widths))
    tables = {"": distance_rows(radii), "_steps": step_rows(), "_layers": layer_rows(widths, settings.seeds)}
    output.print_table(tables["_layers"], list(tables["_layers"][0])[:8])
    for verdicts, rows in zip(
        (distance_verdicts, step_verdicts, layer_verdicts), tables.values(), strict=True
    ):
        print(*verdicts(rows), sep="\n")
    written = [
        output.write_table(run.folder, EXPERIMENT + name, rows, list(rows[0]))
        for name, rows in tables.items()
    ]
    launch.wrote(run, *written, output.write_figure(run.folder, EXPERIMENT, draw(*tables.values())))


COMMAND = Command(main, {"default": Settings()}, Output(f"results/{EXPERIMENT}"))

if __name__ == "__main__":
    launch.run(COMMAND)
