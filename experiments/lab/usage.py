"""What --help prints: the experiment's own words, then its flags by what they are about, at the preset's values.

`--preset=small --help` shows the values of `small`, and flags beside --help the values that they give.
"""

import dataclasses
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from experiments.lab import flags
from experiments.lab.flags import Command
from wsn.spec import Data

HELP = ("--help", "-help", "-h", "-?")
DATA = {"data_dir"} | {field.name for field in dataclasses.fields(Data)}
TRAIN, COMPUTE, DATA_GROUP, HOW = "What to train", "What to compute", "Data", "How it runs"
GROUPS = (TRAIN, COMPUTE, DATA_GROUP, HOW, "Cluster")  # what a field's metadata may say as `group`


def wanted(arguments: Sequence[str]) -> bool:
    return any(argument in HELP for argument in arguments)


def text(command: Command, arguments: Sequence[str], words: str) -> str:
    """The help of an experiment for a command line. Raises UserError, or what the parser raises, for other flags."""
    settings, run = flags.parse(command, [a for a in arguments if a not in HELP])
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for told in (run, settings):
        for field, item, many in flags.fields(type(told)):
            ranges = flags.RANGES if many and item in (int, float) else ""
            lines = groups[group_of(field, told is run, hasattr(run, "preset"))]
            lines += shown(command, field, told, ranges)
    blocks = [f"{group}\n" + "\n".join(lines) for group, lines in groups.items() if lines]
    presets = f"Values are those of --preset={run.preset}.\n\n" if hasattr(run, "preset") else ""
    return f"{words.strip()}\n\n{presets}" + "\n\n".join(blocks)


def group_of(field: dataclasses.Field, of_run: bool, trains: bool) -> str:
    """What a flag is about: as its field says, else by where it stands."""
    if "group" in field.metadata:
        return field.metadata["group"]
    if field.name in DATA:
        return DATA_GROUP
    return HOW if of_run else TRAIN if trains else COMPUTE


def shown(command: Command, field: dataclasses.Field, told: Any, more: str) -> list[str]:
    """A flag with the value that it has, what it means, and of which names one is chosen."""
    value = flags.value_text(command, field, told)
    names = command.presets if field.name == "preset" else flags.choices(field)
    if names:
        more += f" One of {', '.join(names)}."
    means = textwrap.fill(
        flags.as_flags(field.metadata["help"]) + more,
        max(40, min(shutil.get_terminal_size((100, 0)).columns, 110)),
        initial_indent="      ",
        subsequent_indent="      ",
        break_on_hyphens=False,
    )
    return [f"  --{field.name}={value}", means]
