"""Flags from the fields of dataclasses, and back: the one place that knows of absl.

A field made by `wsn.spec.setting` is a flag of its name: its type says which kind, its metadata has help, `choices`
(else the registry of that name), and `none`, the value that stands for None. A tuple is a comma-separated flag, one
with choices of its own a flag that is repeated. What a flag does not say is as the preset has it.
"""

import dataclasses
import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from absl import flags

from experiments.lab import ranges
from wsn.errors import UserError, choose
from wsn.training.registries import REGISTRIES

RANGES = " Also ranges: 8:64:8, 8:91:x1.5."

flags.disclaim_key_flags()  # so that --help of an experiment lists the flags that are defined here for it


class Command(NamedTuple):
    """An experiment as a command: what runs, its settings by name, and how a run goes where no flag says otherwise."""

    main: Callable[[Any, Any], None]  # (settings, run)
    presets: Mapping[str, Any]
    run: Any
    template: Callable[[Any], Any] | None = None  # settings → the spec that they stand for
    retired: Mapping[str, str] = {}  # presets that there were once → what to give instead


def as_flags(text: str) -> str:
    """A text that names arguments as Python does, `name` or `name=value`, with flags in their place."""
    return re.sub(r"`([a-z_][a-z0-9_]*(?:=[^`]*)?)`", r"--\1", text)


def define(command: Command, values: flags.FlagValues = flags.FLAGS) -> None:
    """A flag for every field of the run and of the settings that has a help."""
    alone = next(iter(command.presets.values())) if len(command.presets) == 1 else None
    for defaults, cls in ((command.run, type(command.run)), (alone, _settings(command))):
        for field, item, many in fields(cls):
            default = None if defaults is None else getattr(defaults, field.name)
            shown = _shown(command, field) if defaults is None else ""
            _define(field, item, many, default, as_flags(field.metadata["help"] + shown), values)
    if hasattr(command.run, "preset"):
        values["preset"].help += f" One of {', '.join(command.presets)}."


def read(command: Command, values: flags.FlagValues = flags.FLAGS) -> tuple[Any, Any]:
    """(settings, run) as the flags say. Raises UserError."""
    run = dataclasses.replace(command.run, **_given(type(command.run), values))
    name = getattr(run, "preset", next(iter(command.presets)))
    if name in command.retired:
        raise UserError(f"`preset={name}` was removed: {command.retired[name]}")
    settings = choose(command.presets, "preset", name)
    given = _given(_settings(command), values)
    return settings.replace(**given) if hasattr(settings, "replace") else dataclasses.replace(
        settings, **given
    ), run


def parse(command: Command, arguments: Sequence[str]) -> tuple[Any, Any]:
    """(settings, run) of a command line, apart from the flags of this process. Raises UserError or absl's errors."""
    values = flags.FlagValues()
    define(command, values)
    check_rest(values(["experiment", *arguments]))
    return read(command, values)


def check_rest(argv: Sequence[str]) -> None:
    """Raises UserError for what is left of a command line when its flags are taken out."""
    if len(argv) > 1:
        raise UserError(f"{argv[1]}: unexpected argument; flags look like --widths=8,32")


def _settings(command: Command) -> type:
    return type(next(iter(command.presets.values())))


def fields(cls: type) -> list[tuple[dataclasses.Field, type, bool]]:
    """The fields that are flags: each with the type of its value, or of the items of a tuple, and whether it is one."""
    hints = get_type_hints(cls)
    found = []
    for field in dataclasses.fields(cls):
        if "help" in field.metadata:
            hint = hints[field.name]
            if isinstance(hint, types.UnionType):  # X | None
                hint = next(part for part in get_args(hint) if part is not types.NoneType)
            many = get_origin(hint) is tuple
            found.append((field, get_args(hint)[0] if many else hint, many))
    return found


def choices(field: dataclasses.Field) -> list[str]:
    """The names that a flag takes: those of its field, else of the registry of its name; none where it takes any."""
    return list(field.metadata.get("choices") or REGISTRIES.get(field.name, ()))


def _define(
    field: dataclasses.Field, item: type, many: bool, default: Any, help: str, values: flags.FlagValues
) -> None:
    name, names = field.name, choices(field)
    if many:
        default = default and [str(value) for value in default]
        help += f" Of {', '.join(names)}." if name in REGISTRIES else ""
        help += RANGES if item in (int, float) else ""
    if many and "choices" in field.metadata:
        flags.DEFINE_multi_enum(name, default, names, help, flag_values=values)
    elif many:
        flags.DEFINE_list(name, default, help, flag_values=values)
    elif names:
        flags.DEFINE_enum(name, default, names, help, flag_values=values)
    else:
        kinds: dict[type, Callable[..., Any]] = {
            bool: flags.DEFINE_boolean,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            str: flags.DEFINE_string,
        }
        kinds[item](name, default, help, flag_values=values)


def _shown(command: Command, field: dataclasses.Field) -> str:
    """What a setting is where no flag says it, by preset."""

    if "otherwise" in field.metadata:
        return f" (default: {field.metadata['otherwise']})"
    texts = {name: value_text(command, field, preset) for name, preset in command.presets.items()}
    if len(set(texts.values())) == 1:
        common = next(iter(texts.values()))
        return f" (default: {common})" if common else ""
    return f" ({'; '.join(f'{name}: {value}' for name, value in texts.items())})"


def value_text(command: Command, field: dataclasses.Field, told: Any) -> str:
    """The value of a setting as one would type it; empty where there is none."""
    value = getattr(told, field.name)
    if value is None and command.template is not None and field.name in _names(_settings(command)):
        if "otherwise" in field.metadata:
            return f"({field.metadata['otherwise']})"
        value = getattr(command.template(told), field.name, None)
    if value is None:
        value = field.metadata.get("none", "")
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _names(cls: type) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


def _given(cls: type, values: flags.FlagValues) -> dict[str, Any]:
    """The fields whose flags were given. Raises UserError for lists of what is no number."""
    found = {}
    for field, item, many in fields(cls):
        flag = values[field.name]
        if flag.present:
            value = _converted(field.name, item, flag.value) if many else flag.value
            if isinstance(value, str) and value.startswith("--"):
                raise UserError(
                    f"--{field.name}={value}: a flag in the place of a value: give --{field.name}=VALUE"
                )
            found[field.name] = None if value == field.metadata.get("none", math.nan) else value
    return found


def _converted(name: str, item: type, texts: Any) -> tuple[Any, ...]:
    said = f"--{name}={','.join(texts)}"
    found: list[Any] = []
    for text in texts:
        try:
            found += ranges.expanded(text, item)
        except ValueError as error:
            if ":" in text:
                raise UserError(f"{said}: {error}") from None
            found.append(math.nan)
    if (item is float and not texts) or any(isinstance(x, float) and not math.isfinite(x) for x in found):
        whole = "whole " * (item is int)
        raise UserError(f"{said} is not a comma-separated list of {whole}numbers")
    return tuple(found)
