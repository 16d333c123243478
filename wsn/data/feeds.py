"""What training takes from data: a source gives a feed, a feed gives the rows of any steps and makes batches of them.

A new kind of data is a class with what `Source` lists; `wsn.data.splits` lies on the device whole, `wsn.data.stream`
is read from disk as it is needed.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from wsn import devices
from wsn.data.batches import MakeBatch, batches, shuffled
from wsn.devices import Placement
from wsn.spec import ORDER, Data, Group, Spec

# The examples of one evaluation batch: large enough for the matrix product, small enough for the cache. Fewer for wide
# networks, of which a hidden layer puts out at most so many numbers (128 MiB).
EVALUATION_BATCH = 1000
MAX_ACTIVATIONS = 2**25


def evaluation_batch_size(width: int) -> int:
    """How many examples of networks of that width are evaluated at once."""
    return max(1, min(EVALUATION_BATCH, MAX_ACTIVATIONS // width))


class Feed(NamedTuple):
    """Rows are what a batch is made from: arrays (…, steps, lanes), or an iterator of single ones of a stream."""

    steps: int  # of an epoch
    lanes: int  # of a training batch: examples, or streams whose hidden state is carried
    held_out_lanes: int
    training: Callable[
        [int, int], Any
    ]  # (first step, step after the last), counted from 0 over all epochs → rows
    held_out: Callable[[], Any]  # → rows
    training_data: Any  # what rows index, on the device
    held_out_data: Any
    make_training_batch: MakeBatch  # (data, row) → batch, inside the step
    make_held_out_batch: MakeBatch


@runtime_checkable
class Source(Protocol):
    """Where batches come from."""

    @property
    def streamed(self) -> bool:
        """Whether batches are made on the host while training runs."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example as the network sees it."""

    @property
    def classes(self) -> int:
        """How many outputs the network has."""

    def batch_shapes(self, size: int) -> Any:
        """The shapes of a batch of that size, without its values."""

    def num_examples(self, data: Data) -> tuple[int, int]:
        """How many examples train and are evaluated."""

    def held_out_lanes(self, spec: Spec) -> int:
        """How many examples (of a text: streams) are evaluated at once."""

    def nbytes(self, spec: Spec) -> int:
        """What lies on the device; 0 where batches are streamed."""

    def feed(self, group: Group, placement: Placement) -> Feed:
        """The batches of a group, as its placement takes them. Raises UserError."""


def steps_of(epoch: Callable[[int], Any], steps: int, first: int, last: int) -> Any:
    """Rows first … last − 1 of epochs of `steps` rows each, one after the other; `epoch`: number → its rows."""

    def part(number: int) -> Any:
        start, stop = max(first - number * steps, 0), min(last - number * steps, steps)
        rows = epoch(number)
        return rows if stop - start == steps else jax.tree.map(lambda x: x[..., start:stop, :], rows)

    parts = [part(number) for number in range(first // steps, -(-last // steps))]
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *x: np.concatenate(x, -2), *parts)


class SplitView(NamedTuple):
    """Examples on the host or on the device, so many of them, and how a row of `Indices` becomes a batch of them."""

    examples: int
    data: Any
    make_batch: MakeBatch


def resident(
    group: Group,
    placement: Placement,
    train: SplitView,
    held_out: SplitView,
    held_out_lanes: int,
    *,
    noisy: bool = False,
) -> Feed:
    """Everything on the device; rows are indices, with random words where `noisy`.

    The order of an epoch is a function of the seed and the epoch.
    """
    spec, shared = group.specs[0], group.specs[0].order == "shared"
    train_data, held_out_data = (devices.replicate(placement, part.data) for part in (train, held_out))
    size, batch_size = train.examples, min(spec.batch_size, train.examples)
    order = partial(shuffled, examples=size, batch_size=batch_size, noisy=noisy)
    key = jax.random.fold_in(jax.random.key(spec.data_seed), ORDER)
    if not shared:
        key = jnp.stack([jax.random.fold_in(jax.random.key(seed), ORDER) for _, seed in group.members])
        order = jax.vmap(order, in_axes=(0, None))
    epoch = lru_cache(2)(partial(order, key))
    steps = -(-size // batch_size)
    held_out_rows = devices.scatter_batches(placement, batches(jnp.arange(held_out.examples), held_out_lanes))
    return Feed(
        steps,
        batch_size,
        held_out_lanes,
        lambda first, last: devices.scatter_batches(
            placement, steps_of(epoch, steps, first, last), of_members=not shared
        ),
        lambda: held_out_rows,
        train_data,
        held_out_data,
        train.make_batch,
        held_out.make_batch,
    )
