"""Flags from the fields of dataclasses, and back: with `launch` the only module that knows absl.

A field made by `wsn.spec.setting` is a flag of its name. Its type gives the kind of the flag; its metadata the help,
the `choices` (default: the registry of that name) and `none`, the value that stands for None. A tuple is a
comma-separated list, or a repeated flag where it has `choices`. A flag that is not given leaves the preset's value.
"""

import dataclasses
import math
import re
import types
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from absl import flags

from experiments.lab import ranges
from wsn.errors import UserError, choose
from wsn.training.registries import REGISTRIES

DEFINE: dict[type, Callable[..., Any]] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


class Command(NamedTuple):
    """An experiment as a command: its function, presets by name, and the default `Run` or `Output`."""

    main: Callable[[Any, Any], None]  # (settings, run)
    presets: Mapping[str, Any]
    run: Any
    template: Callable[[Any], Any] | None = None  # settings → spec, so that --help shows the recipe's values
    retired: Mapping[str, str] = {}  # removed presets → what to give instead


class Flag(NamedTuple):
    """A flag: the type of its value, or of each item of a list, and the names that it takes, () for any."""

    name: str
    type: type
    many: bool
    choices: tuple[str, ...]
    metadata: Mapping[str, Any]

    @property
    def repeated(self) -> bool:
        return self.many and "choices" in self.metadata


def as_flags(text: str, names: str = r"[a-z_][a-z0-9_]*") -> str:
    """A text with the arguments that it names as Python does, `name` or `name=value`, written as flags."""
    return re.sub(rf"`((?:{names})(?:=[^`]*)?)`", r"--\1", text)


def table(cls: type) -> list[Flag]:
    """The flags of a dataclass."""
    hints, rows = get_type_hints(cls), []
    for field in dataclasses.fields(cls):
        if "help" in field.metadata:
            hint = hints[field.name]
            if isinstance(hint, types.UnionType):  # X | None
                hint = next(part for part in get_args(hint) if part is not types.NoneType)
            many = get_origin(hint) is tuple
            choices = tuple(field.metadata.get("choices") or REGISTRIES.get(field.name, ()))
            rows.append(Flag(field.name, get_args(hint)[0] if many else hint, many, choices, field.metadata))
    return rows


def define(command: Command, values: flags.FlagValues = flags.FLAGS) -> None:
    """Define all flags of a command."""
    for flag in [*table(type(command.run)), *table(settings_type(command))]:
        arguments, more = (flag.name, None), {"help": flag.metadata["help"], "flag_values": values}
        if flag.repeated:
            flags.DEFINE_multi_enum(*arguments, flag.choices, **more)
        elif flag.many:
            flags.DEFINE_list(*arguments, **more)
        elif flag.choices:
            flags.DEFINE_enum(*arguments, flag.choices, **more)
        else:
            DEFINE[flag.type](*arguments, **more)


def read(command: Command, values: flags.FlagValues = flags.FLAGS) -> tuple[Any, Any]:
    """(settings, run) of the flags. Raises UserError."""
    run = dataclasses.replace(command.run, **_given(type(command.run), values))
    preset = getattr(run, "preset", next(iter(command.presets)))
    if preset in command.retired:
        raise UserError(f"`preset={preset}` was removed: {command.retired[preset]}")
    settings = choose(command.presets, "preset", preset)
    replace = getattr(settings, "replace", partial(dataclasses.replace, settings))
    return replace(**_given(settings_type(command), values)), run


def parse(command: Command, arguments: Sequence[str]) -> tuple[Any, Any]:
    """(settings, run) of a command line, independent of this process's flags. Raises UserError or absl's errors."""
    values = flags.FlagValues()
    define(command, values)
    check_rest(values(["experiment", *arguments]))
    return read(command, values)


def check_rest(argv: Sequence[str]) -> None:
    """Raises UserError for arguments that are not flags."""
    if len(argv) > 1:
        raise UserError(f"{argv[1]}: unexpected argument; flags look like --widths=8,32")


def settings_type(command: Command) -> type:
    return type(next(iter(command.presets.values())))


def _given(cls: type, values: flags.FlagValues) -> dict[str, Any]:
    """Name → value of the flags that were given. Raises UserError for a list with an item that is not a number."""
    given = {}
    for flag in table(cls):
        value = values[flag.name].value
        if not values[flag.name].present:
            continue
        if flag.many:
            value = _numbers(flag, value or ())
            if flag.type is str and (twice := [item for item, count in Counter(value).items() if count > 1]):
                raise UserError(f"`{flag.name}={twice[0]}` is given twice")
        elif isinstance(value, str) and value.startswith("--"):
            raise UserError(
                f"`{flag.name}={value}`: a flag in the place of a value: give `{flag.name}=VALUE`"
            )
        given[flag.name] = None if value == flag.metadata.get("none", math.nan) else value
    return given


def _numbers(flag: Flag, texts: Sequence[str]) -> tuple[Any, ...]:
    text, items = f"`{flag.name}={','.join(texts)}`", []
    for item in texts:
        try:
            items += ranges.expand(item, flag.type)
        except ValueError as error:
            if ":" in item:
                raise UserError(f"{text}: {error}") from None
            items.append(math.nan)
    if (flag.type is float and not texts) or any(
        isinstance(x, float) and not math.isfinite(x) for x in items
    ):
        raise UserError(f"{text} is not a comma-separated list of {'whole ' * (flag.type is int)}numbers")
    return tuple(items)
