"""Which weights are kept: kept counts and a key -> sorted positions, drawn once and static (section 2.3).

In: kernel shapes by parameter path, kept counts by the same paths (`wsn.budget`), a key. Out: the tree
`keep`, path -> positions, with an entry only for layers that lose weights. Positions are flat C-order
indices into the kernel in Flax's layout; they are the truth, and the 0/1 array that `apply_masks`
multiplies by (1 = kept) is a view of them.

Each layer's key is folded in from its parameter path, so that a draw depends on (key, path, size, kept)
alone and no two layers share one. The draw is made on the host by NumPy's Philox, whose raw stream is the
same on every machine and in every NumPy version (that of `Generator.choice` is not), whatever devices train
afterwards.
"""

import math
import zlib
from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Int64, PRNGKeyArray, UInt64

from wsn.errors import UserError


def draw(
    key: PRNGKeyArray,
    shapes: Mapping[str, tuple[int, ...]],
    counts: Mapping[str, int],
    kind: str = "elementwise",
) -> dict[str, Int64[np.ndarray, " _"]]:
    """Positions of the kept weights of every layer that loses some; a layer kept whole has no entry.

    `elementwise` draws over all entries of a kernel; `io` over input and output dimensions, keeping k x k
    kernels whole (Appendix C), and needs counts from `wsn.budget.io_counts`. Raises UserError for another
    kind.
    """
    if kind not in ("elementwise", "io"):
        raise UserError(f"--mask: {kind!r} is unknown; choose from elementwise, io")
    keep = {}
    for path, shape in shapes.items():
        size, kept = math.prod(shape), counts[path]
        if kept == size:
            continue
        own_key = layer_key(key, path)
        io = kind == "io"
        keep[path] = draw_io_positions(own_key, shape, kept) if io else draw_positions(own_key, size, kept)
    return keep


def layer_key(key: PRNGKeyArray, path: str) -> PRNGKeyArray:
    """The key of the parameter at `path`, such as `hidden_0/kernel`."""
    return jax.random.fold_in(key, zlib.crc32(path.encode()))


def draw_positions(key: PRNGKeyArray, size: int, kept: int) -> Int64[np.ndarray, " kept"]:
    """`kept` of `range(size)`, uniform without replacement, sorted; exact in number for every key.

    Takes the smallest of `size` random 64-bit words. Host memory: about 16 bytes an entry at the peak.
    """
    if not 0 <= kept <= size:
        raise ValueError(f"cannot keep {kept} of {size} weights")
    seed = int.from_bytes(np.asarray(jax.random.key_data(key), "<u4").tobytes(), "little")
    return smallest(np.random.Philox(key=seed).random_raw(size), kept)


def draw_io_positions(key: PRNGKeyArray, shape: tuple[int, ...], kept: int) -> Int64[np.ndarray, " kept"]:
    """Positions of whole kernels, `kept` weights in all, of a layer of `shape` (k, k, in, out) or (in, out).

    The pairs (in, out) are uniform without replacement. `kept` must be a multiple of k^2.
    """
    taps, pairs = math.prod(shape[:-2]), math.prod(shape[-2:])
    if kept % taps:
        raise ValueError(f"{kept} weights are no whole number of kernels of {taps}")
    chosen = draw_positions(key, pairs, kept // taps)
    return (np.arange(taps)[:, None] * pairs + chosen).ravel()


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
