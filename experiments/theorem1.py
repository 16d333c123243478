"""Theorem 1 against a file of cases.

    python -m experiments.theorem1 --cases=FILE.json --workdir=DIR

FILE holds a list of objects with name, x, y, p, n, K1p, K2p (and D). Writes DIR/theorem1_cases.csv, prints the largest
scaled error |error of K_l| / (|x||y|)^l last, and exits 0 if it is within --tolerance. Seconds to a minute.
Source: Theorem 1 and equations (1)-(3).
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments import cli
from kernels.theorem1 import sparse_kernels, squared_distance
from wsn.errors import UserError

COLUMNS = ["name", "method", "K1p", "K2p", "D", "error_estimate", "scaled_error_K1p", "scaled_error_K2p"]


def read_cases(path: Path) -> list[dict[str, Any]]:
    """The cases of a file, checked to have the keys that are needed. Raises UserError."""
    try:
        cases = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"--cases={path} cannot be read as JSON: {error}") from error
    if not (isinstance(cases, list) and cases and all(isinstance(case, dict) for case in cases)):
        raise UserError(f"--cases={path} is not a list of cases: give a JSON list of objects")
    for index, case in enumerate(cases):
        missing = {"name", "x", "y", "p", "n", "K1p", "K2p"} - set(case)
        if missing:
            raise UserError(f"--cases={path}: case {index} has no {', '.join(sorted(missing))}")
    return cases


def evaluate(case: dict[str, Any]) -> dict[str, Any]:
    """One row of the table: our K_{1,p}, K_{2,p}, D and their scaled differences from the case's."""
    try:
        kernels = sparse_kernels(case["x"], case["y"], case["p"])
        if kernels.k1.shape or not all(np.isfinite(float(case[key])) for key in ("K1p", "K2p", "n")):
            raise UserError("one pair, one p, one n and finite K1p, K2p make a case")
        distance = squared_distance(kernels, case["n"])
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"--cases: {case['name']}: {error}") from error
    scale = float(np.linalg.norm(case["x"]) * np.linalg.norm(case["y"])) or 1.0
    values = (
        case["name"],
        str(kernels.method),
        *(float(value) for value in (kernels.k1, kernels.k2, distance.total, kernels.error_estimate)),
        abs(float(kernels.k1) - float(case["K1p"])) / scale,
        abs(float(kernels.k2) - float(case["K2p"])) / scale**2,
    )
    return dict(zip(COLUMNS, values, strict=True))


def main() -> None:
    if not cli.FLAGS.cases:
        raise UserError("--cases: name a JSON file of cases")
    rows = [evaluate(case) for case in read_cases(Path(cli.FLAGS.cases))]
    cli.write_table("theorem1_cases", rows, COLUMNS, digits=17)
    largest = max(max(row["scaled_error_K1p"], row["scaled_error_K2p"]) for row in rows)
    within = largest <= cli.FLAGS.tolerance
    print(f"{len(rows)} cases, {'all' if within else 'not all'} within {cli.FLAGS.tolerance:g}")
    print(f"largest scaled error: {largest:.3g}")
    sys.exit(0 if within else 1)


if __name__ == "__main__":
    cli.define_output_flags("theorem1")
    flags.DEFINE_string("cases", None, "JSON file of cases to evaluate.")
    flags.DEFINE_float("tolerance", 1e-7, "Largest scaled error that counts as agreement.")
    cli.run(main)
