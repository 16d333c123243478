"""The gallery: what the committed tables say, and a list of all pictures; README.md's numbers are checked against both.

    python -m experiments.gallery

From experiments/figures/*.csv and *.command alone; trains nothing, seconds. Writes claims.csv there, the verdicts of
the experiments as they follow from their tables (`figure,claim`), and index.md, every picture with its table and
command; then prints the numbers of README.md that no table has which it names (see `lab/gallery/text.py`), and ends
with exit code 1 if there are some.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.beyond import own_network, patterns
from experiments.lab import endings, families
from experiments.lab.intervals import difference
from experiments.results import index, tables, text
from experiments.results.tables import Row, one, with_seeds
from experiments.theory import optimum, theorem1
from experiments.width import bottleneck, figure6, figure8

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "experiments" / "figures"
CLAIMS = "claims.csv"
# Sections of README.md that state no results.
ELSEWHERE = {
    "Run it": "how long an installation and a first run take, roughly",
    "Experiments": "how long commands take, roughly, and how they are used",
    "Your own network": "its code is run by a test",
    "Read it": "its code is run by a test",
}


def of_figure_8(rows: Sequence[Row]) -> list[str]:
    largest = max(row["weights"] for row in rows)
    budget = min(row["weights"] for row in rows)
    return [
        figure8.verdict(rows),
        figure8.agreement(rows),
        f"dense networks have up to {largest / budget:.0f} times the weights",
    ]


def of_figure_5(rows: Sequence[Row]) -> list[str]:
    linear = [
        max(row["final_test_accuracy_mean"] for row in rows if (row["activation"], row["width"]) == at)
        for at in [("linear", width) for width in (40, 80, 160)]
    ]
    return [
        f"linear networks of widths 40 to 160 lie within {100 * (max(linear) - min(linear)):.1f} points",
    ]


def of_resnet_width(rows: Sequence[Row]) -> list[str]:
    """Those of its verdicts that test accuracy alone decides; the table has no deviations of training accuracy."""
    seeds = with_seeds(rows)
    base = rows[0]["base_width"]
    sparse, dense = figure6.sparse_of(seeds, base), families.select(seeds, "dense", base)
    widest = dense[-1]
    return [
        f"sparse and wide beats dense and narrow: {figure6.gain(sparse).show(100)} points",
        f"width alone gives {figure6.width_alone(sparse, widest).show(100, '.0f')} % of the dense gain at width"
        f" {widest['width']}",
        *(
            f"dense, width {row['width']}: {row['weights'] / rows[0]['weights']:.1f} times the weights"
            for row in dense
        ),
    ]


def of_bottlenecks(rows: Sequence[Row]) -> list[str]:
    seeds, lines = with_seeds(rows), []
    for base in sorted({row["base_width"] for row in rows}):
        for kind in ("linear", "sparse"):
            lines += bottleneck.verdict(seeds, base, kind)
        whole, split = (
            one(rows, base_width=base, width=base, kind=kind)["best_test_accuracy_mean"]
            for kind in ("dense", "linear")
        )
        found = bottleneck.members(seeds, base, "linear")
        top = max(range(len(found)), key=lambda i: found[i]["best_test_accuracy_mean"])
        [dense, *_] = bottleneck.members(seeds, base, "dense")
        gain = difference(found[top]["test"], dense["test"], comparisons=len(found))
        lines.append(f"base width {base}: the best over the untransformed network: {gain.show(100)} points")
        lines.append(f"base width {base}: splitting the layers costs {100 * (whole - split):.1f} points")
    return lines


def of_optimum(rows: Sequence[Row]) -> list[str]:
    families = [tuple(row[name] for name in ("inputs", "normalization", "d")) for row in rows]
    lines = [
        optimum.verdict([row for row, own in zip(rows, families, strict=True) if own == family])
        for family in dict.fromkeys(families)
    ]
    ratios = [row["p_exact"] / row["p_eq25"] for row in rows if row["normalization"] == "pixel"]
    off = max(max(ratio, 1 / ratio) for ratio in ratios)
    return [*lines, f"pixel by pixel p* lies within a factor of {off:.2f} of sqrt(np/4d)"]


def of_theory_benchmark(rows: Sequence[Row]) -> list[str]:
    minutes = sum(row["pairs"] * row["seconds"] for row in rows) / 60
    error = max(row["error"] for row in rows)
    return [f"{rows[0]['pairs']} pairs take {minutes:.1f} minutes, with a scaled error of {error:.0e}"]


DERIVED: dict[str, Callable[[Sequence[Row]], list[str]]] = {
    "kernel_distance_mnist": of_figure_8,
    "mlp_grid": of_figure_5,
    "resnet_width": of_resnet_width,
    "bottleneck": of_bottlenecks,
    "patterns": lambda rows: patterns.verdicts(with_seeds(rows)),
    "patterns_mnist": lambda rows: patterns.verdicts(with_seeds(rows)),
    "own_network": lambda rows: own_network.verdict(with_seeds(rows, "test_accuracy_mean")),
    "theorem1_mnist": lambda rows: theorem1.verdicts(rows, 0.01)[0],
    "optimum_mnist": of_optimum,
    "benchmark_theory": of_theory_benchmark,
}


def claims(folder: Path) -> list[Row]:
    """What follows from each table, in the words of its experiment."""
    return [
        {"figure": name, "claim": " ".join(line.split())}
        for name, derive in DERIVED.items()
        for line in derive(tables.read(folder / f"{name}.csv"))
    ]


def problems(readme: str, folder: Path, derived: Sequence[Row]) -> list[str]:
    """What README.md says that its tables do not."""
    cells = text.cells(folder, derived)
    return [
        f"{block.heading}: {wrong} ({block.text[:60]}…)"
        for block in text.blocks(readme)
        if block.heading not in ELSEWHERE
        for wrong in text.wrong(block, cells)
    ]


def main() -> int:
    derived = claims(FIGURES)
    tables.write(FIGURES / CLAIMS, derived)
    (FIGURES / "index.md").write_text(index.drawn(FIGURES))
    found = problems((ROOT / "README.md").read_text(), FIGURES, derived)
    print(*found, sep="\n" if found else "")
    print(f"wrote {FIGURES / CLAIMS} {FIGURES / 'index.md'}")
    return 1 if found else 0


if __name__ == "__main__":
    with endings.streams():
        code = main()
    sys.exit(code)
