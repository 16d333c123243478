"""The paper's recipe for ResNet-18 (Appendix A), shared by the experiments that train it."""

from typing import Any

from experiments.lab.presets import Preset, spec
from wsn.data import sources
from wsn.spec import Spec

DECAY_EPOCHS, PAPER_EPOCHS = (50, 120, 200), 300
IMAGENET = "imagenet2012"


def template(preset: Preset) -> Spec:
    """ResNet-18 by the recipe of Appendix A, its steps stretched to the number of epochs."""
    (*_, channels), _ = sources.image_shape_and_classes(preset.dataset)
    colour = channels == 3
    if preset.dataset == IMAGENET:
        settings: dict[str, Any] = {"weight_decay": 1e-4, "schedule": "cosine"}
    else:
        settings = {"weight_decay": 5e-4, "schedule": "steps"}
        if preset.schedule in (None, "steps"):
            steps = tuple(round(epoch * preset.epochs / PAPER_EPOCHS) for epoch in DECAY_EPOCHS)
            settings["decay_epochs"] = steps
    return spec(
        preset,
        model="resnet18",
        normalization="imagenet" if colour else "scalar",
        # The crops of ImageNet are drawn while its images are decoded.
        augmentation="crop_flip" if colour and preset.dataset != IMAGENET else "none",
        learning_rate=0.1,
        momentum=0.9,
        **settings,
    )
