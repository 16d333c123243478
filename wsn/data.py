"""Image data: from a name to uint8 arrays, to splits, to normalised batches.

In: the name of a data set (`DATASETS`), a seed, sample counts. Out: `Dataset` (the official splits as plain
arrays), `Splits` (train, validation and test with the statistics of the full training split) and `normalise`,
which a jitted step applies to a batch. `digits` comes with scikit-learn; every other set is a copy that
tensorflow-datasets (TFDS) prepared as array_record, read without TensorFlow. What was decoded once is kept as
`.npy` files that later starts map.

Source: Golubeva, Gur-Ari, Neyshabur, "Are wider nets better given the same number of parameters?", ICLR 2021,
Figure 8: a subset of MNIST, normalised by one scalar mean and deviation of all training images.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging as std_logging
import math
import os
import shutil
import urllib.error
import urllib.request
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.typing import ArrayLike
from jaxtyping import Array, Float32, Int32, UInt8

from wsn.errors import UserError

# The axes of an image over which each normalisation shares its statistics.
NORMALIZATIONS: dict[str, tuple[int, ...]] = {"scalar": (0, 1, 2), "channel": (0, 1), "pixel": ()}
# "imagenet": the constants of the paper's convolutional networks on every data set, here for values 0..255.
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

DEFAULT_DATA_DIR = "~/tensorflow_datasets"
DEFAULT_CACHE_DIR = "~/.cache/wsn"
_DIGITS_TRAIN = 1297
_BATCH = 1024
_PAGE = 4096


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

    def locate(self, data_dir: str | None) -> str:
        return "digits-1"

    def decode(self, data_dir: str | None) -> Dataset:
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = permutation(len(digits.target), seed=0)
        images = digits.images[order, :, :, None].astype(np.uint8)
        labels = digits.target[order].astype(np.int32)
        train, test = slice(_DIGITS_TRAIN), slice(_DIGITS_TRAIN, None)
        return Dataset(images[train], labels[train], images[test], labels[test], classes=10)


@dataclasses.dataclass(frozen=True)
class Tfds:
    """An image set of tensorflow-datasets whose images all have one size.

    Attributes:
      name: `name:version`, or `name/config:version`. The version is pinned so that a result names its data.
      classes: how many labels there are.
      image, label: the features to read.
      train, test: the splits to read.
    """

    name: str
    classes: int
    image: str = "image"
    label: str = "label"
    train: str = "train"
    test: str = "test"

    def locate(self, data_dir: str | None) -> str:
        from etils import epath

        root = epath.Path(data_folder(data_dir)).expanduser().resolve()
        prepared = root / self.name.replace(":", "/")
        if not (prepared / "dataset_info.json").exists():
            self._prepare(os.fspath(root))
        files = sorted((path.name, path.stat().length, path.stat().mtime) for path in prepared.iterdir())
        digest = hashlib.sha256(repr((self, os.fspath(prepared), files)).encode()).hexdigest()
        return f"{self.name.replace('/', '-').replace(':', '-')}-{digest[:12]}"

    def decode(self, data_dir: str | None) -> Dataset:
        data_dir = os.path.expanduser(data_folder(data_dir))
        try:
            train, test = (self._read(split, data_dir) for split in (self.train, self.test))
        except Exception as error:  # array_record, the image decoders and TFDS each raise their own kinds
            raise UserError(
                f"--data_dir={data_dir} (TFDS_DATA_DIR): the copy of {self.name} there cannot be read as "
                f"array_record ({one_line(error)}); prepare it again or point --data_dir at a good copy"
            ) from error
        return Dataset(*train, *test, classes=self.classes)

    def _read(self, split: str, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
        import tensorflow_datasets as tfds

        source = tfds.data_source(self.name, split=split, data_dir=data_dir, download=False)
        images: list[np.ndarray] = []
        labels: list[int] = []
        with _without_group_size_notice():
            for start in range(0, len(source), _BATCH):
                # One request for a batch is up to five times faster than one for each example.
                batch = source.__getitems__(list(range(start, min(start + _BATCH, len(source)))))
                images.append(np.stack([example[self.image] for example in batch]))
                labels.extend(example[self.label] for example in batch)
        return np.concatenate(images), np.asarray(labels, np.int32)

    def _prepare(self, data_dir: str) -> None:
        """Downloads and writes array_record files, or raises UserError at once where there is no network."""
        try:
            import tensorflow_datasets as tfds

            builder = tfds.builder(self.name, data_dir=data_dir, file_format="array_record")
            # TFDS alone would retry for minutes before it gave up.
            _require_network(next(iter(builder.url_infos)))
            builder.download_and_prepare()
        except Exception as error:  # network, disk, a missing package, a version that TFDS no longer has
            needs = '; to download: pip install -e ".[download]"' if isinstance(error, ImportError) else ""
            raise UserError(
                f"--dataset={self.name.split(':')[0]}: no prepared copy of {self.name} under "
                f"--data_dir={data_dir} (TFDS_DATA_DIR), preparing one failed ({one_line(error)}{needs}); "
                "point --data_dir at a folder that holds it, or use --dataset=digits, which needs none"
            ) from error


DATASETS: dict[str, Source] = {
    "digits": Digits(),
    "mnist": Tfds("mnist:3.0.1", classes=10),
    "cifar10": Tfds("cifar10:3.0.2", classes=10),
    "cifar100": Tfds("cifar100:3.0.2", classes=100),
    "svhn_cropped": Tfds("svhn_cropped:3.1.0", classes=10),
}


def load(name: str, data_dir: str | None = None, cache_dir: str | None = None) -> Dataset:
    """From the name of a data set to its arrays, mapped (read-only) from the cache that the first call fills.

    Args:
      name: a key of `DATASETS`.
      data_dir: folder of tensorflow-datasets; default `$TFDS_DATA_DIR`, then `~/tensorflow_datasets`.
      cache_dir: folder of decoded arrays; default `$WSN_CACHE_DIR`, then `~/.cache/wsn`. Where it cannot be
        written, the arrays stay in memory and a warning says so.

    Raises:
      UserError: unknown name, or data that are missing and cannot be downloaded, or damaged.
    """
    if name not in DATASETS:
        raise UserError(f"--dataset={name}: unknown data set; known are {', '.join(DATASETS)}")
    source = DATASETS[name]
    cache = Path(cache_dir or os.environ.get("WSN_CACHE_DIR") or DEFAULT_CACHE_DIR).expanduser()
    entry = cache / source.locate(data_dir)
    if entry.exists():
        try:
            return _map(entry)
        except (OSError, ValueError) as error:
            logging.warning("%s: damaged cache, rebuilding it (%s)", entry, one_line(error))
            _discard(entry)
    dataset = source.decode(data_dir)
    try:
        _store(dataset, entry)
        return _map(entry)
    except (OSError, ValueError) as error:
        logging.warning("%s: cannot cache the decoded data, going on without (%s)", entry, one_line(error))
        return dataset


# The cache: a folder per data set, with an `.npy` file per array and a manifest. It appears whole or not at
# all and never changes, so any number of processes can map it.


def _map(entry: Path) -> Dataset:
    """Maps a cached data set after checking size and checksum of every file. Raises OSError or ValueError."""
    manifest = json.loads((entry / "manifest.json").read_text())
    try:
        classes, files = int(manifest["classes"]), manifest["files"]
        expected = {name: (files[name]["bytes"], files[name]["checksum"]) for name in _ARRAYS}
    except (KeyError, TypeError) as error:
        raise ValueError(f"manifest.json: {one_line(error)}") from error
    for name, facts in expected.items():
        if facts != _facts(entry / f"{name}.npy"):
            raise ValueError(f"{name}.npy differs from its manifest")
    arrays = {name: np.load(entry / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    return Dataset(classes=classes, **arrays)


def _store(dataset: Dataset, entry: Path) -> None:
    """Writes the data set aside and renames it into place; if another process was first, its copy stays."""
    scratch = entry.with_name(f".{entry.name}.{uuid.uuid4().hex}")
    try:
        scratch.mkdir(parents=True)
        files = {}
        for name in _ARRAYS:
            path = scratch / f"{name}.npy"
            np.save(path, getattr(dataset, name))
            _sync(path)
            size, checksum = _facts(path)
            files[name] = {"bytes": size, "checksum": checksum}
        manifest = scratch / "manifest.json"
        manifest.write_text(json.dumps({"classes": dataset.classes, "files": files}, indent=2))
        _sync(manifest)
        _sync(scratch)
        with contextlib.suppress(OSError):  # the name is taken: `load` checks what is there
            scratch.rename(entry)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _discard(entry: Path) -> None:
    """Moves a damaged entry out of the way and deletes it; processes that have it mapped keep their pages."""
    aside = entry.with_name(f".{entry.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(OSError):
        entry.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _facts(path: Path) -> tuple[int, int]:
    """Size and checksum of a file.

    The checksum is the CRC-32 of the 64-bit sums of all 4 KiB pages and of the bytes after the last page: it
    sees any single changed byte or word and any page out of place, at the speed of memory (3 to 7 ms for the
    47 MB of MNIST, where a CRC of every byte takes 26 ms). Raises OSError, or ValueError for an empty file.
    """
    raw = np.memmap(path, np.uint8, mode="r")
    whole = len(raw) // _PAGE * _PAGE
    pages = raw[:whole].view("<u8").reshape(-1, _PAGE // 8).sum(axis=1, dtype=np.uint64)
    return len(raw), zlib.crc32(raw[whole:].tobytes(), zlib.crc32(pages.tobytes()))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Splits and normalisation.


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

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""
        return self.train_images.shape[1:]


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
        raise UserError(f"--validation_samples={validation_samples}: choose 0 to {size - 1}")
    available = size - validation_samples
    if train_samples is None:
        train_samples = available
    if not 1 <= train_samples <= available:
        raise UserError(
            f"--train_samples={train_samples}: choose 1 to {available} "
            f"({size} training images, {validation_samples} of them held out for validation)"
        )
    if data_seed < 0:
        raise UserError(f"--data_seed={data_seed}: choose a seed of 0 or more")
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


def permutation(size: int, seed: int) -> np.ndarray:
    """A permutation of range(size) that stays the same across versions of numpy.

    NumPy promises that the raw bits of Philox never change, which it does not for `Generator.permutation`.
    """
    return np.argsort(np.random.Philox(key=seed).random_raw(size), kind="stable")


def statistics(
    images: UInt8[np.ndarray, "n height width channels"], normalization: str
) -> tuple[Float32[np.ndarray, "#height #width #channels"], Float32[np.ndarray, "#height #width #channels"]]:
    """Mean and (population) deviation in raw units, shared over the images and as `NORMALIZATIONS` says.

    Integer sums keep both exact up to the last rounding, so a deviation is zero just where the value never
    changes. Memory for about a thousand images at a time.

    Raises:
      UserError: an unknown normalisation, or `imagenet` for images that are not in colour.
    """
    if normalization == "imagenet":
        if images.shape[-1] != 3:
            raise UserError(
                f"--normalization=imagenet is for 3 channels, not {images.shape[-1]}: choose scalar"
            )
        mean, deviation = (255 * np.array(x, np.float32) for x in (IMAGENET_MEAN, IMAGENET_DEVIATION))
        return mean[None, None], deviation[None, None]
    if normalization not in NORMALIZATIONS:
        raise UserError(f"--normalization={normalization}: choose {', '.join(NORMALIZATIONS)}, imagenet")
    total = np.zeros(images.shape[1:], np.int64)
    squares = np.zeros(images.shape[1:], np.int64)
    for start in range(0, len(images), _BATCH):
        chunk = images[start : start + _BATCH]
        total += chunk.sum(axis=0, dtype=np.int64)
        squares += np.square(chunk, dtype=np.uint16).sum(axis=0, dtype=np.int64)
    axes = NORMALIZATIONS[normalization]
    count = len(images) * math.prod(images.shape[1:][axis] for axis in axes)
    # count · squares passes 2^63 for a data set of this size: Python's integers from here on.
    total, squares = (values.astype(object).sum(axis=axes, keepdims=True) for values in (total, squares))
    mean = np.asarray(total / count, np.float64)
    variance = np.asarray((count * squares - total * total) / count**2, np.float64)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


def normalise(
    images: UInt8[ArrayLike, "*batch height width channels"],
    mean: Float32[ArrayLike, "#height #width #channels"],
    deviation: Float32[ArrayLike, "#height #width #channels"],
) -> Float32[Array, "*batch height width channels"]:
    """(images − mean) / deviation in float32; 0 where the deviation is 0. Pure, for use inside jit."""
    varies = jnp.asarray(deviation) > 0
    scaled = (jnp.asarray(images, jnp.float32) - mean) / jnp.where(varies, deviation, 1.0)
    return jnp.where(varies, scaled, 0.0)


# Small helpers.


def data_folder(data_dir: str | None) -> str:
    """`data_dir`, else `$TFDS_DATA_DIR`, else the folder that tensorflow-datasets uses by itself."""
    return data_dir or os.environ.get("TFDS_DATA_DIR") or DEFAULT_DATA_DIR


def one_line(error: Exception) -> str:
    """Kind and message of an error, of at most 160 characters, without line breaks."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 160 else text[:157] + "..."


def _require_network(url: str) -> None:
    """Raises OSError unless the host of `url` answers; any answer, even a refusal, will do."""
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()


@contextlib.contextmanager
def _without_group_size_notice() -> Iterator[None]:
    """Drops array_record's line at level ERROR about the group size of a file, which is only about speed."""
    logger = std_logging.getLogger("absl")

    def keep(record: std_logging.LogRecord) -> bool:
        return "group size" not in record.getMessage()

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
