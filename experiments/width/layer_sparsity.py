"""Figures 4 and 10: sparsity of every layer by width, at a fixed number of weights; trains nothing.

    python -m experiments.layer_sparsity                             # no data, seconds

The defaults are Figure 10's: ResNet-18 with 100 classes and the 180,952 weights of base width 8. Figure 8's networks:

    python -m experiments.layer_sparsity --workdir=results/figure8_layers --model=mlp --num_classes=10 \\
        --distribution=dense_last --widths=8,32,128,216,328,512,635  # no data, seconds

Writes WORKDIR/layer_sparsity.csv (`width,layer,size,kept,sparsity_percent`) and WORKDIR/layer_sparsity.png:
the layers of one width before and after pruning as in Figure 4, and the sparsity of every layer at every
width as in Figure 10.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab import launch, output, presets
from experiments.lab.flags import Command
from experiments.lab.launch import Output
from wsn.errors import choose
from wsn.networks import models
from wsn.sparsity import family
from wsn.sparsity.budget import DISTRIBUTIONS
from wsn.sparsity.shapes import Shapes, sizes
from wsn.spec import WIDEST, Spec, check_bounds, setting

EXPERIMENT = "layer_sparsity"
COLUMNS = ["width", "layer", "size", "kept", "sparsity_percent"]
IMAGES = {"resnet18": (32, 32, 3), "mlp": (28, 28, 1)}  # CIFAR and MNIST


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A family of networks. The defaults are Figure 10's."""

    model: str = presets.of_spec("model", "resnet18")
    base_width: int = setting(
        "Width of the dense network whose weights are the budget.", 8, least=1, most=WIDEST
    )
    widths: tuple[int, ...] = setting(
        "Widths, comma-separated, none below the base width.",
        (8, 12, 18, 27, 40, 60, 91),
        least=1,
        most=WIDEST,
        some=True,
    )
    num_classes: int = setting("Number of classes.", 100, least=1, most=WIDEST)
    distribution: str = setting(f"Budget over layers: {' or '.join(DISTRIBUTIONS)}.", "largest_first")
    mask: str = presets.of_spec("mask", "elementwise")

    def __post_init__(self) -> None:
        check_bounds(self)


# The figure.

PANELS_PER_ROW = 7
KEPT, REMOVED, OURS, PAPER = "#2f6397", "#f1cf95", "#333333", "#b5482f"
# Golubeva et al., ICLR 2021, Figure 10: percent above the panels, and beside the legible bars, from top to bottom.
PAPER_TOTALS = {18: 79.84, 27: 90.99, 40: 95.88, 60: 98.16, 91: 99.20}
PAPER_LAYERS = {
    18: (45.5, 72.8, 72.8, 72.8, 86.4, 93.2, 93.2, 93.2, 11.8),
    27: (20.1, 60.1, 60.1, 60.1, 80.0, 90.0, 90.0, 90.0, 95.0, 97.5, 55.1, 97.5, 97.5, 51.5),
    60: (
        *(72.0, 72.0, 72.0, 72.0, 86.0, 93.0, 93.0, 93.0, 96.5, 98.3, 68.5, 98.3, 98.3),
        *(99.1, 99.6, 92.1, 99.6, 99.6, 81.1),
    ),
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

    @property
    def printed(self) -> dict[str, float]:
        """Layer → percent that Figure 10 prints for it."""
        cut = [layer for layer in self.size if self.kept[layer] < self.size[layer]]
        return dict(zip(cut, PAPER_LAYERS.get(self.width, ()), strict=self.width in PAPER_LAYERS))


def table(members: Sequence[Member], paper: bool) -> list[dict[str, str]]:
    """Sparsity in percent, a line per layer and a column per width; with `paper` the paper's value in parentheses."""

    def cell(ours: float, theirs: float | None, digits: int) -> str:
        return f"{ours:.{digits}f}" + ("" if theirs is None else f" ({theirs:.{digits}f})")

    printed = {m.width: m.printed if paper else {} for m in members}
    lines = [
        {"layer": layer}
        | {f"width {m.width}": cell(m.sparsity(layer), printed[m.width].get(layer), 1) for m in members}
        for layer in members[0].size
    ]
    printed_totals = PAPER_TOTALS if paper else {}
    totals = {f"width {m.width}": cell(m.total_sparsity, printed_totals.get(m.width), 2) for m in members}
    return [*lines, {"layer": "total"} | totals]


def draw(members: Sequence[Member], title: str, paper: bool) -> Figure:
    """Figure 4 above the panels of Figure 10, with `paper` with its printed numbers."""
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
        _draw_panel(ax, member, paper)
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


def _draw_panel(ax: Axes, member: Member, paper: bool) -> None:
    layers, printed = list(member.size), member.printed if paper else {}
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
    total = f" (paper {PAPER_TOTALS[member.width]:.2f})" if paper and member.width in PAPER_TOTALS else ""
    sparsity = f"sparsity {member.total_sparsity:.2f} %" if member.total_sparsity else "dense"
    ax.set_title(f"width {member.width}\n{sparsity}{total}", fontsize=8.5, loc="left", pad=16)
    ax.set(xlim=(0, 149), ylim=(len(layers) - 0.4, -0.6), xticks=[0, 50, 100])
    ax.set_xlabel("sparsity (%)", fontsize=8, loc="left")
    ax.tick_params(labelsize=7.5, length=0)
    ax.spines[:].set_visible(False)


def shapes(settings: Settings, width: int) -> Shapes:
    """The kernels of the dense network of a width."""
    image = choose(IMAGES, "model", settings.model)
    return models.plain_shapes(template(settings, width), image, settings.num_classes)


def template(settings: Settings, width: int) -> Spec:
    """The dense network of a width; it is not trained."""
    untrained: dict[str, Any] = {"dataset": "none", "epochs": 1, "batch_size": 1, "learning_rate": 1.0}
    return Spec(model=settings.model, width=width, mask=settings.mask, **untrained)


def members(settings: Settings) -> list[Member]:
    """Networks of the given widths with the weight count of the dense one of base width.

    Mask patterns other than elementwise may fall short of the budget by a few weights. Raises UserError.
    """
    base, of_width = settings.base_width, partial(shapes, settings)
    specs = family.sparse(template(settings, base), base, settings.widths, of_width, settings.distribution)
    layers = [sizes(shapes(settings, spec.width)) for spec in specs]
    return [Member(s.width, size, dict(s.kept) or size) for s, size in zip(specs, layers, strict=True)]


def rows(members: Sequence[Member]) -> list[dict]:
    """A row per width and layer."""
    return [
        dict(zip(COLUMNS, (m.width, layer, m.size[layer], m.kept[layer], m.sparsity(layer)), strict=True))
        for m in members
        for layer in m.size
    ]


def main(settings: Settings, run: Output) -> None:
    networks = members(settings)
    paper = settings == Settings(widths=settings.widths)
    cells = table(networks, paper)
    output.print_table(cells, list(cells[0]))
    kept = family.weights(shapes(settings, settings.base_width))
    for member in networks:
        if unused := kept - sum(member.kept.values()):
            print(
                f"width {member.width}: {unused} weights of the budget are unused: fewer than a whole kernel"
            )
    classes, distribution = settings.num_classes, settings.distribution
    title = f"{settings.model}, {classes} classes, {kept:,} weights each, {distribution}"
    launch.publish(run, EXPERIMENT, rows(networks), COLUMNS, draw(networks, title, paper))


COMMAND = Command(main, {"default": Settings()}, Output(f"results/{EXPERIMENT}"))

if __name__ == "__main__":
    launch.run(COMMAND)
