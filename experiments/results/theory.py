"""Derived tables of the first paper's theory: D against networks, optimum connectivity, predicted best widths."""

import math
from collections.abc import Iterator

import numpy as np
from scipy import stats

from experiments.lab import intervals
from experiments.results.derived import FINAL, columns, contrast, derived
from experiments.results.tables import Row, Tables
from experiments.theory import theorem1

PIXELS = 784  # of MNIST


@derived
def figure8_distance(tables: Tables) -> Iterator[Row]:
    """Exact D against measured D, and D against the test error."""
    rows = tables["kernel_distance_mnist"]
    sparse = [row for row in rows if row["kind"] == "sparse"]
    distinct = sparse + [row for row in rows if row["kind"] == "dense"][1:]
    z = np.array(
        [(r["distance_empirical"] - r["distance_exact"]) / r["distance_empirical_stderr"] for r in distinct]
    )
    measured = np.array([row["distance_empirical"] for row in sparse])
    error = np.array([1 - row[FINAL] for row in sparse])
    learns = error < 0.8  # twice the accuracy of chance
    pearson = stats.pearsonr(measured[learns], error[learns])
    nearest, best = min(sparse, key=lambda r: r["distance_exact"]), max(sparse, key=lambda r: r[FINAL])
    ratio = np.array([row["distance_eq4"] / row["distance_exact"] for row in sparse])
    applies = (
        np.array([PIXELS * row["connectivity"] for row in sparse]) >= 49
    )  # dp, which equation (4) assumes ≫ 1
    eq4 = ratio[applies]
    yield {
        "points": len(z),
        "eq4_low": float(eq4.min()),
        "eq4_high": float(eq4.max()),
        "eq4_factor": float(np.exp(abs(np.log(eq4)).max())),
        "eq4_sparse": float(ratio[learns & ~applies].max()),
        "z_low": float(z.min()),
        "z_high": float(z.max()),
        "beyond_two": int((abs(z) > 2).sum()),
        "expected_beyond_two": float(len(z) * 2 * stats.norm.sf(2)),
        "chance": float(stats.chi2.sf((z**2).sum(), len(z))),
        "least_exact": nearest["width"],
        "least_eq4": min(sparse, key=lambda row: row["distance_eq4"])["width"],
        "best": best["width"],
        "spearman": float(stats.spearmanr(measured, error).statistic),
        "networks": int(learns.sum()),
        "pearson": float(pearson.statistic),
        "pearson_low": float(pearson.confidence_interval().low),
        "pearson_high": float(pearson.confidence_interval().high),
        **columns(contrast([best], [nearest], FINAL, len(sparse) - 1)),
    }


@derived
def theorem1_agreement(tables: Tables) -> Iterator[Row]:
    """How far simulated networks are from Theorem 1, in standard errors."""
    rows = tables["theorem1_mnist"]
    z = np.array([row["z"] for row in rows])
    yield {
        "points": len(z),
        "mean": float(z.mean()),
        "error": 1 / math.sqrt(len(z)),
        "deviation": float(z.std()),
        "largest": float(abs(z).max()),
        "threshold": theorem1.threshold(len(z), 0.05),
        "eq4_worst": max(row["eq4"] / row["exact"] for row in rows if row["inputs"] == "gaussian"),
    }


@derived
def predictors_paired(tables: Tables) -> Iterator[Row]:
    """How many points fewer one predictor of the best width loses than another, paired over families (Student's t)."""
    rows = [row for row in tables["width_test_verdict"] if row["family"] != "all"]
    lost = {(row["family"], row["predictor"]): row["points_lost"] for row in rows}
    families = dict.fromkeys(row["family"] for row in rows)
    for better, worse in (("first", "gp"), ("kept_inputs", "gp"), ("kept_inputs", "first")):
        differences = [lost[family, worse] - lost[family, better] for family in families]
        estimate = intervals.linear(np.ones(1), [differences])
        yield {"better": better, "worse": worse, **columns(estimate)}


@derived
def optimum_factors(tables: Tables) -> Iterator[Row]:
    """How far sqrt(np/4d) is from the optimum connectivity, by normalization; and the end of the search."""
    rows = tables["optimum_mnist"]
    for normalization in ("none", "scalar", "pixel"):
        here = [r for r in rows if (r["normalization"], r["d"]) == (normalization, 784)]
        optima = [r for r in here if r["p_exact"] != ""]
        factors = [max(r["p_eq25"] / r["p_exact"], r["p_exact"] / r["p_eq25"]) for r in optima]
        inside = sum(r["p_exact_low"] <= r["p_eq25"] <= r["p_exact_high"] for r in optima)
        row = {"factor": max(factors), "least_factor": min(factors), "families": len(here), "inside": inside}
        yield {"normalization": normalization} | row
