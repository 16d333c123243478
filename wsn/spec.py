"""What is trained: a frozen, hashable description of one network's training, and of a group trained together.

A `Spec` holds everything that decides a result except the seed. A `Group` is what is trained as one program and
stored in one directory: specs of one shape (they may differ in learning rate and in the kept counts) times seeds.
"""

import dataclasses
import hashlib
import json
from typing import Any, Literal, get_args

from wsn.errors import UserError

# Raise it when a fix of the numerics makes old records wrong: it is hashed into every group's name.
SEMANTICS = 1

Activation = Literal["relu", "linear"]
ParameterizationName = Literal["standard", "ntk"]
Normalization = Literal["scalar", "channel", "pixel", "imagenet"]
Schedule = Literal["constant", "steps", "cosine"]
Order = Literal["shared", "seed"]
ComputeDtype = Literal["float32", "bfloat16"]
Augmentation = Literal["none", "crop_flip"]
Bottleneck = Literal["none", "linear", "nonlinear"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """One network and how it is trained, all but the seed."""

    # Data.
    dataset: str
    normalization: Normalization = "scalar"
    train_samples: int | None = None  # None: all that is not held out
    validation_samples: int = 0  # held out of the training split; when > 0 they are evaluated instead of test
    data_seed: int = (
        0  # draws the subset, the held-out examples, the order of the batches and their augmentation
    )
    augmentation: Augmentation = "none"

    # Network.
    model: str = "mlp"
    width: int  # units of each hidden layer (for a ResNet: channels of the first convolution)
    hidden_layers: int = 1
    activation: Activation = "relu"
    bias: bool = False
    parameterization: ParameterizationName = "standard"
    kept: tuple[tuple[str, int], ...] = ()  # (layer, kept weights) of every layer; () is the dense network
    mask: str = "elementwise"
    bottleneck: Bottleneck = "none"
    inner: tuple[tuple[str, int], ...] = ()  # (layer, inner dimension) of every bottleneck
    bn_group: int = 0  # examples that share batch statistics; 0: the whole batch, over all devices

    # Training.
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    decay_epochs: tuple[int, ...] = ()  # for "steps": multiply the rate by decay_factor at each of them
    decay_factor: float = 0.1
    order: Order = "shared"  # "shared": all seeds see the batches of data_seed; "seed": each its own order
    compute_dtype: ComputeDtype = "float32"  # of matrix products; parameters and loss are float32

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("hidden_layers", 1), ("epochs", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--{name}={getattr(self, name)} is too small: give at least {least}")
        if self.bn_group < 0 or (self.bn_group and self.batch_size % self.bn_group):
            raise UserError(
                f"--bn_group={self.bn_group} does not divide the batch of {self.batch_size}: give 0 or a divisor"
            )
        if self.train_samples is not None and self.train_samples < 1:
            raise UserError(f"--train_samples={self.train_samples} is too small: give at least 1")
        if not 0 < self.learning_rate < float("inf"):
            raise UserError(f"--learning_rate={self.learning_rate} is not a positive number")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"--{name}={getattr(self, name)} is unknown: choose one of {', '.join(allowed)}"
                )


_CHOICES = {
    "normalization": get_args(Normalization),
    "activation": get_args(Activation),
    "parameterization": get_args(ParameterizationName),
    "schedule": get_args(Schedule),
    "order": get_args(Order),
    "compute_dtype": get_args(ComputeDtype),
    "augmentation": get_args(Augmentation),
    "bottleneck": get_args(Bottleneck),
}

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
    fields = dict(fields)
    for name in ("kept", "inner"):
        if name in fields:
            fields[name] = tuple((str(layer), int(count)) for layer, count in fields[name])
    if "decay_epochs" in fields:
        fields["decay_epochs"] = tuple(fields["decay_epochs"])
    return Spec(**fields)
