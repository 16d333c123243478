"""The text of --help: the docstring of an experiment, then its flags in groups, with their values.

Values are those of the preset and of other flags on the command line: `--preset=small --epochs=3 --help`.
"""

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from experiments.lab import flags
from experiments.lab.flags import Command, Flag
from wsn.spec import Data
from wsn.training.registries import unread

HELP = ("--help", "-help", "-h", "-?", "--helpshort", "--helpfull")
DATA = {"data_dir"} | {field.name for field in fields(Data)}
GROUPS = (
    "What to train",
    "What to compute",
    "Data",
    "How it runs",
    "Cluster",
)  # `group` of a field's metadata


def wanted(arguments: Sequence[str]) -> bool:
    return any(argument in HELP for argument in arguments)


def text(command: Command, arguments: Sequence[str], docstring: str) -> str:
    """The help for a command line. Raises UserError, or absl's errors, for other flags that are wrong."""
    settings, run = flags.parse(command, [a for a in arguments if a not in HELP])
    preset = getattr(run, "preset", "")
    spec = command.template(settings) if command.template else None
    hidden = unread(spec.model, spec.task) if spec else {}  # settings of other networks and tasks
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for values, usual in ((run, "How it runs"), (settings, "What to train" if preset else "What to compute")):
        for flag in flags.table(type(values)):
            if flag.name not in hidden:
                group = flag.metadata.get("group", "Data" if flag.name in DATA else usual)
                groups[group] += [f"  --{flag.name}={_value(flag, values, spec)}", _help(command, flag)]
    blocks = [f"{group}\n" + "\n".join(lines) for group, lines in groups.items() if lines]
    title = [f"Values are those of --preset={preset}."] if preset else []
    return "\n\n".join([docstring.strip(), *title, *blocks])


def _help(command: Command, flag: Flag) -> str:
    """The help of a flag, wrapped: its meaning, forms of lists, and the names that it takes."""
    names = tuple(command.presets) if flag.name == "preset" else flag.choices
    known = [
        flag.name for cls in map(type, (command.run, *command.presets.values())) for flag in flags.table(cls)
    ]
    return textwrap.fill(
        flags.as_flags(flag.metadata["help"], "|".join(known))
        + " Also ranges: 8:64:8, 8:91:x1.5." * (flag.many and flag.type is not str)
        + (f" One of {', '.join(names)}." if names else ""),
        max(40, min(shutil.get_terminal_size((100, 0)).columns, 110)),
        initial_indent="      ",
        subsequent_indent="      ",
        break_on_hyphens=False,
    )


def _value(flag: Flag, values: Any, spec: Any) -> str:
    """The value of a flag as one would type it, of the recipe where the preset has none; empty where there is none."""
    value = getattr(values, flag.name)
    if value is None and "otherwise" in flag.metadata:
        return f"({flag.metadata['otherwise']})"
    if value is None:
        value = getattr(spec, flag.name, None)
    if value is None:
        value = flag.metadata.get("none", "")
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
