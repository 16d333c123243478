"""The question, asked of every kind of network: is a wider, sparse one better than a dense one of as many weights?

The gain is the part of the dense network's test error (images) or lowest validation loss (text) that the wider network
avoids. Intervals are of the difference, divided by the mean of the dense network, and Bonferroni-corrected for the
number of widths of a family.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments.lab.plots import PALETTE, tidy
from experiments.results.derived import BEST, FINAL, LOSS, combination, derived, interpolated
from experiments.results.tables import Row, Tables

TUNED, ONE = "a learning rate for each width", "one learning rate"


class Family(NamedTuple):
    """The dense and the wider, sparse networks of one number of weights, by the columns of a table."""

    network: str
    table: str
    where: dict[str, Sequence[str | int]]
    measure: str = FINAL
    pooled: bool = False  # one standard deviation for all widths, of which there are two seeds


FAMILIES = {
    "mlp": Family(f"MLP, MNIST; {TUNED}", "width_test", {"family": ["mnist-6"]}),
    "mlp_one": Family(f"the same; {ONE}", "width_test_one_rate", {"family": ["mnist-6"]}),
    "mlp_cifar10": Family(f"MLP, CIFAR-10; {TUNED}", "width_test", {"family": ["cifar10-8"]}),
    "mlp_digits": Family(f"MLP, digits; {TUNED}", "width_test", {"family": ["digits-8"]}),
    "mlp_large": Family(
        "large MLP, MNIST, 4 epochs; SμPar", "patterns_million", {"pattern": ["dense", "elementwise"]}, BEST
    ),
    "resnet": Family(
        f"ResNet-18, CIFAR-100, 30 epochs; {ONE}",
        "resnet_width_short",
        {"kind": ["sparse"]},
        BEST,
        pooled=True,
    ),
    "transformer": Family(
        "transformer; SμPar", "width_or_weights_transformer", {"kind": ["sparse"], "base_width": [32]}, LOSS
    ),
    "transformer_64": Family(
        "transformer; SμPar", "width_or_weights_transformer", {"kind": ["sparse"], "base_width": [64]}, LOSS
    ),
    "recurrent": Family(
        f"recurrent highway network; {ONE}",
        "width_or_weights_text",
        {"kind": ["sparse"], "arm": ["one"], "base_width": [12]},
        LOSS,
    ),
    "recurrent_24": Family(
        f"recurrent highway network; {ONE}",
        "width_or_weights_text",
        {"kind": ["sparse"], "arm": ["one"], "base_width": [24]},
        LOSS,
    ),
}


@derived
def gains(tables: Tables) -> Iterator[Row]:
    """By family and width: the gain over a dense network of as many weights."""
    for name, family in FAMILIES.items():
        table, measure = tables[family.table], family.measure
        rows = [row for row in table if all(row[key] in values for key, values in family.where.items())]
        base, *wider = sorted(rows, key=lambda row: row["width"])
        dense = [row for row in table if row.get("kind") == "dense"]
        sign = -1.0 if measure == LOSS else 1.0
        for row in wider:
            # Where layers stay whole, the number of weights grows, and no dense network has exactly as many.
            others = (
                [(1.0, base)] if row["weights"] == base["weights"] else interpolated(dense, row, "weights")
            )
            weighted = [(sign, row), *((-sign * weight, other) for weight, other in others)]
            if family.pooled:
                weighted += [(0.0, other) for other in rows]
            gain = combination(weighted, measure, len(wider), family.pooled)
            mean = sum(weight * other[measure] for weight, other in others)
            value, low, high = (part / (mean if measure == LOSS else 1 - mean) for part in gain)
            chosen = {key: row[key] for key in ("width", "connectivity", "weights", "seeds")}
            about = {"family": name, "base": base["width"], "factor": row["width"] / base["width"]}
            yield {**about, **chosen, "value": value, "low": low, "high": high}


@derived
def best_gains(tables: Tables) -> Iterator[Row]:
    """By family: the best wider network, and from which widening factor on networks are certainly worse."""
    for name in FAMILIES:
        rows = [row for row in tables["gains"] if row["family"] == name]
        worse = min((row["factor"] for row in rows if row["high"] < 0), default=0.0)
        until = f"{worse:.3g} times" if worse else f"never (up to {rows[-1]['factor']:.3g} times)"
        best = max(rows, key=lambda row: row["value"])
        yield {**best, "seeds": min(row["seeds"] for row in rows), "worse": until}


def draw(tables: Tables) -> Figure:
    """The gain over the widening factor: test error of images on the left, validation loss of text on the right."""
    figure = Figure(figsize=(12, 6), layout="constrained")
    panels = figure.subplots(1, 2, width_ratios=[3, 2])
    titles = {False: "images: test error, lower by", True: "text: validation loss, lower by"}
    for axes, (loss, title) in zip(panels, titles.items(), strict=True):
        shown = [name for name, family in FAMILIES.items() if (family.measure == LOSS) == loss]
        for name, color in zip(shown, (*PALETTE, "black"), strict=False):
            curve(
                axes, [row for row in tables["gains"] if row["family"] == name], FAMILIES[name].network, color
            )
        axes.axhline(0, color="black", lw=0.8)
        axes.set(title=title, xlabel="times wider than the dense network")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        tidy(axes, [1, 2, 4, 8] if loss else [1, 2, 4, 8, 16, 32, 64, 128, 256, 512])
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    panels[0].set_ylim(-0.4, 0.4)
    figure.suptitle(
        "Wider and sparse, against a dense network of as many weights (bands: 95 % intervals)", fontsize=11
    )
    return figure


def curve(axes: Axes, rows: Sequence[Row], network: str, color: str) -> None:
    """The line of a family, from the dense network at factor 1, and its intervals."""
    x, y, low, high = ([row[key] for row in rows] for key in ("factor", "value", "low", "high"))
    weights = " to ".join(f"{number:,}" for number in sorted({rows[0]["weights"], rows[-1]["weights"]}))
    axes.plot([1, *x], [0, *y], "o-", ms=3, lw=1.4, color=color, label=f"{network}; {weights} weights")
    axes.fill_between(x, low, high, color=color, alpha=0.1, lw=0)
