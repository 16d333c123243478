"""Image sets: from a name to the official splits as arrays in memory.

`digits` comes with scikit-learn; every other set is a copy that tensorflow-datasets (TFDS) prepared as array_record.
"""

import dataclasses
import io
from typing import ClassVar, Protocol

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from wsn import folders
from wsn.data.cache import Content, Origin, cached
from wsn.data.checks import GivenCount, GivenImages, GivenLabels, check_splits
from wsn.data.prepared import check_features, entry_name, in_batches, reading, source
from wsn.data.untrusted import check_image
from wsn.errors import choose

_DIGITS_TRAIN = 1297


@dataclasses.dataclass(frozen=True)
class Dataset(Content):
    """The official splits, in the order of the source and in raw units (0..255, or 0..16 for `digits`).

    Your own arrays are checked here (`wsn.data.checks`). Raises UserError.
    """

    train_images: GivenImages
    train_labels: GivenLabels
    test_images: GivenImages
    test_labels: GivenLabels
    classes: GivenCount

    def __post_init__(self) -> None:
        check_splits(self, ("train", "test"))


class ImageSet(Origin, Protocol):
    """An entry of `DATASETS`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of its images, known before they are read."""

    @property
    def classes(self) -> int:
        """Number of classes."""

    def decode(self, data_dir: str | None) -> Dataset:
        """Reads all images. Raises UserError."""


@dataclasses.dataclass(frozen=True)
class Digits:
    """scikit-learn's 1797 handwritten digits, 8×8×1, values 0..16.

    They have no official split: in the order of `permutation(1797, seed=0)` the first 1297 train, the last 500 test.
    """

    shape: ClassVar[tuple[int, int, int]] = (8, 8, 1)
    classes: ClassVar[int] = 10

    def locate(self, data_dir: str | None) -> str:
        return "digits-1"

    def decode(self, data_dir: str | None) -> Dataset:
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = permutation(len(digits.target), seed=0)
        images = digits.images[order, :, :, None].astype(np.uint8)
        labels = digits.target[order].astype(np.int32)
        train, test = slice(_DIGITS_TRAIN), slice(_DIGITS_TRAIN, None)
        return Dataset(images[train], labels[train], images[test], labels[test], self.classes)


@dataclasses.dataclass(frozen=True)
class Tfds:
    """An image set of tensorflow-datasets with images of one size, 8 bits a channel.

    Attributes:
      name: `name:version`, or `name/config:version`. The version is pinned so that a result identifies its data.
      shape: height, width and channels of its images.
      classes: number of classes.
      image, label: the features to read.
      train, test: the splits to read.
    """

    name: str
    shape: tuple[int, int, int] = dataclasses.field(repr=False)  # not in the name of older cache entries
    classes: int
    image: str = "image"
    label: str = "label"
    train: str = "train"
    test: str = "test"

    def locate(self, data_dir: str | None) -> str:
        return entry_name(self.name, data_dir, self, instead="digits")

    def decode(self, data_dir: str | None) -> Dataset:
        with reading(self.name, data_dir):
            train, test = (self._read(split, data_dir) for split in (self.train, self.test))
            return Dataset(*train, *test, classes=self.classes)

    def _read(self, split: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
        import tensorflow_datasets as tfds

        decoders = {self.image: tfds.decode.SkipDecoding()}
        examples = source(self.name, split, data_dir, decoders=decoders)
        check_features(examples.dataset_info.features, self)
        images: list[np.ndarray] = []
        labels: list[int] = []
        for batch in in_batches(examples):
            images.append(np.stack([decoded(example[self.image], self.shape) for example in batch]))
            labels.extend(example[self.label] for example in batch)
        return np.concatenate(images), np.asarray(labels)


def decoded(encoded: bytes, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "height width channels"]:
    """An encoded image of exactly that shape. Raises what Pillow raises, and ValueError for another size or depth."""
    image: Image.Image = Image.open(io.BytesIO(encoded))
    check_image(image, shape)
    mode = "L" if shape[-1] == 1 else "RGB"
    return np.asarray(image if image.mode == mode else image.convert(mode)).reshape(shape)


DATASETS: dict[str, ImageSet] = {
    "digits": Digits(),
    "mnist": Tfds("mnist:3.0.1", (28, 28, 1), classes=10),
    "cifar10": Tfds("cifar10:3.0.2", (32, 32, 3), classes=10),
    "cifar100": Tfds("cifar100:3.0.2", (32, 32, 3), classes=100),
    "svhn_cropped": Tfds("svhn_cropped:3.1.0", (32, 32, 3), classes=10),
}


def load(name: str, data_dir: str | None = None, cache_dir: str | None = None) -> Dataset:
    """The arrays of a data set, mapped read-only from the cache that the first call fills.

    Args:
      name: a key of `DATASETS`.
      data_dir: folder of tensorflow-datasets; default `$TFDS_DATA_DIR`, then `~/tensorflow_datasets`.
      cache_dir: folder of decoded arrays; default `$WSN_CACHE_DIR`, then `~/.cache/wsn`.

    Raises:
      UserError: unknown name, or data that are missing and cannot be downloaded, or damaged.
    """
    image_set = choose(DATASETS, "dataset", name)
    entry = folders.cache(cache_dir) / image_set.locate(data_dir)
    return cached(Dataset, entry, lambda: image_set.decode(data_dir))


def permutation(size: int, seed: int) -> np.ndarray:
    """A permutation of range(size) that is the same in every version of NumPy.

    NumPy guarantees that for the raw bits of Philox, but not for `Generator.permutation`.
    """
    return np.argsort(np.random.Philox(key=seed).random_raw(size), kind="stable")
