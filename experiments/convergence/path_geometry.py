"""The way through weight space over the number of weights: Figures 6, 7 and 8 of the convergence paper, and a split.

    python -m experiments.path_geometry --workdir=results/halting_time  # records of halting_time, seconds
    python -m experiments.path_geometry --preset=small  # tiny_shakespeare, ten seeds, hours (estimated)

Per group of layers (embedding, hidden, softmax, all), up to the halting time T: the direct distance from start to end;
the length of the path, which the paper speaks of and does not show; the mean step; the mean angle between the gradient
and the way from the start. Exactly T = distance × tortuosity ÷ step, with tortuosity = length ÷ distance, so the
exponents in the number of weights add up: they say which of them makes wider networks faster.
`--second_pass` trains everything twice more, for the angle between the gradient and the way to the end (cosine_end and
angle_end, up to the first evaluation at or after T), since the end is known when it is reached.
It trains the first curve of `experiments.halting_time`, but for what that left in the same folder.
Writes WORKDIR/path_geometry.csv, a row per network and group, path_geometry_seeds.csv, one for every seed, in which
2·projection_start = distance² − sum_squared_steps, path_geometry_claims.csv, the paper's claims beside ours (exponents
in width), and path_geometry.png.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from experiments.convergence import path, path_figure, second_pass, settings, study
from experiments.convergence.halting import Curve, Halted
from experiments.lab import families, launch, output
from experiments.lab.flags import Command
from experiments.lab.intervals import Estimate, sign
from experiments.lab.launch import Run
from wsn.spec import setting

EXPERIMENT = "path_geometry"
COLUMNS = [*study.KEYS, "group", *(f"{name}_mean" for name in path.QUANTITIES)]
SEEDS = [*study.KEYS, "group", "seed", "censored", "steps", *path.QUANTITIES, "projection_start"]
DIGITS = 9  # so that the identity can be checked
CLAIMS = ["curve", "claim", "group", "paper", "exponent", "low", "high", "verdict"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(settings.Preset):
    """As of halting times."""

    second_pass: bool = setting(
        "Train everything twice more, for the angle between the gradient and the way to the end.", False
    )


def claims(curve: Curve, name: str) -> Iterator[families.Row]:
    """The paper's claims about the path, group by group: its exponent in width beside ours, and a verdict."""
    own = path.groups([curve])
    for claim, quantity, way in path.CLAIMS:
        for group in own:
            found = path.exponent(curve, group, quantity, "width")
            yield row(name, claim, group, found, way, path.PAPER.get(quantity, {}).get(group))
        if quantity == "distance" and "softmax" in own:
            yield from most(curve, name, own)
    for group in own:
        for part, found in path.split(curve, group).items():
            yield row(name, f"{part} ~ weights", group, found, 0)


def row(
    name: str, claim: str, group: str, found: Estimate, way: int, paper: float | None = None
) -> families.Row:
    """`way` is the sign that the claim gives the exponent; 0: there is no claim."""
    verdict = sign(found if way > 0 else -found) if way else ""
    printed = "" if paper is None else round(paper, 2)
    exponent = dict(zip(("exponent", "low", "high"), found, strict=True))
    return {"curve": name, "claim": claim, "group": group, "paper": printed, "verdict": verdict} | exponent


def most(curve: Curve, name: str, own: Sequence[str]) -> Iterator[families.Row]:
    """Whether the last layer's distance falls more than that of each other group, run by run."""
    for group in own:
        if group in ("embedding", "hidden"):

            def over(run: Halted, group: str = group) -> float:
                return path.geometry(run, "softmax")["distance"] / path.geometry(run, group)["distance"]

            paper = path.PAPER["distance"]["softmax"] - path.PAPER["distance"][group]
            yield row(name, "C7 most in softmax", f"softmax / {group}", curve.by("width", over), -1, paper)


def split(curve: Curve, name: str) -> Iterator[str]:
    """The exponents in weights, which add up."""
    for group in path.groups([curve]):
        time, *parts = path.split(curve, group).values()
        distance, bends, step = map(shown, parts)
        yield f"T {shown(time)} = distance {distance} + tortuosity {bends} − step {step} ({name}, {group})"


def shown(found: Estimate) -> str:
    return found.show(form="+.2f")


def main(preset: Preset, run: Run) -> None:
    asked = study.networks(preset, run)
    results = families.collect(asked, run, EXPERIMENT)
    if results is None:
        return
    curves = study.curves(asked, results, run)
    names = study.names(curves)
    ends = second_pass.ends(curves, run) if preset.second_pass else {}
    more = second_pass.COLUMNS if preset.second_pass else []
    rows, seeds = path.rows(curves, ends), path.seeds(curves, ends)
    told = [one for curve, name in zip(curves, names, strict=True) for one in claims(curve, name)]
    output.print_table(rows, ["width", "weights", "fraction", *COLUMNS[len(study.KEYS) :]])
    output.print_table(told, CLAIMS)
    written = (
        output.write_table(run.folder, EXPERIMENT, rows, [*COLUMNS, *(f"{name}_mean" for name in more)]),
        output.write_table(run.folder, f"{EXPERIMENT}_seeds", seeds, [*SEEDS, *more], DIGITS),
        output.write_table(run.folder, f"{EXPERIMENT}_claims", told, CLAIMS),
        output.write_figure(
            run.folder, EXPERIMENT, path_figure.draw(curves, names, study.caption(preset, run))
        ),
    )
    for curve, name in zip(curves, names, strict=True):
        for text in split(curve, name):
            print(text)
    launch.wrote(run, *written)


# One curve of each preset, with the paper's ten seeds where that takes minutes.
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
