"""Bottlenecks: two other ways to be wide with few weights (paper, section 2.2, Figures 2 and 3), in integers.

Linear: each layer becomes two without a nonlinearity between, inputs → inner → outputs (a convolution: k × k, then
1 × 1). Non-linear: of a pair of layers the outer dimensions grow and the inner one shrinks.
"""

from collections.abc import Mapping

from wsn.shapes import Shapes


def transformed(shapes: Shapes, kind: str, inner: Mapping[str, int]) -> Shapes:
    """Kernels of the network with bottlenecks of those inner dimensions, in the order of the layers.

    `linear`: inner dimension of each layer that is split into `<layer>.in` and `<layer>.out`. `nonlinear`: number of
    outputs of each layer that has another; the layer after it takes as many inputs.
    """
    if kind == "none":
        return dict(shapes)
    result: Shapes = {}
    entering = None
    for layer, (*taps, inputs, outputs) in shapes.items():
        narrow = inner.get(layer)
        if kind == "linear" and narrow is not None:
            ones = (1,) * len(taps)
            result[f"{layer}.in"] = (*taps, inputs, narrow)
            result[f"{layer}.out"] = (*ones, narrow, outputs)
            continue
        result[layer] = (*taps, entering or inputs, narrow or outputs)
        entering = narrow
    return result
