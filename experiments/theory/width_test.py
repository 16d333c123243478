"""Do predictions of the best width, made before training, hold? Families of sparse MLPs against `width_predictions`.

    python -m experiments.width_test                       # ten families, hours on a core
    python -m experiments.width_test --families=digits-4   # one family, a few minutes
    python -m experiments.width_test --one_rate --families=mnist-6,mnist-12  # the base width's rate for every width

Trains the families of `experiments.width_predictions` as Figure 8 (NTK parameterization, SGD, a learning rate for every
width, tuned on held-out training samples; with `one_rate` that of the base width for all) and compares with the
predictions that were committed before. For each family and predictor: the predicted and the best width, the rank
correlation of the predictor and the test error over widths, and the points of test accuracy that the predicted width
loses against the best (by interpolation in the logarithm of the width). The best width is that of a parabola through
the three lowest errors; intervals are 95 % by bootstrap over seeds. Writes WORKDIR/width_test.csv, a row per network,
WORKDIR/width_test_verdict.csv, and WORKDIR/width_test.png (with `one_rate` width_test_one_rate).
"""

import csv
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.stats import rankdata

from experiments.lab import families as lab
from experiments.lab import launch, output
from experiments.lab.families import Network
from experiments.lab.flags import Command
from experiments.lab.launch import Run
from experiments.lab.plots import plain_numbers, tidy
from experiments.theory import width_predictions
from experiments.theory.predictors import PREDICTORS
from experiments.theory.width_predictions import FAMILIES
from experiments.width import kernel_distance, rates
from kernels.optimum import minimum
from wsn import folders
from wsn.errors import UserError, choose
from wsn.records.record import Result
from wsn.spec import setting

EXPERIMENT = "width_test"
FIGURES = Path(__file__).parents[1] / "figures"
COLUMNS = [
    "family",
    "width",
    "connectivity",
    "weights",
    "learning_rate",
    "seeds",
    "diverged",
    "test_accuracy_mean",
]
COLUMNS += ["test_accuracy_std", "train_accuracy_mean"]
VERDICT = ["family", "predictor", "predicted", "best", "best_low", "best_high"]
QUANTITIES = ["correlation", "points_lost", "log_ratio"]
VERDICT += [f"{name}{end}" for name in QUANTITIES for end in ("", "_low", "_high")]
ALL = "all"  # the mean over families, in the column `family`
RESAMPLES = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is trained, and which predictions are tested."""

    families: tuple[str, ...] = setting(
        f"Families, of {', '.join(FAMILIES)}, comma-separated.", tuple(FAMILIES), some=True
    )
    seeds: int = setting("Number of seeds (0, 1, …) of every network.", 10, least=2)
    tuning_samples: int | None = setting(
        "Held-out training samples for tuning (default: 10,000, of digits 297).", None, least=1
    )
    one_rate: bool = setting(
        "Train every width with the rate of the base width, against width_predictions_one_rate.csv.", False
    )
    predictions: str = setting(
        "Folder with width_predictions.csv and width_predictions_curves.csv.", str(FIGURES)
    )

    def __post_init__(self) -> None:
        width_predictions.check(self)


class Trained(NamedTuple):
    """A family's widths and the final test errors by seed."""

    width: Float[np.ndarray, " widths"]
    error: Float[np.ndarray, "widths seeds"]


class Prediction(NamedTuple):
    """A predicted width, and the predictor's values at the trained widths."""

    width: float
    values: Float[np.ndarray, " widths"]


def train(name: str, settings: Settings, run: Run) -> tuple[list[Network], list[Result]] | None:
    """The networks of a family, with tuned rates, and their results; None after a dry run."""
    family = choose(FAMILIES, "families", name)
    networks = family.networks(settings.seeds)
    preset = kernel_distance.PRESETS["quick" if family.dataset == "digits" else "paper"]
    held_out = settings.tuning_samples or preset.tuning_samples
    centers = dict.fromkeys(("sparse", "dense"), preset.rates["sparse"])  # the base network is dense
    tuned = rates.tune(networks[:1] if settings.one_rate else networks, centers, held_out, run, EXPERIMENT)
    if tuned is None:
        return None
    one = tuned["sparse"][family.base_width] if settings.one_rate else None
    networks = rates.with_rates(networks, dict.fromkeys(centers, tuned["sparse"]), one)
    results = lab.collect(networks, run, EXPERIMENT)
    return None if results is None else (networks, results)


def final_errors(networks: Sequence[Network], results: Sequence[Result]) -> Trained:
    """Test errors after the last epoch; a seed that diverged counts as chance, and missing ones are left out."""
    widths, errors = [], []
    seeds = sorted(set.intersection(*({r.seed for r in results if r.spec == n.spec} for n in networks)))
    for network in networks:
        by_seed = {r.seed: r for r in results if r.spec == network.spec}
        last = [by_seed[seed].curves["test_accuracy"][-1] for seed in seeds]
        errors.append(1 - np.nan_to_num(np.array(last, float), nan=0.1))
        widths.append(network.spec.width)
    return Trained(np.array(widths, float), np.array(errors))


def least(width: Float[np.ndarray, " widths"], error: Float[np.ndarray, " widths"]) -> float:
    """Where the error is least: a parabola, or the end of the range."""
    best = minimum(width, error).at
    return float(width[np.argmin(error)]) if math.isnan(best) else best


def resampled(trained: Trained) -> tuple[np.ndarray, np.ndarray]:
    """Mean errors, (samples, widths), of bootstrap samples of the seeds, the first being the data; best widths."""
    widths, count = trained.error.shape
    drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, widths, count))
    drawn[0] = np.arange(count)
    errors = np.take_along_axis(trained.error[None], drawn, 2).mean(axis=2)
    return errors, np.array([least(trained.width, error) for error in errors])


def measures(
    width: Float[np.ndarray, " widths"], errors: np.ndarray, best: np.ndarray, prediction: Prediction
) -> dict[str, tuple[float, float, float]]:
    """Each of QUANTITIES with its interval over seeds: rank correlation, points lost, log2 of predicted over best."""
    ranks = [
        z - z.mean(axis=-1, keepdims=True) for z in (rankdata(prediction.values), rankdata(errors, axis=1))
    ]
    norms = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum(axis=1))
    at = [np.interp(np.log(prediction.width), np.log(width), error) for error in errors]
    lost = 100 * (np.array(at) - errors.min(axis=1))
    samples = (ranks[1] @ ranks[0] / norms, lost, np.log2(prediction.width / best))
    intervals = {}
    for name, values in zip(QUANTITIES, samples, strict=True):
        low, high = np.percentile(values, [2.5, 97.5])
        intervals[name] = float(values[0]), float(low), float(high)
    return intervals


def read_predictions(
    folder: Path, name: str = width_predictions.EXPERIMENT
) -> dict[str, dict[str, Prediction]]:
    """Family → predictor → prediction. Raises UserError for a table that is missing or malformed."""
    tables = []
    for table in (name, f"{name}_curves"):
        path = folder / f"{table}.csv"
        try:
            tables.append(list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())))
        except (OSError, ValueError):
            raise UserError(
                f"`predictions={folder}` has no readable {table}.csv: run experiments.width_predictions"
            ) from None
    predictions: dict[str, dict[str, Prediction]] = {}
    try:
        for row in tables[0]:
            curve = [
                float(point[row["predictor"]]) for point in tables[1] if point["family"] == row["family"]
            ]
            one = Prediction(float(row["width"]), np.array(curve))
            predictions.setdefault(row["family"], {})[row["predictor"]] = one
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"`predictions={folder}`: a table is malformed ({error})") from None
    return predictions


def verdicts(
    trained: Mapping[str, Trained], predictions: Mapping[str, Mapping[str, Prediction]]
) -> list[dict[str, Any]]:
    """A row per family and predictor, and for each predictor the mean over families, with a bootstrap over families."""
    rows = []
    for family, outcome in trained.items():
        errors, widths = resampled(outcome)
        interval = (float(widths[0]), *map(float, np.percentile(widths, [2.5, 97.5])))
        best = dict(zip(("best", "best_low", "best_high"), interval, strict=True))
        for name, prediction in predictions[family].items():
            row = {"family": family, "predictor": name, "predicted": prediction.width} | best
            for quantity, estimate in measures(outcome.width, errors, widths, prediction).items():
                row |= dict(zip((quantity, f"{quantity}_low", f"{quantity}_high"), estimate, strict=True))
            rows.append(row)
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(trained), size=(RESAMPLES, len(trained)))
    for name in PREDICTORS:
        of_name = [row for row in rows if row["predictor"] == name and row["family"] != ALL]
        mean: dict[str, Any] = {"family": ALL, "predictor": name}
        for quantity in QUANTITIES:
            values = np.array([row[quantity] for row in of_name])
            values = np.abs(values) if quantity == "log_ratio" else values
            low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
            mean |= {quantity: values.mean(), f"{quantity}_low": low, f"{quantity}_high": high}
        rows.append(mean)
    return rows


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """The result in a sentence."""
    mean = {row["predictor"]: row for row in rows if row["family"] == ALL}
    order = sorted(mean, key=lambda name: mean[name]["points_lost"])
    first, best = mean["first"], mean[order[0]]

    def show(row: Mapping[str, Any], name: str, form: str) -> str:
        return f"{row[name]:{form}} [{row[f'{name}_low']:{form}}, {row[f'{name}_high']:{form}}]"

    count = len({row["family"] for row in rows} - {ALL})
    return (
        f"Over {count} families the width at which D of the first layer's tangent kernel is least loses"
        f" {show(first, 'points_lost', '.2f')} points against the best width and orders widths with a rank correlation"
        f" of {show(first, 'correlation', '.2f')}: place {order.index('first') + 1} of {len(order)} by points lost;"
        f" first is {PREDICTORS[order[0]]} with {show(best, 'points_lost', '.2f')} points."
    )


def draw(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Predicted over best width, a panel per predictor; bars: bootstrap over seeds."""
    figure = Figure(figsize=(10.5, 9), layout="constrained")
    panels = figure.subplots(3, 3, sharex=True, sharey=True).ravel()
    names = list(dict.fromkeys(row["family"] for row in rows if row["family"] != ALL))
    for axes, (name, label) in zip(panels, PREDICTORS.items(), strict=True):
        mean = next(row for row in rows if row["family"] == ALL and row["predictor"] == name)
        for row in (row for row in rows if row["predictor"] == name and row["family"] != ALL):
            bars = [[row["best"] - row["best_low"]], [row["best_high"] - row["best"]]]
            style = {"fmt": "o", "color": f"C{names.index(row['family'])}", "capsize": 2, "markersize": 5}
            axes.errorbar(
                row["best"], row["predicted"], xerr=np.maximum(bars, 0), label=row["family"], **style
            )
        ends = [min(row["best_low"] for row in rows if row["family"] != ALL) / 1.5]
        ends.append(max(row["best_high"] for row in rows if row["family"] != ALL) * 1.5)
        axes.plot(ends, ends, color="0.5", linewidth=0.8)
        axes.set(xscale="log", yscale="log")
        plain_numbers(axes.xaxis)
        plain_numbers(axes.yaxis)
        note = f"{mean['points_lost']:.2f} points lost, rank correlation {mean['correlation']:.2f}"
        axes.set_title(f"{label}\n{note}", fontsize=9)
        tidy(axes)
    figure.supxlabel("best width (bars: 95 % over seeds)")
    figure.supylabel("predicted width")
    keys, labels = panels[0].get_legend_handles_labels()
    figure.legend(keys, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    return figure


def main(settings: Settings, run: Run) -> None:
    predicted = width_predictions.name_of(settings)
    predictions = read_predictions(folders.local("predictions", settings.predictions), predicted)
    if missing := [name for name in settings.families if name not in predictions]:
        raise UserError(f"`families={missing[0]}` has no prediction in {settings.predictions}")
    rows: list[dict[str, Any]] = []
    trained: dict[str, Trained] = {}
    suffix = "_one_rate" if settings.one_rate else ""
    for name in settings.families:
        folder = run.folder / f"{name}{suffix}"
        outcome = train(name, settings, dataclasses.replace(run, workdir=str(folder)))
        if outcome is None:
            continue
        trained[name] = final_errors(*outcome)
        rows += [{"family": name} | row for row in lab.table(*outcome)]
        tables = [output.write_table(run.folder, EXPERIMENT + suffix, rows, COLUMNS)]
        verdict_rows = verdicts(trained, predictions)
        tables.append(output.write_table(run.folder, f"{EXPERIMENT}{suffix}_verdict", verdict_rows, VERDICT))
    if not trained:
        return
    output.print_table(verdict_rows, VERDICT)
    picture = output.write_figure(run.folder, EXPERIMENT + suffix, draw(verdict_rows))
    print(verdict(verdict_rows))
    launch.wrote(run, *tables, picture)


COMMAND = Command(main, {"quick": Settings()}, Run(f"results/{EXPERIMENT}"))

if __name__ == "__main__":
    launch.run(COMMAND)
