"""What is trained: a frozen, hashable description of one network's training, and of a group trained together.

A `Spec` holds everything that decides a result except the seed: the fields of `Data`, `Network` and `Training`, which
can be passed on as one of these where no more is needed. A `Group` is what is trained as one program and stored in one
directory: specs of one shape (they may differ in learning rate and in the kept counts) times seeds.

Names (of a data set, an activation, an optimiser, …) are keys of the registries that `wsn.training.registries` lists.
"""

import dataclasses
import hashlib
import json
import math
from typing import Any

from wsn.errors import UserError

# Raise it when a fix of the numerics makes old records wrong: it is hashed into every group's name.
SEMANTICS = 1


def setting(help: str, default: Any = dataclasses.MISSING, *, least: float | None = None, **more: Any) -> Any:
    """A field of a dataclass that a flag of its name may set; `least` is the smallest value that it takes.

    `more` is for the one who makes the flag, such as the `choices` that there are.
    """
    return dataclasses.field(default=default, metadata={"help": help, "least": least} | more)


def check_least(settings: Any) -> None:
    """Raises UserError for a field of a dataclass that is below the smallest value that it takes, or infinite."""
    for field in dataclasses.fields(settings):
        value, least = getattr(settings, field.name), field.metadata.get("least")
        if value is not None and least is not None and not least <= value < math.inf:
            raise UserError(f"--{field.name}={value} is too small: give at least {least}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The examples, and how they become batches."""

    dataset: str = setting("Data set.")
    normalization: str = setting("What shares a mean and deviation.", "scalar")
    train_samples: int | None = setting(
        "Size of the training subset (of a text: in tokens); all that is not held out.", None, least=1
    )
    validation_samples: int = setting(
        "Examples held out of the training split (of a text: tokens of its validation text); when > 0 they are"
        " evaluated instead of test.",
        0,
        least=0,
    )
    data_seed: int = setting(
        "Draws the subset, what is held out, the order of the batches and their augmentation.", 0
    )
    augmentation: str = setting("What is done to the images of a batch.", "none")
    order: str = setting(
        "Batches: those of --data_seed for all (shared), or by seed, each network its own (seed).", "shared"
    )
    sequence: int = setting("Tokens of a window of text, through which gradients flow.", 32, least=1)
    vocabulary: int = setting(
        "Words of the vocabulary: <unk>, <eos> and the most frequent of the whole training text.",
        10_000,
        least=3,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """The function that is trained, its masks and its initial weights."""

    model: str = setting("Network.", "mlp")
    width: int = setting(
        "Units of each hidden layer (for a ResNet: channels of the first convolution).", least=1
    )
    hidden_layers: int = setting("Hidden layers of the MLP; layers of the LSTM.", 1, least=1)
    depth: int = setting("Recurrence depth of the recurrent highway network.", 2, least=1)
    gate_bias: float = setting(
        "Added to the inputs of the gates of the recurrent highway network: closed by a negative one.", -1.0
    )
    activation: str = setting("Nonlinearity of the MLP.", "relu")
    bias: bool = setting("Whether the MLP has biases.", False)
    parameterization: str = setting("Scales of initial weights, forward pass and learning rate.", "standard")
    rate_width: int = setting(
        "Width of the dense network that has the learning rate itself, and the initial scale of mup and smup: rates of"
        " others go as the parameterisation says (standard, ntk: with one over the kept inputs of a unit); 0: one rate"
        " for all.",
        0,
        least=0,
    )
    # (layer, kept weights) of every layer; () is the dense network.
    kept: tuple[tuple[str, int], ...] = setting("Kept weights of every layer.", ())
    mask: str = setting("Pattern of the masks: which weights are kept.", "elementwise")
    bottleneck: str = setting("Kind of the bottlenecks.", "none")
    # (layer, inner dimension) of every bottleneck.
    inner: tuple[tuple[str, int], ...] = setting("Inner dimension of every bottleneck.", ())
    bn_group: int = setting(
        "Examples that share batch statistics; 0: the whole batch, over all devices.", 0, least=0
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """What is minimised, how, for how long, and what is noted on the way."""

    task: str = setting("What is minimised and what is measured.", "classification")
    epochs: int = setting(
        "Passes over the training samples; where --stop ends training earlier, the most of them.", least=1
    )
    batch_size: int = setting("Examples (of a text: streams) of a step, over all devices.", least=1)
    optimizer: str = setting("Rule of the updates.", "sgd")
    learning_rate: float = setting("Learning rate.")
    momentum: float = setting("Momentum of SGD.", 0.0, least=0)
    weight_decay: float = setting("Weight decay: of SGD as PyTorch's, of AdamW decoupled.", 0.0, least=0)
    beta1: float = setting("Decay of the mean gradient, of Adam and AdamW.", 0.9, least=0)
    beta2: float = setting("Decay of the mean squared gradient, of Adam and AdamW.", 0.999, least=0)
    epsilon: float = setting(
        "Added to the root of the mean squared gradient, of Adam and AdamW.", 1e-8, least=0
    )
    clip: float = setting(
        "Largest norm of the gradient of all parameters, which is shrunk to it; 0: any.", 0.0, least=0
    )
    schedule: str = setting("Factor of the learning rate over the steps.", "constant")
    # For "steps": multiply the rate by decay_factor at each of them.
    decay_epochs: tuple[int, ...] = setting("Epochs at which the schedule `steps` decays.", ())
    decay_factor: float = setting("By what the schedule `steps` decays.", 0.1)
    stop: str = setting("When training ends: after all epochs, or past the minimum.", "epochs")
    eval_every: int = setting("Steps between two evaluations; 0: an epoch.", 0, least=0)
    probes: tuple[str, ...] = setting("What is measured inside every step, comma-separated.", ())
    compute_dtype: str = setting("Type of matrix products; parameters and loss are float32.", "float32")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec(Data, Network, Training):
    """One network and how it is trained, all but the seed. Raises UserError for numbers out of range."""

    def __post_init__(self) -> None:
        check_least(self)
        if self.bn_group and self.batch_size % self.bn_group:
            raise UserError(
                f"--bn_group={self.bn_group} does not divide the batch of {self.batch_size}: give 0 or a divisor"
            )
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"--learning_rate={self.learning_rate} is not a positive number")


# Folded into the key of a seed, one number a use, so that no two uses share their randomness.
WEIGHTS, MASKS, ORDER, STEPS = range(4)

# The fields in which members of one program may differ: they enter it as arrays, not as its shape.
VARYING = ("learning_rate", "kept")


@dataclasses.dataclass(frozen=True)
class Group:
    """Specs of one shape times seeds: one program, one directory, one record."""

    specs: tuple[Spec, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.specs or not self.seeds:
            raise UserError("nothing to train: a group needs at least one network and --seeds of at least 1")
        shapes = {
            dataclasses.replace(s, **{name: getattr(self.specs[0], name) for name in VARYING})
            for s in self.specs
        }
        if len(shapes) != 1:
            raise ValueError(f"the specs of a group may differ in {VARYING} only")
        if len(set(self.members)) != len(self.members):
            raise ValueError("a group lists the same network and seed twice")

    @property
    def members(self) -> tuple[tuple[Spec, int], ...]:
        """Every (spec, seed) of the group, seeds innermost: the leading axis of its arrays."""
        return tuple((spec, seed) for spec in self.specs for seed in self.seeds)

    @property
    def name(self) -> str:
        """The hash that names the directory; fields at their defaults do not enter, so new ones change no name."""
        content = {
            "semantics": SEMANTICS,
            "specs": [changed_fields(s) for s in self.specs],
            "seeds": self.seeds,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def changed_fields(spec: Spec) -> dict[str, Any]:
    """The fields of a spec that differ from their defaults, ready for JSON."""
    return {
        field.name: getattr(spec, field.name)
        for field in dataclasses.fields(spec)
        if field.default is dataclasses.MISSING or getattr(spec, field.name) != field.default
    }


def from_fields(fields: dict[str, Any]) -> Spec:
    """The inverse of `changed_fields`, after a journey through JSON (which turns tuples into lists)."""
    return Spec(**{name: _hashable(value) for name, value in fields.items()})


def _hashable(value: Any) -> Any:
    return tuple(_hashable(item) for item in value) if isinstance(value, list) else value
