"""Bottlenecks: two other ways to be wide with few weights (paper, section 2.2, Figures 2 and 3), in integers.

Linear: each layer becomes two without a nonlinearity between, inputs → inner → outputs (a convolution: k × k, then
1 × 1). Non-linear: of a pair of layers the outer dimensions grow and the inner one shrinks.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations

from wsn.errors import UserError, choose
from wsn.sparsity.shapes import Shapes, sizes

Inner = dict[str, int]  # layer → inner dimension of its bottleneck
UNIT = 1 << 16  # the inner dimensions shrink by a factor of so many parts


def transformed(shapes: Shapes, kind: str, inner: Mapping[str, int]) -> Shapes:
    """Kernels of the network with bottlenecks of those inner dimensions, in the order of the layers.

    Transforming twice is the same as once. Raises UserError for an unknown kind.
    """
    return choose(BOTTLENECKS, "bottleneck", kind)(shapes, inner)


def _in_two(shapes: Shapes, inner: Mapping[str, int]) -> Shapes:
    """Each layer with an inner dimension is split into `<layer>.in` and `<layer>.out`."""
    result: Shapes = {}
    for layer, (*taps, inputs, outputs) in shapes.items():
        narrow = inner.get(layer)
        if narrow is None:
            result[layer] = (*taps, inputs, outputs)
        else:
            ones = (1,) * len(taps)
            result[f"{layer}.in"] = (*taps, inputs, narrow)
            result[f"{layer}.out"] = (*ones, narrow, outputs)
    return result


def _narrowed(shapes: Shapes, inner: Mapping[str, int]) -> Shapes:
    """Each layer with an inner dimension has that many outputs; the layer after it takes as many inputs."""
    result: Shapes = {}
    entering = None
    for layer, (*taps, inputs, outputs) in shapes.items():
        narrow = inner.get(layer)
        result[layer] = (*taps, entering or inputs, narrow or outputs)
        entering = narrow
    return result


# Kind → (shapes, inner dimensions) → shapes.
BOTTLENECKS: dict[str, Callable[[Shapes, Mapping[str, int]], Shapes]] = {
    "none": lambda shapes, inner: dict(shapes),
    "linear": _in_two,
    "nonlinear": _narrowed,
}


def split(shapes: Shapes) -> Shapes:
    """Every layer (stem, shortcuts and output too) in two, with the inner dimension min(inputs, outputs).

    Its weight count is the budget of a family with linear bottlenecks. The expressive power stays the same (paper,
    section 2.2), but of k × k convolutions with fewer inputs than outputs, which lose some rank.
    """
    return transformed(shapes, "linear", {layer: min(shape[-2:]) for layer, shape in shapes.items()})


def linear(base: Shapes, wide: Shapes) -> Inner:
    """Inner dimension of every layer of the wide network, so that it has about as many weights as `split(base)`.

    At most min(inputs, outputs). They shrink in proportion to those dimensions of the base network that grow: the
    three colours and the classes do not, and a layer that they limit stays at that limit while it can.
    Raises UserError where bottlenecks of 1 are still too wide.
    """
    limits = {layer: min(shape[-2:]) for layer, shape in wide.items()}
    growing = {
        layer: min(
            (d for d, e in zip(shape[-2:], wide[layer][-2:], strict=True) if d < e), default=limits[layer]
        )
        for layer, shape in base.items()
    }
    budget = sum(sizes(split(base)).values())
    return _fitted(wide, "linear", growing, limits, budget)


def nonlinear(base: Shapes, wide: Shapes, narrowed: Iterable[str]) -> Inner:
    """Outputs of the `narrowed` layers of the wide network, so that it has about as many weights as `base`.

    They shrink in proportion to those of the base network.
    Raises UserError where bottlenecks of 1 are still too wide: the outer dimensions alone exceed the budget.
    """
    largest = {layer: base[layer][-1] for layer in narrowed}
    limits = {layer: wide[layer][-1] for layer in largest}
    budget = sum(sizes(base).values())
    return _fitted(wide, "nonlinear", largest, limits, budget)


def proportional(
    count: Callable[[Inner], int], largest: Mapping[str, int], limits: Mapping[str, int], budget: int
) -> Inner:
    """`largest`, shrunk by the one factor for which `count` just stays within the budget, and rounded down.

    Between 1 and `limits`. Raises UserError if the count exceeds the budget with all of them 1.
    """

    def shrunk(part: int) -> Inner:
        return {name: min(limits[name], max(1, size * part // UNIT)) for name, size in largest.items()}

    fitting = bisect_right(range(UNIT + 1), budget, key=lambda part: count(shrunk(part)))
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

    One or two of those below their limit change by one, each time the change that brings the count closest (of
    equals, of those that have changed least), until none does. None changes by more than a quarter (or one), so that
    no layer of a small network is starved for the last few weights.
    """
    inner, gap = dict(start), budget - count(dict(start))
    cost = {name: count({**start, name: size + 1}) - count(dict(start)) for name, size in start.items()}
    while True:
        steps = [
            (step * cost[name], abs(size + step - start[name]), name, step)
            for name, size in inner.items()
            for step in (1, -1)
            if size < limits[name]
            and size + step >= 1
            and abs(size + step - start[name]) <= reach(start[name])
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


def reach(size: int) -> int:
    """By how much an inner dimension may differ from its proportional size."""
    return max(1, size // 4)


def _fitted(wide: Shapes, kind: str, largest: Inner, limits: Inner, budget: int) -> Inner:
    def count(inner: Inner) -> int:
        return sum(sizes(transformed(wide, kind, inner)).values())

    return closest(count, proportional(count, largest, limits, budget), limits, budget)
