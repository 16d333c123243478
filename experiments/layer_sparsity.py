"""Layer-wise sparsity by width at a fixed number of weights (Figures 4 and 10). Seconds; trains nothing.

    python -m experiments.layer_sparsity

The defaults are Figure 10's: ResNet-18 with 100 classes and the 180,952 weights of base width 8. Expect total
sparsities of 79.84, 90.99, 95.88, 98.16 and 99.20 % at widths 18, 27, 40, 60 and 91, as printed in the paper.
Figure 8's networks:

    python -m experiments.layer_sparsity --workdir=results/figure8_layers --model=mlp --num_classes=10 \\
        --distribution=dense_last --widths=8,32,128,216,328,512,635

Writes WORKDIR/layer_sparsity.csv (`width,layer,size,kept,sparsity_percent`) and WORKDIR/layer_sparsity.png:
the layers of one width before and after the cut as in Figure 4, and the sparsity of every layer at every
width as in Figure 10.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab import cli
from wsn.errors import UserError
from wsn.sparsity.budget import kept_counts
from wsn.sparsity.family import check_widths, weights
from wsn.sparsity.patterns import rounded
from wsn.sparsity.shapes import Shapes, mlp_shapes, resnet18_shapes, sizes

EXPERIMENT = "layer_sparsity"
COLUMNS = ["width", "layer", "size", "kept", "sparsity_percent"]
MNIST_PIXELS = 784
PANELS_PER_ROW = 7
KEPT, REMOVED, OURS, PAPER = "#2f6397", "#f1cf95", "#333333", "#b5482f"

# Model name -> (width, classes) -> shapes.
MODELS: dict[str, Callable[[int, int], Shapes]] = {
    "resnet18": resnet18_shapes,
    "mlp": lambda width, classes: mlp_shapes(MNIST_PIXELS, [width], classes),
}

# Golubeva et al., ICLR 2021, Figure 10: percent above the panels and beside the bars where legible.
PAPER_SETTING = ("resnet18", 8, 100, "largest_first", "elementwise")
PAPER_TOTALS = {18: 79.84, 27: 90.99, 40: 95.88, 60: 98.16, 91: 99.20}
_PAPER_TABLE = """
    layer                  18    27    60
    layer1.0.conv1          -     -  72.0
    layer1.0.conv2          -     -  72.0
    layer1.1.conv1          -     -  72.0
    layer1.1.conv2          -     -  72.0
    layer2.0.conv1          -  20.1  86.0
    layer2.0.conv2          -  60.1  93.0
    layer2.1.conv1          -  60.1  93.0
    layer2.1.conv2          -  60.1  93.0
    layer3.0.conv1       45.5  80.0  96.5
    layer3.0.conv2       72.8  90.0  98.3
    layer3.0.shortcut.0     -     -  68.5
    layer3.1.conv1       72.8  90.0  98.3
    layer3.1.conv2       72.8  90.0  98.3
    layer4.0.conv1       86.4  95.0  99.1
    layer4.0.conv2       93.2  97.5  99.6
    layer4.0.shortcut.0     -  55.1  92.1
    layer4.1.conv1       93.2  97.5  99.6
    layer4.1.conv2       93.2  97.5  99.6
    linear               11.8  51.5  81.1
"""


def paper_layers() -> dict[int, dict[str, float]]:
    """Width -> layer -> sparsity in percent, where Figure 10 prints it."""
    (_, *widths), *rows = (line.split() for line in _PAPER_TABLE.strip().splitlines())
    return {
        int(width): {row[0]: float(row[column]) for row in rows if row[column] != "-"}
        for column, width in enumerate(widths, start=1)
    }


class Member(NamedTuple):
    """One network of the family: its width, and size and kept count by layer."""

    width: int
    size: dict[str, int]
    kept: dict[str, int]

    def sparsity(self, layer: str) -> float:
        """Percent of the layer's weights that are removed."""
        return 100 * (self.size[layer] - self.kept[layer]) / self.size[layer]

    @property
    def total_sparsity(self) -> float:
        """Percent of the network's weights that are removed."""
        size = sum(self.size.values())
        return 100 * (size - sum(self.kept.values())) / size


def family(
    model: str,
    base_width: int,
    widths: Sequence[int],
    classes: int,
    distribution: str,
    mask: str = "elementwise",
) -> list[Member]:
    """Networks of the given widths, each with as many weights as the dense one of `base_width`.

    `mask="io"` keeps whole kernels (Appendix C), so that a few weights of the budget may find no place.
    """
    if model not in MODELS:
        raise UserError(f"--model: {model!r} is unknown; choose from {', '.join(MODELS)}")
    if base_width < 1:
        raise UserError(f"--base_width: {base_width} is not positive")
    if classes < 1:
        raise UserError(f"--num_classes: {classes} is not positive")
    if not widths:
        raise UserError("--widths: give at least one width")
    check_widths(base_width, widths)
    budget = weights(MODELS[model](base_width, classes))
    members = []
    for width in widths:
        shapes = MODELS[model](width, classes)
        kept = kept_counts(distribution, sizes(shapes), budget)
        kept = rounded(mask, kept, shapes)
        members.append(Member(width, sizes(shapes), kept))
    return members


def rows(members: Sequence[Member]) -> list[dict]:
    """A row per width and layer."""
    return [
        dict(zip(COLUMNS, (m.width, layer, m.size[layer], m.kept[layer], m.sparsity(layer)), strict=True))
        for m in members
        for layer in m.size
    ]


class Printed(NamedTuple):
    """What the paper prints, in percent: width -> total sparsity, and width -> layer -> sparsity."""

    totals: Mapping[int, float] = {}
    layers: Mapping[int, Mapping[str, float]] = {}


def table(members: Sequence[Member], paper: Printed) -> str:
    """Sparsity in percent, a line per layer and a column per width; the paper's value in parentheses."""

    def cell(ours: float, theirs: float | None, digits: int) -> str:
        in_parentheses = "" if theirs is None else f"({theirs:.{digits}f})"
        return f"{ours:7.{digits}f} {in_parentheses:7s}"

    def line(name: str, cells: list[str]) -> str:
        return f"{name:20s}" + "".join(cells).rstrip()

    lines = [line("width", [f"{m.width:7d} {'':7s}" for m in members])]
    for layer in members[0].size:
        cells = [cell(m.sparsity(layer), paper.layers.get(m.width, {}).get(layer), 1) for m in members]
        lines.append(line(layer, cells))
    lines.append(line("total", [cell(m.total_sparsity, paper.totals.get(m.width), 2) for m in members]))
    return "\n".join(lines)


def figure(members: Sequence[Member], title: str, paper: Printed) -> Figure:
    """Figure 4's illustration above Figure 10's panels; the paper's printed numbers beside ours."""
    columns = min(len(members), PANELS_PER_ROW)
    rows = -(-len(members) // columns)
    layers = len(members[0].size)
    panel_height = 1.2 + 0.19 * layers
    fig = Figure(figsize=(max(7.0, 2.0 + 2.1 * columns), 3.6 + panel_height * rows), layout="constrained")
    heights = [3.6, panel_height * rows]
    top, bottom = fig.subfigures(2, 1, squeeze=False, height_ratios=heights).ravel()
    _draw_cut(top.subplots(), members[len(members) // 2])
    panels = bottom.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax, member in zip(panels, members, strict=False):
        _draw_panel(ax, member, paper.totals.get(member.width), paper.layers.get(member.width, {}))
    for ax in panels[len(members) :]:
        ax.set_axis_off()
    fig.suptitle(title, fontsize=11)
    return fig


def _draw_cut(ax: Axes, member: Member) -> None:
    layers = sorted(member.size, key=lambda layer: -member.size[layer])
    ax.bar(layers, [member.size[layer] for layer in layers], color=REMOVED, width=0.72, label="removed")
    ax.bar(layers, [member.kept[layer] for layer in layers], color=KEPT, width=0.72, label="kept")
    margin = max(0.3, 4 - len(layers) / 2)
    ax.set(yscale="log", ylabel="weights", xlim=(-0.5 - margin, len(layers) - 0.5 + margin))
    ax.set_ylim(bottom=min(member.kept.values()) / 2)
    ax.set_title(
        f"width {member.width}: layers before and after the cut, largest first (Figure 4)", fontsize=9
    )
    ax.tick_params(axis="x", labelsize=7.5, length=0)
    if len(layers) > 8:
        ax.tick_params(axis="x", rotation=40)
        for label in ax.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    ax.legend(frameon=False, ncols=2, loc="upper right", fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_panel(ax: Axes, member: Member, total: float | None, printed: Mapping[str, float]) -> None:
    layers = list(member.size)
    ax.barh(layers, [100.0] * len(layers), color=KEPT, height=0.72)
    ax.barh(layers, [member.sparsity(layer) for layer in layers], color=REMOVED, height=0.72)

    def write(column: float, row: float, text: str, colour: str) -> None:
        ax.text(column, row, text, ha="right", va="center", fontsize=7, color=colour)

    for row, layer in enumerate(layers):
        if member.kept[layer] < member.size[layer]:
            write(122, row, f"{member.sparsity(layer):.1f}", OURS)
        if layer in printed:
            write(148, row, f"{printed[layer]:.1f}", PAPER)
    if member.total_sparsity:
        write(122, -1.0, "ours", OURS)
    if printed:
        write(148, -1.0, "paper", PAPER)
    paper = "" if total is None else f" (paper {total:.2f})"
    sparsity = f"sparsity {member.total_sparsity:.2f} %" if member.total_sparsity else "dense"
    ax.set_title(f"width {member.width}\n{sparsity}{paper}", fontsize=8.5, loc="left", pad=16)
    ax.set(xlim=(0, 149), ylim=(len(layers) - 0.4, -0.6), xticks=[0, 50, 100])
    ax.set_xlabel("sparsity (%)", fontsize=8, loc="left")
    ax.tick_params(labelsize=7.5, length=0)
    ax.spines[:].set_visible(False)


def main() -> None:
    flag = cli.FLAGS
    setting = (flag.model, flag.base_width, flag.num_classes, flag.distribution, flag.mask)
    members = family(
        flag.model, flag.base_width, cli.integers("widths"), flag.num_classes, flag.distribution, flag.mask
    )
    paper = Printed(PAPER_TOTALS, paper_layers()) if setting == PAPER_SETTING else Printed()
    print(table(members, paper))
    kept = weights(MODELS[flag.model](flag.base_width, flag.num_classes))
    for member in members:
        if missing := kept - sum(member.kept.values()):
            print(
                f"width {member.width}: {missing} weights of the budget make no whole kernel and find no place"
            )
    title = f"{flag.model}, {flag.num_classes} classes, {kept:,} weights each, {flag.distribution}"
    written = (
        cli.write_table(EXPERIMENT, rows(members), COLUMNS),
        cli.write_figure(EXPERIMENT, figure(members, title, paper)),
    )
    print("wrote", *written)


if __name__ == "__main__":
    cli.define_output_flags(EXPERIMENT)
    flags.DEFINE_string("model", "resnet18", f"One of {', '.join(MODELS)}.")
    flags.DEFINE_integer("base_width", 8, "Width of the dense network whose weights are the budget.")
    flags.DEFINE_list("widths", "8,12,18,27,40,60,91", "Widths, comma-separated, none below the base width.")
    flags.DEFINE_integer("num_classes", 100, "Number of classes.")
    flags.DEFINE_string("distribution", "largest_first", "Budget over layers: largest_first or dense_last.")
    flags.DEFINE_enum("mask", "elementwise", ["elementwise", "io"], "Single weights, or whole k × k kernels.")
    cli.run(main)
