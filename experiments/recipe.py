"""The paper's recipe for ResNet-18 (Appendix A), shared by the experiments that train it."""

from collections.abc import Callable

from experiments import cli
from wsn.resnet import LARGE_IMAGE
from wsn.shapes import Shapes, resnet18_shapes
from wsn.spec import Spec

DECAY_EPOCHS, PAPER_EPOCHS = (50, 120, 200), 300
IMAGENET = "imagenet2012"
IMAGENET_INPUTS = ((224, 224, 3), 1000)  # so that its records can be drawn where its images are not


def inputs(dataset: str) -> tuple[tuple[int, ...], int]:
    """Shape of an image (height, width, channels), and number of classes."""
    if dataset == IMAGENET:
        return IMAGENET_INPUTS
    loaded = cli.dataset(dataset)
    return loaded.train_images.shape[1:], loaded.classes


def shapes_of(dataset: str) -> Callable[[int], Shapes]:
    """Width → kernel shapes of ResNet-18 on a data set."""
    (*sides, channels), classes = inputs(dataset)
    stem = 7 if max(sides) >= LARGE_IMAGE else 3
    return lambda width: resnet18_shapes(width, classes, stem, channels)


def template(preset: cli.Preset) -> Spec:
    """ResNet-18 by the recipe of Appendix A, its steps stretched to the number of epochs."""
    (*_, channels), _ = inputs(preset.dataset)
    colour = channels == 3
    settings = cli.settings()
    if not cli.FLAGS["normalization"].present and colour:
        settings["normalization"] = "imagenet"
    if preset.dataset == IMAGENET:
        settings |= {"weight_decay": 1e-4, "schedule": "cosine"}
    else:
        steps = tuple(round(epoch * preset.epochs / PAPER_EPOCHS) for epoch in DECAY_EPOCHS)
        settings |= {"weight_decay": 5e-4, "schedule": "steps", "decay_epochs": steps}
    return Spec(
        dataset=preset.dataset,
        train_samples=preset.train_samples,
        model="resnet18",
        width=preset.base_width,
        # The crops of ImageNet are drawn while its images are decoded.
        augmentation="crop_flip" if colour and preset.dataset != IMAGENET else "none",
        epochs=preset.epochs,
        batch_size=preset.batch_size,
        learning_rate=cli.FLAGS.learning_rate or 0.1,
        momentum=0.9,
        **settings,
    )
