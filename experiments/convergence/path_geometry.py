"""The optimization path over the number of weights: Figures 6, 7 and 8 of the convergence paper, and the factors of T.

    python -m experiments.path_geometry --workdir=results/halting_time  # records of halting_time, seconds
    python -m experiments.path_geometry --preset=small  # tiny_shakespeare, ten seeds, hours (estimated)

Per group of layers (embedding, hidden, softmax, all), up to the halting time T: the distance from start to end; the
length of the path, which the paper mentions but does not show; the mean step; the mean angle between the gradient and
the displacement from the start. Exactly T = distance × tortuosity ÷ step, with tortuosity = length ÷ distance, so the
exponents in the number of weights add up and show which factor makes wider networks faster.
`--second_pass` trains everything twice more, for the angle between the gradient and the displacement from the end
(cosine_end and angle_end, up to the first evaluation at or after T), since the end is known only after training.
It trains the first curve of `experiments.halting_time`; runs that are already in the folder are reused.
Writes WORKDIR/path_geometry.csv, a row per network and group, path_geometry_seeds.csv, a row per seed, in which
2·projection_start = distance² − sum_squared_steps, path_geometry_claims.csv, the paper's claims beside ours (exponents
in width), and path_geometry.png.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from experiments.convergence import path, path_figure, second_pass, settings, study
from experiments.convergence.halting import Curve, HaltedRun
from experiments.lab import families, launch, output
from experiments.lab.flags import Command
from experiments.lab.intervals import Estimate, sign
from experiments.lab.launch import Run
from wsn.spec import setting

EXPERIMENT = "path_geometry"
COLUMNS = [*study.KEYS, "group", *(f"{name}_mean" for name in path.QUANTITIES)]
SEEDS = [*study.KEYS, "group", "seed", "censored", "steps", *path.QUANTITIES, "projection_start"]
DIGITS = 9  # enough to check the identity
CLAIMS = ["curve", "claim", "group", "paper", "exponent", "low", "high", "verdict"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(settings.Preset):
    """As in `halting_time`, with the second pass."""

    second_pass: bool = setting(
        "Train everything twice more, for the angle between the gradient and the displacement from the end.",
        False,
    )


def claims(curve: Curve, name: str) -> Iterator[families.Row]:
    """The paper's claims about the path by group: its exponent in width, ours, and a verdict."""
    groups = path.groups([curve])
    for claim, quantity, direction in path.CLAIMS:
        for group in groups:
            exponent = path.exponent(curve, group, quantity, "width")
            yield row(name, claim, group, exponent, direction, path.PAPER.get(quantity, {}).get(group))
        if quantity == "distance" and "softmax" in groups:
            yield from softmax_falls_most(curve, name, groups)
    for group in groups:
        for factor, exponent in path.split(curve, group).items():
            yield row(name, f"{factor} ~ weights", group, exponent, 0)


def row(
    name: str, claim: str, group: str, exponent: Estimate, direction: int, paper: float | None = None
) -> families.Row:
    """`direction` is the sign of the exponent that the paper claims; 0 if it claims nothing."""
    verdict = sign(exponent if direction > 0 else -exponent) if direction else ""
    printed = "" if paper is None else round(paper, 2)
    ours = dict(zip(("exponent", "low", "high"), exponent, strict=True))
    return {"curve": name, "claim": claim, "group": group, "paper": printed, "verdict": verdict} | ours


def softmax_falls_most(curve: Curve, name: str, groups: Sequence[str]) -> Iterator[families.Row]:
    """Whether the last layer's distance falls more than that of each other group, run by run."""
    for group in groups:
        if group in ("embedding", "hidden"):

            def ratio(run: HaltedRun, group: str = group) -> float:
                return path.geometry(run, "softmax")["distance"] / path.geometry(run, group)["distance"]

            paper = path.PAPER["distance"]["softmax"] - path.PAPER["distance"][group]
            exponent = curve.exponent("width", ratio)
            yield row(name, "C7 most in softmax", f"softmax / {group}", exponent, -1, paper)


def split(curve: Curve, name: str) -> Iterator[str]:
    """The exponents in weights, which add up, one line per group."""
    for group in path.groups([curve]):
        exponents = path.split(curve, group).values()
        time, distance, tortuosity, step = (exponent.show(form="+.2f") for exponent in exponents)
        yield f"T {time} = distance {distance} + tortuosity {tortuosity} − step {step} ({name}, {group})"


def main(preset: Preset, run: Run) -> None:
    networks = study.networks(preset, run)
    results = families.collect(networks, run, EXPERIMENT)
    if results is None:
        return
    curves = study.curves(networks, results, run)
    names = study.names(curves)
    ends = second_pass.ends(curves, run) if preset.second_pass else {}
    more = second_pass.COLUMNS if preset.second_pass else []
    rows, seeds = path.rows(curves, ends), path.seeds(curves, ends)
    claim_rows = [row for curve, name in zip(curves, names, strict=True) for row in claims(curve, name)]
    output.print_table(rows, ["width", "weights", "fraction", *COLUMNS[len(study.KEYS) :]])
    output.print_table(claim_rows, CLAIMS)
    figure = path_figure.draw(curves, names, study.caption(preset, run))
    written = (
        output.write_table(run.folder, EXPERIMENT, rows, [*COLUMNS, *(f"{name}_mean" for name in more)]),
        output.write_table(run.folder, f"{EXPERIMENT}_seeds", seeds, [*SEEDS, *more], DIGITS),
        output.write_table(run.folder, f"{EXPERIMENT}_claims", claim_rows, CLAIMS),
        output.write_figure(run.folder, EXPERIMENT, figure, path_figure.PLOT),
    )
    for curve, name in zip(curves, names, strict=True):
        for text in split(curve, name):
            print(text)
    launch.wrote(run, *written)


# The first curve of each preset; `small` with the paper's ten seeds.
PRESETS = {
    name: Preset(
        **vars(preset)
        | {
            "fractions": preset.fractions[-1:],
            "depths": preset.depths[:1],
            "learning_rates": preset.learning_rates[:1],
            "adam_rate": None,
            "seeds": 10 if name == "small" else preset.seeds,
        }
    )
    for name, preset in settings.PRESETS.items()
}
COMMAND = Command(main, PRESETS, Run(f"results/{EXPERIMENT}"), study.template)

if __name__ == "__main__":
    launch.run(COMMAND)
