"""Sources that lie on the device whole: training subset, held-out examples, test split of an image set.

In: a `Dataset`, sample counts, a seed, a normalisation. Out: `Splits`, whose feed cuts them into batches.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int32, UInt8

from wsn.data import feeds
from wsn.data.batches import (
    AUGMENTATIONS,
    Batch,
    Examples,
    image_batch_shapes,
    make_augmented_batch,
    make_batch,
)
from wsn.data.feeds import Feed, SplitView, evaluation_batch_size
from wsn.data.images import Dataset, permutation
from wsn.data.normalization import normalize, statistics
from wsn.devices import Placement
from wsn.errors import UserError, choose
from wsn.spec import Data, Group, Spec

ORDERS = ("shared", "seed")  # all members see the batches of data_seed, or each those of its own seed


@dataclasses.dataclass(frozen=True)
class Splits:
    """What training sees: raw uint8 images, and the statistics of the full training split.

    `mean` and `deviation` broadcast against an image: 1×1×1 (scalar), 1×1×c (channel) or h×w×c (pixel).
    """

    train_images: UInt8[np.ndarray, "train height width channels"]
    train_labels: Int32[np.ndarray, " train"]
    validation_images: UInt8[np.ndarray, "validation height width channels"]
    validation_labels: Int32[np.ndarray, " validation"]
    test_images: UInt8[np.ndarray, "test height width channels"]
    test_labels: Int32[np.ndarray, " test"]
    mean: Float32[np.ndarray, "#height #width #channels"]
    deviation: Float32[np.ndarray, "#height #width #channels"]
    classes: int

    streamed: ClassVar[bool] = False

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""
        return self.train_images.shape[1:]

    def batch_shapes(self, size: int) -> Batch:
        """The shapes of a batch."""
        return image_batch_shapes(size, self.input_shape)

    def num_examples(self, data: Data) -> tuple[int, int]:
        """How many examples train and are evaluated."""
        return len(self.train_labels), len(
            self.validation_labels if data.validation_samples else self.test_labels
        )

    def held_out_lanes(self, spec: Spec) -> int:
        """How many images are evaluated at once."""
        return min(evaluation_batch_size(spec.width), self.num_examples(spec)[1])

    def nbytes(self, spec: Spec) -> int:
        """What lies on the device: images in float32, in bytes where they are augmented, and labels."""
        train, held_out = self.num_examples(spec)
        values = math.prod(self.input_shape)
        raw = AUGMENTATIONS[spec.augmentation] is not None
        return train * (values * (1 if raw else 4) + 4) + held_out * (4 * values + 4)

    def feed(self, group: Group, placement: Placement) -> Feed:
        """The batches of a group."""
        return resident(self, group, placement)


def split(
    dataset: Dataset,
    *,
    train_samples: int | None,
    validation_samples: int,
    data_seed: int,
    normalization: str,
) -> Splits:
    """Draws the training subset and holds out validation.

    `permutation(n, data_seed)` orders the training split. Its first `train_samples` are the subset, its last
    `validation_samples` are validation: the two never meet, and the subset is the same whatever is held out.
    `train_samples=None` takes all that is not validation.

    Raises:
      UserError: counts that do not fit the data set, a negative seed, an unknown normalisation.
    """
    size = len(dataset.train_labels)
    if not 0 <= validation_samples < size:
        raise UserError(f"`validation_samples={validation_samples}`: choose 0 to {size - 1}")
    available = size - validation_samples
    if train_samples is None:
        train_samples = available
    if not 1 <= train_samples <= available:
        raise UserError(
            f"`train_samples={train_samples}`: choose 1 to {available} "
            f"({size} training images, {validation_samples} of them held out for validation)"
        )
    if data_seed < 0:
        raise UserError(f"`data_seed={data_seed}`: choose a seed of 0 or more")
    order = permutation(size, data_seed)
    train, validation = order[:train_samples], order[available:]
    mean, deviation = statistics(dataset.train_images, normalization)
    return Splits(
        dataset.train_images[train],
        dataset.train_labels[train],
        dataset.train_images[validation],
        dataset.train_labels[validation],
        dataset.test_images,
        dataset.test_labels,
        mean,
        deviation,
        dataset.classes,
    )


def on_device(splits: Splits, held_out: str, *, raw: bool) -> tuple[Examples, Examples]:
    """The training split (as it is where `raw`) and the one to evaluate, normalised to float32."""

    def examples(images: np.ndarray, labels: np.ndarray, raw: bool) -> Examples:
        images = np.ascontiguousarray(images)
        inputs = jnp.asarray(images) if raw else jax.jit(normalize)(images, splits.mean, splits.deviation)
        return Examples(inputs, jnp.asarray(labels, jnp.int32))

    return (
        examples(splits.train_images, splits.train_labels, raw),
        examples(getattr(splits, f"{held_out}_images"), getattr(splits, f"{held_out}_labels"), False),
    )


def resident(splits: Splits, group: Group, placement: Placement) -> Feed:
    """Everything on the device, raw where it is augmented."""
    spec = group.specs[0]
    augment = choose(AUGMENTATIONS, "augmentation", spec.augmentation)
    held_out = "validation" if spec.validation_samples else "test"
    train, test = on_device(splits, held_out, raw=augment is not None)
    make_training_batch = (
        make_augmented_batch(augment, splits.mean, splits.deviation) if augment else make_batch
    )
    return feeds.resident(
        group,
        placement,
        SplitView(len(train.labels), train, make_training_batch),
        SplitView(len(test.labels), test, make_batch),
        splits.held_out_lanes(spec),
        noisy=augment is not None,
    )
