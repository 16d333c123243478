"""The table of networks that is made from records: a row for every spec, whether an experiment has drawn it or not.

In: members of groups. Out: rows with what specs differ in, sizes, and metrics over seeds.
"""

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from experiments.lab import families
from experiments.report import chart
from experiments.report.read import Member, Trained
from wsn.errors import UserError
from wsn.sparsity import family
from wsn.sparsity.shapes import Shapes
from wsn.spec import Network, Spec

NETWORKS = "networks"  # the table that is made from records
HIDDEN = ("kept", "inner", "decay_epochs", "probes", "epochs", "stop", "eval_every")  # are no columns of it
FIELDS = [f.name for f in dataclasses.fields(Spec) if f.name not in HIDDEN]
SHAPE = [f.name for f in dataclasses.fields(Network) if f.name not in ("kept", "mask", "parameterization")]


class Table(NamedTuple):
    """Rows by column, and for each the members whose curves belong to it."""

    name: str
    rows: list[dict[str, Any]]
    members: list[list[int]]


def table_of(members: Sequence[Member], groups: Sequence[Trained]) -> Table:
    """A row for every spec: what it is, where its specs differ, and its best and last metrics over seeds."""
    states = {member.group: group.state for group in groups for member in group.members}
    by_spec: dict[Any, list[int]] = {}
    for i, member in enumerate(members):
        by_spec.setdefault((member.result.spec, states[member.group] != "finished"), []).append(i)
    specs = list(dict.fromkeys(spec for spec, _ in by_spec))
    varying = [
        name for name in FIELDS if name != "width" and len({getattr(spec, name) for spec in specs}) > 1
    ]
    samples = max((spec.train_samples or 0 for spec in specs), default=0)
    kinds = {(member.result.label.kind, member.result.label.base_width) for member in members}
    rows = []
    order = sorted(by_spec, key=lambda one: (*_place(members[by_spec[one][0]]), one[1]))
    for spec, unfinished in order:
        places = by_spec[spec, unfinished]
        label = members[places[0]].result.label
        row: dict[str, Any] = {"kind": label.kind or "", "base_width": label.base_width}
        row = {name: value for i, (name, value) in enumerate(row.items()) if len({k[i] for k in kinds}) > 1}
        row |= {"width": spec.width} | size_of(spec) | {name: getattr(spec, name) for name in varying}
        if "train_samples" in row and samples and all(spec.train_samples for spec in specs):
            row["fraction"] = row.pop("train_samples") / samples
        row |= _measured([members[i].result for i in places])
        if unfinished:
            row["state"] = states[members[places[0]].group]
        rows.append(row)
    return Table(NETWORKS, rows, [by_spec[one] for one in order])


def _place(member: Member) -> tuple[str, int, int, float]:
    label, spec = member.result.label, member.result.spec
    return label.kind, label.base_width or 0, spec.width, spec.learning_rate


def name_of(row: dict[str, Any]) -> str:
    """What tells a network from the others of its section."""
    own = [name for name in row if name in FIELDS or name in ("kind", "base_width", "fraction")]
    return ", ".join(chart.told(name, row[name]) for name in own)


def _measured(results: Sequence[Any]) -> dict[str, Any]:
    """`families.summary`, its means and deviations alone, held-out ones first; of unknown tasks the seeds alone."""
    if any(not len(result.steps) for result in results):
        return {"seeds": len(results)}
    try:
        told = families.summary(results)
    except (UserError, KeyError):
        return {"seeds": len(results)}
    counts = {name: told.pop(name) for name in ("seeds", "diverged")}
    shown = {n: v for n, v in told.items() if isinstance(v, float) and n.startswith(("best_", "final_"))}
    order = sorted(shown, key=lambda name: ("_train_" in name, "_loss_" in name))
    return counts | {name: float(f"{shown[name]:.6g}") for name in order}


def size_of(spec: Spec) -> dict[str, Any]:
    """Connectivity and weights, as far as the spec says them without its data."""
    try:
        shapes = _shapes(spec.dataset, *(getattr(spec, name) for name in SHAPE))
    except (UserError, KeyError, ValueError, TypeError, ZeroDivisionError):
        return {"weights": sum(count for _, count in spec.kept)} if spec.kept else {}
    told = {"connectivity": family.connectivity(spec, shapes), "weights": family.kept_weights(spec, shapes)}
    return told | {"connectivity": float(f"{told['connectivity']:.4g}")}


@cache
def _shapes(dataset: str, *values: Any) -> Shapes:
    network = dict(zip(SHAPE, values, strict=True))
    spec = Spec(dataset=dataset, epochs=1, batch_size=1, learning_rate=1.0, **network)
    return families.shapes_of(spec)(spec.width)
