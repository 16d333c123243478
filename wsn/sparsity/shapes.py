"""Kernel shapes of the networks, as pure functions of width: what a budget and a mask are drawn for.

In: width and number of classes. Out: layer name -> kernel shape in Flax's layout, dense `(in, out)` and
convolution `(kernel height, kernel width, in, out)`, from input to output. Only dense and convolution
kernels count as weights (paper, Appendix A): biases and BatchNorm parameters have no entry.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

Shapes = dict[str, tuple[int, ...]]


class GroupedShape(tuple):
    """The shape of a convolution in groups: (*taps, inputs of a group, outputs of all groups)."""

    groups: int

    def __new__(cls, shape: Iterable[int], groups: int) -> "GroupedShape":
        grouped = super().__new__(cls, shape)
        grouped.groups = groups
        return grouped


def group(shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """(number of groups, shape of the kernel of one)."""
    groups = getattr(shape, "groups", 1)
    return groups, (*shape[:-1], shape[-1] // groups)


def mlp_shapes(inputs: int, widths: Sequence[int], classes: int) -> Shapes:
    """Layers `hidden_0`, `hidden_1`, ... of the given widths, then `output`."""
    fans = [inputs, *widths, classes]
    names = [*(f"hidden_{i}" for i in range(len(widths))), "output"]
    return dict(zip(names, zip(fans, fans[1:], strict=False), strict=True))


def resnet18_shapes(width: int, classes: int, stem: int = 3, channels: int = 3) -> Shapes:
    """ResNet-18: a stem of `width` channels (3x3 for small images, 7x7 for large), four stages of width 1 : 2 : 4 : 8.

    Names are those of the paper's Figure 10. A stage that changes the number of channels has a 1x1 shortcut.
    Base width 8 has 180,952 weights with 100 classes (Appendix D).
    """
    shapes: Shapes = {"conv1": (stem, stem, channels, width)}
    fan_in = width
    for stage in range(4):
        fan_out = width * 2**stage
        for block in range(2):
            name = f"layer{stage + 1}.{block}"
            shapes[f"{name}.conv1"] = (3, 3, fan_in, fan_out)
            shapes[f"{name}.conv2"] = (3, 3, fan_out, fan_out)
            if fan_in != fan_out:
                shapes[f"{name}.shortcut.0"] = (1, 1, fan_in, fan_out)
            fan_in = fan_out
    return shapes | {"linear": (fan_in, classes)}


def sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Number of weights of each layer, in the order of `shapes`."""
    return {name: math.prod(map(int, shape)) for name, shape in shapes.items()}


def weights(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Number of weights of the dense network: entries of its dense and convolution kernels."""
    return sum(sizes(shapes).values())
