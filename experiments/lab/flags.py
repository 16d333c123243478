"""Flags from the fields of dataclasses, and back: the one place that knows of absl.

A field made by `wsn.spec.setting` is a flag of its name: its type says which kind, its metadata has help, `choices`
(else the registry of that name), and `none`, the value that stands for None. A tuple is a comma-separated flag, one
with choices of its own a flag that is repeated. What a flag does not say is as the preset has it.
"""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from absl import flags

from wsn.errors import UserError, choose
from wsn.training.registries import REGISTRIES

flags.disclaim_key_flags()  # so that --help of an experiment lists the flags that are defined here for it


class Command(NamedTuple):
    """An experiment as a command: what runs, its settings by name, and how a run goes where no flag says otherwise."""

    main: Callable[[Any, Any], None]  # (settings, run)
    presets: Mapping[str, Any]
    run: Any
    template: Callable[[Any], Any] | None = None  # settings → the spec that they stand for


def define(command: Command, values: flags.FlagValues = flags.FLAGS) -> None:
    """A flag for every field of the run and of the settings that has a help."""
    alone = next(iter(command.presets.values())) if len(command.presets) == 1 else None
    for defaults, cls in ((command.run, type(command.run)), (alone, _settings(command))):
        for field, item, many in _fields(cls):
            default = None if defaults is None else getattr(defaults, field.name)
            shown = _shown(command, field) if defaults is None else ""
            _define(field, item, many, default, field.metadata["help"] + shown, values)
    if hasattr(command.run, "preset"):
        values["preset"].help += f" One of {', '.join(command.presets)}."


def read(command: Command, values: flags.FlagValues = flags.FLAGS) -> tuple[Any, Any]:
    """(settings, run) as the flags say. Raises UserError."""
    run = dataclasses.replace(command.run, **_given(type(command.run), values))
    name = getattr(run, "preset", next(iter(command.presets)))
    settings = choose(command.presets, "preset", name)
    given = _given(_settings(command), values)
    return settings.but(**given) if hasattr(settings, "but") else dataclasses.replace(settings, **given), run


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


def _fields(cls: type) -> list[tuple[dataclasses.Field, type, bool]]:
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


def _define(
    field: dataclasses.Field, item: type, many: bool, default: Any, help: str, values: flags.FlagValues
) -> None:
    name, choices = field.name, field.metadata.get("choices")
    if many:
        default = default and [str(value) for value in default]
        help += f" Of {', '.join(REGISTRIES[name])}." if name in REGISTRIES else ""
    if many and choices:
        flags.DEFINE_multi_enum(name, default, list(choices), help, flag_values=values)
    elif many:
        flags.DEFINE_list(name, default, help, flag_values=values)
    elif choices := choices or REGISTRIES.get(name):
        flags.DEFINE_enum(name, default, list(choices), help, flag_values=values)
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

    def text(preset: Any) -> str:
        value = getattr(preset, field.name)
        if value is None and command.template is not None:
            value = getattr(command.template(preset), field.name, None)
        if value is None:
            value = field.metadata.get("none", "")
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    if "otherwise" in field.metadata:
        return f" (default: {field.metadata['otherwise']})"
    texts = {name: text(preset) for name, preset in command.presets.items()}
    if len(set(texts.values())) == 1:
        common = next(iter(texts.values()))
        return f" (default: {common})" if common else ""
    return f" ({'; '.join(f'{name}: {value}' for name, value in texts.items())})"


def _given(cls: type, values: flags.FlagValues) -> dict[str, Any]:
    """The fields whose flags were given. Raises UserError for lists of what is no number."""
    found = {}
    for field, item, many in _fields(cls):
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
    whole = item is int
    try:
        found = tuple(item(text) for text in texts)
        if item is not float or (found and all(map(math.isfinite, found))):
            return found
    except ValueError:
        pass
    raise UserError(f"--{name}={','.join(texts)} is not a comma-separated list of {'whole ' * whole}numbers")
