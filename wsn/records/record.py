"""Records: what a finished group leaves, as lines of JSON: a header, then a line a network.

The header says what the group is, which experiment asked for it, and with which code, packages and device it was
trained; `read_all` gives every record of a folder, also those that older versions wrote.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jaxtyping import Float, Int64

import wsn
from wsn.errors import UserError, one_line
from wsn.records.files import replacing
from wsn.spec import SEMANTICS, Group, Spec, changed_fields, from_fields
from wsn.training.history import History

FORMAT = 1
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


class Label(NamedTuple):
    """Who asked for a network: the experiment, its preset, and its place in a family (kind and base width)."""

    experiment: str = ""
    preset: str = ""
    base_width: int | None = None
    kind: str = ""


Labels = Mapping[Spec, Label]


class Execution(NamedTuple):
    """How layers that lose weights were run: as it was asked, and which of them sparse in the end."""

    asked: str = "masked"
    sparse: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Result:
    """One trained network: its spec, seed, status and a value per evaluation of each curve (NaN after divergence)."""

    spec: Spec
    seed: int
    status: str  # "finished" or "diverged"
    curves: dict[str, Float[np.ndarray, " evaluations"]]
    steps: Int64[np.ndarray, " evaluations"] | None = None  # taken before each; None in records of before 0.2
    label: Label = Label()


class Record(NamedTuple):
    """A group's record: what its header says beyond the results, and the results."""

    path: Path
    header: dict[str, Any]
    results: list[Result]


MASKED = Execution()


def description(group: Group, text: str | None = None) -> dict[str, Any]:
    """What the hash that names a group stands for, and the SHA-256 of the text that it is trained on, if it is one."""
    specs = [changed_fields(spec) for spec in group.specs]
    return {
        "format": FORMAT,
        "semantics": SEMANTICS,
        "group": group.name,
        "specs": specs,
        "seeds": group.seeds,
    } | ({"text": text} if text else {})


def write(
    path: Path,
    group: Group,
    history: History,
    seconds: float,
    labels: Labels | None = None,
    text: str | None = None,
    execution: Execution = MASKED,
) -> None:
    """Write the record of a finished group; `seconds` is the time since it was last started."""
    device = jax.devices()[0]
    header = description(group, text) | {
        "labels": [(labels or {}).get(spec, Label())._asdict() for spec in group.specs],
        "steps": history.step.tolist(),
        "code": {"version": _version("wsn"), "commit": _commit()},
        "packages": {name: _version(name) for name in PACKAGES},
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        },
        "execution": execution._asdict(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
    }
    with replacing(path) as file:
        file.write(json.dumps(header) + "\n")
        for i, (_, seed) in enumerate(group.members):
            curves = {name: _listed(values[:, i]) for name, values in sorted(history.curves.items())}
            status = "diverged" if any(None in values for values in curves.values()) else "finished"
            line = {"spec": i // len(group.seeds), "seed": seed, "status": status} | curves
            file.write(json.dumps(line) + "\n")


def read(path: Path) -> Record:
    """A record. Raises UserError, saying what to do, when the file is damaged."""
    try:
        header, *lines = (json.loads(line) for line in path.read_text().splitlines())
        specs = [from_fields(fields) for fields in header["specs"]]
        if header["format"] != FORMAT or len(lines) != len(specs) * len(header["seeds"]):
            raise ValueError("lines are missing")
        labels = [Label(**label) for label in header.get("labels", [{}] * len(specs))]
        steps = np.array(header["steps"], np.int64) if "steps" in header else None
        return Record(path, header, [_result(line, specs, labels, steps) for line in lines])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, UserError) as error:
        raise damaged(path, error) from error


def read_all(workdir: Path) -> Iterator[Record]:
    """Every record of a folder, by name; those of another semantics are left out, damaged ones with a warning."""
    for path in sorted(workdir.glob("runs/*/record.jsonl")):
        if path.parent.suffix:  # set aside
            continue
        try:
            record = read(path)
        except UserError as error:
            logging.warning("%s", error)
            continue
        if record.header["semantics"] == SEMANTICS:
            yield record


def group_of(path: Path) -> Group | None:
    """The group of a record from its header line; None for one of another semantics, or a damaged one."""
    try:
        with open(path) as file:
            header = json.loads(file.readline())
        if header["semantics"] != SEMANTICS:
            return None
        return Group(tuple(from_fields(fields) for fields in header["specs"]), tuple(header["seeds"]))
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None


def _result(line: dict[str, Any], specs: list[Spec], labels: list[Label], steps: Any) -> Result:
    place, seed, status = (line.pop(name) for name in ("spec", "seed", "status"))
    # Metrics were measured in float32, the sums of probes (named <group>/<quantity>) in float64.
    curves = {
        name: np.array(values, np.float64 if "/" in name else np.float32) for name, values in line.items()
    }
    return Result(specs[place], seed, status, curves, steps, labels[place])


def damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"--workdir: {path} is damaged ({one_line(error)}): remove it, or start afresh with --resume=false"
    )


def _listed(values: Float[np.ndarray, " _"]) -> list[float | None]:
    """Shortest decimals that give the numbers back; None for NaN."""
    return [float(str(value)) if np.isfinite(value) else None for value in values]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@cache
def _commit() -> str:
    """The commit of the code, with `-dirty` when files differ from it; `unknown` outside a checkout."""
    root = Path(wsn.__file__).parents[1]
    if not (root / ".git").exists():  # an installed package: git would find whatever encloses it
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
