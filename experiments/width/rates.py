"""Learning rates by kind and width: given, interpolated by a power law between given ones, or tuned."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.lab import output, tuning
from experiments.lab.families import Network
from experiments.lab.launch import Run
from wsn.errors import UserError
from wsn.spec import Spec

Rates = Mapping[int, float]  # width → learning rate
RatesOfKind = Mapping[str, Rates]
EPOCHS = 50  # for tuning
FACTORS = 2.0 ** np.arange(-3.0, 3.5, 0.5)
COLUMNS = ["kind", "width", "learning_rate", "validation_accuracy_mean"]


def rate_at(rates: Rates, width: int) -> float:
    """The learning rate of a width, by log-log interpolation where it is not given.

    Beyond the given widths the nearest two are extrapolated; a single rate applies to every width.
    """
    known = sorted(rates)
    if width in rates or len(known) == 1:
        return float(rates.get(width, rates[known[0]]))
    right = min(max(int(np.searchsorted(known, width)), 1), len(known) - 1)
    low, high = known[right - 1], known[right]
    slope = math.log(rates[high] / rates[low]) / math.log(high / low)
    return float(f"{rates[low] * (width / low) ** slope:.4g}")


def kind_of(spec: Spec) -> str:
    """The kind whose learning rate applies: the base network is dense in the sparse family too."""
    return "sparse" if spec.kept else "dense"


def with_rates(networks: Sequence[Network], rates: RatesOfKind, one: float | None = None) -> list[Network]:
    """Set the learning rate of every network: `one` for all, else by kind and width; prints interpolated ones."""
    chosen: dict[Spec, float] = {}
    for spec in dict.fromkeys(network.spec for network in networks):
        kind = kind_of(spec)
        chosen[spec] = rate_at(rates[kind], spec.width) if one is None else float(one)
        if one is None and spec.width not in rates[kind]:
            place = f"width {spec.width} ({kind})"
            print(f"learning rate {chosen[spec]:g} for {place}, interpolated from the preset's")
    return [n._replace(spec=dataclasses.replace(n.spec, learning_rate=chosen[n.spec])) for n in networks]


def tune(
    networks: Sequence[Network], rates: RatesOfKind, held_out: int, run: Run, experiment: str
) -> RatesOfKind | None:
    """Learning rate of every network by validation accuracy, on a grid around the given ones, 2 seeds, 50 epochs.

    The `held_out` examples come from the training split, outside the training subset. Writes learning_rates.csv.
    None after a dry run.
    """
    if run.shard:
        raise UserError(
            "`shard`: `tune_lr` compares all networks: tune without `shard`, or give `learning_rate`"
        )
    candidates = {(n.kind, n.spec.width): (n, candidates_of(n.spec, rates, held_out)) for n in networks}
    tuned = tuning.search(candidates, "validation_accuracy", run, experiment, "tune_lr")
    if tuned is None:
        return None
    best: dict[str, dict[int, float]] = {network.kind: {} for network in networks}
    rows = []
    for (kind, width), (rate, scores) in tuned.items():
        best[kind][width] = rate
        rows += [dict(zip(COLUMNS, (kind, width, *scored), strict=True)) for scored in scores.items()]
    path = output.write_table(run.folder, "learning_rates", rows, COLUMNS)
    print(f"tuned learning rates (wrote {path}): {best}")
    return best


def candidates_of(spec: Spec, rates: RatesOfKind, held_out: int) -> tuning.Candidates:
    """The network with each candidate learning rate."""
    center = rate_at(rates[kind_of(spec)], spec.width)
    tried = tuning.shortened(spec, min(EPOCHS, spec.epochs))
    return tuple(
        dataclasses.replace(tried, validation_samples=held_out, learning_rate=float(f"{center * factor:.4g}"))
        for factor in FACTORS
    )
