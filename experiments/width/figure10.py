"""Figures 4 and 10: the layers of one width dense and sparse, and their sparsity at every width."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

PANELS_PER_ROW = 7
KEPT, REMOVED, OURS, PAPER = "#2f6397", "#f1cf95", "#333333", "#b5482f"

# Golubeva et al., ICLR 2021, Figure 10: percent above the panels and beside the bars where legible.
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


class Printed(NamedTuple):
    """Numbers of the paper in percent: width -> total sparsity, and width -> layer -> sparsity."""

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


def draw(members: Sequence[Member], title: str, paper: Printed) -> Figure:
    """Figure 4 above the panels of Figure 10, with the paper's printed numbers."""
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
    ax.set_title(f"width {member.width}: weights of every layer, dense and sparse, largest first", fontsize=9)
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

    def write(column: float, row: float, text: str, color: str) -> None:
        ax.text(column, row, text, ha="right", va="center", fontsize=7, color=color)

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
