"""Figures 4 and 10: sparsity of every layer by width, at a fixed number of weights; trains nothing.

    python -m experiments.layer_sparsity                             # no data, seconds

The defaults are Figure 10's: ResNet-18 with 100 classes and the 180,952 weights of base width 8. Expect total
sparsities of 79.84, 90.99, 95.88, 98.16 and 99.20 % at widths 18, 27, 40, 60 and 91, as printed in the paper.
Figure 8's networks:

    python -m experiments.layer_sparsity --workdir=results/figure8_layers --model=mlp --num_classes=10 \\
        --distribution=dense_last --widths=8,32,128,216,328,512,635  # no data, seconds

Writes WORKDIR/layer_sparsity.csv (`width,layer,size,kept,sparsity_percent`) and WORKDIR/layer_sparsity.png:
the layers of one width before and after pruning as in Figure 4, and the sparsity of every layer at every
width as in Figure 10.
"""

import dataclasses
from collections.abc import Sequence

from experiments.lab import launch, output, presets
from experiments.lab.flags import Command
from experiments.lab.launch import Output
from experiments.width import figure10
from experiments.width.figure10 import Member, Printed
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


def shapes(settings: Settings, width: int) -> Shapes:
    """The kernels of the dense network of a width."""
    image = choose(IMAGES, "model", settings.model)
    return models.plain_shapes(template(settings, width), image, settings.num_classes)


def template(settings: Settings, width: int) -> Spec:
    """The dense network of a width; it is not trained."""
    return Spec(
        dataset="none",
        model=settings.model,
        width=width,
        mask=settings.mask,
        epochs=1,
        batch_size=1,
        learning_rate=1.0,
    )


def members(settings: Settings) -> list[Member]:
    """Networks of the given widths with the weight count of the dense one of base width.

    Mask patterns other than elementwise may fall short of the budget by a few weights. Raises UserError.
    """
    base = settings.base_width
    specs = family.sparse(
        template(settings, base),
        base,
        settings.widths,
        lambda width: shapes(settings, width),
        settings.distribution,
    )
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
    of_paper = settings == Settings(widths=settings.widths)
    paper = Printed(figure10.PAPER_TOTALS, figure10.paper_layers()) if of_paper else Printed()
    print(figure10.table(networks, paper))
    kept = family.weights(shapes(settings, settings.base_width))
    for member in networks:
        if missing := kept - sum(member.kept.values()):
            print(
                f"width {member.width}: {missing} weights of the budget are unused: fewer than a whole kernel"
            )
    title = (
        f"{settings.model}, {settings.num_classes} classes, {kept:,} weights each, {settings.distribution}"
    )
    written = (
        output.write_table(run.folder, EXPERIMENT, rows(networks), COLUMNS),
        output.write_figure(run.folder, EXPERIMENT, figure10.draw(networks, title, paper)),
    )
    launch.wrote(run, *written)


COMMAND = Command(main, {"default": Settings()}, Output(f"results/{EXPERIMENT}"))

if __name__ == "__main__":
    launch.run(COMMAND)
