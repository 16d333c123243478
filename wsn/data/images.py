"""Image sets: from a name to the official splits as uint8 arrays.

`digits` comes with scikit-learn; every other set is a copy that tensorflow-datasets (TFDS) prepared as array_record.
What was decoded once is kept as `.npy` files that later starts map (`wsn.data.cache`).
"""

import dataclasses
import io
from typing import ClassVar, Protocol

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from wsn import folders
from wsn.data import cache
from wsn.data.prepared import check, data_folder, in_batches, located, unreadable
from wsn.data.untrusted import check_image
from wsn.errors import UserError

_DIGITS_TRAIN = 1297


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The official splits, in the order of the source, in raw units (0..255, or 0..16 for `digits`)."""

    train_images: UInt8[np.ndarray, "train height width channels"]
    train_labels: Int32[np.ndarray, " train"]
    test_images: UInt8[np.ndarray, "test height width channels"]
    test_labels: Int32[np.ndarray, " test"]
    classes: int


_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


# Sources: one line of the registry each.


class Source(Protocol):
    """Where a data set comes from."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of its images, known before there are any."""

    @property
    def classes(self) -> int:
        """How many labels there are."""

    def locate(self, data_dir: str | None) -> str:
        """Makes sure that the data are there; returns a file name that changes whenever they do.

        Raises UserError.
        """

    def decode(self, data_dir: str | None) -> Dataset:
        """Reads everything. Raises UserError."""


@dataclasses.dataclass(frozen=True)
class Digits:
    """scikit-learn's 1797 handwritten digits, 8×8×1, values 0..16.

    They have no official split. The order here is `permutation(1797, seed=0)`: the first 1297 train, the last
    500 test.
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
    """An image set of tensorflow-datasets whose images all have one size.

    Attributes:
      name: `name:version`, or `name/config:version`. The version is pinned so that a result names its data.
      shape: height, width and channels of its images.
      classes: how many labels there are.
      image, label: the features to read.
      train, test: the splits to read.
    """

    name: str
    shape: tuple[int, int, int] = dataclasses.field(
        repr=False
    )  # caches of before have no shape in their name
    classes: int
    image: str = "image"
    label: str = "label"
    train: str = "train"
    test: str = "test"

    def locate(self, data_dir: str | None) -> str:
        return located(self.name, data_dir, self, instead="digits")

    def decode(self, data_dir: str | None) -> Dataset:
        data_dir = data_folder(data_dir)
        try:
            check(self.name, data_dir)
            train, test = (self._read(split, data_dir) for split in (self.train, self.test))
        except Exception as error:  # array_record, the image decoders and TFDS each raise their own kinds
            raise unreadable(self.name, data_dir, error) from error
        return Dataset(*train, *test, classes=self.classes)

    def _read(self, split: str, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
        import tensorflow_datasets as tfds

        decoders = {self.image: tfds.decode.SkipDecoding()}
        source = tfds.data_source(
            self.name, split=split, data_dir=data_dir, download=False, decoders=decoders
        )
        images: list[np.ndarray] = []
        labels: list[int] = []
        for batch in in_batches(source):
            images.append(np.stack([decoded(example[self.image], self.shape) for example in batch]))
            labels.extend(example[self.label] for example in batch)
        return np.concatenate(images), np.asarray(labels, np.int32)


def decoded(encoded: bytes, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "height width channels"]:
    """An encoded image of just that shape. Raises what Pillow raises, and ValueError for another size."""
    image: Image.Image = Image.open(io.BytesIO(encoded))
    check_image(*image.size, shape)
    mode = "L" if shape[-1] == 1 else "RGB"
    return np.asarray(image if image.mode == mode else image.convert(mode)).reshape(shape)


DATASETS: dict[str, Source] = {
    "digits": Digits(),
    "mnist": Tfds("mnist:3.0.1", (28, 28, 1), classes=10),
    "cifar10": Tfds("cifar10:3.0.2", (32, 32, 3), classes=10),
    "cifar100": Tfds("cifar100:3.0.2", (32, 32, 3), classes=100),
    "svhn_cropped": Tfds("svhn_cropped:3.1.0", (32, 32, 3), classes=10),
}


def load(name: str, data_dir: str | None = None, cache_dir: str | None = None) -> Dataset:
    """From the name of a data set to its arrays, mapped (read-only) from the cache that the first call fills.

    Args:
      name: a key of `DATASETS`.
      data_dir: folder of tensorflow-datasets; default `$TFDS_DATA_DIR`, then `~/tensorflow_datasets`.
      cache_dir: folder of decoded arrays; default `$WSN_CACHE_DIR`, then `~/.cache/wsn`.

    Raises:
      UserError: unknown name, or data that are missing and cannot be downloaded, or damaged.
    """
    if name not in DATASETS:
        raise UserError(f"`dataset={name}`: unknown data set; known are {', '.join(DATASETS)}")
    source = DATASETS[name]

    def decode() -> cache.Content:
        dataset = source.decode(data_dir)
        return cache.Content({name: getattr(dataset, name) for name in _ARRAYS}, {"classes": dataset.classes})

    content = cache.cached(
        folders.cache(cache_dir) / source.locate(data_dir), decode, _ARRAYS, {"classes": int}
    )
    return Dataset(**content.arrays, classes=content.facts["classes"])


def permutation(size: int, seed: int) -> np.ndarray:
    """A permutation of range(size) that stays the same across versions of numpy.

    NumPy promises that the raw bits of Philox never change, which it does not for `Generator.permutation`.
    """
    return np.argsort(np.random.Philox(key=seed).random_raw(size), kind="stable")
