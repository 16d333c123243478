"""Presets: what a training experiment can be told, and how that becomes a spec.

In: settings (by flags or in a notebook) and the recipe of an experiment. Out: a `Spec`. What a preset leaves None is
as the recipe says, and where that says nothing as the defaults of `Spec` are.
"""

import dataclasses
from typing import Any, TypeVar

from wsn.data import DATASETS
from wsn.data.stream import STREAMS
from wsn.machine import NETWORK_BYTES
from wsn.spec import WIDEST, Spec, check_bounds, setting
from wsn.training.optimizers import OPTIMIZERS

Told = TypeVar("Told", bound="Common")
SPEC_FIELDS = {field.name: field for field in dataclasses.fields(Spec)}


def of_spec(name: str, default: Any = dataclasses.MISSING, **more: Any) -> Any:
    """A field that goes into the spec under its name, with the help and the bounds that it has there."""
    return dataclasses.field(default=default, metadata={**SPEC_FIELDS[name].metadata, **more})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """Settings that every training experiment has; its own has more. Raises UserError for numbers out of range."""

    widths: tuple[int, ...]
    seeds: int = setting("How many seeds (0, 1, …) of every network.", least=1, bytes=NETWORK_BYTES)
    train_samples: int | None = of_spec("train_samples", help="Size of the training subset (0: all).", none=0)
    data_seed: int | None = of_spec("data_seed", None)
    order: str | None = of_spec("order", None)
    normalization: str | None = of_spec("normalization", None)
    task: str | None = of_spec("task", None)
    epochs: int = of_spec("epochs")
    batch_size: int = of_spec("batch_size")
    optimizer: str | None = of_spec("optimizer", None)
    learning_rate: float | None = of_spec("learning_rate", None, help="Learning rate of every network.")
    momentum: float | None = of_spec("momentum", None)
    weight_decay: float | None = of_spec("weight_decay", None)
    beta1: float | None = of_spec("beta1", None)
    beta2: float | None = of_spec("beta2", None)
    epsilon: float | None = of_spec("epsilon", None)
    clip: float | None = of_spec("clip", None)
    schedule: str | None = of_spec("schedule", None)
    eval_every: int | None = of_spec("eval_every", None)
    probes: tuple[str, ...] | None = of_spec("probes", None)
    compute_dtype: str | None = of_spec("compute_dtype", None)

    def __post_init__(self) -> None:
        check_bounds(self)

    def replace(self: Told, **told: Any) -> Told:
        """The preset with those settings in the place of its own."""
        return dataclasses.replace(self, **told)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(Common):
    """Of experiments with a budget, on images."""

    dataset: str = of_spec("dataset", help=f"Data set: one of {', '.join([*DATASETS, *STREAMS])}.")
    base_width: int = setting(
        "Width of the dense network whose weight count is the budget.", least=1, most=WIDEST
    )
    widths: tuple[int, ...] = setting(
        "Widths to train, comma-separated, none below the base width.", least=1, most=WIDEST, some=True
    )


def spec(preset: Common, **recipe: Any) -> Spec:
    """What a preset says, and where it says nothing the recipe. Raises UserError for numbers out of range.

    The recipe's momentum, decay and the like are those of its optimiser: another one has its own defaults.
    """
    told = {name: value for name in SPEC_FIELDS if (value := getattr(preset, name, None)) is not None}
    usual = recipe.get("optimizer", SPEC_FIELDS["optimizer"].default)
    if told.get("optimizer", usual) != usual:
        recipe = {name: value for name, value in recipe.items() if name not in OPTIMIZERS[usual].fields}
    base = {"width": preset.base_width} if isinstance(preset, Preset) else {}
    return Spec(**base | recipe | told)
