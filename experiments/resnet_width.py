"""Accuracy over width at a fixed number of weights, ResNet-18: sparse networks, and dense ones of the same widths.

python -m experiments.resnet_width                                        # digits
python -m experiments.resnet_width --preset=small --dataset=cifar100      # about an hour on 2 cores
python -m experiments.resnet_width --preset=paper --dataset=cifar100      # Figures 1, 6, 11 to 14: a GPU
"""

import dataclasses

from absl import flags

from experiments import cli
from wsn import family
from wsn.spec import Spec

EXPERIMENT = "resnet_width"
DECAY_EPOCHS, PAPER_EPOCHS = (50, 120, 200), 300  # Appendix A


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(cli.Preset):
    """`seeds` of every sparse network, `dense_seeds` of every dense one that is wider than the base."""

    dense_seeds: int


PRESETS = {
    "quick": Preset(
        dataset="digits",
        base_width=2,
        widths=(2, 3, 4),
        train_samples=None,
        batch_size=100,
        epochs=8,
        seeds=2,
        dense_seeds=1,
    ),
    "small": Preset(
        dataset="cifar100",
        base_width=8,
        widths=(8, 12, 18),
        train_samples=10000,
        batch_size=128,
        epochs=20,
        seeds=2,
        dense_seeds=1,
    ),
    "paper": Preset(
        dataset="cifar100",
        base_width=8,
        widths=(8, 12, 18, 27, 40, 60, 91),
        train_samples=None,
        batch_size=128,
        epochs=PAPER_EPOCHS,
        seeds=3,
        dense_seeds=3,
    ),
}


def template(preset: Preset) -> Spec:
    """ResNet-18 by the recipe of Appendix A, its steps stretched to the number of epochs."""
    colour = cli.dataset(preset.dataset).train_images.shape[-1] == 3
    settings = cli.settings()
    if not cli.FLAGS["normalization"].present and colour:
        settings["normalization"] = "imagenet"
    return Spec(
        dataset=preset.dataset,
        train_samples=preset.train_samples,
        model="resnet18",
        width=preset.base_width,
        augmentation="crop_flip" if colour else "none",
        epochs=preset.epochs,
        batch_size=preset.batch_size,
        learning_rate=cli.FLAGS.learning_rate or 0.1,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="steps",
        decay_epochs=tuple(round(epoch * preset.epochs / PAPER_EPOCHS) for epoch in DECAY_EPOCHS),
        **settings,
    )


def networks(preset: Preset) -> dict[str, list[Spec]]:
    """Kind → a spec per width; at the base width both kinds are the same network."""
    base = template(preset)
    shapes = cli.shapes_of(base)
    return {
        "sparse": family.sparse(base, preset.base_width, preset.widths, shapes, "largest_first"),
        "dense": family.dense(base, preset.widths),
    }


def main() -> None:
    preset = cli.choose(PRESETS)
    specs = networks(preset)
    results = cli.train([[spec] for spec in specs["sparse"]], preset.seeds)
    wider = [spec for spec in specs["dense"] if spec not in specs["sparse"]]
    if results is None or (dense := cli.train([[spec] for spec in wider], preset.dense_seeds)) is None:
        return
    for r in results + dense:
        print(r.spec.width, bool(r.spec.kept), r.seed, r.curves["test_accuracy"])


if __name__ == "__main__":
    cli.define_output_flags(EXPERIMENT)
    cli.define_training_flags(PRESETS, "quick")
    flags.DEFINE_integer("dense_seeds", None, "How many seeds of every dense network wider than the base.")
    cli.run(main)
