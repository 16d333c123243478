"""The interface between data and training: a `Source` gives a `Feed`, and a feed gives the batches of any steps.

A new kind of data is a class with the members of `Source`. `wsn.data.splits` lies on the device as a whole,
`wsn.data.stream` is read from disk as it is needed.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from wsn import devices, seeds
from wsn.data.batches import MakeBatch, batches, shuffled
from wsn.devices import Placement
from wsn.spec import ORDER, Data, Group, Spec

# Examples of an evaluation batch: enough for an efficient matrix product, few enough for the cache. Fewer for wide
# networks, so that a hidden layer has at most 2^25 activations (128 MiB).
EVALUATION_BATCH = 1000
MAX_ACTIVATIONS = 2**25


def evaluation_batch_size(width: int) -> int:
    """How many examples networks of that width evaluate at once."""
    return max(1, min(EVALUATION_BATCH, MAX_ACTIVATIONS // width))


class Feed(NamedTuple):
    """The batches of a group.

    A lane is a place in a batch: an example, or a text stream, which keeps its hidden state from batch to batch. A row
    says what a batch consists of: arrays (…, steps, lanes), or for a stream an iterator of batches on the host, in
    training of `together` stacked ones if that is above 1.
    """

    steps: int  # of an epoch
    lanes: int  # of a training batch
    held_out_lanes: int
    # (first step, step after the last), counted from 0 over all epochs → rows
    training: Callable[[int, int], Any]
    held_out: Callable[[], Any]  # → rows
    training_data: Any  # on the device, indexed by rows
    held_out_data: Any
    make_training_batch: MakeBatch  # (data, row) → batch, inside the step
    make_held_out_batch: MakeBatch
    together: int = 1


@runtime_checkable
class Source(Protocol):
    """Data to train on. Held out are the examples that are evaluated: validation or test."""

    @property
    def streamed(self) -> bool:
        """Whether batches are made on the host while training runs."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example as the network sees it."""

    @property
    def classes(self) -> int:
        """Number of outputs of the network."""

    @property
    def digest(self) -> str:
        """A SHA-256 that identifies the data, whatever their name and place; records compare it."""

    def batch_shapes(self, size: int) -> Any:
        """Shapes and dtypes of a batch of `size` lanes."""

    def num_examples(self, data: Data) -> tuple[int, int]:
        """Number of examples (of a text: windows) to train on, and held out."""

    def held_out_lanes(self, spec: Spec) -> int:
        """Lanes of an evaluation batch."""

    def nbytes(self, spec: Spec) -> int:
        """Bytes of the data on the device; 0 if streamed."""

    def feed(self, group: Group, placement: Placement, spread: bool = False) -> Feed:
        """The batches of a group on its devices, of sizes `batches.positions`. Raises UserError."""


def steps_of_epochs(epoch: Callable[[int], Any], steps: int, first: int, last: int) -> Any:
    """Rows first … last − 1 of consecutive epochs of `steps` rows each; `epoch`: number → its rows."""

    def part(number: int) -> Any:
        start, stop = max(first - number * steps, 0), min(last - number * steps, steps)
        rows = epoch(number)
        return rows if stop - start == steps else jax.tree.map(lambda x: x[..., start:stop, :], rows)

    parts = [part(number) for number in range(first // steps, -(-last // steps))]
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *x: np.concatenate(x, -2), *parts)


class SplitView(NamedTuple):
    """A split: number of examples, their data, and how a row of `Indices` becomes a batch."""

    examples: int
    data: Any
    make_batch: MakeBatch


def in_memory(
    group: Group,
    placement: Placement,
    train: SplitView,
    held_out: SplitView,
    held_out_lanes: int,
    *,
    noisy: bool = False,
    spread: bool = False,
) -> Feed:
    """A feed with all data on the device; rows are `Indices`, with random words if `noisy`; `spread` as in `positions`.

    The order of an epoch is a function of the seed and the epoch. With `order="shared"` all networks of a group see
    the same batches: their first layers then are one matrix product, and families are compared on common random
    numbers. So deviations over seeds leave out the order of the batches; `order="seed"` includes it.
    """
    spec, shared = group.specs[0], group.specs[0].order == "shared"
    train_data, held_out_data = (devices.replicate(placement, split.data) for split in (train, held_out))
    size, batch_size = train.examples, min(spec.batch_size, train.examples)
    order = partial(shuffled, examples=size, batch_size=batch_size, noisy=noisy, spread=spread)
    key = jax.random.fold_in(seeds.key(spec.data_seed), ORDER)
    if not shared:
        key = jnp.stack([jax.random.fold_in(seeds.key(seed), ORDER) for _, seed in group.members])
        order = jax.vmap(order, in_axes=(0, None))
    epoch = lru_cache(2)(partial(order, key))
    steps = -(-size // batch_size)
    held_out_rows = devices.scatter_batches(placement, batches(jnp.arange(held_out.examples), held_out_lanes))
    return Feed(
        steps,
        batch_size,
        held_out_lanes,
        lambda first, last: devices.scatter_batches(
            placement, steps_of_epochs(epoch, steps, first, last), of_members=not shared
        ),
        lambda: held_out_rows,
        train_data,
        held_out_data,
        train.make_batch,
        held_out.make_batch,
    )
