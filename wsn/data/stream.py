"""Image sets too large for memory: prepared JPEGs, decoded to uint8 batches of 224×224 while training runs.

The content of a batch is a function of (seed, epoch, step) alone, whatever the number of hosts and threads, and any
step can be the first: a resumed run, even on other machines, sees what it would have seen. So no shuffle buffer, and no
worker processes: threads decode ahead, since Pillow and array_record release Python's lock (285 images a second and
core). grain, which also reads array_record in a resumable order, would replace none of this but the thread pool.

Crops are those of the paper's Appendix A.1 (`wsn.data.crops`). Half of the training images are flipped: the paper's
list leaves that out, but the standard transformations that it says to follow include it.
"""

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int, UInt8

from wsn import devices
from wsn.data.batches import Batch, image_batch_shapes, positions
from wsn.data.crops import ATTEMPTS, CROP, Place, center_box, decode, random_box, uniforms
from wsn.data.feeds import Feed
from wsn.data.images import permutation
from wsn.data.normalization import normalize
from wsn.devices import Placement
from wsn.errors import UserError, one_line
from wsn.spec import Data, Group, Spec

# Images that a thread decodes per task: few enough to share a batch, many enough to hide the scheduling.
_CHUNK = 8
# Batches of one call, at most. On a GPU a call lays out kernels, momenta and masks anew (9.4 of the 25.4 GB of a step
# of ImageNet), and over several processes 250 arrays cost the host 23 ms a call (two processes on a CPU, tried).
_MOST_BATCHES = 8


# Order: the examples of a batch, and their random numbers.


def positions_of_host(
    examples: int, batch_size: int, host: int, hosts: int, spread: bool = False
) -> Int[np.ndarray, "batches local"]:
    """The part of this host of `batches.positions`.

    Each batch is cut into equal, consecutive parts, so that all hosts together see the batches of a single host.
    """
    local = -(-batch_size // hosts)
    rows = positions(examples, batch_size, spread)
    rows = np.pad(rows, [(0, 0), (0, local * hosts - batch_size)], constant_values=-1)
    return rows[:, host * local : (host + 1) * local]


def batches_of_call(period: int) -> int:
    """How many batches a call of the program trains on: a divisor of `period`, so that all calls are one program.

    1 on a CPU, where XLA does not thread the convolutions inside loops.
    """
    if devices.platform() == "cpu":
        return 1
    return max(count for count in range(1, _MOST_BATCHES + 1) if period % count == 0)


# Reading.


class Crop(NamedTuple):
    """An image to read: its number in the split, where to cut it, whether to flip it."""

    record: int
    place: Place
    flip: bool


Plan = Callable[
    [Int[np.ndarray, " chunk"]], Iterator[Crop]
]  # of consecutive positions in the order of an epoch


@dataclasses.dataclass(frozen=True)
class Records:
    """A split, example by example, images still encoded. `where` names the data set in errors."""

    source: Sequence[Any]  # no Mapping: a type checker at run time would read its elements
    image: str
    label: str
    classes: int
    split: str
    where: str

    def read(self, crop: Crop) -> tuple[UInt8[np.ndarray, "224 224 3"], int]:
        """The cropped image and its label. Raises UserError."""
        name = f"{self.split}[{crop.record}]"
        try:
            example = self.source[crop.record]
            if "file_name" in example:
                name = f"{name} ({example['file_name'].decode()})"
            label = int(example[self.label])
            if not 0 <= label < self.classes:
                raise ValueError(f"the label {label} is none of the {self.classes} classes")
            return decode(example[self.image], crop.place, crop.flip), label
        except Exception as error:  # array_record, TFDS and Pillow each raise their own kinds
            raise UserError(
                f"{self.where}: image {name} cannot be read ({one_line(error)}); prepare the data set again"
            ) from error


def load_batches(
    records: Records, rows: Int[np.ndarray, "calls *batches local"], plan: Plan, threads: int
) -> Iterator[Batch]:
    """The batch of every row, or the stacked batches, in order: uint8 images in host memory.

    Threads decode ahead. Memory holds the batches that two chunks per thread fill, and two more.
    """
    ahead = 1 + -(-2 * threads * _CHUNK // math.prod(rows.shape[1:]))
    pending: deque[tuple[Batch, list[Future]]] = deque()

    def fill(batch: Batch, start: int, positions: np.ndarray) -> None:
        for row, crop in enumerate(plan(positions), start):
            batch.inputs[row], batch.labels[row] = records.read(crop)

    def first() -> Batch:
        batch, parts = pending.popleft()
        for part in parts:
            part.result()
        return batch

    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for row in rows:
            images = np.zeros((*row.shape, CROP, CROP, 3), np.uint8)
            batch = Batch(images, np.zeros(row.shape, np.int32), (row >= 0).astype(np.float32))
            parts = []
            for place in np.ndindex(row.shape[:-1]):
                one, real = Batch(*(x[place] for x in batch)), row[place][row[place] >= 0]
                for start in range(0, len(real), _CHUNK):
                    parts.append(pool.submit(fill, one, start, real[start : start + _CHUNK]))
            pending.append((batch, parts))
            if len(pending) > ahead:
                yield first()
        while pending:
            yield first()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclasses.dataclass(frozen=True)
class Stream:
    """An opened data set, a `Source`; `mean` and `std` are those of `wsn.data.normalize`, in 0..255."""

    classes: int
    train_records: Records
    test_records: Records
    mean: Float32[np.ndarray, "1 1 3"]
    std: Float32[np.ndarray, "1 1 3"]
    threads: int
    flip: bool = True
    digest: str = ""
    streamed: ClassVar[bool] = True
    input_shape: ClassVar[tuple[int, int, int]] = (CROP, CROP, 3)

    def batch_shapes(self, size: int) -> Batch:
        return image_batch_shapes(size, self.input_shape)

    def num_examples(self, data: Data) -> tuple[int, int]:
        return len(self.train_records.source), len(self.test_records.source)

    def held_out_lanes(self, spec: Spec) -> int:
        return spec.batch_size

    def nbytes(self, spec: Spec) -> int:
        return 0

    def train(
        self,
        epoch: int,
        batch_size: int,
        *,
        seed: int,
        host: int = 0,
        hosts: int = 1,
        start: int = 0,
        spread: bool = False,
        together: int = 1,
    ) -> Iterator[Batch]:
        """The part of host `host` of the batches of an epoch, from step `start` on: uint8 images, cropped and flipped.

        `batch_size` counts the examples of all hosts; each gets ⌈batch_size / hosts⌉ rows, with weight 0 for padding.
        Above 1, that many batches are stacked; the rest of an epoch that is fewer is left out.
        Raises UserError for an image that cannot be read.
        """
        key, count = epoch << 64 | seed, len(self.train_records.source)
        order = permutation(count, key)

        def plan(positions: Int[np.ndarray, " chunk"]) -> Iterator[Crop]:
            numbers = uniforms(key, int(positions[0]), len(positions))
            for position, uniform in zip(positions, numbers, strict=True):
                place = partial(random_box, uniform=uniform[:ATTEMPTS])
                yield Crop(int(order[position]), place, self.flip and bool(uniform[ATTEMPTS, 0] < 0.5))

        rows = positions_of_host(count, batch_size, host, hosts, spread)[start:]
        if together > 1:
            rows = rows[: len(rows) // together * together].reshape(-1, together, rows.shape[1])
        return load_batches(self.train_records, rows, plan, self.threads)

    def test(self, batch_size: int, *, host: int = 0, hosts: int = 1) -> Iterator[Batch]:
        """The part of host `host` of the test set, in the order of the source, cut like the batches of `train`."""

        def plan(positions: Int[np.ndarray, " chunk"]) -> Iterator[Crop]:
            return (Crop(int(position), center_box, False) for position in positions)

        rows = positions_of_host(len(self.test_records.source), batch_size, host, hosts)
        return load_batches(self.test_records, rows, plan, self.threads)

    def feed(self, group: Group, placement: Placement, spread: bool = False) -> Feed:
        """Rows are batches of raw images, normalized on the device; all members see the same. Raises UserError."""
        spec = group.specs[0]
        if spec.train_samples is not None or spec.validation_samples or spec.order != "shared":
            raise UserError(
                f"`dataset={spec.dataset}` is streamed whole: leave out `train_samples`, validation and `order`"
            )
        if spec.augmentation != "none" or spec.normalization not in ("scalar", "imagenet"):
            raise UserError(
                f"`dataset={spec.dataset}` is streamed, with its own crops, mean and deviation: leave out"
                " `augmentation` and `normalization`"
            )
        index, count = placement.host
        host = {"host": index, "hosts": count}
        steps = -(-len(self.train_records.source) // spec.batch_size)
        together = batches_of_call(math.gcd(steps, spec.eval_every or steps))

        def training(first: int, last: int) -> Iterator[Batch]:
            for epoch in range(first // steps, -(-last // steps)):
                start, stop = max(first - epoch * steps, 0), min(last - epoch * steps, steps)
                rows = self.train(
                    epoch,
                    spec.batch_size,
                    seed=spec.data_seed,
                    start=start,
                    spread=spread,
                    together=together,
                    **host,
                )
                yield from on_device(islice(rows, (stop - start) // together), axis=int(together > 1))

        def on_device(rows: Iterator[Batch], axis: int = 0) -> Iterator[Batch]:
            return (devices.scatter_examples(placement, row, axis) for row in rows)

        def make_batch(_: Any, row: Batch) -> Batch:
            images = normalize(row.inputs, self.mean, self.std)
            return Batch(images, jnp.asarray(row.labels), jnp.asarray(row.weight))

        return Feed(
            steps,
            spec.batch_size,
            spec.batch_size,
            training,
            lambda: on_device(self.test(spec.batch_size, **host)),
            (),
            (),
            make_batch,
            make_batch,
            together,
        )
