"""Networks that are trained to their minimum, for halting times and for the way through weight space.

In: settings. Out: dense networks by width, depth, share of the data and learning rate, which stop past the minimum of
their validation loss and measure their path; so both experiments find their numbers in the same records.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from experiments.lab import families, presets
from experiments.lab.families import Network
from experiments.lab.halting import Curve, Point, halted
from experiments.lab.launch import Run
from experiments.lab.presets import SPEC_FIELDS
from wsn.data.corpora import TEXTS
from wsn.data.feeds import Source
from wsn.data.images import DATASETS
from wsn.data.text import Text
from wsn.errors import UserError
from wsn.networks import models
from wsn.records.record import Result
from wsn.sparsity import family
from wsn.sparsity.shapes import Shapes
from wsn.spec import DEEPEST, WIDEST, Spec, setting
from wsn.training import registries

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(presets.Common):
    """Of experiments that train networks to the minimum of their validation loss."""

    dataset: str = presets.of_spec("dataset", help=f"Data set: one of {', '.join([*TEXTS, *DATASETS])}.")
    widths: tuple[int, ...] = setting("Widths to train, comma-separated.", least=1, most=WIDEST, some=True)
    model: str = presets.of_spec("model", "rhn")
    gate_bias: float | None = presets.of_spec("gate_bias", None)
    sequence: int | None = presets.of_spec("sequence", None)
    vocabulary: int | None = presets.of_spec("vocabulary", None)
    validation_samples: int = presets.of_spec("validation_samples")
    epochs: int = presets.of_spec(
        "epochs", help="Passes over --train_samples at the most; over a fraction so many more."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_list("widths", self.widths)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(Settings):
    """Dense networks of every width: a curve, and further ones that differ from it in one thing each."""

    depths: tuple[int, ...] = setting(
        "Recurrence depths of the recurrent highway network, else numbers of hidden layers; the first is that of"
        " the other curves.",
        (1,),
        least=1,
        most=DEEPEST,
    )
    fractions: tuple[float, ...] = setting(
        "Shares of --train_samples to train on, up to 1; the last is that of the other curves.",
        (1.0,),
        above=0,
        most=1,
    )
    learning_rates: tuple[float, ...] = setting(
        "Learning rates, instead of that of --learning_rate; the first is that of the other curves.",
        (),
        above=0,
    )
    adam_rate: float | None = setting(
        "Adam at this learning rate beside the optimizer (0: no).", None, none=0, above=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_list("depths", self.depths)
        check_list("fractions", self.fractions)
        if not all(0 < fraction <= 1 for fraction in self.fractions) or min(self.depths) < 1:
            raise UserError("--fractions lie above 0 and up to 1, --depths are at least 1")

    def but(self, **told):
        """As in every preset; a learning rate alone is the only one.

        What the preset says for its own network or task is left out where another one does not read it.
        """
        model, task = told.get("model", self.model), told.get("task", self.task)
        others = registries.unread(model, task or SPEC_FIELDS["task"].default)
        unread = {name: None for name in ("gate_bias", "sequence", "vocabulary") if name in others}
        return super().but(**({"learning_rates": ()} if "learning_rate" in told else {}) | unread | told)


def check_list(name: str, values: tuple[Any, ...]) -> None:
    """Raises UserError for an empty list, and for a value that is listed twice."""
    if not values or len(set(values)) < len(values):
        raise UserError(f"--{name}={','.join(map(str, values))}: give at least one value, and none twice")


# Python's language reference: halting times in two minutes.
QUICK = Preset(
    dataset="python_docs",
    task="characters",
    depths=(2,),
    widths=(8, 16, 32, 64),
    fractions=(0.5, 1.0),
    train_samples=20_000,
    validation_samples=16_000,
    sequence=32,
    batch_size=32,
    learning_rate=0.8,
    eval_every=50,
    epochs=300,
    seeds=2,
)
PRESETS = {
    "quick": QUICK,
    # Weights over a factor of 101, all curves of Figures 1 to 3: an hour of one core.
    "small": dataclasses.replace(
        QUICK,
        dataset="tiny_shakespeare",
        widths=(12, 24, 48, 96, 192),
        depths=(2, 1, 4),
        fractions=(0.25, 0.5, 1.0),
        train_samples=100_000,
        validation_samples=32_000,
        learning_rates=(0.8, 0.3),
        adam_rate=0.002,
        seeds=3,
    ),
    # Sections 3 and 4.3: 0.79 to 13 million weights, 0.4 to 10.8 million characters of `train.txt`.
    "paper": Preset(
        dataset="text",
        task="characters",
        depths=(10,),
        gate_bias=-2.0,
        widths=(185, 229, 319, 394, 472, 560, 764),
        fractions=(0.04, 0.1, 0.2, 0.4, 1.0),
        train_samples=None,
        validation_samples=400_000,
        sequence=150,
        batch_size=128,
        learning_rates=(0.8, 0.3),
        eval_every=500,
        epochs=100,
        seeds=10,
    ),
}


def template(preset: Settings) -> Spec:
    """What all networks of a preset share. Every seed has its own streams, so that the spread over seeds is whole."""
    if preset.probes and PROBE not in preset.probes:
        raise UserError(f"--probes={','.join(preset.probes)}: this experiment reads {PROBE}; name it as well")
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
    """(optimiser and rate, share of the data, depth) of every curve: each but the first differs in one."""
    first, *rest = rules(preset, base)
    fraction, depth = preset.fractions[-1], preset.depths[0]
    yield from ((first, other, depth) for other in preset.fractions)
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
    return len(source.train) if isinstance(source, Text) else source.examples(spec)[0]


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
    limit = ceiling(run.source_of(networks[0].spec))
    found = []
    for line in lines.values():
        specs = [network.spec for network in line]
        runs = halted([result for result in results if result.spec in specs], limit)
        of = {spec: [one for one in runs if one.result.spec == spec] for spec in specs}
        points = [Point(describe(n, run), of[n.spec]) for n in line if of[n.spec]]
        found += [Curve(points)] if points else []
    return found


def names(curves: Sequence[Curve]) -> list[str]:
    """What tells the curves apart, of each."""
    shown: dict[str, Callable[[Any], str]] = {
        "fraction": lambda x: f"{100 * x:g} % of the data",
        "depth": lambda x: f"depth {x}",
        "optimizer": str,
        "learning_rate": lambda x: f"rate {x:g}",
    }
    firsts = [curve.points[0].row for curve in curves]
    differ = [name for name in shown if len({row[name] for row in firsts}) > 1] or ["fraction"]
    return [", ".join(shown[name](row[name]) for name in differ) for row in firsts]


def caption(preset: Settings, run: Run) -> str:
    """What was trained, in a line."""
    base = template(preset)
    whole = trained_on(run.source_of(base), base)
    what = "characters" if preset.task == "characters" else "words" if preset.task == "words" else "examples"
    seeds = f"{preset.seeds} seed{'s' * (preset.seeds > 1)}"
    return f"{preset.model}, {preset.dataset}, {whole:,} {what}, batches of {preset.batch_size}, {seeds}"


def steps_of_epoch(source: Source, spec: Spec) -> int:
    return -(-source.examples(spec)[0] // spec.batch_size)


def ceiling(source: Source) -> float:
    """The loss below which a minimum counts: of a text, its unigram entropy in nats less 5 %."""
    if not isinstance(source, Text):
        return np.inf
    shares = np.bincount(source.held_out) / len(source.held_out)
    shares = shares[shares > 0]
    return float(-PLATEAU * (shares * np.log(shares)).sum())
