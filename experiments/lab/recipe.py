"""The paper's recipe for ResNet-18 (Appendix A) and its settings, shared by the experiments that train it."""

from typing import Any

from experiments.lab.presets import Family, spec
from wsn.data import sources
from wsn.data.large_images import STREAMS
from wsn.spec import Spec

DECAY_EPOCHS, PAPER_EPOCHS = (50, 120, 200), 300
IMAGENET = "imagenet2012"

# Settings of presets: minutes on digits, a day on two cores, and as in Appendix A.
QUICK: dict[str, Any] = dict(
    dataset="digits", base_width=2, widths=(2, 3, 4), batch_size=100, epochs=8, seeds=2
)
# Appendix A with a cosine over a tenth of the epochs; with its steps cut as short, the last two would be too brief.
SHORT: dict[str, Any] = dict(
    dataset="cifar100",
    base_width=8,
    widths=(8, 12, 18, 27, 40, 64),
    batch_size=128,
    schedule="cosine",
    epochs=30,
    seeds=2,
)
RETIRED = {
    "small": "give `preset=short`, or for its records `preset=paper` with `train_samples=10000`, `epochs=20`,"
    " and the same widths and seeds"
}
PAPER: dict[str, Any] = dict(
    dataset="cifar100",
    base_width=8,
    base_widths=(8, 12, 18),
    widths=(8, 12, 18, 27, 40, 60, 91),
    batch_size=128,
    epochs=PAPER_EPOCHS,
    seeds=3,
)


def template(preset: Family) -> Spec:
    """ResNet-18 by the recipe of Appendix A, its decay epochs in proportion to the number of epochs."""
    (*_, channels), _ = sources.image_shape_and_classes(preset.dataset)
    color = channels == 3
    if preset.dataset == IMAGENET:
        settings: dict[str, Any] = {"weight_decay": 1e-4, "schedule": "cosine"}
    else:
        steps = tuple(round(epoch * preset.epochs / PAPER_EPOCHS) for epoch in DECAY_EPOCHS)
        settings = {"weight_decay": 5e-4, "schedule": "steps", "decay_epochs": steps}
    return spec(
        preset,
        model="resnet18",
        normalization="imagenet" if color else "scalar",
        # Crops of streamed images are drawn when they are decoded.
        augmentation="crop_flip" if color and preset.dataset not in STREAMS else "none",
        learning_rate=0.1,
        momentum=0.9,
        **settings,
    )
