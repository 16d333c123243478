"""Speech: utterances of any length with their transcripts, for connectionist temporal classification (CTC).

In: recordings, how many of them train. Out: `Speech`, a source. The frames of all utterances lie on the device one
after the other, and a batch is filled up to the longest utterance of its split. A row is the indices of its
utterances.
"""

import dataclasses
import math
from collections.abc import Iterable
from functools import cache, partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from absl import logging
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, Shaped

from wsn import devices, machine
from wsn.data import feeds
from wsn.data.batches import Indices
from wsn.data.feeds import Feed, SplitView
from wsn.data.images import permutation
from wsn.data.speech import recordings
from wsn.data.speech.recordings import SPLITS, UTTERANCES, Recordings
from wsn.devices import Placement
from wsn.errors import UserError
from wsn.spec import Data, Group, Spec

EVALUATION_UTTERANCES = 50  # of a batch: whole utterances are long
# What a network does with frames first → for how many of them it then has one output: two convolutions, the first of
# stride 2, or three frames joined to one.
FRONT_ENDS = {"conv": 2, "stack": 3}
_CHUNK = 4096  # frames that are normalised at a time


class Frames(NamedTuple):
    """Sequences side by side; what lies behind their `lengths` is padding, whatever its values."""

    values: Float[Array, "batch time features"]
    lengths: Int[Array, " batch"]

    @property
    def valid(self) -> Bool[Array, "batch time"]:
        """Which are not padding."""
        return jnp.arange(self.values.shape[1]) < self.lengths[:, None]


class SpeechBatch(NamedTuple):
    """A batch; `weight` is 1, or 0 for padding. Labels are letters from 1, filled up with 0."""

    inputs: Frames
    labels: Int[Array, "batch labels"]
    label_lengths: Int[Array, " batch"]
    weight: Float[Array, " batch"]


class SpeechSplit(NamedTuple):
    """A split, on the host or on a device; `first` is the place of an utterance's first frame."""

    frames: Float32[Array | np.ndarray, "frames features"]
    first: Int32[Array | np.ndarray, " utterances"]
    lengths: Int32[Array | np.ndarray, " utterances"]
    labels: Int32[Array | np.ndarray, "utterances labels"]
    label_lengths: Int32[Array | np.ndarray, " utterances"]


def make_batch(longest: int, data: SpeechSplit, indices: Indices) -> SpeechBatch:
    """The batch of one row of `Indices`, filled up to `longest` frames."""
    chosen = indices.examples
    time = jnp.arange(longest)
    values = data.frames[jnp.minimum(data.first[chosen][:, None] + time, len(data.frames) - 1)]
    inputs = Frames(values, data.lengths[chosen])
    return SpeechBatch(inputs, data.labels[chosen], data.label_lengths[chosen], indices.weight)


@dataclasses.dataclass(frozen=True)
class Speech:
    """The utterances that train, and those that are held out (validation or test), normalised."""

    name: str
    train: SpeechSplit
    held_out: SpeechSplit
    letters: tuple[str, ...]

    streamed: ClassVar[bool] = False

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(frames of the longest utterance, features)."""
        return max(longest(self.train), longest(self.held_out)), self.train.frames.shape[1]

    @property
    def classes(self) -> int:
        """Letters, and the blank."""
        return len(self.letters) + 1

    def batch_shapes(self, size: int) -> SpeechBatch:
        """The shapes of a batch of so many utterances."""
        array: Any = jax.ShapeDtypeStruct
        numbers = array((size,), jnp.int32)
        frames = Frames(array((size, *self.input_shape), jnp.float32), numbers)
        labels = array((size, self.train.labels.shape[1]), jnp.int32)
        return SpeechBatch(frames, labels, numbers, array((size,), jnp.float32))

    def num_examples(self, data: Data) -> tuple[int, int]:
        """How many utterances train and are evaluated."""
        return len(self.train.lengths), len(self.held_out.lengths)

    def held_out_lanes(self, spec: Spec) -> int:
        """How many utterances are evaluated at once."""
        return min(EVALUATION_UTTERANCES, len(self.held_out.lengths))

    def nbytes(self, spec: Spec) -> int:
        """What lies on the device: frames as they are, without padding, labels and places."""
        return sum(array.nbytes for part in (self.train, self.held_out) for array in part)

    def feed(self, group: Group, placement: Placement) -> Feed:
        """The batches of a group. Raises UserError for batches that need more memory than there is."""
        return resident(self, group, placement)


def resident(speech: Speech, group: Group, placement: Placement) -> Feed:
    """All frames on the device."""
    spec = group.specs[0]
    lanes = spec.batch_size * (1 if spec.order == "shared" else len(group.members))
    check_memory(speech, spec, lanes)
    train, held_out = (
        SplitView(len(part.lengths), part, partial(make_batch, longest(part)))
        for part in (speech.train, speech.held_out)
    )
    return feeds.resident(group, placement, train, held_out, speech.held_out_lanes(spec))


def longest(spoken: SpeechSplit) -> int:
    """In frames."""
    return int(spoken.lengths.max())


def check_memory(speech: Speech, spec: Spec, lanes: int) -> None:
    """Raises UserError where frames and one batch of `lanes` utterances are more than the memory of all devices.

    A lower bound, before anything is allocated: the frames, and of the front end what it puts out.
    """
    frames, features = speech.input_shape
    outputs = 1 + (spec.channels / 4 if spec.front_end == "conv" else 1)
    needed = speech.nbytes(spec) + 4 * frames * features * lanes * outputs
    if needed > (there := devices.memory() or math.inf):
        raise UserError(
            f"`batch_size={spec.batch_size}`: the longest utterance has {frames} frames, so that frames and a batch"
            f" of {lanes} need {machine.gib(needed)}, more than the {machine.gib(there)} that there are: take a"
            " smaller `batch_size` or fewer `train_samples`"
        )


@cache
def opened(name: str, data_dir: str | None) -> Recordings:
    """The recordings, opened once a process."""
    return recordings.load(name, data_dir)


def log_bands(cepstra: Float32[np.ndarray, "frames cepstra"], bands: int) -> Shaped[np.ndarray, "frames _"]:
    """The smooth log-spectrum that so few cepstra stand for: an inverse cosine transform, so a linear map.

    Raises UserError for fewer bands than cepstra.
    """
    if bands < cepstra.shape[1]:
        raise UserError(
            f"`bands={bands}`: give at least {cepstra.shape[1]}, as many as there are cepstra, or 0"
        )
    return scipy.fft.idct(cepstra, n=bands, axis=1, norm="ortho")


def statistics(parts: Iterable[Float[np.ndarray, "_ features"]], normalization: str) -> tuple[Any, Any]:
    """Mean and deviation of all values (`scalar`), or of each feature (`pixel`). Raises UserError for another.

    Summed in float64 over one part at a time, from the first value on: exactly 0 where nothing changes.
    """
    axes = {"scalar": None, "pixel": 0}
    if normalization not in axes:
        raise UserError(f"`normalization={normalization}` is for images: choose one of {', '.join(axes)}")
    axis, count = axes[normalization], 0
    origin: Any = None
    total = squares = np.float64(0)
    for part in parts:
        if origin is None:
            origin = np.float64(part[0] if axis == 0 else part[0, 0])
        values = part - origin
        count += len(values) if axis == 0 else values.size
        total, squares = total + values.sum(axis), squares + np.square(values).sum(axis)
    mean = total / count
    return origin + mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


def source_of(spec: Spec, data_dir: str | None = None) -> Speech:
    """The utterances of a spec: `train_samples` of the training split, and validation or test.

    Where `validation_samples` is not 0, that many are evaluated: of the set's own validation split, else held out of
    the training split as images are. What CTC cannot align after the front end is dropped, with a warning that says
    how many. Raises UserError.
    """
    data = Data(**{field.name: getattr(spec, field.name) for field in dataclasses.fields(Data)})
    return heard(data, spec.front_end, data_dir)


@cache
def heard(data: Data, front_end: str, data_dir: str | None) -> Speech:
    """`Speech` is large, so the same one serves every spec."""
    found = opened(data.dataset, data_dir)
    if data.bands and not UTTERANCES[data.dataset].cepstra:
        raise UserError(f"`bands={data.bands}`: `dataset={data.dataset}` has no cepstra; leave it out")
    usable = alignable(found, FRONT_ENDS[front_end])
    if not usable.all():
        logging.warning(
            "%s: %d of %d utterances dropped: too short for their transcripts with front_end=%s, or with letters"
            " that no training transcript has",
            data.dataset,
            (~usable).sum(),
            len(usable),
            front_end,
        )
        if not usable[found.split == SPLITS.index("train")].any():
            raise UserError(f"`front_end={front_end}`: CTC can align no training utterance; choose another")
    ends = np.cumsum(found.lengths, dtype=np.int64)
    training = found.split == SPLITS.index("train")
    every = (
        found.frames[end - n : end] for end, n in zip(ends[training], found.lengths[training], strict=True)
    )
    parts = (log_bands(frames, data.bands) if data.bands else frames for frames in every)
    mean, deviation = statistics(parts, data.normalization)
    train, held_out = (cut(found, data.bands, part) for part in chosen(data, found, usable))
    for part in (train, held_out):
        for start in range(0, len(part.frames), _CHUNK):
            rows = part.frames[start : start + _CHUNK]
            rows[:] = (rows - mean) / np.where(deviation > 0, deviation, 1)
    return Speech(data.dataset, train, held_out, found.letters)


def alignable(found: Recordings, stride: int) -> Bool[np.ndarray, " utterances"]:
    """Whether CTC can align them: with an output for every letter, and one more between two that are equal."""
    labels = np.asarray(found.labels, np.int32)
    repeated = ((labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] > 0)).sum(1)
    enough = -(-found.lengths // stride) >= found.label_lengths + repeated
    return enough & (labels <= len(found.letters)).all(1)


def chosen(
    data: Data, found: Recordings, usable: Bool[np.ndarray, " utterances"]
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " held_out"]]:
    """Which utterances train and which are held out. Raises UserError for counts that do not fit."""
    own = [np.flatnonzero(usable & (found.split == number)) for number in range(len(SPLITS))]
    train, validation, test = (part[permutation(len(part), data.data_seed)] for part in own)
    count, apart = data.validation_samples, len(validation) > 0
    most = len(validation) if apart else len(train) - 1
    if count > most:
        raise UserError(f"`validation_samples={count}`: choose 0 to {most}")
    held_out = np.sort(test)
    if count and apart:
        held_out = validation[:count]
    elif count:
        train, held_out = train[:-count], train[-count:]
    if not len(held_out):
        raise UserError(
            f"`dataset={data.dataset}`: CTC can align no test utterance; give `validation_samples`"
        )
    if data.train_samples is not None and data.train_samples > len(train):
        raise UserError(f"`train_samples={data.train_samples}`: choose 1 to {len(train)}")
    return train[: data.train_samples], held_out


def cut(found: Recordings, bands: int, utterances: Int[np.ndarray, " utterances"]) -> SpeechSplit:
    """The part of the recordings that those utterances are, as `bands` where that is not 0."""
    first = np.cumsum(found.lengths, dtype=np.int64) - found.lengths
    lengths = np.asarray(found.lengths[utterances], np.int32)
    frames = np.concatenate([found.frames[first[u] : first[u] + found.lengths[u]] for u in utterances])
    return SpeechSplit(
        log_bands(frames, bands) if bands else frames,
        np.cumsum(lengths, dtype=np.int32) - lengths,
        lengths,
        np.asarray(found.labels[utterances], np.int32),
        np.asarray(found.label_lengths[utterances], np.int32),
    )
