"""The table of networks that is made from records: a row for every spec, whether an experiment has drawn it or not."""

import dataclasses
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

from experiments.lab import families
from experiments.lab.plots import Plot
from experiments.report.chart import Chart, chart, shown
from experiments.report.read import Member, Trained
from wsn.errors import UserError
from wsn.sparsity import family
from wsn.sparsity.shapes import Shapes
from wsn.spec import Network, Spec

NETWORKS = "networks"  # the name of the table
HIDDEN = ("kept", "inner", "decay_epochs", "probes", "epochs", "stop", "eval_every")  # are no columns of it
FIELDS = [f.name for f in dataclasses.fields(Spec) if f.name not in HIDDEN]
SHAPE = [f.name for f in dataclasses.fields(Network) if f.name not in ("kept", "mask", "parameterization")]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows, for each the members whose curves belong to it, and how the experiment plotted them."""

    name: str
    rows: list[dict[str, Any]]
    members: list[list[int]]
    plot: Plot | None = None

    @cached_property
    def chart(self) -> Chart | None:
        return chart(self.rows, self.plot)


def table_of(members: Sequence[Member], groups: Sequence[Trained]) -> Table:
    """A row for every spec: the fields in which specs differ, sizes, and best and last metrics over seeds."""
    states = {member.group: group.state for group in groups for member in group.members}
    by_spec: dict[Any, list[int]] = {}
    for i, member in enumerate(members):
        by_spec.setdefault((member.result.spec, states[member.group] != "finished"), []).append(i)
    specs = list(dict.fromkeys(spec for spec, _ in by_spec))
    varying = [n for n in FIELDS if n != "width" and len({getattr(spec, n) for spec in specs}) > 1]
    samples = max((spec.train_samples or 0 for spec in specs), default=0)
    labels = [member.result.label for member in members]
    named = [n for n in ("kind", "base_width") if len({getattr(label, n) for label in labels}) > 1]
    rows = []
    order = sorted(by_spec, key=lambda key: (*_place(members[by_spec[key][0]]), key[1]))
    for spec, unfinished in order:
        places = by_spec[spec, unfinished]
        row: dict[str, Any] = {name: getattr(labels[places[0]], name) or "" for name in named}
        row |= {"width": spec.width} | size_of(spec) | {name: getattr(spec, name) for name in varying}
        if "train_samples" in row and samples and all(spec.train_samples for spec in specs):
            row["fraction"] = row.pop("train_samples") / samples
        row |= _summary([members[i].result for i in places])
        if unfinished:
            row["state"] = states[members[places[0]].group]
        rows.append(row)
    return Table(NETWORKS, rows, [by_spec[key] for key in order])


def _place(member: Member) -> tuple[str, int, int, float]:
    label, spec = member.result.label, member.result.spec
    return label.kind, label.base_width or 0, spec.width, spec.learning_rate


def name_of(row: dict[str, Any]) -> str:
    """The values in which a network differs from the others of its section."""
    return ", ".join(shown(n, row[n]) for n in row if n in FIELDS or n in ("kind", "base_width", "fraction"))


def _summary(results: Sequence[Any]) -> dict[str, Any]:
    """Means and deviations of `families.summary`, held-out ones first; of unknown tasks the number of seeds alone."""
    if any(not len(result.steps) for result in results):
        return {"seeds": len(results)}
    try:
        summary = families.summary(results)
    except (UserError, KeyError):
        return {"seeds": len(results)}
    counts = {name: summary.pop(name) for name in ("seeds", "diverged")}
    values = {n: v for n, v in summary.items() if isinstance(v, float) and n.startswith(("best_", "final_"))}
    order = sorted(values, key=lambda name: ("_train_" in name, "_loss_" in name))
    return counts | {name: float(f"{values[name]:.6g}") for name in order}


def size_of(spec: Spec) -> dict[str, Any]:
    """Connectivity and weights, as far as the spec alone gives them."""
    try:
        shapes = _shapes(spec.dataset, *(getattr(spec, name) for name in SHAPE))
    except (UserError, KeyError, ValueError, TypeError, ZeroDivisionError):
        return {"weights": sum(count for _, count in spec.kept)} if spec.kept else {}
    connectivity = float(f"{family.connectivity(spec, shapes):.4g}")
    return {"connectivity": connectivity, "weights": family.kept_weights(spec, shapes)}


@cache
def _shapes(dataset: str, *values: Any) -> Shapes:
    network = dict(zip(SHAPE, values, strict=True))
    spec = Spec(dataset=dataset, epochs=1, batch_size=1, learning_rate=1.0, **network)
    return families.shapes_of(spec)(spec.width)
