"""How many weights each layer keeps: kernel shapes and a total → kept counts, in integers.

Layers are named, and listed from input to output. The counts sum to the total exactly; no layer keeps more weights than
it has, none is left empty. Which weights are kept is up to `patterns`. Sources: Golubeva et al., ICLR 2021, section 2.3
and Appendices B and C (Figure 4 shows `largest_first`); Mocanu et al. 2018 and Evci et al. 2020 for Erdős–Rényi.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from fractions import Fraction
from typing import SupportsFloat, SupportsIndex

from wsn.errors import UserError, choose, whole_number
from wsn.sparsity.shapes import Shapes, group, weights
from wsn.sparsity.shapes import sizes as sizes_of


def largest_first(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Cut the largest layer down to the next largest, then both equally, and so on (Appendix B).

    So every layer is cut to one common level and smaller layers stay whole. The level is rounded up and the
    largest layer (the first, if several are equal) is cut by the few weights more that make the sum exact. Where it
    has too few weights for that, the largest layers are cut by one more weight each instead.
    """
    _check_range(sizes, total)
    highest = max(sizes.values(), default=0)
    level = bisect_left(
        range(min(highest, total)), total, key=lambda level: sum(min(n, level) for n in sizes.values())
    )
    kept = {name: min(n, level) for name, n in sizes.items()}
    excess = sum(kept.values()) - total
    if excess:
        descending = sorted(sizes, key=lambda name: -sizes[name])
        if excess < level:
            kept[descending[0]] -= excess
        else:
            kept |= {name: level - 1 for name in descending[:excess]}
    return kept


def dense_last(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Keep the last layer whole; the others share the rest by `largest_first` (Figure 8)."""
    return last_layer_fraction(sizes, total, 1.0)


def last_layer_fraction(sizes: Mapping[str, int], total: int, fraction: float) -> dict[str, int]:
    """Keep `round(fraction * size)` weights of the last layer; the rest by `largest_first` (Figure 5).

    Raises UserError for a fraction outside (0, 1], and where the rest does not fit the other layers.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"a fraction of {fraction:g} of the last layer is outside (0, 1]")
    *others, last = sizes
    in_last = round(fraction * sizes[last])
    if in_last < 1:
        raise UserError(
            f"a fraction of {fraction:g} keeps none of the {sizes[last]} weights of the last layer"
        )
    rest = total - in_last
    room = sum(sizes[name] for name in others)
    if not len(others) <= rest <= room:
        raise UserError(
            f"the last layer keeps {in_last} weights of a budget of {total}, leaving {rest} for the layers before it,"
            f" which hold {len(others)} to {room}: take a {'smaller' if rest < len(others) else 'larger'} width"
        )
    return largest_first({name: sizes[name] for name in others}, rest) | {last: in_last}


def uniform(shapes: Shapes, total: int) -> dict[str, int]:
    """The same connectivity in every layer, up to rounding."""
    return in_proportion(sizes_of(shapes), sizes_of(shapes), total)


def erdos_renyi(shapes: Shapes, total: int) -> dict[str, int]:
    """Connectivity ∝ (inputs + outputs) / (inputs · outputs), the channels of a convolution; of each group of it."""
    shares = {}
    for name, shape in shapes.items():
        groups, (*taps, inputs, outputs) = group((1, *shape) if len(shape) == 1 else shape)
        shares[name] = groups * math.prod(taps) * (inputs + outputs)
    return in_proportion(shares, sizes_of(shapes), total)


def erdos_renyi_kernel(shapes: Shapes, total: int) -> dict[str, int]:
    """As `erdos_renyi`, with the height and width of kernels in the sum and in the product (Evci et al. 2020)."""
    groups = {name: group(shape) for name, shape in shapes.items()}
    return in_proportion(
        {name: n * sum(of_one) for name, (n, of_one) in groups.items()}, sizes_of(shapes), total
    )


def in_proportion(shares: Mapping[str, int], sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Counts in proportion to the shares, between 1 and the size of the layer, which sum to `total`.

    Layers that would exceed their size are kept whole, and the others share the rest in the same proportion. Exact:
    the level ε of min(max(ε · share, 1), size) is a fraction, and the weights that rounding down leaves go to the
    largest remainders (the first, if several are equal).
    """
    _check_range(sizes, total)
    if total == len(sizes):
        return dict.fromkeys(sizes, 1)

    def at(level: Fraction) -> dict[str, Fraction]:
        return {
            name: min(max(level * share, Fraction(1)), Fraction(sizes[name]))
            for name, share in shares.items()
        }

    # Between two of these levels the sum is linear.
    bends = {Fraction(bound, share) for name, share in shares.items() for bound in (1, sizes[name])}
    levels = sorted(bends | {Fraction(0)})
    sums = [sum(at(level).values(), Fraction(0)) for level in levels]
    right = bisect_left(sums, Fraction(total))
    (low, high), (below, above) = levels[right - 1 : right + 1], sums[right - 1 : right + 1]
    exact = at(low + (high - low) * (total - below) / (above - below))
    kept = {name: math.floor(count) for name, count in exact.items()}
    left = total - sum(kept.values())
    for name in sorted(exact, key=lambda name: kept[name] - exact[name])[:left]:
        kept[name] += 1
    return kept


def of_sizes(rule: Callable[[Mapping[str, int], int], dict[str, int]]) -> "Distribution":
    """A distribution that looks at the number of weights of a layer alone."""
    return lambda shapes, total: rule(sizes_of(shapes), total)


Distribution = Callable[[Shapes, int], dict[str, int]]  # (shapes, total) → kept counts
DISTRIBUTIONS: dict[str, Distribution] = {
    "largest_first": of_sizes(largest_first),
    "dense_last": of_sizes(dense_last),
    "uniform": uniform,
    "erdos_renyi": erdos_renyi,
    "erdos_renyi_kernel": erdos_renyi_kernel,
}
BY_SIZE = ("largest_first", "dense_last", "uniform")  # that do not depend on which dimensions are inputs


def kept_counts(
    distribution: str, shapes: Shapes, total: SupportsIndex | SupportsFloat, whole: Collection[str] = ()
) -> dict[str, int]:
    """Kept count of each layer under a named distribution; exact, asserted.

    Layers of `whole` keep all their weights, and the others share the rest of the total (under `dense_last` by
    `largest_first`, if the last layer is one of `whole`). Raises UserError for an unknown name, for a budget that the
    network cannot meet, and for counts of a distribution of your own that do not fit.
    """
    rule = choose(DISTRIBUTIONS, "distribution", distribution)
    if isinstance(whole, str) or not set(whole) <= set(shapes):
        raise UserError(f"`whole={whole}`: give a list of some of {', '.join(shapes)}")
    if distribution == "dense_last" and next(reversed(shapes), None) in whole:
        rule = DISTRIBUTIONS["largest_first"]
    sizes, total = sizes_of(shapes), whole_number("total", total)
    _check_range(sizes, total)
    others = {name: shape for name, shape in shapes.items() if name not in whole}
    rest = total - (weights(shapes) - weights(others))
    if rest < len(others):
        raise UserError(
            f"of a budget of {total} weights the layers that stay whole take {total - rest}, which leaves too few for"
            f" {', '.join(others)}: take a smaller width, or fewer whole layers"
        )
    kept = sizes | (rule(others, rest) if others else {})
    if list(kept) != list(sizes) or not all(1 <= kept[name] <= sizes[name] for name in sizes):
        raise UserError(f"`distribution={distribution}` gives {kept} for layers of {sizes} weights")
    if sum(kept.values()) != total:
        raise UserError(
            f"`distribution={distribution}` keeps {sum(kept.values())} weights instead of {total}"
        )
    return kept


def _check_range(sizes: Mapping[str, int], total: int) -> None:
    if total < len(sizes):
        raise UserError(
            f"a budget of {total} weights cannot leave one in each of {len(sizes)} layers: give more"
        )
    if total > sum(sizes.values()):
        raise UserError(
            f"a budget of {total} weights exceeds the {sum(sizes.values())} of the dense network: take a larger width"
        )
