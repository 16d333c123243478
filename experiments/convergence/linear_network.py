"""Are solutions nearer, and is training shorter, in wider networks? A linear network, exactly.

    python -m experiments.linear_network  # no data, seconds

Appendix B of "Empirically Characterizing Overparameterization Impact on Convergence" answers yes for f(x) = sum_k w_k x
with K weights: the mean distance from a random start to the solutions sum w = C is C / sqrt K. We compute this distance
exactly and by simulation, for starts in a ball of radius R (as in the paper) and in a cube (independent weights), and
the steps of gradient descent. We also train both layers of a network, 20 inputs → width → 5 outputs, and compare the
exponents in width of steps, distance, path length and mean step with those of the paper's language model.

Writes WORKDIR/linear_network.csv (distances), linear_network_steps.csv, linear_network_layers.csv (geometric means at
the smallest and largest width; exponents with 95 % intervals over seeds, in the kernel regime and in the paper) and
linear_network.png.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from experiments.convergence import halting, path
from experiments.lab import intervals, launch, output
from experiments.lab.flags import Command
from experiments.lab.launch import Output
from kernels import linear_network as theory
from wsn.errors import UserError
from wsn.machine import NETWORK_BYTES
from wsn.spec import WIDEST, check_bounds, setting

EXPERIMENT = "linear_network"
SOLUTION = 2.0  # C: a network solves the task if its weights sum to C
WIDTHS = tuple(2**i for i in range(9))  # of the network with one trained layer
CUBE_RADIUS, DRAWS = 1.0, 100_000
SAMPLES, RATE, TOLERANCE = 50, 0.002, 1e-3  # x is ±1; training stops at this fraction of the initial loss
EDGE = theory.largest_width(RATE, 1.0)
OUTPUTS, INPUTS, LAYER_SAMPLES = 5, 20, 200  # of the network with two trained layers, which stops at 1 %
LAYER_RATES = {"standard": 0.005, "ntk": 0.5}
ARMS = ("one rate", "rate / K", "output weights 1/√K (NTK)")


# Our measure → the paper's layers that it is compared with → exponent in width.
PAPER = {
    f"{label}, {layer}": {group: path.PAPER[quantity][group] for group in groups}
    for quantity, label in (("distance", "distance"), ("step", "mean step"))
    for layer, groups in (("first", ("embedding", "hidden")), ("last", ("softmax",)))
}
TITLES = (
    "(a) one trained layer: exact (lines), simulated (points)",
    "(b) one trained layer",
    "(c) two trained layers",
)
MARKS = {"embedding": "+", "hidden": "x", "softmax": "*"}
COLORS = {"standard": "#2f6397", "ntk": "#b5482f", "cube": "#b08a2e"}


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


# The tables.


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


# What they say.


def claim(holds: bool) -> str:
    return intervals.verdict(holds, not holds)


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
        f"mean distance C / sqrt K: {claim(holds[True])} where R <= C / sqrt K, {claim(holds[False])} beyond",
        *(
            f"  R = {r:g}: {row['exact']:.4f}, not {row['printed']:.4f}, at K = {row['width']};"
            f" {float(theory.ball_excess_limit(SOLUTION / r)):.6f} times the printed distance for K → ∞"
            for r, row in first_beyond.items()
        ),
        f"  independent weights, R = {CUBE_RADIUS:g}: {cube[-1]['exact']:.4f}, not {cube[-1]['printed']:.4f}, at"
        f" K = {cube[-1]['width']}, never below {float(theory.cube_floor(CUBE_RADIUS)):.4f}",
        f"  simulation and theory differ by at most {off:.1f} standard errors in {len(rows)} points",
        f"solutions are nearer in wider networks: {claim(nearer[0])} with output weights 1; {claim(nearer[1])} with"
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
        f"width shortens training: {claim(slope < 0)} at one learning rate, with steps ~ K^{slope:.2f}: "
        + ", ".join(f"{steps:g}" for steps in stable.values()),
        f"  but networks oscillate beyond K = {EDGE / 2:g} and diverge beyond {EDGE:g}: "
        + ", ".join(f"{steps:g} (K = {width})" for width, steps in fixed.items() if width >= EDGE / 2),
        f"  {claim(len(others) > 1)} at rate / K and with output weights 1 / sqrt K: {flat} at every K",
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


# The figure.


def log_axes(axes: Axes, ylabel: str, subs: Sequence[float]) -> None:
    axes.set(xscale="log", yscale="log", xlabel="width K", ylabel=ylabel, xticks=WIDTHS[::2])
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set(major_formatter=ScalarFormatter(), minor_formatter=NullFormatter())


def draw_distances(axes: Axes, rows: Sequence[dict]) -> None:
    balls = sum(row["start"] == "ball" for row in rows)
    for i in range(0, len(rows), len(WIDTHS)):
        curve = rows[i : i + len(WIDTHS)]
        ntk, ball = curve[0]["parameterization"] == "ntk", curve[0]["start"] == "ball"
        color = COLORS["ntk"] if ntk else COLORS["standard"] if ball else COLORS["cube"]
        alpha = (i + len(WIDTHS)) / balls if ball else 1.0
        label = f"{curve[0]['start']}, R = {curve[0]['radius']:g}" + ", output weights 1/√K (NTK)" * ntk
        axes.plot(WIDTHS, [row["exact"] for row in curve], color=color, alpha=alpha, label=label)
        axes.plot(WIDTHS, [row["simulated"] for row in curve], "o", ms=4, color=color, alpha=alpha)
    axes.plot(WIDTHS, [row["printed"] for row in rows[: len(WIDTHS)]], "k--", lw=1.1, label="paper: C/√K")
    log_axes(axes, "mean distance from the start to the solutions", subs=(1, 2, 5))


def draw_steps(axes: Axes, rows: Sequence[dict]) -> None:
    for begin, end, shade, text in ((0.5, 1, "0.93", "oscillates"), (1, 2, "0.84", "diverges")):
        axes.axvspan(begin * EDGE, end * EDGE, color=shade, lw=0)
        axes.text((begin * end) ** 0.5 * EDGE, 60, text, rotation=90, fontsize=8, ha="center", va="center")
    dense = np.geomspace(1, 0.999 * EDGE, 2000)
    exact = theory.steps_to(TOLERANCE, theory.error_factor(dense, RATE, 1.0))
    axes.plot(dense, exact, color=COLORS["standard"], lw=1)
    for arm, mark, name in zip(ARMS, "osx", ("standard", "cube", "ntk"), strict=True):
        widths, steps = zip(*((r["width"], r["simulated"]) for r in rows if r["arm"] == arm), strict=True)
        axes.plot(widths, steps, mark, ms=5, color=COLORS[name], label=arm)
    log_axes(axes, f"steps to {TOLERANCE:g} of the initial loss, learning rate {RATE:g}", subs=(1,))
    axes.set_xlim(0.8, 2 * EDGE)


def draw_layers(axes: Axes, rows: Sequence[dict]) -> None:
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    for name, shift in zip(LAYER_RATES, (-0.14, 0.14), strict=True):
        of_name = [row for row in rows if row["parameterization"] == name]
        value, low, high, regime = zip(*(list(row.values())[4:8] for row in of_name), strict=True)
        height, color = np.arange(len(of_name)) + shift, COLORS[name]
        axes.hlines(height, low, high, color=color)
        axes.plot(value, height, "o", ms=4.5, color=color, label=name)
        axes.plot(regime, height, "|", ms=11, mew=1.5, color=color, label=f"{name}, kernel regime")
    for layer, mark in MARKS.items():
        points = {measures.index(measure): paper[layer] for measure, paper in PAPER.items() if layer in paper}
        axes.plot(list(points.values()), list(points), f"k{mark}", ms=7, label=f"paper, {layer}")
    axes.axvline(0, color="0.7", lw=0.8, zorder=0)
    axes.set(yticks=range(len(measures)), yticklabels=measures, xlabel="exponent in width")
    axes.invert_yaxis()


def draw(*tables: Sequence[dict]) -> Figure:
    figure = Figure(figsize=(14.5, 5.6), layout="constrained")
    panels = (draw_distances, draw_steps, draw_layers)
    for axes, draw_panel, title, rows in zip(figure.subplots(1, 3), panels, TITLES, tables, strict=True):
        draw_panel(axes, rows)
        axes.set_title(title, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    return figure


def main(settings: Settings, run: Output) -> None:
    radii, widths = sorted(set(settings.radii)), sorted(set(settings.widths))
    distances, steps, layers = distance_rows(radii), step_rows(), layer_rows(widths, settings.seeds)
    output.print_table(layers, list(layers[0])[:8])
    lines = [*distance_verdicts(distances), *step_verdicts(steps), *layer_verdicts(layers)]
    tables = {name: (rows, list(rows[0])) for name, rows in (("steps", steps), ("layers", layers))}
    figure = draw(distances, steps, layers)
    launch.publish(run, EXPERIMENT, distances, list(distances[0]), figure, lines=lines, tables=tables)


COMMAND = Command(main, {"default": Settings()}, Output(f"results/{EXPERIMENT}"))

if __name__ == "__main__":
    launch.run(COMMAND)
