"""Sparse storage: a kernel as the values at its kept positions, with an index of them by output unit and by input.

The index is made on the host, where every bound is checked once, so that no entry can lead outside an array. Indices of
several members, with different numbers of weights, are padded and stacked.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int32, Int64, Shaped

Positions = Int64[np.ndarray, " _"]  # (kept)


class Terms(NamedTuple):
    """The kept weights of every unit: u has the terms `start[u]` ≤ t < `start[u + 1]`, and padding follows the last."""

    start: Int32[Any, "*members units_and_one"]
    plane: Int32[
        Any, "*members kept"
    ]  # the input of a term of an output unit, the output of a term of an input
    tap: Int32[Any, "*members taps"]  # which of the k · k pixels of a convolution; empty for a dense layer
    value: Int32[Any, "*members kept"]  # index of the weight among the values


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SparseIndex:
    """The kept positions of a kernel of `shape`, (inputs, outputs) or (k, k, inputs, outputs)."""

    by_output: Terms
    by_input: Terms
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    # The largest number of terms of an output, and of an input.
    most: tuple[int, int] = dataclasses.field(metadata={"static": True})

    @property
    def values(self) -> int:
        """The number of values that each member stores, padding included."""
        return self.by_output.value.shape[-1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SparseKernel:
    """A kernel as its values at sorted kept positions; `rows`: the range (from, to) of its inputs that is used."""

    values: Float[Array, " kept"]
    index: SparseIndex
    rows: tuple[int, int] = dataclasses.field(metadata={"static": True})

    def __mul__(self, factor: float) -> "SparseKernel":
        return dataclasses.replace(self, values=self.values * factor)

    def __getitem__(self, rows: slice) -> "SparseKernel":
        """The kernel of consecutive inputs of a dense layer, with the same values."""
        first, last, step = rows.indices(self.rows[1] - self.rows[0])
        assert step == 1 and len(self.index.shape) == 2
        return dataclasses.replace(self, rows=(self.rows[0] + first, self.rows[0] + last))


def sparse_kernel(values: Float[Array, " kept"], index: SparseIndex) -> SparseKernel:
    """The kernel with these values, of all inputs."""
    return SparseKernel(values, index, (0, index.shape[-2]))


def has_storage(shape: Sequence[int]) -> bool:
    """Whether a kernel of that shape can be stored sparse: a dense layer, or a square convolution of odd size."""
    return len(shape) == 2 or (len(shape) == 4 and shape[0] == shape[1] and shape[0] % 2 == 1)


def sparse_index(shape: tuple[int, ...], positions: Positions) -> SparseIndex:
    """The index of one kernel. Raises ValueError for positions that are not sorted or outside of it."""
    *taps, inputs, outputs = shape
    if not has_storage(shape):
        raise ValueError(f"no sparse storage for a kernel of shape {shape}")
    if positions.size and not (positions[0] >= 0 and positions[-1] < math.prod(shape)):
        raise ValueError(f"positions outside a kernel of shape {shape}")
    largest = max(positions.size, inputs + 1, outputs + 1)
    if np.any(np.diff(positions) <= 0) or largest > np.iinfo(np.int32).max:
        raise ValueError("positions are not sorted, or too many")
    tap, place = np.divmod(positions, inputs * outputs)
    source, unit = np.divmod(place, outputs)
    by_output, by_input = terms(unit, source, tap, outputs), terms(source, unit, tap, inputs)
    if not taps:
        by_output, by_input = (side._replace(tap=side.tap[:0]) for side in (by_output, by_input))
    most = tuple(int(np.diff(side.start).max(initial=0)) for side in (by_output, by_input))
    return SparseIndex(by_output, by_input, shape, (most[0], most[1]))


def terms(unit: Positions, plane: Positions, tap: Positions, units: int) -> Terms:
    """Terms sorted by unit, plane and tap."""
    order = np.lexsort((tap, plane, unit))
    start = np.concatenate([[0], np.cumsum(np.bincount(unit, minlength=units))])
    return Terms(*(np.asarray(x, np.int32) for x in (start, plane[order], tap[order], order)))


def stacked(members: Sequence[SparseIndex]) -> SparseIndex:
    """Indices of kernels of one shape along a leading axis, padded to the largest number of weights."""

    def side(*sides: Terms) -> Terms:
        columns = []
        for arrays in zip(*sides, strict=True):
            size = max(array.size for array in arrays)
            columns.append(np.stack([np.pad(array, (0, size - array.size)) for array in arrays]))
        return Terms(*columns)

    by_output, by_input = (
        side(*terms) for terms in zip(*((m.by_output, m.by_input) for m in members), strict=True)
    )
    outputs, inputs = zip(*(member.most for member in members), strict=True)
    return SparseIndex(by_output, by_input, members[0].shape, (max(outputs), max(inputs)))


def positions(index: SparseIndex, member: int) -> Positions:
    """The positions of one of the stacked members: the inverse of `sparse_index`."""
    inputs, outputs = index.shape[-2:]
    start, plane, tap, value = (np.asarray(x[member], np.int64) for x in index.by_output)
    count = int(start[-1])
    unit = np.repeat(np.arange(outputs), np.diff(start))
    row = plane[:count] + (inputs * tap[:count] if tap.size else 0)
    flat = np.empty(count, np.int64)
    flat[value[:count]] = row * outputs + unit
    return flat


def values_at(
    kernel: Shaped[np.ndarray, "..."], positions: Positions, size: int
) -> Shaped[np.ndarray, " size"]:
    """The values of a dense kernel at these positions, padded with zeros to `size`."""
    return np.pad(kernel.reshape(-1)[positions], (0, size - positions.size))


def dense_kernel(
    values: Shaped[np.ndarray, " _"], positions: Positions, shape: tuple[int, ...]
) -> np.ndarray:
    """The dense kernel that has these values at these positions and 0 elsewhere."""
    kernel = np.zeros(math.prod(shape), values.dtype)
    kernel[positions] = values[: positions.size]
    return kernel.reshape(shape)
