"""Does width bring the solutions nearer, and training to an end sooner? A linear network, exactly.

    python -m experiments.linear_network  # no data, seconds

Appendix B of "Empirically Characterizing Overparameterization Impact on Convergence" answers yes for f(x) = sum_k w_k x
with K weights: the mean distance from a random start to the solutions sum w = C is C / sqrt K. Here it is exact and
simulated, from a ball (the paper's start) and from independent weights (a cube), and so are the steps of gradient
descent. Then both layers of a network, 20 inputs → width → 5 outputs, are trained, and the exponents in width of steps,
distance, path and mean step stand beside those of the paper's language model.
Expect: the printed distance holds for R <= C / sqrt K alone (K = 1 and 2, R = 4: 2.5 and 2.013, not 2 and 1.414);
steps ~ 1/K at one learning rate up to the edge of stability, K = 1/(rate mean x^2); and neither with output weights
1 / sqrt K (NTK parameterisation), where nothing depends on K: it is about the parameterisation, not about width.

Writes WORKDIR/linear_network.csv (distances), linear_network_steps.csv, linear_network_layers.csv (geometric means at
both ends, exponents with 95 % intervals over seeds, the kernel regime's, the paper's) and linear_network.png.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

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
    """Which networks. Raises UserError for numbers out of range."""

    radii: tuple[float, ...] = setting(
        "Radii R of the ball that the start is drawn from; C is 2.", (0.5, 2.0, 4.0), above=0, some=True
    )
    widths: tuple[int, ...] = setting(
        "Widths of the network with two trained layers, comma-separated.",
        (20, 40, 80, 160, 320),
        least=1,
        most=WIDEST,
    )
    seeds: int = setting("How many of these networks at each width.", 10, least=1, bytes=NETWORK_BYTES)

    def __post_init__(self) -> None:
        check_bounds(self)
        if len(set(self.widths)) < 2:
            raise UserError("`widths`: give at least two widths")


def word(claim: bool) -> str:
    """What the numbers of a claim say."""
    return "holds" if claim else "fails"


def distance_rows(radii: Sequence[float], draws: int = DRAWS) -> list[dict]:
    """A row per parameterisation, start, radius and width; `within`: no start lies beyond the solutions."""
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
    """A row per arm and width: steps by the formula and by gradient descent from 0, with the latter's path."""
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
    """The measures of one network; all widths of a seed have its samples and teacher, with outputs of unit variance."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((LAYER_SAMPLES, INPUTS))
    teacher = random.standard_normal((OUTPUTS, INPUTS)) / INPUTS**0.5
    return theory.train_two_layers(x, teacher, width, name, LAYER_RATES[name], seed=seed).measures()


def layer_rows(widths: Sequence[int], seeds: int) -> list[dict]:
    """A row per parameterisation and measure."""
    rows, log = [], np.log(widths)
    for name in LAYER_RATES:
        runs = [[two_layers(name, width, seed) for seed in range(seeds)] for width in widths]
        regime = [theory.kernel_regime(width, INPUTS, name).measures() for width in widths]
        for measure in regime[0]:
            logs = np.log([[run[measure] for run in of_width] for of_width in runs])
            slope = intervals.linear((log - log.mean()) / ((log - log.mean()) ** 2).sum(), list(logs))
            narrowest, *_, widest = np.exp(logs.mean(axis=1)).tolist()
            predicted = (
                float(np.polyfit(log, np.log([path[measure] for path in regime]), 1)[0].round(9)) + 0.0
            )
            row = {"parameterization": name, "measure": measure, "narrowest": narrowest, "widest": widest}
            row |= {"exponent": slope.value, "low": slope.low, "high": slope.high, "kernel_regime": predicted}
            rows.append(row | {f"paper_{of}": PAPER.get(measure, {}).get(of, "") for of in MARKS})
    return rows


def distance_verdicts(rows: Sequence[dict]) -> list[str]:
    """The appendix's distance: its condition, what lies beyond it, independent weights, the other parameterisation."""
    balls = [row for row in rows if row["start"] == "ball"]
    cube = [row for row in rows if (row["start"], row["parameterization"]) == ("cube", "standard")]
    ntk = [row["exact"] for row in rows if row["parameterization"] == "ntk"]
    first = {row["radius"]: row for row in reversed(balls) if not row["within"]}
    right = {
        w: all(np.isclose(r["exact"], r["printed"]) for r in balls if r["within"] == w) for w in (True, False)
    }
    nearer = [all(np.diff([row["exact"] for row in cube]) < 0), ntk[-1] < 0.99 * ntk[0]]
    off = max(abs(row["simulated"] - row["exact"]) / row["stderr"] for row in rows)
    return [
        f"mean distance C / sqrt K: {word(right[True])} where R <= C / sqrt K, {word(right[False])} beyond",
        *(
            f"  R = {r:g}: {row['exact']:.4f} for {row['printed']:.4f} at K = {row['width']};"
            f" {float(theory.ball_excess_limit(SOLUTION / r)):.6f} times as far for K → ∞"
            for r, row in first.items()
        ),
        f"  independent weights, R = {CUBE_RADIUS:g}: {cube[-1]['exact']:.4f} for {cube[-1]['printed']:.4f} at"
        f" K = {cube[-1]['width']}, for K → ∞ never below {float(theory.cube_floor(CUBE_RADIUS)):.4f}",
        f"  simulated and exact differ by at most {off:.1f} standard errors in {len(rows)} points",
        f"width brings the solutions nearer: {word(nearer[0])} with output weights 1; {word(nearer[1])} with"
        f" 1 / sqrt K, where they are at {min(ntk):.3f} to {max(ntk):.3f}",
    ]


def step_verdicts(rows: Sequence[dict]) -> list[str]:
    """What follows for the speed, of which the appendix says nothing."""
    fixed = {row["width"]: row["simulated"] for row in rows if row["arm"] == ARMS[0]}
    stable = {width: steps for width, steps in fixed.items() if width < EDGE / 2}
    slope = float(np.polyfit(np.log(list(stable)), np.log(list(stable.values())), 1)[0])
    others = sorted({row["simulated"] for row in rows if row["arm"] != ARMS[0]})
    flat = ", ".join(f"{steps:g}" for steps in others)
    same = sum(row["simulated"] == row["steps"] for row in rows)
    return [
        f"width shortens training: {word(slope < 0)} at one learning rate, with steps ~ K^{slope:.2f}: "
        + ", ".join(f"{steps:g}" for steps in stable.values()),
        f"  but networks oscillate beyond K = {EDGE / 2:g} and diverge beyond {EDGE:g}: "
        + ", ".join(f"{steps:g} (K = {width})" for width, steps in fixed.items() if width >= EDGE / 2),
        f"  {word(len(others) > 1)} at rate / K and with output weights 1 / sqrt K: {flat} at every K",
        f"  gradient descent takes the steps of the formula in {same} of {len(rows)} points",
    ]


def layer_verdicts(rows: Sequence[dict]) -> list[str]:
    """The paper's signs of width, in a network that has nothing to learn from it."""
    found = {(row["parameterization"], row["measure"]): row for row in rows}

    def shown(name: str, measure: str) -> str:
        row = found[name, measure]
        return intervals.Estimate(row["exponent"], row["low"], row["high"]).show(form="+.2f")

    return [
        f"two layers, exponents in width, {name}: steps {shown(name, 'steps')}, of the last layer distance"
        f" {shown(name, 'distance, last')} and mean step {shown(name, 'mean step, last')};"
        f" steps for width → ∞ {found[name, 'steps']['kernel_regime']:+.2f}"
        for name in LAYER_RATES
    ] + [f"  the paper's softmax: distance {PAPER['distance, last']['softmax']:+.2f}, mean step almost +0.5"]


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
