"""Networks that are trained to their minimum, for halting times and for the way through weight space.

In: settings. Out: dense networks by width, depth, share of the data and learning rate, which stop past the minimum of
their validation loss and measure their path; so both experiments find their numbers in the same records.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from statistics import mode
from typing import Any

import numpy as np
from jaxtyping import Int, UInt16

from experiments.convergence.halting import Curve, Point, halted
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
    "task",
    "dataset",
    "network",
    "width",
    "depth",
    "kind",
    "connectivity",
    "weights",
    "fraction",
    "optimizer",
    "learning_rate",
]
PLATEAU = 0.95  # of the unigram entropy: a loss above it has learned little but how frequent the symbols are


def template(preset: Settings) -> Spec:
    """What all networks of a preset share. Every seed has its own streams, so that the spread over seeds is whole."""
    if preset.probes and PROBE not in preset.probes:
        raise UserError(f"`probes={','.join(preset.probes)}`: this experiment reads {PROBE}; name it as well")
    return presets.spec(
        preset, width=preset.widths[0], stop="minimum", order="seed", probes=(PROBE,), learning_rate=0.8
    )


def networks(preset: Preset, run: Run) -> list[Network]:
    """All networks of a preset; the columns of each are the share of the data and the depth. Raises UserError."""
    base = template(preset)
    whole = trained_on(run.source_of(base), base)
    return [
        Network(
            preset.widths[0],
            "dense",
            dataclasses.replace(of_depth(fraction_of(rule, fraction, whole), depth), width=width),
            preset.seeds,
            {"fraction": fraction, "depth": depth},
        )
        for rule, fraction, depth in variants(preset, base)
        for width in preset.widths
    ]


def variants(preset: Preset, base: Spec) -> Iterator[tuple[Spec, float, int]]:
    """(optimiser and rate, share of the data, depth) of every curve: each but the first differs from that in one."""
    first, *rest = rules(preset, base)
    *others, fraction = preset.fractions
    depth = preset.depths[0]
    yield first, fraction, depth
    yield from ((first, other, depth) for other in others)
    yield from ((other, fraction, depth) for other in rest)
    yield from ((first, fraction, other) for other in preset.depths[1:])


def rules(preset: Preset, base: Spec) -> Iterator[Spec]:
    """The template with each optimiser and learning rate."""
    for rate in preset.learning_rates or (base.learning_rate,):
        yield dataclasses.replace(base, learning_rate=rate)
    if preset.adam_rate is not None:
        yield dataclasses.replace(base, optimizer="adam", momentum=0.0, learning_rate=preset.adam_rate)


def fraction_of(spec: Spec, fraction: float, whole: int) -> Spec:
    """On a share of the `whole` training data, for as many steps at the most."""
    if fraction == 1:
        return spec
    epochs = -(-spec.epochs * whole // max(1, round(fraction * whole)))
    return dataclasses.replace(spec, train_samples=max(1, round(fraction * whole)), epochs=epochs)


def of_depth(spec: Spec, depth: int) -> Spec:
    if spec.model == "rhn":
        return dataclasses.replace(spec, depth=depth)
    return dataclasses.replace(spec, hidden_layers=depth)


def trained_on(source: Source, spec: Spec) -> int:
    """How many examples, or tokens, train."""
    return len(source.train) if isinstance(source, Text) else source.num_examples(spec)[0]


def shapes_of(source: Source, spec: Spec) -> Shapes:
    return models.plain_shapes(spec, source.input_shape, source.classes)


def describe(network: Network, run: Run) -> families.Row:
    """What a row says about a network before it is trained."""
    spec = network.spec
    shapes = shapes_of(run.source_of(spec), spec)
    return {
        "task": spec.task,
        "dataset": spec.dataset,
        "network": spec.model,
        "width": spec.width,
        "kind": network.kind,
        "connectivity": family.connectivity(spec, shapes),
        "weights": family.kept_weights(spec, shapes),
        "optimizer": spec.optimizer,
        "learning_rate": spec.learning_rate,
        **network.columns,
    }


def curves(networks: Sequence[Network], results: Sequence[Result], run: Run) -> list[Curve]:
    """The networks that have a record, as curves over width."""
    lines: dict[Hashable, list[Network]] = {}
    for network in networks:
        lines.setdefault(dataclasses.replace(network.spec, width=1), []).append(network)
    found = []
    for line in lines.values():
        specs = [network.spec for network in line]
        limit = ceiling(run.source_of(specs[0]))
        runs = halted([result for result in results if result.spec in specs], limit)
        of = {spec: [one for one in runs if one.result.spec == spec] for spec in specs}
        points = [Point(describe(n, run), of[n.spec]) for n in line if of[n.spec]]
        found += [Curve(points)] if points else []
    return found


def names(curves: Sequence[Curve]) -> list[str]:
    """Of each curve what it differs in from most of them; all that any differ in, where it differs in nothing."""
    shown: dict[str, Callable[[Any], str]] = {
        "fraction": lambda x: f"{100 * x:g} % of the data",
        "depth": lambda x: f"depth {x}",
        "optimizer": str,
        "learning_rate": lambda x: f"rate {x:g}",
    }
    firsts = [curve.points[0].row for curve in curves]
    usual = {name: mode(row[name] for row in firsts) for name in shown}
    differ = [name for name in shown if len({row[name] for row in firsts}) > 1] or ["fraction"]
    return [
        ", ".join(shown[name](row[name]) for name in differ if row[name] != usual[name])
        or ", ".join(shown[name](row[name]) for name in differ)
        for row in firsts
    ]


def caption(preset: Settings, run: Run) -> str:
    """What was trained, in a line."""
    base = template(preset)
    whole = trained_on(run.source_of(base), base)
    names = {"characters": "characters", "words": "words", "speech": "utterances"}
    what = names.get(preset.task or "", "examples")
    seeds = f"{preset.seeds} seed{'s' * (preset.seeds > 1)}"
    return f"{preset.model}, {preset.dataset}, {whole:,} {what}, batches of {preset.batch_size}, {seeds}"


def steps_of_epoch(source: Source, spec: Spec) -> int:
    return -(-source.num_examples(spec)[0] // spec.batch_size)


def ceiling(source: Source) -> float:
    """The loss below which a minimum counts: less 5 %, that of who knows how frequent the symbols are, and no more.

    In nats a symbol of the held-out text, or transcripts, by the frequencies of what trains, each symbol counted once
    more. (The entropy of the held-out text itself is too low a bar where it is short for its vocabulary.)
    """
    if not isinstance(source, Text | Speech):
        return np.inf
    train, held_out = (symbols_of(part) for part in (source.train, source.held_out))
    counts = 1 + np.bincount(train, minlength=source.classes)
    return float(-PLATEAU * np.log(counts / counts.sum())[held_out].mean())


def symbols_of(part: SpeechSplit | UInt16[np.ndarray, " tokens"]) -> Int[np.ndarray, " symbols"]:
    """The tokens of a text; the letters of all transcripts."""
    if not isinstance(part, SpeechSplit):
        return np.asarray(part, np.int64)
    labels = np.asarray(part.labels)
    return labels[labels > 0]
