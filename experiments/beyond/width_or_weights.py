"""Does width itself make training faster? Halting times with growing and with fixed weights, by learning-rate rule.

    python -m experiments.width_or_weights  # MLPs on digits, two minutes on 2 cores
    python -m experiments.width_or_weights --preset=small  # MLPs on MNIST, half an hour
    python -m experiments.width_or_weights --preset=text  # highway networks on tiny_shakespeare, an hour or two
    python -m experiments.width_or_weights --preset=lstm  # LSTMs on tiny_shakespeare, hours (estimated)
    python -m experiments.width_or_weights --preset=transformer  # transformers on tiny_shakespeare, hours (estimated)
    python -m experiments.width_or_weights --preset=resnet  # ResNet-18 on a part of CIFAR-10, hours
    python -m experiments.width_or_weights --preset=paper --data_dir=FOLDER_OF_TEXT  # a folder of text, a GPU

The convergence paper lets width and weights grow together at one learning rate and finds shorter training; the first
paper fixes the weights. This experiment does both: dense networks, and families with a fixed number of weights. There
are three arms: one learning rate for all as in the paper, learning rate ∝ 1 / effective fan-in, and a rate tuned by the
validation loss after a few epochs. Three hypotheses predict different signs: the number of weights, the width or the
effective rate sets the speed; in the last case the steps to a common loss are a function of learning rate × trace of
the tangent kernel. T = distance × tortuosity ÷ step splits each time into factors.
Writes WORKDIR/width_or_weights.csv, a row per network and arm, WORKDIR/width_or_weights.png, learning_rates.csv, and
width_or_weights_claims.csv: exponents with intervals, and which hypotheses they agree with.
"""

import dataclasses

from experiments.beyond import width, width_figure, width_verdict
from experiments.beyond.width import Preset
from experiments.convergence import path, study
from experiments.lab import families, launch, output
from experiments.lab.flags import Command
from experiments.lab.launch import Run

EXPERIMENT = "width_or_weights"
COLUMNS = [
    "arm",
    "base_width",
    *(key for key in study.KEYS if key not in ("depth", "fraction")),
    "rate_trace",
    "seeds",
    "censored",
    "steps_mean",
    "steps_std",
    "common_steps_mean",
    "common_steps_far_mean",
    "epochs_mean",
    "best_validation_loss_mean",
    "best_validation_loss_std",
    *(f"{name}_{moment}" for name in path.FACTORS for moment in ("mean", "std")),
]
MLP = Preset(
    dataset="digits",
    model="mlp",
    task="classification",
    widths=(8, 16, 32, 64),
    base_widths=(8, 16),
    rate_width=16,
    train_samples=500,
    validation_samples=700,
    batch_size=50,
    learning_rate=0.2,
    eval_every=6,
    epochs=400,
    tuning_epochs=10,
    seeds=3,
)
TEXT = Preset(
    dataset="tiny_shakespeare",
    task="characters",
    depth=2,
    widths=(12, 24, 48, 96),
    base_widths=(12, 24),
    sparsify=("embedding", "hidden", "softmax"),
    rate_width=24,
    train_samples=100_000,
    validation_samples=32_000,
    sequence=32,
    batch_size=32,
    learning_rate=0.8,
    eval_every=50,
    epochs=300,
    tuning_epochs=5,
    seeds=5,
)
PRESETS = {
    "quick": MLP,
    # Network and samples of Figure 8 of the first paper.
    "small": dataclasses.replace(
        MLP,
        dataset="mnist",
        widths=(8, 16, 32, 64, 128, 256, 512),
        base_widths=(8, 32),
        rate_width=32,
        train_samples=2048,
        validation_samples=4096,
        batch_size=256,
        learning_rate=0.1,
        eval_every=8,
        epochs=1500,
        tuning_epochs=10,
        seeds=5,
    ),
    "text": TEXT,
    "lstm": dataclasses.replace(TEXT, model="lstm", depth=None, hidden_layers=1, learning_rate=4.0),
    # Two blocks, trained by AdamW. The weights of the blocks are fixed; embedding and softmax stay whole.
    "transformer": dataclasses.replace(
        TEXT,
        model="transformer",
        depth=None,
        hidden_layers=2,
        widths=(32, 64, 128, 256),
        base_widths=(32, 64),
        sparsify=(),
        counted="sparse",
        arms=("smup", "tuned"),
        rate_width=32,
        optimizer="adamw",
        learning_rate=0.004,
        train_samples=400_000,
        sequence=64,
        eval_every=100,
        epochs=60,
        tuning_epochs=2,
        seeds=3,
    ),
    "resnet": dataclasses.replace(
        MLP,
        dataset="cifar10",
        model="resnet18",
        hidden_layers=None,
        widths=(4, 8, 16),
        base_widths=(4, 8),
        rate_width=8,
        train_samples=2048,
        validation_samples=1024,
        batch_size=128,
        learning_rate=0.1,
        eval_every=8,
        epochs=60,
        tuning_epochs=2,
    ),
    # The convergence paper's language model and text, with the budgets of its two narrowest networks.
    "paper": dataclasses.replace(
        TEXT,
        dataset="text",
        depth=10,
        gate_bias=-2.0,
        widths=(185, 229, 319, 394, 472, 560, 764),
        base_widths=(185, 229),
        rate_width=185,
        train_samples=None,
        validation_samples=400_000,
        sequence=150,
        batch_size=128,
        eval_every=500,
        epochs=100,
        tuning_epochs=2,
    ),
}


def main(preset: Preset, run: Run) -> None:
    untuned = width.networks(preset, run)
    networks = width.in_arms(preset, untuned, width.tune(preset, untuned, run, EXPERIMENT))
    results = families.collect(networks, run, EXPERIMENT)
    if results is None:
        return
    curves = width.curves(networks, results, run)
    steps = {n.spec: study.steps_of_epoch(run.source_of(n.spec), n.spec) for n in networks}
    rows = list(width.rows(curves, steps))
    output.print_table(rows, COLUMNS)
    claims = list(width_verdict.claims(curves))
    written = (
        output.write_table(run.folder, EXPERIMENT, rows, COLUMNS),
        output.write_table(run.folder, f"{EXPERIMENT}_claims", claims, width_verdict.CLAIMS),
        output.write_figure(
            run.folder, EXPERIMENT, width_figure.draw(curves, study.caption(preset, run)), width_figure.PLOT
        ),
    )
    for line in (*width_verdict.exponents(claims), *width_verdict.hypotheses(claims)):
        print(line)
    print(width_verdict.rate_trace_fit(claims))
    print(width_verdict.exclusions(curves))
    launch.wrote(run, *written)


COMMAND = Command(main, PRESETS, Run(f"results/{EXPERIMENT}"), width.template)

if __name__ == "__main__":
    launch.run(COMMAND)
