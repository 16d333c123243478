"""The record of a group: lines of JSON, a header and then a line for every network.

The header holds what the group's name is a hash of, which experiment asked for it, the checksum of the data, and the
code, packages and device that trained it. Records of wsn 0.1 have neither a checksum nor labels nor steps.
"""

import dataclasses
import importlib.metadata
import json
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int64

import wsn
from wsn import stored
from wsn.errors import UserError, one_line
from wsn.spec import SEMANTICS, Group, Spec, changed_fields, from_fields
from wsn.stored import replacing
from wsn.training.history import History

FORMAT = 1
SPLITS = ("train", "validation", "test")  # the first part of the name of a metric's curve
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
# What a corrupt file raises while it is read; a UserError of a spec is a ValueError.
ERRORS = OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError


class Label(NamedTuple):
    """Which experiment trained a network, with its preset, and its place in a family (kind and base width)."""

    experiment: str = ""
    preset: str = ""
    base_width: int | None = None
    kind: str = ""


Labels = Mapping[Spec, Label]


@dataclasses.dataclass(frozen=True)
class Result:
    """One trained network; curves have a value for every evaluation, NaN after divergence."""

    spec: Spec
    seed: int
    status: str  # "finished" or "diverged"
    curves: dict[str, Float[np.ndarray, " evaluations"]]
    steps: Int64[np.ndarray, " evaluations"]  # taken before each evaluation; in records of wsn 0.1, epochs
    label: Label = Label()


class Record(NamedTuple):
    """A record file: its header, and its networks."""

    path: Path
    header: dict[str, Any]
    results: list[Result]


def description(group: Group, data: str | None = None) -> dict[str, Any]:
    """The fields that the hash in a group's name stands for, and the checksum of the data that it is trained on."""
    fields = {"format": FORMAT, "semantics": SEMANTICS, "group": group.name}
    fields |= {"specs": [changed_fields(spec) for spec in group.specs], "seeds": group.seeds}
    return fields | ({"data": data} if data else {})


def write_description(path: Path, group: Group, data: str | None) -> None:
    """Write the description of a group. Raises UserError where it cannot be written."""
    with replacing(path) as file:
        json.dump(stored.add_checksum(description(group, data)), file, indent=1)


def read_description(path: Path, group: Group) -> dict[str, Any]:
    """The description of a group. Raises OSError or ValueError if it is missing, corrupt or another group's."""
    fields = stored.parse(stored.read(path))
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    stored.verify_checksum(fields)
    expected = json.loads(json.dumps(description(group)))
    if {name: value for name, value in fields.items() if name in expected} != expected:
        raise ValueError(f"it does not describe the group {group.name}")
    return fields


def write(
    path: Path,
    group: Group,
    history: History,
    labels: Labels | None = None,
    data: str | None = None,
    **facts: Any,
) -> None:
    """Write a header, with additional `facts`, and a line for every member. Raises UserError."""
    header = description(group, data) | {
        "labels": [(labels or {}).get(spec, Label())._asdict() for spec in group.specs],
        "steps": history.step.tolist(),
        **made_with(),
        **facts,
    }
    lines = []
    for i, (_, seed) in enumerate(group.members):
        curves = {name: _as_list(values[:, i]) for name, values in sorted(history.curves.items())}
        lines.append({"spec": i // len(group.seeds), "seed": seed, "status": _status(curves)} | curves)
    with replacing(path) as file:
        for line in (stored.add_checksum(header, *lines), *lines):
            file.write(json.dumps(line) + "\n")


def made_with() -> dict[str, Any]:
    """The code, packages and device of this process."""
    device = jax.devices()[0]
    return {
        "code": {"version": _version("wsn"), "commit": _commit()},
        "packages": {name: _version(name) for name in PACKAGES},
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
    }


def read(path: Path) -> Record:
    """The record in the folder of a group. Raises UserError, saying what to do, if it is corrupt or another group's."""
    try:
        header, *lines = (stored.parse(line) for line in stored.read(path).splitlines())
        stored.verify_checksum(header, *lines)
        group = described_group(header)
        if header["semantics"] == SEMANTICS and not group.name == header["group"] == path.parent.name:
            raise ValueError(f"it is the record of the group {group.name}")
        if header["format"] != FORMAT or len(lines) != len(group.members):
            raise ValueError("lines are missing")
        labels = [Label(**label) for label in header.get("labels", [{}] * len(group.specs))]
        rows = max((len(values) for values in lines[0].values() if isinstance(values, list)), default=0)
        steps = np.array(header.get("steps", range(1, rows + 1)), np.int64)
        if not (np.diff(steps, prepend=-1) > 0).all():
            raise ValueError("its steps do not increase")
        members = [(i, seed) for i in range(len(group.specs)) for seed in group.seeds]
        results = [
            _result(line, *member, group, labels, steps) for line, member in zip(lines, members, strict=True)
        ]
        return Record(path, header, results)
    except ERRORS as error:
        raise UserError(
            f"`workdir`: {path} is corrupt ({one_line(error)}): remove it, or start afresh with `resume=false`"
        ) from error


def group_of(path: Path) -> Group | None:
    """The group of a record, from its header line alone; None if it is corrupt, or of other semantics."""
    try:
        header = stored.parse(stored.read(path).partition("\n")[0])
        return described_group(header) if header["semantics"] == SEMANTICS else None
    except ERRORS:
        return None


def described_group(header: Mapping[str, Any]) -> Group:
    """The group of a header or description."""
    return Group(tuple(map(from_fields, header["specs"])), tuple(header["seeds"]))


def _result(
    line: dict[str, Any],
    spec: int,
    seed: int,
    group: Group,
    labels: list[Label],
    steps: Int64[np.ndarray, " rows"],
) -> Result:
    """The network of a line. Raises ValueError for the line of another network and for impossible curves."""
    curves = {name: values for name, values in line.items() if name not in ("spec", "seed", "status")}
    network = f"the network of spec {spec} and seed {seed}"
    if (line["spec"], line["seed"]) != (spec, seed):
        raise ValueError(f"{network} has the line of another")
    if line["status"] != _status(curves):
        raise ValueError(f"{network} is not {line['status']} by its curves")
    if any(len(values) != len(steps) for values in curves.values()):
        raise ValueError(f"{network} has curves of different lengths")
    # Metrics are float32, the columns of probes (GROUP/QUANTITY) float64.
    arrays = {name: np.array(x, np.float64 if "/" in name else np.float32) for name, x in curves.items()}
    return Result(group.specs[spec], seed, line["status"], arrays, steps, labels[spec])


def _status(curves: Mapping[str, Sequence[float | None]]) -> str:
    return "diverged" if any(None in values for values in curves.values()) else "finished"


def _as_list(values: Float[np.ndarray, " _"]) -> list[float | None]:
    """The shortest decimals that give the same floats back; None for NaN."""
    return [float(str(value)) if np.isfinite(value) else None for value in values]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@cache
def _commit() -> str:
    """The commit of the code, with `-dirty` if files differ from it; `unknown` outside a checkout."""
    root = Path(wsn.__file__).parents[1]
    if not (root / ".git").exists():  # installed: git would find the repository around it
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
