"""Settings of experiments that train to the minimum of the validation loss, and their presets.

Out: `Settings`, and the `Preset` that `halting_time` and `path_geometry` share.
"""

import dataclasses
from typing import Any

from experiments.lab import presets
from wsn.data.images import DATASETS
from wsn.data.language.corpora import TEXTS
from wsn.data.speech.recordings import UTTERANCES
from wsn.errors import UserError
from wsn.spec import DEEPEST, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(presets.Preset):
    """Of experiments that train networks to the minimum of their validation loss."""

    dataset: str = presets.of_spec(
        "dataset", help=f"Data set: one of {', '.join([*TEXTS, *UTTERANCES, *DATASETS])}."
    )
    task: str | None = presets.of_spec("task", None)
    model: str = presets.of_spec("model", "rhn")
    gate_bias: float | None = presets.of_spec("gate_bias", None)
    head_dim: int | None = presets.of_spec("head_dim", None)
    tied: bool | None = presets.of_spec("tied", None)
    sequence: int | None = presets.of_spec("sequence", None)
    vocabulary: int | None = presets.of_spec("vocabulary", None)
    front_end: str | None = presets.of_spec("front_end", None)
    channels: int | None = presets.of_spec("channels", None)
    bands: int | None = presets.of_spec("bands", None)
    validation_samples: int = presets.of_spec("validation_samples")
    epochs: int = presets.of_spec(
        "epochs", help="Most passes over `train_samples`; a fraction of the data gets as many steps."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_list("widths", self.widths)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(Settings):
    """Dense networks: a first curve over width, and further curves that change one factor at a time."""

    depths: tuple[int, ...] = setting(
        "Recurrence depths of the recurrent highway network, or numbers of hidden layers of other networks; the other"
        " curves have the first.",
        (1,),
        least=1,
        most=DEEPEST,
        some=True,
    )
    fractions: tuple[float, ...] = setting(
        "Fractions of `train_samples` to train on, up to 1; the other curves have the last.",
        (1.0,),
        above=0,
        most=1,
        some=True,
    )
    learning_rates: tuple[float, ...] = setting(
        "Learning rates, in place of `learning_rate`; the other curves have the first.", (), above=0
    )
    adam_rate: float | None = setting(
        "Add a curve with Adam at this learning rate (0: none).", None, none=0, above=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_list("depths", self.depths)
        check_list("fractions", self.fractions)


def check_list(name: str, values: tuple[Any, ...]) -> None:
    """Raises UserError for an empty list or a repeated value."""
    if not values or len(set(values)) < len(values):
        raise UserError(f"`{name}={','.join(map(str, values))}`: give at least one value, each once")


# What several presets share.
CHARACTERS: dict[str, Any] = dict(
    task="characters", sequence=32, batch_size=32, learning_rate=0.8, eval_every=50, epochs=300
)
SHAKESPEARE = CHARACTERS | dict(dataset="tiny_shakespeare", train_samples=100_000, validation_samples=32_000)
# Sections 3 and 4.3: 0.79 to 13 million weights, up to 10.8 million characters of `train.txt`.
PAPER: dict[str, Any] = dict(
    dataset="text",
    task="characters",
    gate_bias=-2.0,
    widths=(185, 229, 319, 394, 472, 560, 764),
    validation_samples=400_000,
    sequence=150,
    batch_size=128,
    eval_every=500,
    epochs=100,
)
# Lines of handwritten digits, for CTC: a minute or two.
DIGIT_LINES = Preset(
    dataset="digit_lines",
    task="speech",
    model="deepspeech",
    front_end="stack",
    widths=(4, 8, 16, 32),
    validation_samples=300,
    batch_size=32,
    optimizer="adam",
    learning_rate=0.01,
    eval_every=25,
    epochs=40,
    seeds=2,
)
# 960 or more recordings of speech, standardized by coefficient.
SPEECH = DIGIT_LINES.replace(normalization="pixel", seeds=3)
PRESETS = {
    # Python's language reference: halting times in two minutes.
    "quick": Preset(
        **CHARACTERS,
        dataset="python_docs",
        depths=(2,),
        widths=(8, 16, 32, 64),
        fractions=(0.5, 1.0),
        train_samples=20_000,
        validation_samples=16_000,
        seeds=2,
    ),
    "digit_lines": DIGIT_LINES,
    # `data_dir` has the cepstra of CMU's census: 848 utterances, 100 of them for validation.
    "an4": SPEECH.replace(dataset="packed", widths=(16, 32, 64, 128), validation_samples=100, epochs=120),
    "spoken_digits": SPEECH.replace(dataset="spoken_digit", validation_samples=200, epochs=60),
    # Deep Speech 2, on 960 hours: four layers, and the paper's learning rate.
    "librispeech": SPEECH.replace(
        dataset="librispeech",
        front_end="conv",
        depths=(4,),
        widths=(64, 128, 256, 512, 1024),
        fractions=(0.01, 0.04, 0.1),
        validation_samples=2000,
        learning_rate=3e-4,
        clip=400.0,
        eval_every=500,
        epochs=50,
    ),
    # A 101-fold range of weights, all curves of Figures 1 to 3: an hour of one core.
    "small": Preset(
        **SHAKESPEARE,
        widths=(12, 24, 48, 96, 192),
        depths=(2, 1, 4),
        fractions=(0.25, 0.5, 1.0),
        learning_rates=(0.8, 0.3),
        adam_rate=0.002,
        seeds=3,
    ),
    # Section 3.1: the word LM, on 100,000 words. With the paper's rate of 0.3 the loss stays on the plateau of word
    # frequencies; this rate and clipping are those of Zaremba et al. (2014) for a mean loss, not a sum, over 20 steps.
    "words": Preset(
        dataset="text",
        task="words",
        model="lstm",
        depths=(2,),
        widths=(16, 32, 64, 128),
        train_samples=100_000,
        validation_samples=10_000,
        sequence=20,
        batch_size=20,
        learning_rate=20.0,
        clip=0.25,
        eval_every=50,
        epochs=40,
        seeds=3,
    ),
    "paper": Preset(
        **PAPER, depths=(10,), fractions=(0.04, 0.1, 0.2, 0.4, 1.0), learning_rates=(0.8, 0.3), seeds=10
    ),
}
