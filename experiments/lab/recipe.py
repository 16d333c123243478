"""The paper's recipe for ResNet-18 (Appendix A), shared by the experiments that train it."""

from experiments.lab import cli
from wsn.spec import Spec

DECAY_EPOCHS, PAPER_EPOCHS = (50, 120, 200), 300
IMAGENET = "imagenet2012"


def template(preset: cli.Preset) -> Spec:
    """ResNet-18 by the recipe of Appendix A, its steps stretched to the number of epochs."""
    (*_, channels), _ = cli.image_of(preset.dataset)
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
