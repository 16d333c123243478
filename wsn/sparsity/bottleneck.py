"""Bottlenecks: two other ways to widen a network at a fixed number of weights (paper, section 2.2, Figures 2 and 3).

Linear: each layer becomes two without a nonlinearity between them, inputs → inner → outputs (a convolution: k × k, then
1 × 1). Non-linear: every other layer becomes narrower, so that the others can be wider. Counts are exact integers.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations

from wsn.errors import UserError, choose
from wsn.sparsity.shapes import Shapes, sizes

Inner = dict[str, int]  # layer → inner dimension of its bottleneck
PARTS = 1 << 16  # `proportional` searches among the factors 0, 1 / PARTS, …, 1


def transformed(shapes: Shapes, kind: str, inner: Mapping[str, int]) -> Shapes:
    """The kernels of a network with bottlenecks of these inner dimensions, in the order of the layers.

    Idempotent: a transformed network stays as it is. Raises UserError for an unknown kind.
    """
    return choose(BOTTLENECKS, "bottleneck", kind)(shapes, inner)


def _factorized(shapes: Shapes, inner: Mapping[str, int]) -> Shapes:
    """Each layer with an inner dimension becomes two, `<layer>.in` and `<layer>.out`."""
    result: Shapes = {}
    for layer, shape in shapes.items():
        if layer in inner:
            result[f"{layer}.in"] = (*shape[:-1], inner[layer])
            result[f"{layer}.out"] = (*(1,) * len(shape[:-2]), inner[layer], shape[-1])
        else:
            result[layer] = shape
    return result


def _narrowed(shapes: Shapes, inner: Mapping[str, int]) -> Shapes:
    """Each layer with an inner dimension has that many outputs, and the next layer as many inputs."""
    result: Shapes = {}
    before = ""  # the layer before
    for layer, (*taps, inputs, outputs) in shapes.items():
        result[layer] = (*taps, inner.get(before, inputs), inner.get(layer, outputs))
        before = layer
    return result


# Kind → (shapes, inner dimensions) → shapes.
BOTTLENECKS: dict[str, Callable[[Shapes, Mapping[str, int]], Shapes]] = {
    "none": lambda shapes, inner: dict(shapes),
    "linear": _factorized,
    "nonlinear": _narrowed,
}


def split(shapes: Shapes) -> Shapes:
    """Every layer (stem, shortcuts and output too) as two, with the inner dimension min(inputs, outputs).

    Its number of weights is the budget of a family with linear bottlenecks. It can compute the same functions (paper,
    section 2.2), except that k × k convolutions with fewer inputs than outputs lose rank.
    """
    return transformed(shapes, "linear", {layer: min(shape[-2:]) for layer, shape in shapes.items()})


def linear(base: Shapes, wide: Shapes) -> Inner:
    """Inner dimension of every layer of the wide network, so that it has about as many weights as `split(base)`.

    At most min(inputs, outputs), and in proportion to the smallest dimension of the base layer that grows with width
    (color channels and classes do not). Raises UserError if the network is too large even with bottlenecks of 1.
    """
    limits = {layer: min(shape[-2:]) for layer, shape in wide.items()}
    growing = {}
    for layer, shape in base.items():
        dimensions = zip(shape[-2:], wide[layer][-2:], strict=True)
        growing[layer] = min(
            (narrow for narrow, wider in dimensions if narrow < wider), default=limits[layer]
        )
    budget = sum(sizes(split(base)).values())
    return _fitted(wide, "linear", growing, limits, budget)


def nonlinear(base: Shapes, wide: Shapes, narrowed: Iterable[str]) -> Inner:
    """Outputs of the `narrowed` layers of the wide network, so that it has about as many weights as `base`.

    In proportion to those of the base network. Raises UserError if the network is too large even with one output each.
    """
    largest = {layer: base[layer][-1] for layer in narrowed}
    limits = {layer: wide[layer][-1] for layer in largest}
    budget = sum(sizes(base).values())
    return _fitted(wide, "nonlinear", largest, limits, budget)


def proportional(
    count: Callable[[Inner], int], largest: Mapping[str, int], limits: Mapping[str, int], budget: int
) -> Inner:
    """`largest` times the largest common factor for which `count` stays within the budget, rounded down.

    Between 1 and `limits`. Raises UserError if the count exceeds the budget even if all are 1.
    """

    def shrunk(part: int) -> Inner:
        return {name: min(limits[name], max(1, size * part // PARTS)) for name, size in largest.items()}

    fitting = bisect_right(range(PARTS + 1), budget, key=lambda part: count(shrunk(part)))
    if not fitting:
        raise UserError(
            f"`widths`: with bottlenecks of one unit a network of that width still has {count(shrunk(0))} weights,"
            f" more than the budget of {budget}: take a smaller width"
        )
    return shrunk(fitting - 1)


def closest(
    count: Callable[[Inner], int], start: Mapping[str, int], limits: Mapping[str, int], budget: int
) -> Inner:
    """Inner dimensions near `start`, between 1 and `limits`, for which `count`, linear in each, is close to the budget.

    Greedy: one or two of those below their limit change by one, as long as that brings the count closer; the change
    that brings it closest is taken, of ties the one of dimensions that have changed least. No dimension changes by more
    than a quarter (or one), so that the last few weights do not starve a layer of a small network.
    """
    inner, gap = dict(start), budget - count(dict(start))
    cost = {name: count({**start, name: size + 1}) - count(dict(start)) for name, size in start.items()}
    while True:
        steps = [
            (step * cost[name], abs(size + step - start[name]), name, step)
            for name, size in inner.items()
            for step in (1, -1)
            if size < limits[name] and size + step >= 1
            if abs(size + step - start[name]) <= max(1, start[name] // 4)
        ]
        changes = [*combinations(steps, 1), *combinations(steps, 2)]
        distance, _, change = min(
            ((abs(gap - sum(s[0] for s in c)), sum(s[1] for s in c), c) for c in changes),
            default=(abs(gap), 0, ()),
        )
        if distance >= abs(gap):
            return inner
        for added, _, name, step in change:
            inner[name] += step
            gap -= added


def _fitted(wide: Shapes, kind: str, largest: Inner, limits: Inner, budget: int) -> Inner:
    def count(inner: Inner) -> int:
        return sum(sizes(transformed(wide, kind, inner)).values())

    return closest(count, proportional(count, largest, limits, budget), limits, budget)
