"""Does width bring the solutions nearer, and training to an end sooner? A linear network, exactly. Seconds on 2 cores.

    python -m experiments.linear_network

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

from collections.abc import Sequence

import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from experiments.lab import cli, intervals
from kernels import linear_network as theory
from wsn.errors import UserError

EXPERIMENT = "linear_network"
SOLUTION = 2.0  # C, the unit of distance
WIDTHS = tuple(2**i for i in range(9))  # of the network with fixed output weights
CUBE_RADIUS, DRAWS = 1.0, 100_000
SAMPLES, RATE, TOLERANCE = 50, 0.002, 1e-3  # x is ±1; it stops at this share of the loss
EDGE = theory.largest_width(RATE, 1.0)
OUTPUTS, INPUTS, LAYER_SAMPLES = 5, 20, 200  # of two layers, which stop at 1 %
LAYER_RATES = {"standard": 0.005, "ntk": 0.5}
ARMS = ("one rate", "rate / K", "output weights 1/√K (NTK)")


def exponent(percent: float) -> float:
    """In width, of a change from 0.79 to 13 million weights, 22 H^2 + 2 V H with V = 98: widths of 185 and 764."""
    return float(np.log1p(percent / 100) / np.log(764 / 185))


# Section 4.3, the recurrent network: what we measure → the paper's layer → exponent.
PAPER: dict[str, dict[str, float]] = {
    "distance, first": {"embedding": exponent(-13), "hidden": exponent(-15)},
    "distance, last": {"softmax": exponent(-25)},
    "mean step, first": {"embedding": exponent(10), "hidden": 0.21},
    "mean step, last": {"softmax": 0.5},
}
TITLES = ("(a) one layer: exact (lines), simulated (points)", "(b) one layer", "(c) two trained layers")
MARKS = {"embedding": "+", "hidden": "x", "softmax": "*"}
COLOURS = {"standard": "#2f6397", "ntk": "#b5482f", "cube": "#b08a2e"}


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
            slope = intervals.estimate(lambda means: np.polyfit(log, means.T, 1)[0], logs.tolist())
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
    cube = [row for row in rows if (row["start"], row["parameterization"]) == ("cube", "standard")][-1]
    ntk = [row["exact"] for row in rows if row["parameterization"] == "ntk"]
    first = {r["radius"]: r for r in reversed(rows) if r["start"] == "ball" and not r["within"]}
    off = max(abs(row["simulated"] - row["exact"]) / row["stderr"] for row in rows)
    return [
        "mean distance C / sqrt K: holds where R <= C / sqrt K, fails beyond",
        *(
            f"  R = {r:g}: {row['exact']:.4f} for {row['printed']:.4f} at K = {row['width']};"
            f" {float(theory.ball_excess_limit(SOLUTION / r)):.6f} times as far for K → ∞"
            for r, row in first.items()
        ),
        f"  independent weights, R = {CUBE_RADIUS:g}: {cube['exact']:.4f} for {cube['printed']:.4f} at"
        f" K = {cube['width']}, for K → ∞ never below {float(theory.cube_floor(CUBE_RADIUS)):.4f}",
        f"  simulated and exact differ by at most {off:.1f} standard errors in {len(rows)} points",
        "width brings the solutions nearer: holds with output weights 1; fails with 1 / sqrt K, where they are at"
        f" {min(ntk):.3f} to {max(ntk):.3f} at every K",
    ]


def step_verdicts(rows: Sequence[dict]) -> list[str]:
    """What follows for the speed, of which the appendix says nothing."""
    fixed = {row["width"]: f"{row['simulated']:g}" for row in rows if row["arm"] == ARMS[0]}
    flat = ", ".join(f"{steps:g}" for steps in sorted({r["simulated"] for r in rows if r["arm"] != ARMS[0]}))
    same = sum(row["simulated"] == row["steps"] for row in rows)
    return [
        "width shortens training: holds at one learning rate, with steps ~ 1/K: "
        + ", ".join(steps for width, steps in fixed.items() if width < EDGE / 2),
        f"  but networks oscillate beyond K = {EDGE / 2:g} and diverge beyond {EDGE:g}: "
        + ", ".join(f"{steps} (K = {width})" for width, steps in fixed.items() if width >= EDGE / 2),
        f"  fails at rate / K and with output weights 1 / sqrt K: {flat} at every K",
        f"  gradient descent takes the steps of the formula in {same} of {len(rows)} points",
    ]


def layer_verdicts(rows: Sequence[dict]) -> list[str]:
    """The paper's signs of width, in a network that has nothing to learn from it."""
    found = {(row["parameterization"], row["measure"]): f"{row['exponent']:+.2f}" for row in rows}
    return [
        f"two layers, exponents in width, {name}: steps {found[name, 'steps']}, of the last layer distance"
        f" {found[name, 'distance, last']} and mean step {found[name, 'mean step, last']}"
        for name in LAYER_RATES
    ] + [
        f"  the paper's softmax: distance {PAPER['distance, last']['softmax']:+.2f}, mean step almost +0.5",
        "so the appendix is about the parameterisation, not about width",
    ]


def logarithmic(axes: Axes, ylabel: str, subs: Sequence[float]) -> None:
    axes.set(xscale="log", yscale="log", xlabel="width K", ylabel=ylabel, xticks=WIDTHS[::2])
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set(major_formatter=ScalarFormatter(), minor_formatter=NullFormatter())


def draw_distances(axes: Axes, rows: Sequence[dict]) -> None:
    balls = sum(row["start"] == "ball" for row in rows)
    for i in range(0, len(rows), len(WIDTHS)):
        curve = rows[i : i + len(WIDTHS)]
        ntk, ball = curve[0]["parameterization"] == "ntk", curve[0]["start"] == "ball"
        colour = COLOURS["ntk"] if ntk else COLOURS["standard"] if ball else COLOURS["cube"]
        alpha = (i + len(WIDTHS)) / balls if ball else 1.0
        label = f"{curve[0]['start']}, R = {curve[0]['radius']:g}" + ", output weights 1/√K (NTK)" * ntk
        axes.plot(WIDTHS, [row["exact"] for row in curve], color=colour, alpha=alpha, label=label)
        axes.plot(WIDTHS, [row["simulated"] for row in curve], "o", ms=4, color=colour, alpha=alpha)
    axes.plot(WIDTHS, [row["printed"] for row in rows[: len(WIDTHS)]], "k--", lw=1.1, label="printed: C/√K")
    logarithmic(axes, "mean distance from start to solutions", subs=(1, 2, 5))


def draw_steps(axes: Axes, rows: Sequence[dict]) -> None:
    for begin, end, shade, word in ((0.5, 1, "0.93", "oscillates"), (1, 2, "0.84", "diverges")):
        axes.axvspan(begin * EDGE, end * EDGE, color=shade, lw=0)
        axes.text((begin * end) ** 0.5 * EDGE, 60, word, rotation=90, fontsize=8, ha="center", va="center")
    dense = np.geomspace(1, 0.999 * EDGE, 2000)
    exact = theory.steps_to(TOLERANCE, theory.error_factor(dense, RATE, 1.0))
    axes.plot(dense, exact, color=COLOURS["standard"], lw=1)
    for arm, mark, name in zip(ARMS, "osx", ("standard", "cube", "ntk"), strict=True):
        widths, steps = zip(*((r["width"], r["simulated"]) for r in rows if r["arm"] == arm), strict=True)
        axes.plot(widths, steps, mark, ms=5, color=COLOURS[name], label=arm)
    logarithmic(axes, f"steps to {TOLERANCE:g} of the loss, learning rate {RATE:g}", subs=(1,))
    axes.set_xlim(0.8, 2 * EDGE)


def draw_layers(axes: Axes, rows: Sequence[dict]) -> None:
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    for name, shift in zip(LAYER_RATES, (-0.14, 0.14), strict=True):
        own = [row for row in rows if row["parameterization"] == name]
        value, low, high, regime = zip(*(list(row.values())[4:8] for row in own), strict=True)
        height, colour = np.arange(len(own)) + shift, COLOURS[name]
        axes.hlines(height, low, high, color=colour)
        axes.plot(value, height, "o", ms=4.5, color=colour, label=name)
        axes.plot(regime, height, "|", ms=11, mew=1.5, color=colour, label=f"{name}, kernel regime")
    for layer, mark in MARKS.items():
        points = {measures.index(measure): paper[layer] for measure, paper in PAPER.items() if layer in paper}
        axes.plot(list(points.values()), list(points), f"k{mark}", ms=7, label=f"paper, {layer}")
    axes.axvline(0, color="0.7", lw=0.8, zorder=0)
    axes.set(yticks=range(len(measures)), yticklabels=measures, xlabel="exponent in width")
    axes.invert_yaxis()


def draw(*tables: Sequence[dict]) -> Figure:
    figure = Figure(figsize=(14.5, 5.6), layout="constrained")
    parts = (draw_distances, draw_steps, draw_layers)
    for axes, part, title, rows in zip(figure.subplots(1, 3), parts, TITLES, tables, strict=True):
        part(axes, rows)
        axes.set_title(title, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    return figure


def main() -> None:
    radii, widths = sorted(set(cli.numbers("radii"))), sorted(set(cli.integers("widths")))
    if radii[0] <= 0 or len(widths) < 2 or widths[0] < 1 or cli.FLAGS.seeds < 1:
        raise UserError("--radii, --widths and --seeds: give positive numbers, and at least two widths")
    tables = {"": distance_rows(radii), "_steps": step_rows(), "_layers": layer_rows(widths, cli.FLAGS.seeds)}
    cli.print_table(tables["_layers"], list(tables["_layers"][0])[:8])
    for verdicts, rows in zip(
        (distance_verdicts, step_verdicts, layer_verdicts), tables.values(), strict=True
    ):
        print(*verdicts(rows), sep="\n")
    written = [cli.write_table(EXPERIMENT + name, rows, list(rows[0])) for name, rows in tables.items()]
    print("wrote", *written, cli.write_figure(EXPERIMENT, draw(*tables.values())))


if __name__ == "__main__":
    cli.define_output_flags(EXPERIMENT)
    flags.DEFINE_list("radii", "0.5,2,4", "Radii R of the ball that the start is drawn from; C is 2.")
    flags.DEFINE_list("widths", "20,40,80,160,320", "Widths of the network with two trained layers.")
    flags.DEFINE_integer("seeds", 10, "How many of these networks at each width.")
    cli.run(main)
