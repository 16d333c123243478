"""Image sets in memory: training subset, validation and test split of a `Dataset`, and the batches of them."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from wsn.data import feeds
from wsn.data.batches import (
    AUGMENTATIONS,
    Batch,
    Examples,
    image_batch_shapes,
    make_augmented_batch,
    make_batch,
)
from wsn.data.cache import Content
from wsn.data.checks import GivenCount, GivenImages, GivenLabels, Images, Labels, check_splits
from wsn.data.feeds import Feed, SplitView, evaluation_batch_size
from wsn.data.images import Dataset, permutation
from wsn.data.normalization import Statistic, normalize, statistics
from wsn.devices import Placement
from wsn.errors import UserError, choose
from wsn.spec import Data, Group, Spec

ORDERS = ("shared", "seed")  # all members see the batches of data_seed, or each those of its own seed


@dataclasses.dataclass(frozen=True)
class Splits(Content):
    """A `Source` of raw images; `mean` and `std` are statistics of the full training split (`wsn.data.statistics`)."""

    train_images: GivenImages
    train_labels: GivenLabels
    validation_images: GivenImages
    validation_labels: GivenLabels
    test_images: GivenImages
    test_labels: GivenLabels
    mean: Statistic
    std: Statistic
    classes: GivenCount

    streamed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_splits(self, ("train", "validation", "test"), may_be_empty=("validation",))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.train_images.shape[1:]

    def batch_shapes(self, size: int) -> Batch:
        return image_batch_shapes(size, self.input_shape)

    def num_examples(self, data: Data) -> tuple[int, int]:
        held_out = self.validation_labels if data.validation_samples else self.test_labels
        return len(self.train_labels), len(held_out)

    def held_out_lanes(self, spec: Spec) -> int:
        return min(evaluation_batch_size(spec.width), self.num_examples(spec)[1])

    def nbytes(self, spec: Spec) -> int:
        train, held_out = self.num_examples(spec)
        values = math.prod(self.input_shape)
        raw = AUGMENTATIONS[spec.augmentation] is not None
        bytes_of_value = self.train_images.itemsize if raw else 4
        return train * (values * bytes_of_value + 4) + held_out * (4 * values + 4)

    def feed(self, group: Group, placement: Placement, spread: bool = False) -> Feed:
        """Normalized images on the device; training images stay raw if they are augmented."""
        spec = group.specs[0]
        self._check(spec)
        augment = choose(AUGMENTATIONS, "augmentation", spec.augmentation)
        make_training_batch = make_augmented_batch(augment, self.mean, self.std) if augment else make_batch
        train = self._on_device(self.train_images, self.train_labels, raw=augment is not None)
        held_out = (
            self._on_device(self.validation_images, self.validation_labels)
            if spec.validation_samples
            else self._on_device(self.test_images, self.test_labels)
        )
        return feeds.in_memory(
            group,
            placement,
            SplitView(len(train.labels), train, make_training_batch),
            SplitView(len(held_out.labels), held_out, make_batch),
            self.held_out_lanes(spec),
            noisy=augment is not None,
            spread=spread,
        )

    def _check(self, spec: Spec) -> None:
        """Raises UserError if the spec asks for other numbers of examples than these splits have."""
        train, validation = len(self.train_labels), len(self.validation_labels)
        if spec.train_samples not in (None, train):
            raise UserError(
                f"`train_samples={spec.train_samples}`: these splits have {train} training examples"
            )
        if spec.validation_samples not in (0, validation):
            raise UserError(
                f"`validation_samples={spec.validation_samples}`: these splits have {validation} validation examples"
            )

    def _on_device(self, images: Images, labels: Labels, raw: bool = False) -> Examples:
        images = np.ascontiguousarray(images)
        inputs = jnp.asarray(images) if raw else jax.jit(normalize)(images, self.mean, self.std)
        return Examples(inputs, jnp.asarray(labels, jnp.int32))


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
    `validation_samples` are validation: the two never overlap, and the subset is the same whatever is held out.
    `train_samples=None` takes all that is not validation.

    Raises:
      UserError: counts that do not fit the data set, a negative seed, an unknown normalization.
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
    mean, std = statistics(dataset.train_images, normalization)
    return Splits(
        dataset.train_images[train],
        dataset.train_labels[train],
        dataset.train_images[validation],
        dataset.train_labels[validation],
        dataset.test_images,
        dataset.test_labels,
        mean,
        std,
        dataset.classes,
        sha256=dataset.digest,
    )
