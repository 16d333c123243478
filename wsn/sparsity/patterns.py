"""Which weights are kept: kept counts and a key → sorted positions, drawn once and static (section 2.3).

Positions are flat C-order indices into a kernel (*taps, inputs, outputs); layers are named by their parameter path. A
`Pattern` rounds counts to those that it can keep, and draws the positions of one kernel: a new one is two functions and
an entry in `PATTERNS`.

Each layer's key is folded in from its path, so a draw depends on (key, path, size, kept count) alone and no two layers
share one. It is made on the host from NumPy's Philox, whose raw stream is the same on every machine, in every version
of NumPy (that of `Generator.choice` is not) and for any number of devices.
"""

import math
import zlib
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int64, PRNGKeyArray, UInt64

from wsn.errors import UserError, choose
from wsn.sparsity.shapes import Shapes

Counts = dict[str, int]
Positions = Int64[np.ndarray, " kept"]
PIECE = 2**22  # random words in memory at once


class Pattern(NamedTuple):
    """`round`: (kept counts, shapes) → the nearest counts possible. `draw`: (key, shape, count) → sorted positions."""

    round: Callable[[Mapping[str, int], Shapes], Counts]
    draw: Callable[[PRNGKeyArray, tuple[int, ...], int], Positions]


def draw(
    key: PRNGKeyArray,
    shapes: Mapping[str, tuple[int, ...]],
    counts: Mapping[str, int],
    pattern: str = "elementwise",
) -> dict[str, Int64[np.ndarray, " _"]]:
    """Positions of the kept weights of every layer that loses some; a layer kept whole has no entry.

    `counts` must be possible under the pattern (see `rounded`). Raises UserError for an unknown pattern.
    """
    rule = choose(PATTERNS, "pattern", pattern)
    return {
        path: rule.draw(layer_key(key, path), shape, counts[path])
        for path, shape in shapes.items()
        if counts[path] < math.prod(shape)
    }


def rounded(pattern: str, counts: Mapping[str, int], shapes: Shapes) -> Counts:
    """The nearest counts that are possible under a pattern; in sum no more than `counts`.

    Raises UserError for an unknown pattern, and where a layer would be left without a weight.
    """
    kept = choose(PATTERNS, "pattern", pattern).round(counts, shapes)
    assert list(kept) == list(counts) and sum(kept.values()) <= sum(counts.values())
    assert all(1 <= kept[name] <= math.prod(shapes[name]) for name in kept)
    return kept


def layer_key(key: PRNGKeyArray, path: str) -> PRNGKeyArray:
    """The key of the parameter at `path`, such as `hidden_0/kernel`."""
    return jax.random.fold_in(key, zlib.crc32(path.encode()))


def any_count(counts: Mapping[str, int], shapes: Shapes) -> Counts:
    """Any count is possible."""
    return dict(counts)


def elementwise(key: PRNGKeyArray, shape: tuple[int, ...], kept: int) -> Positions:
    """Single weights, uniform over all entries of the kernel (section 2.3)."""
    return uniform_positions(key, math.prod(shape), kept)


def uniform_positions(key: PRNGKeyArray, size: int, kept: int) -> Int64[np.ndarray, " kept"]:
    """`kept` of `range(size)`, uniform without replacement, sorted.

    These are the places of the smallest of `size` random 64-bit words, which are drawn in pieces to save memory.
    """
    if not 0 <= kept <= size:
        raise ValueError(f"cannot keep {kept} of {size} weights")
    return smallest_drawn(philox(key), size, kept)[1]


def smallest_drawn(
    random: np.random.Philox, size: int, kept: int
) -> tuple[UInt64[np.ndarray, " kept"], Int64[np.ndarray, " kept"]]:
    """The `kept` smallest of the next `size` words, and their places among them, sorted by place."""
    words, places = np.empty(0, np.uint64), np.empty(0, np.int64)
    for first in range(0, size, PIECE):
        piece = random.random_raw(min(PIECE, size - first))
        # A word above the largest of enough smaller ones is not kept, whatever follows.
        candidates = np.flatnonzero(piece < words.max()) if 0 < kept <= words.size else np.arange(piece.size)
        words, places = (
            np.concatenate([words, piece[candidates]]),
            np.concatenate([places, first + candidates]),
        )
        if words.size > kept:
            chosen = smallest(words, kept)
            words, places = words[chosen], places[chosen]
    return words, places


def philox(key: PRNGKeyArray) -> np.random.Philox:
    """The stream of random words of a key."""
    seed = int.from_bytes(np.asarray(jax.random.key_data(key), "<u4").tobytes(), "little")
    return np.random.Philox(key=seed)


def kernel_positions(key: PRNGKeyArray, shape: tuple[int, ...], kept: int) -> Int64[np.ndarray, " kept"]:
    """Positions of whole k × k kernels of a convolution, single weights of a dense layer; `kept` weights in all.

    The pairs (input, output) are uniform without replacement. `kept` must be a multiple of the taps of a pair.
    """
    taps, pairs = math.prod(shape[:-2]), math.prod(shape[-2:])
    if kept % taps:
        raise ValueError(f"{kept} weights are no whole number of kernels of {taps}")
    chosen = uniform_positions(key, pairs, kept // taps)
    return (np.arange(taps)[:, None] * pairs + chosen).ravel()


def whole_kernels(counts: Mapping[str, int], shapes: Shapes) -> Counts:
    """Kept counts in whole k × k kernels; a few weights of the budget may be left over (Appendix C).

    A k × k layer rounds down to a multiple of k². The surplus goes back as whole kernels, one to a layer, first to
    empty layers and then to those that lost most; the rest fills layers with room, larger kernels first, so single
    weights go to dense and 1 × 1 layers. Ties go to the earlier layer. Raises UserError if a layer is left empty.
    """
    taps = {name: math.prod(shape[:-2]) for name, shape in shapes.items()}
    lost = {name: counts[name] % taps[name] for name in counts}
    kept = {name: counts[name] - lost[name] for name in counts}
    surplus = sum(lost.values())
    for name in sorted(filter(lost.get, counts), key=lambda name: (kept[name] > 0, -lost[name])):
        if taps[name] <= surplus:
            kept[name] += taps[name]
            surplus -= taps[name]
    for name in sorted(counts, key=lambda name: -taps[name]):
        room = math.prod(shapes[name]) - kept[name]
        given = min(room, surplus) // taps[name] * taps[name]
        kept[name] += given
        surplus -= given
    empty = [name for name in kept if not kept[name]]
    if empty:
        raise UserError(f"pattern io leaves no whole kernel in {', '.join(empty)}: give a larger budget")
    return kept


def balanced(group: int | None = None) -> Pattern:
    """N or N + 1 weights of every `group` consecutive inputs of an output unit (None: of all its inputs).

    N follows from the kept count, and which groups keep N + 1 is drawn, so any count is possible. A count of N in every
    group is N:M sparsity (M the group; 2:4 for half of the weights, Mishra et al. 2021); below 1:M a group has one
    weight or none. Inputs are the rows of the kernel as a matrix (height · width · inputs, outputs); the last group of
    a unit may be smaller, and keeps N or all that it has.
    """

    def draw(key: PRNGKeyArray, shape: tuple[int, ...], kept: int) -> Positions:
        inputs, units = math.prod(shape[:-1]), shape[-1]
        return balanced_positions(key, inputs, units, min(group or inputs, inputs), kept)

    return Pattern(any_count, draw)


def balanced_positions(
    key: PRNGKeyArray, inputs: int, units: int, group: int, kept: int
) -> Int64[np.ndarray, " kept"]:
    """Positions of `kept` weights of a matrix (inputs, units), N or N + 1 in every group of inputs of a unit.

    They are the places of the smallest random words of a group; words are drawn in pieces to save memory.
    """
    groups = -(-inputs // group)
    room = np.full(groups, group)
    room[-1] = inputs - (groups - 1) * group
    least = bisect_right(range(group), kept, key=lambda n: units * int(np.minimum(room, n).sum())) - 1
    open_groups = int(np.count_nonzero(room > least))  # of a unit: all, or all but a smaller last one
    left = kept - units * int(np.minimum(room, least).sum())
    unit, place = np.divmod(
        uniform_positions(jax.random.fold_in(key, 0), units * open_groups, left), open_groups
    )
    more = np.zeros(units * groups, bool)
    more[unit * groups + place] = True
    nonempty = np.arange(units * groups) if least else np.flatnonzero(more)
    stream = philox(jax.random.fold_in(key, 1))
    pieces = [np.empty(0, np.int64)]
    for piece in np.array_split(nonempty, -(-nonempty.size * group // PIECE) or 1):
        size = room[piece % groups, None]
        words = stream.random_raw((piece.size, group))
        words[np.arange(group) >= size] = np.iinfo(np.uint64).max
        order = np.argpartition(words, least, axis=1)[:, : least + 1]
        chosen = ((np.arange(least + 1) < least) | more[piece, None]) & (order < size)
        rows = (piece % groups)[:, None] * group + order
        pieces.append((rows * units + (piece // groups)[:, None])[chosen])
    positions = np.sort(np.concatenate(pieces))
    assert positions.size == kept
    return positions


def blocks(side: int = 4) -> Pattern:
    """Whole blocks of `side` inputs × `side` outputs of the kernel as a matrix; smaller at its edges.

    Blocks are added in random order until the count is reached, and the last one keeps its first weights only, so any
    count is possible.
    """

    def draw(key: PRNGKeyArray, shape: tuple[int, ...], kept: int) -> Positions:
        inputs, units = math.prod(shape[:-1]), shape[-1]
        down, across = -(-inputs // side), -(-units // side)
        smaller = (down if units % side else 0) + (across if inputs % side else 0)
        enough = min(down * across, kept // side**2 + smaller + 1)
        words, places = smallest_drawn(philox(key), down * across, enough)
        order = places[np.argsort(words, kind="stable")]
        corner = np.stack(np.divmod(order, across)) * side
        sizes = np.minimum(np.array([[inputs], [units]]) - corner, side).prod(0)
        corner = corner[:, : np.searchsorted(np.cumsum(sizes), kept) + 1, None, None]
        rows, columns = corner[0] + np.arange(side)[:, None], corner[1] + np.arange(side)
        inside = (rows < inputs) & (columns < units)
        return np.sort((rows * units + columns)[inside][:kept])

    return Pattern(any_count, draw)


def smallest(words: UInt64[np.ndarray, " size"], kept: int) -> Int64[np.ndarray, " kept"]:
    """Sorted positions of the `kept` smallest of `words`; of equal words the earlier come first."""
    if kept == 0:
        return np.empty(0, np.int64)
    threshold = np.partition(words, kept - 1)[kept - 1]
    chosen = np.flatnonzero(words <= threshold)
    if chosen.size > kept:  # several words equal the threshold
        tied = np.flatnonzero(words == threshold)
        chosen = np.setdiff1d(chosen, tied[tied.size - (chosen.size - kept) :], assume_unique=True)
    assert chosen.size == kept
    return chosen.astype(np.int64, copy=False)


PATTERNS: dict[str, Pattern] = {
    "elementwise": Pattern(any_count, elementwise),
    "io": Pattern(whole_kernels, kernel_positions),
    "fan_in": balanced(),
    "n_m": balanced(4),
    "block": blocks(4),
}
