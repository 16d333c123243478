"""How many weights each layer keeps: layer sizes and a total -> kept counts, in integers alone.

In: `sizes`, layer name -> number of weights, from input to output, and `total`, the number of weights that
the whole network keeps. Out: layer name -> kept count, in the order of `sizes`; the counts sum to `total`
exactly, no layer keeps more than it has and none is left empty. Which weights are kept is another question
(`patterns`). Source: Golubeva et al., ICLR 2021, section 2.3, Appendices B and C; Figure 4 draws
`largest_first`.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping

from wsn.errors import UserError, choose


def largest_first(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Cut the largest layer down to the next largest, then both equally, and so on (Appendix B).

    So every layer is cut to one common level and smaller layers stay whole. The level is rounded up and the
    largest layer (of equals, the first) is cut by the few weights more that make the sum exact. Where it
    has too few weights for that, the largest layers are cut by one more weight each instead.

    Raises UserError unless `len(sizes) <= total <= sum(sizes.values())`.
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
    """Keep the last layer whole; the others share the rest by `largest_first` (Figure 8).

    Raises UserError if that leaves another layer without a weight, or `total` exceeds the network.
    """
    return last_layer_fraction(sizes, total, 1.0)


def last_layer_fraction(sizes: Mapping[str, int], total: int, fraction: float) -> dict[str, int]:
    """Keep `round(fraction * size)` weights of the last layer; the rest by `largest_first` (Figure 5).

    `fraction` is the connectivity of the last layer, in (0, 1]. Raises UserError if the rest does not fit the
    other layers: too few weights to leave one in each, or more than they have.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"--last_connectivity: {fraction:g} is outside (0, 1]")
    *others, last = sizes
    in_last = round(fraction * sizes[last])
    if in_last < 1:
        raise UserError(
            f"--last_connectivity={fraction:g} keeps none of the {sizes[last]} weights of the last layer: give more"
        )
    rest = total - in_last
    room = sum(sizes[name] for name in others)
    if not len(others) <= rest <= room:
        raise UserError(
            f"--widths: the last layer keeps {in_last} weights of a budget of {total}, leaving {rest} for"
            f" the layers before it, which hold {len(others)} to {room}:"
            f" take a {'smaller' if rest < len(others) else 'larger'} width"
        )
    return largest_first({name: sizes[name] for name in others}, rest) | {last: in_last}


DISTRIBUTIONS: dict[str, Callable[[Mapping[str, int], int], dict[str, int]]] = {
    "largest_first": largest_first,
    "dense_last": dense_last,
}


def kept_counts(
    distribution: str, sizes: Mapping[str, int], total: int, whole: Collection[str] = ()
) -> dict[str, int]:
    """Kept count of each layer under a named distribution; exact, asserted.

    Layers of `whole` keep all of their weights, and the others share the rest of the total. Raises UserError for an
    unknown name and for a budget that the network cannot meet.
    """
    rule = choose(DISTRIBUTIONS, "distribution", distribution)
    _check_range(sizes, total)
    others = {name: size for name, size in sizes.items() if name not in whole}
    rest = total - sum(sizes.values()) + sum(others.values())
    if rest < len(others):
        raise UserError(
            f"--sparsify: of a budget of {total} weights the layers that stay whole take {total - rest}, which leaves"
            f" too few for {', '.join(others)}: take a smaller width, or name more groups"
        )
    kept = dict(sizes) | rule(others, rest)
    assert list(kept) == list(sizes) and sum(kept.values()) == total
    assert all(1 <= kept[name] <= sizes[name] for name in sizes)
    return kept


def connectivity(kept: Mapping[str, int], sizes: Mapping[str, int]) -> float:
    """Kept weights over the weights of the dense network of the same width."""
    return sum(kept.values()) / sum(sizes.values())


def _check_range(sizes: Mapping[str, int], total: int) -> None:
    if total < len(sizes):
        raise UserError(f"--base_width: {total} weights cannot leave one in each of {len(sizes)} layers")
    if total > sum(sizes.values()):
        raise UserError(
            f"--widths: a budget of {total} weights exceeds the {sum(sizes.values())} of the dense network:"
            " take a width of at least the base width"
        )
