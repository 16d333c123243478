"""What figures are drawn from: the columns of charts and the curves of members, thinned out to what a page can bear."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.report import chart
from experiments.report.networks import NETWORKS, name_of
from experiments.report.read import Member, thinned
from experiments.report.sections import Section

NUMBERS = 1_000_000  # of all curves of a page, some 6 bytes each
LEAST, MOST = 8, 200  # points of a curve


def data_of(sections: Mapping[str, Section]) -> dict[str, Any]:
    """By the id of each section, what its figures need."""
    curves = sum(1 + len(m.result.curves) for section in sections.values() for m in section.members)
    points = min(MOST, max(LEAST, NUMBERS // max(curves, 1)))
    return {name: _of_section(section, points) for name, section in sections.items()}


def _of_section(section: Section, points: int) -> dict[str, Any]:
    states = {member.group: group.state for group in section.groups for member in group.members}
    names = {
        i: name_of(row)
        for table in section.tables
        if table.name == NETWORKS
        for row, members in zip(table.rows, table.members, strict=True)
        for i in members
    }
    tables: list[dict[str, Any]] = []
    for table in section.tables:
        one = chart.chart(table.rows)
        if one is None:
            tables.append({"members": table.members})
            continue
        tables.append(
            {
                "columns": {
                    name: [_plain(value) for value in values] for name, values in one.columns.items()
                },
                "deviations": one.deviations,
                "curves": one.curves,
                "members": table.members,
            }
        )
    members = enumerate(section.members)
    runs = [_run(member, names.get(i, ""), states[member.group], points) for i, member in members]
    return {"tables": tables, "runs": runs}


def _run(member: Member, name: str, state: str, points: int) -> dict[str, Any]:
    """A member: its name, its state, and its curves with their steps and, where each is an epoch, their epochs."""
    result = thinned(member.result, points)
    assert result.steps is not None
    spec, steps = result.spec, result.steps
    run: dict[str, Any] = {
        "name": f"{name}, seed {result.seed}",
        "state": member.state if state == "finished" or member.state == "diverged" else state,
        "of": member.evaluations,
        "steps": steps.tolist(),
        "curves": _rounded(result.curves),
    }
    if not spec.eval_every and member.evaluations:  # every evaluation is the end of an epoch
        last = int(member.result.steps[-1]) if member.result.steps is not None else 0
        run["epoch"] = last / member.evaluations
    return run


def _rounded(curves: Mapping[str, Float[np.ndarray, " kept"]]) -> dict[str, list[float | None]]:
    """With four significant digits; None for what is not finite. All at once, as there may be many thousands."""
    if not curves:
        return {}
    exact = np.stack(list(curves.values())).astype(np.float64)
    with np.errstate(all="ignore"):
        scale = 10.0 ** (3 - np.floor(np.log10(np.abs(np.where(exact == 0, 1.0, exact)))))
        found = (np.round(exact * scale) / scale).tolist()
    rows = ([value if math.isfinite(value) else None for value in row] for row in found)
    return dict(zip(curves, rows, strict=True))


def _plain(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
