"""The way through weight space over the number of weights: Figures 6, 7 and 8 of the convergence paper, and a split.

    python -m experiments.path_geometry --workdir=results/halting_time      # on its records
    python -m experiments.path_geometry --preset=small                      # ten seeds, on records of its own

Per group of layers (embedding, hidden, softmax, all), up to the halting time T: the direct distance from start to end;
the length of the path, which the paper speaks of and does not show; the mean step; the mean angle between the gradient
and the way from the start. Exactly T = distance × tortuosity ÷ step, with tortuosity = length ÷ distance, so the
exponents in the number of weights add up: they say which of them makes wider networks faster.
It trains the first curve of `experiments.halting_time`, but for what that left in the same folder.
Writes WORKDIR/path_geometry.csv, a row per network and group, path_geometry_seeds.csv, one for every seed, in which
2·projection_start = distance² − sum_squared_steps, and path_geometry.png.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from experiments.lab import convergence, families, launch, output, path, path_figure
from experiments.lab.convergence import Preset
from experiments.lab.flags import Command
from experiments.lab.halting import Curve, Halted
from experiments.lab.intervals import Estimate, sign
from experiments.lab.launch import Run

EXPERIMENT = "path_geometry"
COLUMNS = [*convergence.KEYS, "group", *(f"{name}_mean" for name in path.QUANTITIES)]
SEEDS = [*convergence.KEYS, "group", "seed", "censored", "steps", *path.QUANTITIES, "projection_start"]
DIGITS = 9  # so that the identity can be checked
# Section 4.3, the exponents in width of the mean step.
PAPER_STEPS = {"softmax": "almost 0.5", "hidden": "0.21", "embedding": "0.07 (+10 %)"}


def verdicts(curve: Curve, name: str) -> Iterator[str]:
    """The paper's claims about the path, group by group."""
    own = path.groups([curve])
    for group in own:
        found = path.exponent(curve, group, "distance")
        yield f"C7 distance falls ({name}, {group}): {falls(found)}, exponent {shown(found)}"
    yield from most(curve, name, own)
    for group in own:
        length, bends = (path.exponent(curve, group, quantity) for quantity in ("path_length", "tortuosity"))
        yield (
            f"C8 the path gets shorter ({name}, {group}): {falls(length)}, exponent {shown(length)};"
            f" faster than the distance: {falls(bends)}, exponent of tortuosity {shown(bends)}"
        )
    for group in own:
        found = path.exponent(curve, group, "step", "width")
        paper = f"; the paper: {PAPER_STEPS[group]}" if group in PAPER_STEPS else ""
        yield f"C9 the mean step grows ({name}, {group}): {sign(found)}, exponent in width {shown(found)}{paper}"
    for group in own:
        found = path.exponent(curve, group, "angle_start")
        first, last = ends(curve, group)
        yield (
            f"C10 the angle opens ({name}, {group}): {sign(found)}, exponent {found.show(form='+.4f')};"
            f" {first:.3f} π to {last:.3f} π"
        )


def split(curve: Curve, name: str) -> Iterator[str]:
    for group in path.groups([curve]):
        time, *parts = path.split(curve, group).values()
        distance, bends, step = map(shown, parts)
        yield f"T {shown(time)} = distance {distance} + tortuosity {bends} − step {step} ({name}, {group})"


def ends(curve: Curve, group: str) -> tuple[float, float]:
    """The mean angle of the narrowest and the widest network that have one, in units of π."""
    means = [np.mean(values) / np.pi for values in curve.values(path.of(group, "angle_start")) if values]
    return (float(means[0]), float(means[-1])) if means else (np.nan, np.nan)


def most(curve: Curve, name: str, own: Sequence[str]) -> Iterator[str]:
    """Whether the last layer's distance falls more than that of each other group, run by run."""
    if "softmax" in own:
        for group in own:
            if group in ("embedding", "hidden"):

                def over(run: Halted, group: str = group) -> float:
                    return path.geometry(run, "softmax")["distance"] / path.geometry(run, group)["distance"]

                found = curve.by("weights", over)
                yield f"C7 most in softmax, more than in {group} ({name}): {falls(found)}, by {shown(found)}"


def falls(found: Estimate) -> str:
    return sign(Estimate(-found.value, -found.high, -found.low))


def shown(found: Estimate) -> str:
    return found.show(form="+.2f")


def main(preset: Preset, run: Run) -> None:
    asked = convergence.networks(preset, run)
    results = families.collect(asked, run, EXPERIMENT)
    if results is None:
        return
    curves = convergence.curves(asked, results, run)
    names = convergence.names(curves)
    rows, seeds = path.rows(curves), path.seeds(curves)
    output.print_table(rows, ["width", "weights", "fraction", *COLUMNS[len(convergence.KEYS) :]])
    written = (
        output.write_table(run.folder, EXPERIMENT, rows, COLUMNS),
        output.write_table(run.folder, f"{EXPERIMENT}_seeds", seeds, SEEDS, DIGITS),
        output.write_figure(
            run.folder, EXPERIMENT, path_figure.draw(curves, names, convergence.caption(preset, run))
        ),
    )
    for curve, name in zip(curves, names, strict=True):
        for text in (*verdicts(curve, name), *split(curve, name)):
            print(text)
    print("wrote", *written)


# One curve of each preset, with the paper's ten seeds where that takes minutes.
PRESETS = {
    name: dataclasses.replace(
        preset,
        fractions=preset.fractions[-1:],
        depths=preset.depths[:1],
        learning_rates=preset.learning_rates[:1],
        adam_rate=None,
        seeds=10 if name == "small" else preset.seeds,
    )
    for name, preset in convergence.PRESETS.items()
}
COMMAND = Command(main, PRESETS, Run(f"results/{EXPERIMENT}"), convergence.template)

if __name__ == "__main__":
    launch.run(COMMAND)
