"""What is trained: a `Spec` describes the training of one network, a `Group` the networks that train as one program.

A `Spec` is frozen and hashable and has every setting that changes a result, except the seed. Its fields are those of
`Data`, `Network` and `Training`, and a function that needs only one of these takes only that. A `Group` is specs of one
shape (they may differ in learning rate and in the numbers of kept weights) times seeds; it has one directory on disk.

Names (of a data set, an activation, an optimizer, …) are keys of the registries in `wsn.training.registries`.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from wsn import machine
from wsn.errors import UserError, real_number, truth_value, whole_number

# Increase it when a fix of the numerics invalidates old records: it is part of the hash that names a group.
SEMANTICS = 1

LARGEST = 2**63 - 1  # the largest integer of an array
LARGEST_SEED = 2**32 - 1  # JAX's keys repeat beyond
WIDEST = 2**24  # so that a layer has at most 2**56 weights
DEEPEST = 100  # deeper programs would take too long to compile


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
    """A dataclass field that can be set by a flag of its name, with the range of its numbers.

    `least` and `most` are inclusive bounds, `above` and `below` exclusive ones; for a tuple they hold for every item,
    and `some` forbids the empty tuple. `bytes`: memory needed per unit of the value, at least, compared with what the
    machine has. `more` goes to whoever makes the flag, such as the list of `choices`.
    """
    bounds = {"least": least, "above": above, "most": most, "below": below, "bytes": bytes, "some": some}
    return dataclasses.field(default=default, metadata={"help": help} | bounds | more)


def check_bounds(settings: Any) -> None:
    """Raises UserError for a number out of its field's range, not finite, or too large for this machine's memory.

    Converts NumPy's numbers, and lists and arrays, to Python's numbers and tuples: equal specs have equal hashes.
    """
    hints = _hints(settings.__class__)
    for field in dataclasses.fields(settings):
        value = _python(field.name, hints[field.name], getattr(settings, field.name))
        object.__setattr__(settings, field.name, value)
        if value == () and field.metadata.get("some"):
            raise UserError(f"`{field.name}`: give at least one")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                _check_number(f"`{field.name}={number}`", number, field.metadata)


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _python(name: str, hint: Any, value: Any) -> Any:
    """The value as Python's own type. Raises UserError for a number that is not one."""
    if getattr(value, "shape", None) == ():
        value = value.item()
    if NoneType in get_args(hint):  # X | None
        hint = next(part for part in get_args(hint) if part is not NoneType)
    if value is None:
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, Iterable) or isinstance(value, str):
            raise UserError(f"`{name}={value}`: give a tuple")
        items, (first, *others) = tuple(value), get_args(hint)
        hints = [first] * len(items) if others == [...] else [first, *others]
        return tuple(_python(name, *pair) for pair in zip(hints, items, strict=True))
    convert = {bool: truth_value, int: whole_number, float: real_number}.get(hint)
    return convert(name, value) if convert else value


def _check_number(argument: str, number: float, bounds: Mapping[str, Any]) -> None:
    least, above, most, below = (bounds.get(name) for name in ("least", "above", "most", "below"))
    if isinstance(number, int) and most is None:
        most = LARGEST
    if above is not None and not above < number < math.inf:
        raise UserError(
            f"{argument} is not a positive number" if above == 0 else f"{argument}: give more than {above}"
        )
    if isinstance(number, float) and not math.isfinite(number):
        raise UserError(f"{argument} is not a finite number")
    if least is not None and number < least:
        raise UserError(f"{argument} is too small: give at least {least}")
    if (most is not None and number > most) or (below is not None and number >= below):
        limit = f"less than {below}" if most is None else f"at most {most}"
        raise UserError(f"{argument} is too large: give {limit}")
    if bounds.get("bytes"):
        machine.check_memory(argument, number * bounds["bytes"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The examples, and how they become batches."""

    dataset: str = setting("Data set.")
    normalization: str = setting(
        "Normalization statistics: over which values mean and deviation are taken.", "scalar"
    )
    train_samples: int | None = setting(
        "Size of the training subset (for text: in tokens); by default all examples that are not held out.",
        None,
        least=1,
    )
    validation_samples: int = setting(
        "Examples held out of the training split (for text: tokens of its validation split); if > 0, evaluation uses"
        " these instead of the test split.",
        0,
        least=0,
    )
    data_seed: int = setting(
        "Seed of the training subset, the held-out examples, the order of the batches and the augmentation.",
        0,
        least=0,
        most=LARGEST_SEED,
    )
    augmentation: str = setting("Augmentation of the training images.", "none")
    order: str = setting(
        "Order of the batches: the same for all networks, by `data_seed` (shared), or by each network's seed (seed).",
        "shared",
    )
    sequence: int = setting(
        "Tokens in a window of text: the length of backpropagation through time.", 32, least=1
    )
    vocabulary: int = setting(
        "Size of the word vocabulary: <unk>, <eos> and the most frequent words of the whole training text.",
        10_000,
        least=3,
    )
    bands: int = setting(
        "Log-mel bands computed from cepstra, by an inverse cosine transform; 0: use the cepstra.", 0, least=0
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """The function that is trained, its masks and its initial weights."""

    model: str = setting("Network.", "mlp")
    width: int = setting(
        "Units of each hidden layer (for a ResNet: channels of the first convolution).", least=1, most=WIDEST
    )
    hidden_layers: int = setting(
        "Number of hidden layers of the MLP, layers of the LSTM, blocks of the transformer, or bidirectional layers of"
        " deepspeech.",
        1,
        least=1,
        most=DEEPEST,
    )
    depth: int = setting("Recurrence depth of the recurrent highway network.", 2, least=1, most=DEEPEST)
    gate_bias: float = setting(
        "Bias of the gates of the recurrent highway network; a negative one closes them.", -1.0
    )
    head_dim: int = setting(
        "Units of an attention head of the transformer; a narrower network has one head.", 16, least=2
    )
    tied: bool = setting("Whether the output layer of the transformer is its embedding, transposed.", False)
    front_end: str = setting(
        "First layers of deepspeech: two convolutions (conv), or three frames stacked to one (stack).", "conv"
    )
    channels: int = setting("Channels of each convolution of deepspeech.", 32, least=1)
    activation: str = setting("Nonlinearity of the MLP.", "relu")
    bias: bool = setting("Whether the MLP has biases.", False)
    parameterization: str = setting("Scales of initial weights, forward pass and learning rates.", "standard")
    rate_width: int = setting(
        "Width of the dense reference network, which trains at `learning_rate` itself; networks of another width scale"
        " it by their `parameterization` (standard, ntk: 1 / effective fan-in). Also the reference of the initial"
        " scale of mup and smup. 0: one learning rate for all.",
        0,
        least=0,
    )
    # (layer, number of kept weights) of every layer; () is the dense network.
    kept: tuple[tuple[str, int], ...] = setting("Number of kept weights of every layer.", ())
    mask: str = setting("Mask pattern: which weights of a layer are kept.", "elementwise")
    bottleneck: str = setting("Kind of bottleneck.", "none")
    # (layer, inner dimension) of every bottleneck.
    inner: tuple[tuple[str, int], ...] = setting("Inner dimension of every bottleneck.", ())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """The loss, the optimizer, when training ends, and what is measured meanwhile."""

    task: str = setting("Task: the loss and the metrics.", "classification")
    epochs: int = setting(
        "Passes over the training samples; the maximum if `stop` can end training earlier.", least=1
    )
    batch_size: int = setting(
        "Examples (for text: streams) per step, over all devices. With batch normalization, a last batch of fewer than"
        " 8 and less than a quarter is spread over the epoch.",
        least=1,
    )
    optimizer: str = setting("Optimizer.", "sgd")
    learning_rate: float = setting("Learning rate.", above=0)
    momentum: float = setting("Momentum of SGD.", 0.0, least=0)
    weight_decay: float = setting("Weight decay: for SGD as in PyTorch, for AdamW decoupled.", 0.0, least=0)
    beta1: float = setting("Decay of the mean gradient, for Adam and AdamW.", 0.9, least=0, below=1)
    beta2: float = setting("Decay of the mean squared gradient, for Adam and AdamW.", 0.999, least=0, below=1)
    epsilon: float = setting(
        "Added to the root of the mean squared gradient, for Adam and AdamW.", 1e-8, least=0
    )
    clip: float = setting("Clip gradients to this global norm; 0: no clipping.", 0.0, least=0)
    schedule: str = setting("Schedule of the learning rate: a factor for every step.", "constant")
    decay_epochs: tuple[int, ...] = setting(
        "Epochs after which the schedule `steps` multiplies the learning rate by `decay_factor`, each once.",
        (),
        least=0,
    )
    decay_factor: float = setting("Decay factor of the schedule `steps`.", 0.1, above=0)
    warmup_epochs: float = setting(
        "Epochs of linear warm-up before the schedule (fractions allowed); 0: none.", 0.0, least=0
    )
    stop: str = setting(
        "When training ends: after `epochs`, or past the minimum of validation loss.", "epochs"
    )
    eval_every: int = setting("Steps between evaluations; 0: one epoch.", 0, least=0)
    probes: tuple[str, ...] = setting("Quantities measured at every step, comma-separated.", ())
    compute_dtype: str = setting(
        "Type of products; parameters and loss are float32. On a GPU or TPU tf32 is faster, bfloat16 more so.",
        "float32",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec(Data, Network, Training):
    """One network and its training, without the seed. Raises UserError for numbers out of range."""

    def __post_init__(self) -> None:
        check_bounds(self)


# Folded into the key of a seed, a number for each use, so that no two uses share random numbers.
WEIGHTS, MASKS, ORDER, STEPS = range(4)

# The specs of a group may differ in these fields, which enter the program as arrays and not as shapes.
VARYING = ("learning_rate", "kept")


@dataclasses.dataclass(frozen=True)
class Group:
    """Specs of one shape times seeds: one program, one directory, one record."""

    specs: tuple[Spec, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "specs", tuple(self.specs))
        object.__setattr__(self, "seeds", tuple(whole_number("seeds", seed) for seed in self.seeds))
        for seed in self.seeds:
            if not 0 <= seed <= LARGEST_SEED:
                raise UserError(f"`seeds`: {seed} is none of 0 to {LARGEST_SEED}")
        if not self.specs or not self.seeds:
            raise UserError("nothing to train: a group needs at least one network and `seeds` of at least 1")
        same = dict.fromkeys(VARYING)
        if len({tuple((vars(spec) | same).values()) for spec in self.specs}) != 1:
            raise ValueError(f"the specs of a group may differ in {VARYING} only")
        if len(set(self.members)) != len(self.members):
            raise ValueError("a group lists the same network and seed twice")

    @property
    def members(self) -> tuple[tuple[Spec, int], ...]:
        """Every (spec, seed), seeds innermost: the leading axis of the group's arrays."""
        return tuple((spec, seed) for spec in self.specs for seed in self.seeds)

    @cached_property
    def name(self) -> str:
        """The hash that names the directory. Fields at their defaults are left out, so a new field renames nothing."""
        content = {
            "semantics": SEMANTICS,
            "specs": [changed_fields(spec) for spec in self.specs],
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


def from_fields(fields: Mapping[str, Any]) -> Spec:
    """The inverse of `changed_fields`, also after JSON, which turns tuples into lists."""

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    return Spec(**{name: tuples(value) for name, value in fields.items()})
