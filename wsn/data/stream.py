"""Image data too large for memory: from a prepared set of JPEGs to uint8 batches, decoded as they are needed.

In: the name of a set (`STREAMS`), batch size, epoch, host. Out: `HostBatch`es of 224×224 images, every example once an
epoch over all hosts. What a batch holds is a function of (seed, epoch, step) alone, whatever the number of hosts and
threads, and any step can be the first: a run that is resumed, also on other machines, sees what it would have seen.

Crops are those of the paper's Appendix A.1 (`wsn.data.crops`). Half of the training images are flipped: the paper's
list leaves that out, the standard transformations that it says to follow have it.
"""

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Float64, Int, Int32, UInt8

from wsn import devices
from wsn.data.batches import Batch, image_batch_shapes
from wsn.data.crops import ATTEMPTS, CROP, Place, center_box, decode, random_box
from wsn.data.feeds import Feed
from wsn.data.images import permutation
from wsn.data.normalization import IMAGENET_DEVIATION, IMAGENET_MEAN, normalize
from wsn.data.prepared import data_folder
from wsn.data.untrusted import check_copy
from wsn.devices import Placement
from wsn.errors import UserError, one_line
from wsn.machine import usable_cores
from wsn.spec import Data, Group, Spec

# Images that a thread decodes before it reports: few enough to share a batch, many enough to hide the hand-over.
_CHUNK = 8


# Order: which examples make up a batch, and their random numbers.


def share(examples: int, batch_size: int, host: int, hosts: int) -> Int[np.ndarray, "batches local"]:
    """Positions in the order of an epoch that each batch of this host holds; -1 is padding, at the end of a row.

    Hosts cut each batch into equal, consecutive parts, so that together they see the batches of a single host.
    """
    local = -(-batch_size // hosts)
    rows = np.arange(-(-examples // batch_size) * batch_size).reshape(-1, batch_size)
    rows = np.where(rows < examples, rows, -1)
    rows = np.pad(rows, [(0, 0), (0, local * hosts - batch_size)], constant_values=-1)
    return rows[:, host * local : (host + 1) * local]


def uniforms(key: int, first: int, count: int) -> Float64[np.ndarray, "count 11 4"]:
    """Numbers in [0, 1) for the positions first, first + 1, … of an epoch: the attempts at a crop, then the flip.

    Blocks of Philox, whose raw bits NumPy promises never to change; the counter's second word keeps them apart from
    those that `permutation` draws with the same key.
    """
    blocks = ATTEMPTS + 1
    bits = np.random.Philox(key=key, counter=(1 << 64) + first * blocks).random_raw(count * blocks * 4)
    return (bits >> np.uint64(11)).reshape(count, blocks, 4) * 2.0**-53


# Reading.


@dataclasses.dataclass(frozen=True)
class Records:
    """A split, example by example, images still encoded. `where` names the data set for messages."""

    source: Sequence[Any]  # no Mapping: whoever checks the type of an element would read it
    image: str
    label: str
    split: str
    where: str

    def read(self, record: int, place: Place, flip: bool) -> tuple[UInt8[np.ndarray, "224 224 3"], int]:
        """The image, cut, and its label. Raises UserError."""
        name = f"{self.split}[{record}]"
        try:
            example = self.source[record]
            if "file_name" in example:
                name = f"{name} ({example['file_name'].decode()})"
            return decode(example[self.image], place, flip), example[self.label]
        except Exception as error:  # array_record, TFDS and Pillow each raise their own kinds
            raise UserError(
                f"{self.where}: image {name} cannot be read ({one_line(error)}); prepare the data set again"
            ) from error


class HostBatch(NamedTuple):
    """Examples in host memory, in 0..255; `weight` is 1, or 0 for padding. What `Batch` is on the device."""

    inputs: UInt8[np.ndarray, "batch 224 224 3"]
    labels: Int32[np.ndarray, " batch"]
    weight: Float32[np.ndarray, " batch"]


Plan = Callable[[Int[np.ndarray, " chunk"]], Iterator[tuple[int, Place, bool]]]


def load(
    records: Records, rows: Int[np.ndarray, "batches local"], plan: Plan, threads: int
) -> Iterator[HostBatch]:
    """The batches of `rows`, in order; `plan` maps consecutive positions to (record, place of the crop, flip).

    Threads decode ahead, since Pillow and array_record release Python's lock while they work. Memory holds the batches
    that two chunks a thread fill, and two more.
    """
    ahead = 1 + -(-2 * threads * _CHUNK // rows.shape[1])
    pending: deque[tuple[HostBatch, list[Future]]] = deque()

    def fill(batch: HostBatch, start: int, positions: np.ndarray) -> None:
        for row, crop in enumerate(plan(positions), start):
            batch.inputs[row], batch.labels[row] = records.read(*crop)

    def first() -> HostBatch:
        batch, parts = pending.popleft()
        for part in parts:
            part.result()
        return batch

    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for row in rows:
            images = np.zeros((len(row), CROP, CROP, 3), np.uint8)
            batch = HostBatch(images, np.zeros(len(row), np.int32), (row >= 0).astype(np.float32))
            real = row[row >= 0]
            starts = range(0, len(real), _CHUNK)
            pending.append((batch, [pool.submit(fill, batch, s, real[s : s + _CHUNK]) for s in starts]))
            if len(pending) > ahead:
                yield first()
        while pending:
            yield first()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclasses.dataclass(frozen=True)
class Stream:
    """An opened data set. `mean` and `deviation`, in 0..255, are what `wsn.data.normalise` takes."""

    classes: int
    train_records: Records
    test_records: Records
    mean: Float32[np.ndarray, "1 1 3"]
    deviation: Float32[np.ndarray, "1 1 3"]
    threads: int
    flip: bool = True
    streamed: ClassVar[bool] = True
    input_shape: ClassVar[tuple[int, int, int]] = (CROP, CROP, 3)

    def batch_shapes(self, size: int) -> Batch:
        """The shapes of a batch."""
        return image_batch_shapes(size, self.input_shape)

    def num_examples(self, data: Data) -> tuple[int, int]:
        """How many examples train and are evaluated."""
        return self.train_examples, self.test_examples

    def held_out_lanes(self, spec: Spec) -> int:
        """As many images are evaluated at once as are trained on."""
        return spec.batch_size

    def nbytes(self, spec: Spec) -> int:
        """Nothing stays on the device."""
        return 0

    def feed(self, group: Group, placement: Placement) -> Feed:
        """The batches of a group; all of its members see the same. Raises UserError."""
        return streamed(self, group.specs[0], placement)

    @property
    def train_examples(self) -> int:
        return len(self.train_records.source)

    @property
    def test_examples(self) -> int:
        return len(self.test_records.source)

    def train(
        self, epoch: int, batch_size: int, *, seed: int, host: int = 0, hosts: int = 1, start: int = 0
    ) -> Iterator[HostBatch]:
        """The part of host `host` of the batches of an epoch, from step `start` on: uint8 images, cropped and flipped.

        `batch_size` counts the examples of all hosts; each gets ⌈batch_size / hosts⌉ rows, weight 0 where there is
        no example. Raises UserError for an image that cannot be read.
        """
        key = epoch << 64 | seed
        order = permutation(self.train_examples, key)

        def plan(positions: Int[np.ndarray, " chunk"]) -> Iterator[tuple[int, Place, bool]]:
            numbers = uniforms(key, int(positions[0]), len(positions))
            for position, uniform in zip(positions, numbers, strict=True):
                place = partial(random_box, uniform=uniform[:ATTEMPTS])
                yield int(order[position]), place, self.flip and bool(uniform[ATTEMPTS, 0] < 0.5)

        rows = share(self.train_examples, batch_size, host, hosts)
        return load(self.train_records, rows[start:], plan, self.threads)

    def test(self, batch_size: int, *, host: int = 0, hosts: int = 1) -> Iterator[HostBatch]:
        """The part of host `host` of the test set, in the order of the source, as `train` cuts it."""

        def plan(positions: Int[np.ndarray, " chunk"]) -> Iterator[tuple[int, Place, bool]]:
            return ((int(position), center_box, False) for position in positions)

        return load(self.test_records, share(self.test_examples, batch_size, host, hosts), plan, self.threads)


@dataclasses.dataclass(frozen=True)
class Images:
    """A set of tensorflow-datasets (TFDS), prepared as array_record; TensorFlow itself is not needed to read it.

    Attributes:
      name: `name:version`, or `name/config:version`. The version is pinned so that a result names its data.
      classes: how many labels there are.
      image, label: the features to read.
      train, test: the splits to read, in TFDS' notation: `train[:1%]` is one too.
      flip: whether half of the training images are flipped.
      mean, deviation: of the channels, in units of 255.
    """

    name: str
    classes: int
    image: str = "image"
    label: str = "label"
    train: str = "train"
    test: str = "validation"
    flip: bool = True
    input_shape: ClassVar[tuple[int, int, int]] = (CROP, CROP, 3)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    deviation: tuple[float, float, float] = IMAGENET_DEVIATION

    def open(self, data_dir: str | None = None, threads: int | None = None) -> Stream:
        """Finds the files; reads no image yet.

        Args:
          data_dir: folder of tensorflow-datasets; default `$TFDS_DATA_DIR`, then `~/tensorflow_datasets`.
          threads: that decode; default one for each core that this process may use.

        Raises:
          UserError: the set is missing, or is not an array_record copy with these splits.
        """
        folder = data_folder(data_dir)
        where = f"`data_dir={folder}` (TFDS_DATA_DIR)"
        prepared = os.path.join(folder, self.name.replace(":", os.sep))
        how = (
            f"with archives that need a login in {folder}/downloads/manual and after pip install -e '.[download]', "
            f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{self.name}', data_dir='{folder}', "
            "file_format='array_record').download_and_prepare()\""
        )
        if not os.path.exists(os.path.join(prepared, "dataset_info.json")):
            raise UserError(
                f"{where}: no prepared copy of {self.name}; point `data_dir` at one or make it: {how}"
            )
        try:
            train, test = self._sources(prepared)
        except Exception as error:  # TFDS and array_record each raise their own kinds
            raise UserError(
                f"{where}: the copy of {self.name} there cannot be read as array_record with the splits "
                f"{self.train} and {self.test} ({one_line(error)}); prepare it again: {how}"
            ) from error
        records = partial(Records, image=self.image, label=self.label, where=f"{where}, {self.name}")
        mean, deviation = (
            np.float32(255) * np.array(x, np.float32).reshape(1, 1, 3) for x in (self.mean, self.deviation)
        )
        return Stream(
            self.classes,
            records(train, split=self.train),
            records(test, split=self.test),
            mean,
            deviation,
            threads or usable_cores(),
            self.flip,
        )

    def _sources(self, prepared: str) -> tuple[Any, Any]:
        import tensorflow_datasets as tfds

        check_copy(Path(prepared))
        builder = tfds.builder_from_directory(prepared)
        allow_open_files(sum(split.num_shards for split in builder.info.splits.values()))
        encoded = {self.image: tfds.decode.SkipDecoding()}
        return tuple(builder.as_data_source(split, decoders=encoded) for split in (self.train, self.test))


STREAMS = {"imagenet2012": Images("imagenet2012:5.1.0", classes=1000)}


def streamed(stream: Stream, spec: Spec, placement: Placement) -> Feed:
    """Rows are batches of raw images, decoded ahead on the host, augmented there, normalised on the device."""
    if spec.train_samples is not None or spec.validation_samples or spec.order != "shared":
        raise UserError(
            f"`dataset={spec.dataset}` is streamed whole: leave out `train_samples`, validation and `order`"
        )
    host = {"host": jax.process_index(), "hosts": jax.process_count()}
    steps = -(-stream.train_examples // spec.batch_size)

    def training(first: int, last: int) -> Iterator[HostBatch]:
        for epoch in range(first // steps, -(-last // steps)):
            start, stop = max(first - epoch * steps, 0), min(last - epoch * steps, steps)
            rows = stream.train(epoch, spec.batch_size, seed=spec.data_seed, start=start, **host)
            yield from on_device(islice(rows, stop - start))

    def on_device(rows: Iterator[HostBatch]) -> Iterator[HostBatch]:
        return (devices.scatter_examples(placement, row) for row in rows)

    def batch(_: Any, row: HostBatch) -> Batch:
        images = normalize(row.inputs, stream.mean, stream.deviation)
        return Batch(images, jnp.asarray(row.labels), jnp.asarray(row.weight))

    return Feed(
        steps,
        spec.batch_size,
        spec.batch_size,
        training,
        lambda: on_device(stream.test(spec.batch_size, **host)),
        (),
        (),
        batch,
        batch,
    )


def allow_open_files(count: int) -> None:
    """Raise the limit of open files by `count`, as far as the system lets us.

    array_record keeps every shard open: the 1024 of ImageNet alone reach the usual limit.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = soft + count if hard == resource.RLIM_INFINITY else min(hard, soft + count)
    if resource.RLIM_INFINITY != soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
