"""Pairs of inputs for the kernel experiments: Gaussian vectors, or normalized test images.

The same arguments give the same pairs on any machine. Normalization statistics are those of the full training split.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from experiments.lab import output
from kernels.best_width import random_pairs
from kernels.theorem1 import SparseKernels, sparse_kernels
from wsn import data, machine
from wsn.data import sources
from wsn.errors import UserError
from wsn.spec import check_bounds, setting

GAUSSIAN, UNNORMALIZED = "gaussian", "none"
PAIR_BYTES = 64  # of a pair, at least
CHUNK = 500  # pairs per step of the progress bar


class Pairs(NamedTuple):
    """Flattened inputs, pair by pair, and their images: pairs that share an image are not independent."""

    x: Float32[np.ndarray, "pairs features"]
    y: Float32[np.ndarray, "pairs features"]
    images: Int64[np.ndarray, "pairs 2"]


class Inputs(NamedTuple):
    """One kind of input: `gaussian` (normalization `none`) or a data set with a normalization."""

    name: str
    normalization: str
    pairs: Pairs

    @property
    def columns(self) -> dict[str, str]:
        return {"inputs": self.name, "normalization": self.normalization}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of inputs. Raises UserError for numbers out of range."""

    dataset: str = setting(f"Image set: one of {', '.join(data.DATASETS)}.", "digits")
    data_dir: str | None = setting("Folder of prepared tensorflow-datasets (default: $TFDS_DATA_DIR).", None)
    inputs: tuple[str, ...] = setting(
        "`gaussian` and image sets, comma-separated (default: gaussian and `dataset`).", ()
    )
    normalizations: tuple[str, ...] = setting(
        "What shares a mean and deviation, for images.", ("scalar", "pixel"), some=True
    )
    seed: int = setting("Seed of all random draws.", 0, least=0)

    def __post_init__(self) -> None:
        check_bounds(self)


def label(columns: Mapping[str, Any]) -> str:
    """The kind of input of a row."""
    name, normalization = columns["inputs"], columns["normalization"]
    return name if normalization == UNNORMALIZED else f"{name}, {normalization}"


def gaussian(features: int, pairs: int, seed: int) -> Pairs:
    """Independent N(0, 1) vectors, each in one pair."""
    if features < 1 or pairs < 1:
        raise UserError(f"`pairs={pairs}` of {features} features: give at least 1 of each")
    machine.check_memory(f"`pairs={pairs}` of {features} features", 8 * pairs * features)
    rng = np.random.Generator(np.random.Philox(key=seed))
    x, y = rng.standard_normal((2, pairs, features), np.float32)
    return Pairs(x, y, np.arange(2 * pairs).reshape(2, pairs).T)


def of_images(dataset: data.Dataset, normalization: str, pairs: int, seed: int) -> Pairs:
    """Pairs of different test images, normalized by the statistics of the full training split."""
    machine.check_memory(
        f"`pairs={pairs}` of {dataset.test_images[0].size} features", 8 * pairs * dataset.test_images[0].size
    )
    images = random_pairs(len(dataset.test_images), pairs, seed)
    used, place = np.unique(images, return_inverse=True)
    statistics = data.statistics(dataset.train_images, normalization)
    flat = np.asarray(data.normalize(dataset.test_images[used], *statistics)).reshape(len(used), -1)
    x, y = flat[place.reshape(images.shape)].transpose(1, 0, 2)
    return Pairs(x, y, images)


def chosen(settings: Settings, pairs: int, gaussian_pairs: int | None = None) -> list[Inputs]:
    """The inputs of the settings; Gaussian ones have the size of the images. Raises UserError."""

    def images_of(name: str) -> data.Dataset:
        return sources.dataset(name, settings.data_dir)

    names = settings.inputs or (GAUSSIAN, settings.dataset)
    sets = [name for name in names if name != GAUSSIAN]
    if sets and not settings.normalizations:
        raise UserError(f"`normalizations`: name at least one of {', '.join(data.NORMALIZATIONS)}")
    features = images_of((sets or [settings.dataset])[0]).train_images[0].size
    kinds = []
    for name in names:
        if name == GAUSSIAN:
            drawn = gaussian(features, pairs if gaussian_pairs is None else gaussian_pairs, settings.seed)
            kinds.append(Inputs(name, UNNORMALIZED, drawn))
            continue
        for normalization in settings.normalizations:
            drawn = of_images(images_of(name), normalization, pairs, settings.seed)
            kinds.append(Inputs(name, normalization, drawn))
    return kinds


def exact_kernels(
    pairs: Pairs, connectivity: np.ndarray, tolerance: float, name: str = "kernels"
) -> SparseKernels:
    """`sparse_kernels` of all pairs, in chunks with a progress bar."""
    x, y = pairs.x, pairs.y
    points = np.size(connectivity)
    machine.check_memory(
        f"`pairs={len(x)}` at {points} connectivities", 8 * len(SparseKernels._fields) * len(x) * points
    )
    parts = []
    with output.progress(len(x), f"exact: {name}") as bar:
        for start in range(0, len(x), CHUNK):
            rows = slice(start, start + CHUNK)
            parts.append(sparse_kernels(x[rows], y[rows], connectivity, tolerance=tolerance))
            bar.update(len(x[rows]))
    missed = np.concatenate([part.error_estimate for part in parts]) > 10 * tolerance
    if missed.any():
        print(
            f"{name}: the estimated error of {missed.mean():.2%} of the kernels is above {10 * tolerance:g}"
        )
    arrays = (name for name in SparseKernels._fields if isinstance(getattr(parts[0], name), np.ndarray))
    whole: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays}
    return parts[0]._replace(**whole)
