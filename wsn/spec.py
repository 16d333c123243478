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
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from wsn import memory
from wsn.errors import UserError, real_number, whole_number

# Raise it when a fix of the numerics makes old records wrong: it is hashed into every group's name.
SEMANTICS = 1

LARGEST = 2**63 - 1  # whole number that an array holds
WIDEST, DEEPEST = 2**24, 100  # networks: a layer of 2**56 weights, and programs that still compile


def setting(
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    bytes: float | None = None,
    some: bool = False,
    **more: Any,
) -> Any:
    """A field of a dataclass that a flag of its name may set, and the numbers that it takes.

    `least` and `most` are the ends of its range, `above` and `below` ends that are not in it; of a tuple they bound
    every item, and `some` says that there must be one. `bytes`: the memory that each one more needs, at least.
    `more` is for the one who makes the flag, such as the `choices` that there are.
    """
    bounds = {"least": least, "above": above, "most": most, "below": below, "bytes": bytes, "some": some}
    return dataclasses.field(default=default, metadata={"help": help} | bounds | more)


def check_bounds(settings: Any) -> None:
    """Raises UserError for a number of a dataclass that is out of the range of its field, infinite or no number.

    Also for one that the machine has no memory for, and for whole numbers of more than 63 bits, which no array takes.
    Numbers of NumPy, and lists and arrays in the place of tuples, become Python's, so that hashes are the same.
    """
    hints = _hints(type(settings))
    for field in dataclasses.fields(settings):
        value = _python(field.name, hints[field.name], getattr(settings, field.name))
        object.__setattr__(settings, field.name, value)
        if value == () and field.metadata.get("some"):
            raise UserError(f"`{field.name}`: give at least one")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                _check(f"`{field.name}={number}`", number, field.metadata)


@lru_cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _python(name: str, hint: Any, value: Any) -> Any:
    """A value of a field as Python's own type. Raises UserError for a number that is none."""
    if getattr(value, "shape", None) == ():
        value = value.item()
    if NoneType in get_args(hint):  # X | None
        hint = next(part for part in get_args(hint) if part is not NoneType)
    if value is None or isinstance(value, bool):
        return value
    if get_origin(hint) is tuple and isinstance(value, Iterable) and not isinstance(value, str):
        items, (first, *others) = tuple(value), get_args(hint)
        hints = [first] * len(items) if others == [...] else [first, *others]
        return tuple(_python(name, *pair) for pair in zip(hints, items, strict=True))
    convert = {int: whole_number, float: real_number}.get(hint)
    return convert(name, value) if convert else value


def _check(what: str, number: float, bounds: Mapping[str, Any]) -> None:
    least, above, most, below = (bounds.get(name) for name in ("least", "above", "most", "below"))
    if isinstance(number, int) and most is None:
        most = LARGEST
    if above is not None and not above < number < math.inf:
        raise UserError(
            f"{what} is not a positive number" if above == 0 else f"{what}: give more than {above}"
        )
    if isinstance(number, float) and not math.isfinite(number):
        raise UserError(f"{what} is not a finite number")
    if least is not None and number < least:
        raise UserError(f"{what} is too small: give at least {least}")
    if (most is not None and number > most) or (below is not None and number >= below):
        raise UserError(
            f"{what} is too large: give {f'less than {below}' if most is None else f'at most {most}'}"
        )
    if bounds.get("bytes"):
        memory.check(what, number * bounds["bytes"])


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
        "Draws the subset, what is held out, the order of the batches and their augmentation.",
        0,
        least=0,
    )
    augmentation: str = setting("What is done to the images of a batch.", "none")
    order: str = setting(
        "Batches: those of `data_seed` for all (shared), or by seed, each network its own (seed).", "shared"
    )
    sequence: int = setting("Tokens of a window of text, through which gradients flow.", 32, least=1)
    vocabulary: int = setting(
        "Words of the vocabulary: <unk>, <eos> and the most frequent of the whole training text.",
        10_000,
        least=3,
    )
    bands: int = setting(
        "Log-mel bands that cepstra become, by an inverse cosine transform; 0: cepstra as they are.",
        0,
        least=0,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """The function that is trained, its masks and its initial weights."""

    model: str = setting("Network.", "mlp")
    width: int = setting(
        "Units of each hidden layer (for a ResNet: channels of the first convolution).", least=1, most=WIDEST
    )
    hidden_layers: int = setting(
        "Hidden layers of the MLP; layers of the LSTM; bidirectional ones of deepspeech.",
        1,
        least=1,
        most=DEEPEST,
    )
    depth: int = setting("Recurrence depth of the recurrent highway network.", 2, least=1, most=DEEPEST)
    gate_bias: float = setting(
        "Added to the inputs of the gates of the recurrent highway network: closed by a negative one.", -1.0
    )
    front_end: str = setting(
        "What deepspeech does with frames first: two convolutions, or three frames joined to one.", "conv"
    )
    channels: int = setting("Channels of each convolution of deepspeech.", 32, least=1)
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """What is minimised, how, for how long, and what is noted on the way."""

    task: str = setting("What is minimised and what is measured.", "classification")
    epochs: int = setting(
        "Passes over the training samples; where `stop` ends training earlier, the most of them.", least=1
    )
    batch_size: int = setting("Examples (of a text: streams) of a step, over all devices.", least=1)
    optimizer: str = setting("Rule of the updates.", "sgd")
    learning_rate: float = setting("Learning rate.", above=0)
    momentum: float = setting("Momentum of SGD.", 0.0, least=0)
    weight_decay: float = setting("Weight decay: of SGD as PyTorch's, of AdamW decoupled.", 0.0, least=0)
    beta1: float = setting("Decay of the mean gradient, of Adam and AdamW.", 0.9, least=0, below=1)
    beta2: float = setting("Decay of the mean squared gradient, of Adam and AdamW.", 0.999, least=0, below=1)
    epsilon: float = setting(
        "Added to the root of the mean squared gradient, of Adam and AdamW.", 1e-8, least=0
    )
    clip: float = setting(
        "Largest norm of the gradient of all parameters, which is shrunk to it; 0: any.", 0.0, least=0
    )
    schedule: str = setting("Factor of the learning rate over the steps.", "constant")
    # For "steps": multiply the rate by decay_factor at each of them.
    decay_epochs: tuple[int, ...] = setting("Epochs at which the schedule `steps` decays.", (), least=0)
    decay_factor: float = setting("By what the schedule `steps` decays.", 0.1, above=0)
    stop: str = setting("When training ends: after all epochs, or past the minimum.", "epochs")
    eval_every: int = setting("Steps between two evaluations; 0: an epoch.", 0, least=0)
    probes: tuple[str, ...] = setting("What is measured inside every step, comma-separated.", ())
    compute_dtype: str = setting("Type of matrix products; parameters and loss are float32.", "float32")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec(Data, Network, Training):
    """One network and how it is trained, all but the seed. Raises UserError for numbers out of range."""

    def __post_init__(self) -> None:
        check_bounds(self)


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
        object.__setattr__(self, "specs", tuple(self.specs))
        object.__setattr__(self, "seeds", tuple(whole_number("seeds", seed) for seed in self.seeds))
        if not self.specs or not self.seeds:
            raise UserError("nothing to train: a group needs at least one network and `seeds` of at least 1")
        same = [field.name for field in dataclasses.fields(Spec) if field.name not in VARYING]
        shapes = {tuple(getattr(spec, name) for name in same) for spec in self.specs}
        if len(shapes) != 1:
            raise ValueError(f"the specs of a group may differ in {VARYING} only")
        if len(set(self.members)) != len(self.members):
            raise ValueError("a group lists the same network and seed twice")

    @property
    def members(self) -> tuple[tuple[Spec, int], ...]:
        """Every (spec, seed) of the group, seeds innermost: the leading axis of its arrays."""
        return tuple((spec, seed) for spec in self.specs for seed in self.seeds)

    @cached_property
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
