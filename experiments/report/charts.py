"""The data of a page: columns of charts and curves of networks, with as many points as a page can hold."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.report.networks import NETWORKS, name_of
from experiments.report.read import Member, thinned
from experiments.report.sections import Section

NUMBERS = 1_000_000  # of all curves of a page, some 6 bytes each
LEAST, MOST = 8, 200  # points of a curve


def data_of(sections: Mapping[str, Section]) -> dict[str, Any]:
    """The data of every section, by its id."""
    curves = sum(1 + len(m.result.curves) for section in sections.values() for m in section.members)
    points = min(MOST, max(LEAST, NUMBERS // max(curves, 1)))
    return {name: _of_section(section, points) for name, section in sections.items()}


def _of_section(section: Section, points: int) -> dict[str, Any]:
    states = {member.group: group.state for group in section.groups for member in group.members}
    names, tables = {}, []
    for table in section.tables:
        data: dict[str, Any] = {"members": table.members}
        if table.name == NETWORKS:
            names = {i: name_of(row) for row, ms in zip(table.rows, table.members, strict=True) for i in ms}
        if chart := table.chart:
            data["columns"] = {
                name: [float(f"{x:.6g}") if isinstance(x, float) else x for x in values]
                for name, values in chart.columns.items()
            }
            data |= {"deviations": chart.deviations, "curves": chart.curves}
            data["plot"] = chart.plot._asdict() if chart.plot else {}
        tables.append(data)
    members = enumerate(section.members)
    runs = [_run(member, names.get(i, ""), states[member.group], points) for i, member in members]
    return {"tables": tables, "runs": runs}


def _run(member: Member, name: str, state: str, points: int) -> dict[str, Any]:
    """Name, state and curves of a network, with their steps and, where each evaluation ends an epoch, their epochs."""
    result = thinned(member.result, points)
    run: dict[str, Any] = {
        "name": f"{name}, seed {result.seed}",
        "state": member.state if state == "finished" or member.state == "diverged" else state,
        "of": member.evaluations,
        "steps": result.steps.tolist(),
        "curves": _rounded(result.curves),
    }
    if not result.spec.eval_every and member.evaluations:
        run["epoch"] = int(member.result.steps[-1]) / member.evaluations
    return run


def _rounded(curves: Mapping[str, Float[np.ndarray, " kept"]]) -> dict[str, list[float | None]]:
    """With four significant digits, None for what is not finite; all at once, since there may be thousands."""
    if not curves:
        return {}
    exact = np.stack(list(curves.values())).astype(np.float64)
    with np.errstate(all="ignore"):
        scale = 10.0 ** (3 - np.floor(np.log10(np.abs(np.where(exact == 0, 1.0, exact)))))
        rows = (np.round(exact * scale) / scale).tolist()
    return {
        name: [value if math.isfinite(value) else None for value in row]
        for name, row in zip(curves, rows, strict=True)
    }
