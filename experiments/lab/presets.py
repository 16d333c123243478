"""Settings of training experiments, and how they become a `Spec`.

A setting that a preset leaves None has the value of the experiment's recipe, or else the default of `Spec`.
"""

import dataclasses
from typing import Any, TypeVar

from wsn.data import DATASETS
from wsn.data.large_images import STREAMS
from wsn.errors import UserError
from wsn.machine import NETWORK_BYTES
from wsn.spec import WIDEST, Spec, check_bounds, setting
from wsn.tasks import TASKS
from wsn.tasks.language import LANGUAGE
from wsn.tasks.speech import SPEECH
from wsn.training import registries
from wsn.training.optimizers import OPTIMIZERS

Settings = TypeVar("Settings", bound="Preset")
SPEC_FIELDS = {field.name: field for field in dataclasses.fields(Spec)}
IMAGE_TASKS = tuple(task for task in TASKS if task not in {*LANGUAGE, *SPEECH})


def of_spec(name: str, default: Any = dataclasses.MISSING, **more: Any) -> Any:
    """A field of `Spec`, with the help and the bounds that it has there."""
    return dataclasses.field(default=default, metadata={**SPEC_FIELDS[name].metadata, **more})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings of every training experiment; each adds its own. Raises UserError for numbers out of range.

    Widths are sorted: in whatever order they are given, the first is the narrowest.
    """

    dataset: str = of_spec("dataset", help=f"Data set: one of {', '.join([*DATASETS, *STREAMS])}.")
    widths: tuple[int, ...] = setting("Widths to train.", least=1, most=WIDEST, some=True)
    seeds: int = setting("Number of seeds (0, 1, …) of every network.", least=1, bytes=NETWORK_BYTES)
    train_samples: int | None = of_spec(
        "train_samples", None, help="Size of the training subset (0: all).", none=0
    )
    data_seed: int | None = of_spec("data_seed", None)
    order: str | None = of_spec("order", None)
    normalization: str | None = of_spec("normalization", None)
    task: str | None = of_spec("task", None, choices=IMAGE_TASKS)
    epochs: int = of_spec("epochs")
    batch_size: int = of_spec("batch_size")
    optimizer: str | None = of_spec("optimizer", None)
    learning_rate: float | None = of_spec("learning_rate", None, help="Learning rate of every network.")
    schedule: str | None = of_spec("schedule", None)
    decay_epochs: tuple[int, ...] | None = of_spec("decay_epochs", None)
    decay_factor: float | None = of_spec("decay_factor", None)
    warmup_epochs: float | None = of_spec("warmup_epochs", None)
    momentum: float | None = of_spec("momentum", None)
    weight_decay: float | None = of_spec("weight_decay", None)
    beta1: float | None = of_spec("beta1", None)
    beta2: float | None = of_spec("beta2", None)
    epsilon: float | None = of_spec("epsilon", None)
    clip: float | None = of_spec("clip", None)
    eval_every: int | None = of_spec("eval_every", None)
    probes: tuple[str, ...] | None = of_spec("probes", None)
    compute_dtype: str | None = of_spec("compute_dtype", None)

    def __post_init__(self) -> None:
        check_bounds(self)
        object.__setattr__(self, "widths", tuple(sorted(self.widths)))

    def replace(self: Settings, **changes: Any) -> Settings:
        """A copy with these settings. One `base_width` replaces `base_widths`, one `learning_rate` `learning_rates`.

        Settings of the preset that the network or the task does not read get their defaults.
        """
        lists = {f"{name}s": () for name in changes if hasattr(self, f"{name}s")}
        model, task = (changes.get(name, getattr(self, name, None)) for name in ("model", "task"))
        names = registries.unread(model or Spec.model, task or Spec.task)
        unread: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(self) if f.name in names}
        return dataclasses.replace(self, **unread | lists | changes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family(Preset):
    """Settings of experiments on families: networks with the weight count of a dense one."""

    base_width: int = setting(
        "Width of the dense network whose weight count is the budget; `widths` are at least as large.",
        least=1,
        most=WIDEST,
    )


def base_widths() -> Any:
    """A field: several families in one figure."""
    help = "Several families in one figure, instead of that of `base_width`."
    return setting(help, (), least=1, most=WIDEST)


def dense_seeds() -> Any:
    """A field: how many seeds the dense networks that are wider than the base have; `seeds` is of all others."""
    help = "Number of seeds of every dense network wider than the base."
    return setting(help, 0, least=0, bytes=NETWORK_BYTES)


def spec(preset: Preset, **recipe: Any) -> Spec:
    """The spec of a preset; `recipe` has what the preset leaves None. Raises UserError for numbers out of range.

    Settings of the recipe's optimizer and schedule are dropped where the preset names another.
    """
    given = {name: value for name in SPEC_FIELDS if (value := getattr(preset, name, None)) is not None}
    usual: dict[str, Any] = {name: SPEC_FIELDS[name].default for name in ("optimizer", "schedule")} | recipe
    if given.get("optimizer", usual["optimizer"]) != usual["optimizer"]:
        recipe = {n: value for n, value in recipe.items() if n not in OPTIMIZERS[usual["optimizer"]].fields}
    if given.get("schedule", usual["schedule"]) != usual["schedule"]:
        recipe = {n: value for n, value in recipe.items() if not n.startswith("decay_")}
    base = {"width": preset.base_width} if isinstance(preset, Family) else {}
    made = Spec(**base | recipe | given)
    decays = made.schedule == "steps"
    if decays != bool(made.decay_epochs) or ("decay_factor" in given and not decays):
        raise UserError("`schedule`: give `decay_epochs` with `schedule=steps`, and with no other schedule")
    return made
