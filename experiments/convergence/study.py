"""Networks that are trained to the minimum of their validation loss, for halting times and optimization paths.

In: settings. Out: dense networks by width, depth, fraction of the data and learning rate, which stop past the minimum
of their validation loss and measure their path, so that both experiments read the same records.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from statistics import mode
from typing import Any

import numpy as np
from jaxtyping import Int, UInt16

from experiments.convergence.halting import Curve, HaltedRun, Point, halted
from experiments.convergence.settings import Preset, Settings
from experiments.lab import families, presets
from experiments.lab.families import Network
from experiments.lab.launch import Run
from wsn.data.feeds import Source
from wsn.data.language.text import Text
from wsn.data.speech.utterances import Speech, SpeechSplit
from wsn.errors import UserError
from wsn.networks import models
from wsn.records.record import Result
from wsn.sparsity import family
from wsn.sparsity.shapes import Shapes
from wsn.spec import Spec

PROBE = "path"
KEYS = [
    "task", "dataset", "network", "width", "depth", "kind", "connectivity", "weights", "fraction",
    "optimizer", "learning_rate",
]  # fmt: skip
PLATEAU = 0.95  # of the unigram entropy: with a higher loss a network knows little but the symbol frequencies


def template(preset: Settings) -> Spec:
    """The fields that all networks of a preset share. Each seed has its order of the data."""
    if preset.probes and PROBE not in preset.probes:
        raise UserError(f"`probes={','.join(preset.probes)}`: this experiment needs {PROBE}; add it")
    return presets.spec(
        preset, width=preset.widths[0], stop="minimum", order="seed", probes=(PROBE,), learning_rate=0.8
    )


def networks(preset: Preset, run: Run) -> list[Network]:
    """All networks of a preset, with columns for the fraction of the data and the depth. Raises UserError."""
    base = template(preset)
    whole = trained_on(run.source_of(base), base)
    layers = "depth" if base.model == "rhn" else "hidden_layers"
    planned = []
    for spec, fraction, depth in variants(preset, base):
        changes: dict[str, Any] = {layers: depth}
        curve = dataclasses.replace(fraction_of(spec, fraction, whole), **changes)
        columns = {"fraction": fraction, "depth": depth}
        planned += [
            Network(preset.widths[0], "dense", of_width, preset.seeds, columns)
            for of_width in family.dense(curve, preset.widths)
        ]
    return planned


def variants(preset: Preset, base: Spec) -> Iterator[tuple[Spec, float, int]]:
    """(optimizer and rate, fraction of the data, depth) of every curve, one factor at a time from the first."""
    first, *optimizers = with_optimizers(preset, base)
    *fractions, fraction = preset.fractions
    depth, *depths = preset.depths
    yield first, fraction, depth
    yield from ((first, other, depth) for other in fractions)
    yield from ((other, fraction, depth) for other in optimizers)
    yield from ((first, fraction, other) for other in depths)


def with_optimizers(preset: Preset, base: Spec) -> Iterator[Spec]:
    """The template with each optimizer and learning rate."""
    for rate in preset.learning_rates or (base.learning_rate,):
        yield dataclasses.replace(base, learning_rate=rate)
    if preset.adam_rate is not None:
        yield dataclasses.replace(base, optimizer="adam", momentum=0.0, learning_rate=preset.adam_rate)


def fraction_of(spec: Spec, fraction: float, whole: int) -> Spec:
    """The same with a fraction of the `whole` training data and at least as many steps."""
    if fraction == 1:
        return spec
    epochs = -(-spec.epochs * whole // max(1, round(fraction * whole)))
    return dataclasses.replace(spec, train_samples=max(1, round(fraction * whole)), epochs=epochs)


def trained_on(source: Source, spec: Spec) -> int:
    """Number of training examples, or tokens of a text."""
    return len(source.train) if isinstance(source, Text) else source.num_examples(spec)[0]


def shapes_of(source: Source, spec: Spec) -> Shapes:
    return models.plain_shapes(spec, source.input_shape, source.classes)


def describe(network: Network, run: Run) -> families.Row:
    """The columns of a network that are known before training."""
    spec = network.spec
    row = families.describe(network, shapes_of(run.source_of(spec), spec)) | dict(network.columns)
    return row | {"task": spec.task, "network": spec.model, "optimizer": spec.optimizer}


def train(preset: Preset, run: Run, experiment: str) -> tuple[list[Curve], list[str]] | None:
    """Train the networks of a preset that have no record. Curves over width, and their names; None as `collect`."""
    planned = networks(preset, run)
    results = families.collect(planned, run, experiment)
    if results is None:
        return None
    trained = curves(planned, results, run)
    return trained, names(trained)


def curves(
    networks: Sequence[Network],
    results: Sequence[Result],
    run: Run,
    line: Callable[[Network], Hashable] = lambda network: dataclasses.replace(network.spec, width=1),
    one_loss: bool = False,
) -> list[Curve]:
    """The networks with records, as curves over width, one for each value of `line`.

    The common losses are those of a curve, or with `one_loss` of all.
    """
    lines: dict[Hashable, list[Network]] = {}
    for network in networks:
        lines.setdefault(line(network), []).append(network)
    runs: dict[Spec, list[HaltedRun]] = {}
    for compared in [networks] if one_loss else lines.values():
        specs = {network.spec for network in compared}
        limit = ceiling(run.source_of(compared[0].spec))
        for halted_run in halted([result for result in results if result.spec in specs], limit):
            runs.setdefault(halted_run.result.spec, []).append(halted_run)
    points = [
        [Point(describe(n, run), runs[n.spec]) for n in of_line if n.spec in runs]
        for of_line in lines.values()
    ]
    return [Curve(of_line) for of_line in points if of_line]


def names(curves: Sequence[Curve]) -> list[str]:
    """Of each curve, the columns in which it differs from most curves; if none, all columns that vary."""
    formats: dict[str, Callable[[Any], str]] = {
        "fraction": lambda x: f"{100 * x:g} % of the data",
        "depth": lambda x: f"depth {x}",
        "optimizer": str,
        "learning_rate": lambda x: f"rate {x:g}",
    }
    rows = [curve.row for curve in curves]
    usual = {name: mode(row[name] for row in rows) for name in formats}
    varying = [name for name in formats if len({row[name] for row in rows}) > 1] or ["fraction"]
    return [
        ", ".join(formats[name](row[name]) for name in varying if row[name] != usual[name])
        or ", ".join(formats[name](row[name]) for name in varying)
        for row in rows
    ]


def caption(preset: Settings, run: Run) -> str:
    """One line: network, data, batch size, seeds."""
    base = template(preset)
    whole = trained_on(run.source_of(base), base)
    units = {"characters": "characters", "words": "words", "speech": "utterances"}
    unit = units.get(preset.task or "", "examples")
    seeds = f"{preset.seeds} seed{'s' * (preset.seeds > 1)}"
    return f"{preset.model}, {preset.dataset}, {whole:,} {unit}, batches of {preset.batch_size}, {seeds}"


def steps_of_epoch(spec: Spec, run: Run) -> int:
    return -(-run.source_of(spec).num_examples(spec)[0] // spec.batch_size)


def ceiling(source: Source) -> float:
    """The validation loss below which a minimum counts: 95 % of the loss of a model that knows symbol frequencies only.

    In nats per symbol of the held-out text or transcripts, with the frequencies of the training data, each count plus
    1. (The entropy of the held-out text itself is too low if the text is short for its vocabulary.)
    """
    if not isinstance(source, Text | Speech):
        return np.inf
    train, held_out = (symbols_of(part) for part in (source.train, source.held_out))
    counts = 1 + np.bincount(train, minlength=source.classes)
    return float(-PLATEAU * np.log(counts / counts.sum())[held_out].mean())


def symbols_of(part: SpeechSplit | UInt16[np.ndarray, " tokens"]) -> Int[np.ndarray, " symbols"]:
    """The tokens of a text, or the letters of all transcripts."""
    if not isinstance(part, SpeechSplit):
        return np.asarray(part, np.int64)
    labels = np.asarray(part.labels)
    return labels[labels > 0]
