"""Where a group's batches come from: a data set that lies on the device whole, or one that is streamed from disk.

Both give the rows of an epoch, and a function that makes a batch of a row on the device.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wsn import devices
from wsn.data.batches import AUGMENTATIONS, Batch, Take, batches, load, shuffled, take, take_augmented
from wsn.data.splits import Splits, normalise
from wsn.data.stream import HostBatch, Stream
from wsn.devices import Placement
from wsn.errors import UserError
from wsn.spec import Group, Spec

Source = Splits | Stream

# The examples of one evaluation batch: large enough for the matrix product, small enough for the cache.
EVALUATION_BATCH = 1000


class Feed(NamedTuple):
    """Rows are what a batch is made from: arrays over the steps of an epoch, or an iterator of single ones."""

    training: Callable[[int], Any]  # epoch → rows
    held_out: Callable[[], Any]  # → rows
    training_data: Any  # what rows index, on the device
    held_out_data: Any
    take_training: Take  # (data, row) → batch, inside the step
    take_held_out: Take


def examples(source: Source, spec: Spec) -> tuple[int, int]:
    """How many examples train and are evaluated."""
    if isinstance(source, Stream):
        return source.train_examples, source.test_examples
    held_out = source.validation_labels if spec.validation_samples else source.test_labels
    return len(source.train_labels), len(held_out)


def feed(group: Group, source: Source, placement: Placement) -> Feed:
    """The batches of a group, as its placement takes them. Raises UserError."""
    spec = group.specs[0]
    return (
        streamed(spec, source, placement)
        if isinstance(source, Stream)
        else resident(group, source, placement)
    )


def resident(group: Group, splits: Splits, placement: Placement) -> Feed:
    """Everything on the device; rows are indices."""
    spec = group.specs[0]
    augmented, shared = spec.augmentation != "none", spec.order == "shared"
    held_out = "validation" if spec.validation_samples else "test"
    train_data, test_data = (devices.replicate(placement, x) for x in load(splits, held_out, raw=augmented))
    size = len(train_data.labels)
    order = partial(shuffled, examples=size, batch_size=min(spec.batch_size, size), noisy=augmented)
    key = jax.random.fold_in(jax.random.key(spec.data_seed), 2)
    if not shared:
        key = jnp.stack([jax.random.fold_in(jax.random.key(seed), 2) for _, seed in group.members])
        order = jax.vmap(order, in_axes=(0, None))
    test_rows = devices.scatter_batches(
        placement, batches(jnp.arange(len(test_data.labels)), min(EVALUATION_BATCH, len(test_data.labels)))
    )
    augment = AUGMENTATIONS[spec.augmentation] if augmented else None
    return Feed(
        lambda epoch: devices.scatter_batches(placement, order(key, epoch), of_members=not shared),
        lambda: test_rows,
        train_data,
        test_data,
        take_augmented(augment, splits.mean, splits.deviation) if augment else take,
        take,
    )


def streamed(spec: Spec, stream: Stream, placement: Placement) -> Feed:
    """Rows are batches of raw images, decoded ahead on the host, augmented there, normalised on the device."""
    if spec.train_samples is not None or spec.validation_samples or spec.order != "shared":
        raise UserError(
            f"--dataset={spec.dataset} is streamed whole: leave out --train_samples, validation and --order"
        )
    host = {"host": jax.process_index(), "hosts": jax.process_count()}

    def on_device(rows: Iterator[HostBatch]) -> Iterator[HostBatch]:
        return (devices.scatter_examples(placement, row) for row in rows)

    def batch(_: Any, row: HostBatch) -> Batch:
        images = normalise(row.inputs, stream.mean, stream.deviation)
        return Batch(images, jnp.asarray(row.labels), jnp.asarray(row.weight))

    return Feed(
        lambda epoch: on_device(stream.train(epoch, spec.batch_size, seed=spec.data_seed, **host)),
        lambda: on_device(stream.test(spec.batch_size, **host)),
        (),
        (),
        batch,
        batch,
    )
