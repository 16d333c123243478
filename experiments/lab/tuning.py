"""Learning rates by search: the networks that are trained to choose them, and the score of each rate."""

import dataclasses
from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np

from experiments.lab import launch
from experiments.lab.families import Network
from experiments.lab.launch import Run
from wsn.errors import UserError
from wsn.records.record import Label
from wsn.spec import Spec

SEEDS = 2
Key = TypeVar("Key", bound=Hashable)
Candidates = tuple[Spec, ...]  # one network with several learning rates
Scores = dict[float, float]  # learning rate → metric


def shortened(spec: Spec, epochs: int) -> Spec:
    """The spec for fewer epochs, without the decays of its schedule that would come later."""
    decays = tuple(epoch for epoch in spec.decay_epochs if epoch <= epochs)
    return dataclasses.replace(spec, epochs=epochs, decay_epochs=decays)


def search(
    candidates: Mapping[Key, tuple[Network, Candidates]], metric: str, run: Run, experiment: str, setting: str
) -> dict[Key, tuple[float, Scores]] | None:
    """(best rate, all scores): the metric after the last epoch, a mean over seeds, NaN where one diverged.

    The best loss is the lowest, of other metrics the highest. None after a dry run. Raises UserError, which names
    `setting`, where every rate diverged.
    """
    labels = {
        option: Label(experiment, run.preset, network.base_width, network.kind)
        for network, options in candidates.values()
        for option in options
    }
    programs = dict.fromkeys(options for _, options in candidates.values())
    results = launch.train(run, [(options, SEEDS) for options in programs], labels)
    if results is None:
        return None
    last: dict[Spec, list[float]] = {}
    for result in results:
        last.setdefault(result.spec, []).append(result.curves[metric][-1])
    best = {}
    for key, (network, options) in candidates.items():
        scores = {option.learning_rate: float(np.mean(last.get(option, [np.nan]))) for option in options}
        finite = {rate: score for rate, score in scores.items() if np.isfinite(score)}
        if not finite:
            place = f"width {network.spec.width} ({network.kind})"
            raise UserError(f"`{setting}`: every learning rate diverged at {place}: lower `learning_rate`")
        choose = min if metric.endswith("_loss") else max
        best[key] = choose(finite, key=finite.__getitem__), scores
    return best
