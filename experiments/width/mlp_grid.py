"""Figure 5: where to remove weights in an MLP with one hidden layer, by width and connectivity of the last layer.

    python -m experiments.mlp_grid  # digits, a minute on 2 cores
    python -m experiments.mlp_grid --preset=paper --dataset=mnist --epochs=30  # MNIST, about 25 minutes on 2 cores
    python -m experiments.mlp_grid --preset=paper --dataset=mnist  # MNIST, the paper's 300 epochs, 4 hours (estimated)

Every cell has the weight count of the dense network of base width (3970 in the paper); the last layer keeps the given
fraction of its weights, the first layer the rest of the budget. ReLU and linear activations, biases, PyTorch's
initialization, plain SGD. Cells that cannot meet the budget stay empty; a star marks the best cell. The cells of one
width train as one program. Writes WORKDIR/mlp_grid.csv, a row per cell, and WORKDIR/mlp_grid.png.
The paper's best cells: 96.3 % at widths 80 and 160 (ReLU), 92.7 % at width 40 (linear); baseline about 90 %.
"""

import dataclasses

from experiments.lab import families, launch, output, presets
from experiments.lab.families import Network
from experiments.lab.flags import Command
from experiments.lab.launch import Run
from experiments.width import figure5
from wsn.errors import UserError
from wsn.sparsity import budget, family
from wsn.sparsity.shapes import sizes
from wsn.spec import Spec, setting

EXPERIMENT = "mlp_grid"
COLUMNS = [
    "activation",
    "width",
    "last_connectivity",
    "connectivity",
    "weights",
    "seeds",
    "diverged",
    "epochs",
    "final_test_accuracy_mean",
    "final_test_accuracy_std",
    "best_test_accuracy_mean",
    "train_accuracy_mean",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(presets.Family):
    """Settings of the grid."""

    activations: tuple[str, ...] = setting("Panels to train.", ("relu", "linear"), choices=("relu", "linear"))
    last_connectivity: tuple[float, ...] = setting(
        "Rows of the grid, fractions in (0, 1].",
        (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1),
        above=0,
        most=1,
        some=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.last_connectivity)) < len(self.last_connectivity):
            raise UserError("`last_connectivity`: give different numbers in (0, 1], such as 1.0,0.5,0.1")


PRESETS = {
    "quick": Preset(
        dataset="digits",
        base_width=3,
        widths=(3, 6, 12, 24, 48),
        train_samples=None,
        batch_size=20,
        epochs=60,
        seeds=3,
    ),
    # Appendix A; the paper does not say over how many seeds it averages.
    "paper": Preset(
        dataset="mnist",
        base_width=5,
        widths=(5, 10, 20, 40, 80, 160, 320, 640),
        train_samples=None,
        batch_size=100,
        epochs=300,
        seeds=1,
    ),
}


def template(preset: Preset) -> Spec:
    """The network of base width; activation and kept counts are set later."""
    return presets.spec(preset, bias=True, learning_rate=0.1)


def networks(preset: Preset) -> list[Network]:
    """A network for every cell of the grid that can meet the budget. Raises UserError for a width where none can."""
    base = template(preset)
    shapes = families.shapes_of(base)
    family.check_widths(preset.base_width, preset.widths)
    total = family.weights(shapes(preset.base_width))
    planned = []
    for width in preset.widths:
        refusals = []
        for fraction in preset.last_connectivity:
            try:
                kept = budget.last_layer_fraction(sizes(shapes(width)), total, fraction)
            except UserError as refusal:
                refusals.append(refusal)
                continue
            spec = family.with_kept(base, width, kept, shapes(width))
            for activation in preset.activations:
                cell = {"activation": activation, "last_connectivity": fraction}
                of_cell = dataclasses.replace(spec, activation=activation)
                kind = "sparse" if spec.kept else "dense"
                planned.append(Network(preset.base_width, kind, of_cell, preset.seeds, cell))
        if len(refusals) == len(preset.last_connectivity):
            raise UserError(f"`widths={width}`: {refusals[-1]}")
    return planned


def main(preset: Preset, run: Run) -> None:
    planned = networks(preset)
    results = families.collect(
        planned, run, EXPERIMENT, together=lambda network: (network.spec.activation, network.spec.width)
    )
    if results is None:
        return
    rows = families.table(planned, results)
    output.print_table(rows, COLUMNS)
    figure = figure5.draw(rows, preset, preset.activations, preset.last_connectivity, PRESETS["paper"])
    written = (
        output.write_table(run.folder, EXPERIMENT, rows, COLUMNS),
        output.write_figure(run.folder, EXPERIMENT, figure, figure5.PLOT),
    )
    for activation in preset.activations:
        print(figure5.verdict(rows, activation))
    launch.wrote(run, *written)


COMMAND = Command(main, PRESETS, Run(f"results/{EXPERIMENT}"), template)

if __name__ == "__main__":
    launch.run(COMMAND)
