"""Tables that follow from the committed ones: differences with intervals, best networks, counts, verdicts.

An interval of a difference between networks is Welch's over seeds (`intervals.linear`), or binomial over test images if
one of them has a single seed. Where a network is the best of several it is Bonferroni's for all of them, so that
choosing does not bias it. A verdict says whether the value is positive: `holds`, `fails` or `inconclusive`.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from experiments.lab import intervals
from experiments.lab.intervals import Estimate
from experiments.results.tables import Row, Tables, one, seed_values

BEST, FINAL, LOSS = "best_test_accuracy_mean", "test_accuracy_mean", "best_validation_loss_mean"
TEST_IMAGES = 10_000  # of MNIST and of CIFAR


DERIVED: dict[str, Callable[[Tables], Iterator[Row]]] = {}


def derived(function: Callable[[Tables], Iterator[Row]]) -> Callable[[Tables], Iterator[Row]]:
    """Register a table under the name of its function."""
    DERIVED[function.__name__] = function
    return function


def columns(estimate: Estimate) -> Row:
    return {**estimate._asdict(), "verdict": intervals.sign(estimate)}


def combination(
    weighted: Sequence[tuple[float, Row]], mean: str, comparisons: int = 1, pooled: bool = False
) -> Estimate:
    """Σ weight · mean accuracy; rows of one network, such as a base of two kinds, count as one. See `linear`."""
    weights: dict[tuple, float] = {}
    rows: dict[tuple, Row] = {}
    for weight, row in weighted:
        network = tuple(row[name] for name in ("width", "seeds", mean, mean.replace("_mean", "_std")))
        weights[network], rows[network] = weights.get(network, 0.0) + weight, row
    coefficients = np.array(list(weights.values()))
    if pooled or min(row["seeds"] for row in rows.values()) > 1:
        values = [seed_values(row, mean) for row in rows.values()]
        return intervals.linear(coefficients, values, comparisons, pooled)
    accuracy = np.array([row[mean] for row in rows.values()])
    error = math.sqrt(coefficients**2 @ (accuracy * (1 - accuracy) / TEST_IMAGES))
    value, half = float(coefficients @ accuracy), float(stats.norm.isf(0.025 / comparisons)) * error
    return Estimate(value, value - half, value + half)


def contrast(plus: Sequence[Row], minus: Sequence[Row], mean: str = BEST, comparisons: int = 1) -> Estimate:
    """Mean accuracy of `plus` less that of `minus`."""
    weighted = [(1 / len(plus), row) for row in plus] + [(-1 / len(minus), row) for row in minus]
    return combination(weighted, mean, comparisons)


def best_gain(base: Row, wider: Sequence[Row], mean: str = BEST, pooled: bool = False) -> Row:
    """The best of the wider networks, its gain over the base network, and of how many it is the best."""
    best = max(wider, key=lambda row: row[mean])
    rest = [(0.0, row) for row in wider if row is not best] if pooled else []
    gain = combination([(1.0, best), (-1.0, base), *rest], mean, len(wider), pooled)
    method = "over test images, not seeds: binomial"
    if pooled:
        method = "over seeds, with one standard deviation for all widths"
    elif min(best["seeds"], base["seeds"]) > 1:
        method = "over seeds"
    return {**best, "base": base["width"], "comparisons": len(wider), "method": method, **columns(gain)}


def share(base: Row, sparse: Row, dense: Row, mean: str) -> Row:
    """What the sparse network gains over what the dense one does; Fieller's interval, if the dense one gains surely."""

    def excess(fraction: float) -> Estimate:
        """sparse − base − fraction · (dense − base)"""
        return combination([(fraction - 1, base), (1, sparse), (-fraction, dense)], mean)

    low, high = math.nan, math.nan
    if contrast([dense], [base], mean).low > 0:
        low, high = brentq(lambda f: excess(f).low, -1e3, 1e3), brentq(lambda f: excess(f).high, -1e3, 1e3)
    value = (sparse[mean] - base[mean]) / (dense[mean] - base[mean])
    return {"share": value, "share_low": low, "share_high": high}


def interpolated(dense: Sequence[Row], row: Row, column: str) -> list[tuple[float, Row]]:
    """Weights of the two dense networks on either side of `row` in a column, linear in the logarithm of the column."""
    at = float(np.interp(row[column], [other[column] for other in dense], np.arange(len(dense))))
    below, above = dense[min(int(at), len(dense) - 2) :][:2]
    share = math.log(row[column] / below[column]) / math.log(above[column] / below[column])
    return [(1 - share, below), (share, above)]


@derived
def figure8(tables: Tables) -> Iterator[Row]:
    """The best sparse network against the dense one of its weight count; what width alone gives of the dense gain."""
    rows = tables["kernel_distance_mnist"]
    base, *wider = [row for row in rows if row["kind"] == "sparse"]
    best = best_gain(base, wider, FINAL)
    dense = one(rows, kind="dense", width=best["width"])
    times = max(row["weights"] for row in rows) / base["weights"]
    yield {
        **best,
        **share(base, one(wider, width=best["width"]), dense, FINAL),
        "times": times,
        "part": best["value"] / (1 - base[FINAL]),
    }


@derived
def mlp_gains(tables: Tables) -> Iterator[Row]:
    """For each number of weights, data set and number of images: the best wider MLP against the dense one."""
    for family in dict.fromkeys(row["family"] for row in tables["width_test"]):
        base, *wider = [row for row in tables["width_test"] if row["family"] == family]
        yield {**best_gain(base, wider, FINAL), "family": family, "base_accuracy": base[FINAL]}


@derived
def figure5(tables: Tables) -> Iterator[Row]:
    """By activation: the best cell against the dense network, and how far apart the best of three widths are."""
    accuracy = "final_test_accuracy_mean"
    for activation in ("relu", "linear"):
        base, *cells = [row for row in tables["mlp_grid"] if row["activation"] == activation]
        tops = [max(row[accuracy] for row in cells if row["width"] == width) for width in (40, 80, 160)]
        row = {"base_accuracy": base[accuracy], "spread": max(tops) - min(tops)}
        yield best_gain(base, cells, accuracy) | row


@derived
def figure10(tables: Tables) -> Iterator[Row]:
    """The share of all weights that is removed, by width."""
    rows = tables["layer_sparsity"]
    for width in dict.fromkeys(row["width"] for row in rows):
        size, kept = (sum(row[name] for row in rows if row["width"] == width) for name in ("size", "kept"))
        yield {"width": width, "kept": kept, "removed": 1 - kept / size}


@derived
def resnet(tables: Tables) -> Iterator[Row]:
    """For each table of ResNets: the best sparse network, and what width alone gives of the widest dense gain."""
    for table in ("resnet_width_short", "resnet_width", "resnet_width_cifar10"):
        rows = tables[table]
        base, *wider = [row for row in rows if row["kind"] == "sparse"]
        best = best_gain(base, wider, pooled=table == "resnet_width_short")  # two seeds
        row: Row = {"table": table, **best, "factor": best["width"] / base["width"]}
        for dense in [row for row in rows if row["kind"] == "dense"][1:][-1:]:
            row |= share(base, one(wider, width=dense["width"]), dense, BEST)
            row |= {"share_width": dense["width"], "times": dense["weights"] / base["weights"]}
        yield row


@derived
def figure9(tables: Tables) -> Iterator[Row]:
    """Single weights less whole kernels, by width."""
    rows = tables["conv_masks_cifar10"]
    for row in rows:
        if row["mask"] == "elementwise" and row["width"] > row["base_width"]:
            whole = one(rows, mask="io", width=row["width"])
            yield {**row, **columns(contrast([row], [whole]))}


@derived
def figure3(tables: Tables) -> Iterator[Row]:
    """Bottlenecks: the best wider network over the narrowest, over the untransformed one, and the cost of the split."""
    rows = tables["bottleneck"]
    for base in (8, 16):
        whole = one(rows, base_width=base, width=base, kind="dense")
        for kind in ("linear", "sparse"):
            first, *wider = [r for r in rows if (r["base_width"], r["kind"]) == (base, kind)]
            best = best_gain(first, wider)
            over = contrast([one(wider, width=best["width"])], [whole], BEST, len(wider))
            yield {**best, "quantity": "gain"}
            yield {**best, "quantity": "over untransformed", **columns(over)}
            yield {**best, "quantity": "cost of the split", **columns(contrast([whole], [first]))}


@derived
def pattern_gains(tables: Tables) -> Iterator[Row]:
    """A pattern's mean over distributions, and a distribution's over patterns, less that of another."""
    for table in ("patterns", "patterns_mnist"):
        dense, *rows = tables[table]
        for by, usual in (("pattern", "elementwise"), ("distribution", "largest_first")):
            of = {name: [r for r in rows if r[by] == name] for name in dict.fromkeys(r[by] for r in rows)}
            for name, chosen in of.items():
                for against, others in (("dense", [dense]), (usual, of[usual])):
                    if name != against:
                        gain = columns(contrast(chosen, others))
                        yield {"table": table, "name": name, "against": against, **gain}


@derived
def rates_by_accuracy(tables: Tables) -> Iterator[Row]:
    """What the base width's best rate costs the worst of the widths, where accuracy and not loss chooses the rates."""
    accuracy = "validation_accuracy_mean"
    for table in ("rate_transfer_mnist", "rate_transfer"):
        rows = [row for row in tables[table] if not row["diverged"]]
        for name in dict.fromkeys(row["parameterization"] for row in rows):
            of = [row for row in rows if row["parameterization"] == name]
            best = [
                max((r for r in of if r["width"] == w), key=lambda r: r[accuracy])
                for w in sorted({r["width"] for r in of})
            ]
            rate = best[0]["learning_rate"]
            costs = []
            for row in best[1:]:
                at = one(of, width=row["width"], learning_rate=rate)
                cost = contrast([row], [at], accuracy, len({r["learning_rate"] for r in of}))
                costs.append({**row, "times": row["learning_rate"] / rate, **columns(cost)})
            yield {"table": table, **max(costs, key=lambda cost: cost["value"])}


@derived
def rates_by_loss(tables: Tables) -> Iterator[Row]:
    """What the base width's best rate costs each other width in validation loss, against the best of the rates."""
    loss = "validation_loss_mean"
    rows = [row for row in tables["rate_transfer_mnist"] if not row["diverged"]]
    for name in dict.fromkeys(row["parameterization"] for row in rows):
        of = [row for row in rows if row["parameterization"] == name]
        base, *wider = [
            min((r for r in of if r["width"] == w), key=lambda r: r[loss])
            for w in sorted({r["width"] for r in of})
        ]
        for best in wider:
            at = one(of, width=best["width"], learning_rate=base["learning_rate"])
            cost = contrast([at], [best], loss, len({r["learning_rate"] for r in of}))
            yield {**best, **columns(cost), "relative": cost.value / best[loss]}


@derived
def own_network_gains(tables: Tables) -> Iterator[Row]:
    """Each sparse transformer against the dense one of its weight count."""
    base, *rows = tables["own_network"]
    for row in (row for row in rows if row["kind"] == "sparse"):
        yield {**row, **columns(contrast([row], [base], FINAL))}


@derived
def transformer_gains(tables: Tables) -> Iterator[Row]:
    """How far the loss of each sparse transformer is below that of dense ones; Bonferroni for all widths of a family.

    Against the one with its weights in the blocks, and those with its weights in all layers and with the FLOPs of its
    step, whose loss is interpolated in the logarithm of these.
    """
    rows = tables["width_or_weights_transformer"]
    dense = sorted((row for row in rows if row["kind"] == "dense"), key=lambda row: row["width"])
    wider = [row for row in rows if row["kind"] == "sparse" and row["width"] > row["base_width"]]
    for row in wider:
        widths = sum(other["base_width"] == row["base_width"] for other in wider)
        compared = {
            "blocks": [(1.0, one(dense, width=row["base_width"]))],
            "weights": interpolated(dense, row, "weights"),
            "FLOPs": interpolated(dense, row, "gflop_step"),
        }
        for against, others in compared.items():
            gain = combination([*others, (-1.0, row)], LOSS, widths)
            yield {**row, "against": against, **columns(gain)}


@derived
def hypotheses(tables: Tables) -> Iterator[Row]:
    """By table and hypothesis, how many curves of T agree with it and how many contradict it."""
    for table in ("width_or_weights_mnist", "width_or_weights_text"):
        own = [r for r in tables[f"{table}_claims"] if r["quantity"] == "steps to its own minimum"]
        fixed = [row for row in own if row["family"] != "dense"]
        slower = {"fixed": len(fixed), "slower": sum(row["low"] > 0 for row in fixed)}
        for name in ("weights decide", "width decides", "the effective rate decides"):
            words = [row[name] for row in own if row[name]]
            counts = {word: words.count(word) for word in ("agrees", "contradicts", "inconclusive")}
            yield {"table": table, "hypothesis": name, "curves": len(words), **counts, **slower}


@derived
def speed(tables: Tables) -> Iterator[Row]:
    """Sparse steps at one weight count relative to narrow ones, and the time of exact kernels."""
    rows = [r for r in tables["benchmark_sparse"] if (r["pass"], r["execution"]) == ("step", "sparse")]
    step = {(row["network"], row["width"]): row["milliseconds"] for row in rows}
    yield {
        "mlp": step["mlp", 512] / step["mlp", 32],
        "resnet": step["resnet18", 91] / step["resnet18", 8],
        "theory_minutes": sum(row["pairs"] * row["seconds"] for row in tables["benchmark_theory"]) / 60,
    }
