"""Crops of images of any size, as torchvision makes them: pure functions of a size and of uniform numbers.

Source: Golubeva, Gur-Ari, Neyshabur, ICLR 2021, Appendix A.1: images resized to smallest side 256, then
RandomResizedCrop(224, scale=(0.2, 1)) for training and CenterCrop(224) for testing. Pillow does the arithmetic, as
in torchvision.
"""

import io
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from wsn.data.untrusted import check_image

SIDE, CROP = 256, 224
AREA, ASPECT, ATTEMPTS = (0.2, 1.0), (3 / 4, 4 / 3), 10


class Box(NamedTuple):
    """A rectangle in pixels of the image whose smallest side is 256."""

    left: int
    top: int
    width: int
    height: int


Place = Callable[[int, int], Box]


def resized(width: int, height: int) -> tuple[int, int]:
    """The size with smallest side 256 and the same proportions (the longer side rounded down, as torchvision)."""
    short = min(width, height)
    return SIDE * width // short, SIDE * height // short


def center_box(width: int, height: int) -> Box:
    """torchvision's CenterCrop(224)."""
    return Box(round((width - CROP) / 2), round((height - CROP) / 2), CROP, CROP)


def random_box(width: int, height: int, uniform: Float64[np.ndarray, "attempts 4"]) -> Box:
    """torchvision's RandomResizedCrop: 0.2 to 1 of the area, aspect 3:4 to 4:3 (log-uniform), anywhere.

    Each row of `uniform`, numbers in [0, 1), is an attempt; if none fits, the largest central box of an allowed
    aspect is taken.
    """
    for area, aspect, row, column in uniform.tolist():
        pixels = width * height * (AREA[0] + area * (AREA[1] - AREA[0]))
        ratio = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** aspect
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(column * (width - w + 1)), int(row * (height - h + 1)), w, h)
    w, h = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    return Box((width - w) // 2, (height - h) // 2, w, h)


def decode(encoded: bytes, place: Place, flip: bool = False) -> UInt8[np.ndarray, "224 224 3"]:
    """An encoded image of any size and mode → the box that `place` chooses, at 224×224, in RGB.

    Equal, up to rounding, to resizing the whole image to smallest side 256 and cutting out the box, but faster.
    Orientation tags are ignored, as in torchvision. Raises what Pillow raises for a damaged image, and ValueError.
    """
    image: Image.Image = Image.open(io.BytesIO(encoded))
    check_image(image)
    width, height = resized(*image.size)
    box = place(width, height)
    if image.mode != "RGB":
        image = image.convert("RGB")
    x, y = image.width / width, image.height / height
    # Rounding may carry an edge past the image, which Pillow refuses.
    right = min(image.width, (box.left + box.width) * x)
    bottom = min(image.height, (box.top + box.height) * y)
    corners = (box.left * x, box.top * y, right, bottom)
    image = image.resize((box.width, box.height), Image.Resampling.BILINEAR, box=corners)
    image = image.resize((CROP, CROP), Image.Resampling.BILINEAR)
    return np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image)


def uniforms(key: int, first: int, count: int) -> Float64[np.ndarray, "count 11 4"]:
    """Numbers in [0, 1) for the positions first, first + 1, … of an epoch: for the attempts at a crop, then the flip.

    Blocks of Philox, whose raw bits NumPy guarantees never to change; the counter's second word keeps them apart from
    those that `permutation` draws with the same key.
    """
    blocks = ATTEMPTS + 1
    bits = np.random.Philox(key=key, counter=(1 << 64) + first * blocks).random_raw(count * blocks * 4)
    return (bits >> np.uint64(11)).reshape(count, blocks, 4) * 2.0**-53
