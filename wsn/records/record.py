"""Records: what a finished group leaves, as lines of JSON: a header, then a line a network.

The header says what the group is, which experiment asked for it, and with which code, packages and device it was
trained; `read_all` gives every record of a folder, also those that older versions wrote.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jaxtyping import Float, Int64

import wsn
from wsn import stored
from wsn.errors import UserError, one_line
from wsn.spec import SEMANTICS, Group, Spec, changed_fields, from_fields
from wsn.stored import replacing
from wsn.tasks import TASKS, metrics
from wsn.training.history import History

FORMAT = 1
SPLITS = ("train", "validation", "test")  # which a metric of a curve is of
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


def write_description(path: Path, group: Group, text: str | None) -> None:
    """Write the description of a group with its digest. Raises UserError where it cannot be written."""
    with replacing(path) as file:
        json.dump(stored.add_checksum(description(group, text)), file, indent=1)


def described(path: Path, group: Group) -> dict[str, Any]:
    """What a group's description says, which may have no digest. Raises ValueError or OSError where it is damaged."""
    found = stored.parse(stored.read(path))
    if not isinstance(found, dict):
        raise ValueError("not an object")
    stored.verify_checksum(found)
    text = found.get("text")
    own = json.loads(json.dumps(description(group, text)))
    if {name: value for name, value in found.items() if name != stored.DIGEST} != own:
        raise ValueError(f"it does not describe the group {group.name}")
    return found


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
    how = {
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
    }
    save(path, group, history, {"execution": execution._asdict()} | how, labels, text)


def save(
    path: Path,
    group: Group,
    history: History,
    told: Mapping[str, Any],
    labels: Labels | None = None,
    text: str | None = None,
) -> None:
    """Write a header, which also says what is `told`, and a line for each member with its curves so far."""
    header = description(group, text) | {
        "labels": [(labels or {}).get(spec, Label())._asdict() for spec in group.specs],
        "steps": history.step.tolist(),
        **made_with(),
        **told,
    }
    lines = []
    for i, (_, seed) in enumerate(group.members):
        curves = {name: _listed(values[:, i]) for name, values in sorted(history.curves.items())}
        lines.append({"spec": i // len(group.seeds), "seed": seed, "status": _status(curves)} | curves)
    with replacing(path) as file:
        for line in (stored.add_checksum(header, *lines), *lines):
            file.write(json.dumps(line) + "\n")


def made_with() -> dict[str, Any]:
    """The code, the packages and the device of this process."""
    device = jax.devices()[0]
    return {
        "code": {"version": _version("wsn"), "commit": _commit()},
        "packages": {name: _version(name) for name in PACKAGES},
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
    }


def read(path: Path) -> Record:
    """A record, from the folder of its group. Raises UserError, saying what to do, when it is damaged or another's.

    One without a digest, of an older version, is read with a note.
    """
    try:
        header, *lines = (stored.parse(line) for line in stored.read(path).splitlines())
        sealed = stored.verify_checksum(header, *lines)
        if not sealed:
            note_no_digest(path.parents[1])
        group = _group(header)
        if header["semantics"] == SEMANTICS and not group.name == header["group"] == path.parent.name:
            raise ValueError(f"it is the record of the group {group.name}")
        if header["format"] != FORMAT or len(lines) != len(group.members):
            raise ValueError("lines are missing")
        labels = [Label(**label) for label in header.get("labels", [{}] * len(group.specs))]
        steps = np.array(header["steps"], np.int64) if "steps" in header else None
        for i, (line, (_, seed)) in enumerate(zip(lines, group.members, strict=True)):
            _check(line, {"spec": i // len(group.seeds), "seed": seed}, steps)
        if not sealed:
            _check_range(lines, group.specs[0].task)
        return Record(path, header, [_result(line, group.specs, labels, steps) for line in lines])
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
        header = stored.parse(stored.read(path).partition("\n")[0])
        return _group(header) if header["semantics"] == SEMANTICS else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError):
        return None


def _group(header: dict[str, Any]) -> Group:
    return Group(tuple(from_fields(fields) for fields in header["specs"]), tuple(header["seeds"]))


def _check(line: dict[str, Any], place: dict[str, int], steps: Any) -> None:
    """Raises ValueError for a line of another member, and for curves that no training gives."""
    if {name: line[name] for name in place} != place:
        raise ValueError(f"the line of {place} is another's")
    curves = {name: values for name, values in line.items() if name not in ("spec", "seed", "status")}
    if line["status"] != _status(curves):
        raise ValueError(f"{place}: {line['status']}, which its curves are not")
    if steps is not None and not (np.diff(steps, prepend=-1) > 0).all():
        raise ValueError("its steps do not rise")
    if len({len(values) for values in curves.values()} | ({len(steps)} if steps is not None else set())) != 1:
        raise ValueError(f"{place}: curves of different lengths")


def _check_range(lines: Sequence[dict[str, Any]], task: str) -> None:
    """Raises ValueError for a value that no metric of the task has.

    For records without a digest alone: what was measured may lie beside its range by rounding.
    """
    known = {metric.name: metric for metric in metrics(task)} if task in TASKS else {}
    ranges = {f"{split}_{name}": metric for split in SPLITS for name, metric in known.items()}
    for line in lines:
        for name in line.keys() & ranges.keys():
            for value in line[name]:
                if value is not None and not ranges[name].least <= value <= ranges[name].most:
                    raise ValueError(f"seed {line['seed']}: {name} of {value}")


def _status(curves: Mapping[str, Sequence[float | None]]) -> str:
    return "diverged" if any(None in values for values in curves.values()) else "finished"


def _result(line: dict[str, Any], specs: Sequence[Spec], labels: list[Label], steps: Any) -> Result:
    place, seed, status = (line.pop(name) for name in ("spec", "seed", "status"))
    # Metrics were measured in float32, the sums of probes (named <group>/<quantity>) in float64.
    curves = {
        name: np.array(values, np.float64 if "/" in name else np.float32) for name, values in line.items()
    }
    return Result(specs[place], seed, status, curves, steps, labels[place])


@cache
def note_no_digest(folder: Path) -> None:
    """Once for a folder: what is known of records of an older version."""
    logging.warning(
        "%s: records without a digest, of an older version: checked for the range of their numbers", folder
    )


def damaged(path: Path, error: Exception) -> UserError:
    """What to raise for a record that cannot be read."""
    return UserError(
        f"`workdir`: {path} is damaged ({one_line(error)}): remove it, or start afresh with `resume=false`"
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
