"""Checks of arrays where they enter: shape, dtype, range. Each raises UserError, one line that names the array.

Images are uint8, uint16 or float32, at any scale, as statistics are taken from them; `normalization=imagenet` supposes
that white is 255, 65535 or 1. Other dtypes are refused, since their scale is not known. Labels are integers of any
dtype, one an image, from 0 to classes − 1: any other would have an empty one-hot row, a loss of 0 and never be
predicted.
"""

import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int32, Real

from wsn.errors import UserError

WHITE = {"uint8": 255, "uint16": 65535, "float32": 1}  # supported dtypes of images
Images = Real[np.ndarray, "_ height width channels"]
Labels = Int32[np.ndarray, " _"]
# Fields of a dataclass that may be given as any array or integer; its checks make them `Images`, `Labels` and int.
GivenImages: TypeAlias = Any
GivenLabels: TypeAlias = Any
GivenCount: TypeAlias = Any


def check_classes(classes: Any) -> int:
    """The number of classes as an int."""
    try:
        count = operator.index(classes)
    except TypeError:
        count = 0
    if count < 1:
        raise UserError(f"`classes={classes!r}`: give the number of classes, 1 or more")
    return count


def as_array(name: str, values: Any) -> np.ndarray:
    """An array on the host; one that is mapped from a file stays mapped."""
    try:
        return values if isinstance(values, np.memmap) else np.asarray(values)
    except ValueError as error:
        raise UserError(f"`{name}`: rows of different shapes: give one array") from error


def check_images(name: str, images: Any) -> Images:
    """Images as a native array (n, height, width, channels) of a supported dtype, all of them finite."""
    images = as_array(name, images)
    if images.ndim == 3:
        raise UserError(f"`{name}`: shape {images.shape} has no channel axis: give `{name}[..., None]`")
    if images.ndim != 4 or not all(images.shape[1:]):
        raise UserError(f"`{name}`: shape {images.shape}: give (images, height, width, channels)")
    dtype = images.dtype.newbyteorder("=")
    if dtype.name not in WHITE:
        raise UserError(f"`{name}`: images of {images.dtype}: convert them to one of {', '.join(WHITE)}")
    images = images.astype(dtype, copy=False)
    if dtype.kind == "f" and not np.isfinite(images).all():
        bad = np.flatnonzero(~np.isfinite(images).all((1, 2, 3)))[0]
        raise UserError(f"`{name}`: image {bad} has values that are not finite: leave it out")
    return images


def check_labels(name: str, labels: Any, count: int, classes: int) -> Labels:
    """Labels as int32, one for each of `count` images, all of them classes."""
    labels = as_array(name, labels)
    if labels.ndim != 1:
        better = f"`{name}[:, 0]`" if labels.shape[1:] == (1,) else f"`{name}.argmax(1)` if they are one-hot"
        raise UserError(f"`{name}`: shape {labels.shape}: give one label an image, {better}")
    if labels.dtype.kind not in "iu":
        raise UserError(f"`{name}`: labels of {labels.dtype}: give integers from 0 to {classes - 1}")
    if len(labels) != count:
        raise UserError(f"`{name}`: {len(labels)} labels of {count} images: give one label an image")
    return check_range(name, labels, classes, "label", "of the image").astype(np.int32, copy=False)


def check_range(name: str, values: np.ndarray, classes: int, what: str, where: str = "at") -> np.ndarray:
    """The values, all of which are from 0 to classes − 1."""
    if values.size and (values.min() < 0 or values.max() >= classes):
        bad = np.flatnonzero((values < 0) | (values >= classes))[0]
        raise UserError(
            f"`{name}`: the {what} {values.flat[bad]} {where} {bad} is none of the {classes} classes:"
            f" give 0 to {classes - 1}"
        )
    return values


def check_splits(data: Any, splits: Sequence[str], may_be_empty: Sequence[str] = ()) -> None:
    """Checks and converts `SPLIT_images` and `SPLIT_labels` of a frozen dataclass, and that its splits agree."""
    arrays: dict[str, Any] = {"classes": check_classes(data.classes)}
    for split in splits:
        name = f"{split}_images"
        images = arrays[name] = check_images(name, getattr(data, name))
        labels = getattr(data, f"{split}_labels")
        arrays[f"{split}_labels"] = check_labels(f"{split}_labels", labels, len(images), arrays["classes"])
        first = arrays[f"{splits[0]}_images"]
        if images.shape[1:] != first.shape[1:] or images.dtype != first.dtype:
            raise UserError(
                f"`{name}`: {images.shape[1:]} of {images.dtype}, and `{splits[0]}_images` are {first.shape[1:]} of"
                f" {first.dtype}: give images of one size, dtype and scale"
            )
        if not len(images) and split not in may_be_empty:
            raise UserError(f"`{name}`: no images: give at least one")
    for name, value in arrays.items():
        object.__setattr__(data, name, value)
