"""Utterances of any length with their transcripts, for connectionist temporal classification (CTC).

The frames of all utterances lie on the device one after the other, and only a batch is padded, to the longest utterance
of its split. Utterances that CTC cannot align are dropped: the front end leaves them fewer outputs than letters, with a
blank between equal ones. PyTorch's loss is infinite there, optax's about 10⁵ with meaningless gradients.
"""

import dataclasses
from collections.abc import Iterator
from functools import cache, partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from absl import logging
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, Shaped

from wsn.data import feeds
from wsn.data.batches import Indices
from wsn.data.cache import Content, once
from wsn.data.checks import check_range
from wsn.data.feeds import Feed, SplitView
from wsn.data.images import permutation
from wsn.data.normalization import float_statistics
from wsn.data.speech import recordings
from wsn.data.speech.recordings import SPLITS, UTTERANCES, Recordings
from wsn.devices import Placement
from wsn.errors import UserError, choose
from wsn.spec import Data, Group, Spec

EVALUATION_UTTERANCES = 50  # of a batch: whole utterances are long
# First layers of a network → its frames per output: two convolutions, the first of stride 2, or three frames joined.
FRONT_ENDS = {"conv": 2, "stack": 3}
NORMALIZATIONS = {"scalar": (0, 1), "pixel": (0,)}  # axes of (frames, features) that share a mean
_CHUNK = 4096  # frames that are normalized at a time


class Frames(NamedTuple):
    """Sequences of different lengths; frames after `lengths` are padding, whatever their values."""

    values: Float[Array, "batch time features"]
    lengths: Int[Array, " batch"]

    @property
    def valid(self) -> Bool[Array, "batch time"]:
        """Which frames are not padding."""
        return jnp.arange(self.values.shape[1]) < self.lengths[:, None]


class SpeechBatch(NamedTuple):
    """A batch; `weight` is 1, or 0 for padding. Labels are letters from 1, padded with 0."""

    inputs: Frames
    labels: Int[Array, "batch labels"]
    label_lengths: Int[Array, " batch"]
    weight: Float[Array, " batch"]


class SpeechSplit(NamedTuple):
    """A split, on the host or on a device; `first` is the index of an utterance's first frame."""

    frames: Float32[Array | np.ndarray, "frames features"]
    first: Int32[Array | np.ndarray, " utterances"]
    lengths: Int32[Array | np.ndarray, " utterances"]
    labels: Int32[Array | np.ndarray, "utterances labels"]
    label_lengths: Int32[Array | np.ndarray, " utterances"]


def make_batch(longest: int, data: SpeechSplit, indices: Indices) -> SpeechBatch:
    """The batch of one row of `Indices`, padded to `longest` frames."""
    chosen = indices.examples
    time = jnp.arange(longest)
    values = data.frames[jnp.minimum(data.first[chosen][:, None] + time, len(data.frames) - 1)]
    inputs = Frames(values, data.lengths[chosen])
    return SpeechBatch(inputs, data.labels[chosen], data.label_lengths[chosen], indices.weight)


@dataclasses.dataclass(frozen=True)
class Speech(Content):
    """A `Source` of normalized utterances; `held_out` are those of validation or test. Raises UserError."""

    name: str
    train: SpeechSplit
    held_out: SpeechSplit
    letters: tuple[str, ...]

    streamed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("train", "held_out"):
            check_split(name, getattr(self, name), self.classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(frames of the longest utterance, features)."""
        return max(longest(self.train), longest(self.held_out)), self.train.frames.shape[1]

    @property
    def classes(self) -> int:
        """Letters, and the blank."""
        return len(self.letters) + 1

    def batch_shapes(self, size: int) -> SpeechBatch:
        array: Any = jax.ShapeDtypeStruct
        numbers = array((size,), jnp.int32)
        frames = Frames(array((size, *self.input_shape), jnp.float32), numbers)
        labels = array((size, self.train.labels.shape[1]), jnp.int32)
        return SpeechBatch(frames, labels, numbers, array((size,), jnp.float32))

    def num_examples(self, data: Data) -> tuple[int, int]:
        return len(self.train.lengths), len(self.held_out.lengths)

    def held_out_lanes(self, spec: Spec) -> int:
        return min(EVALUATION_UTTERANCES, len(self.held_out.lengths))

    def nbytes(self, spec: Spec) -> int:
        return sum(array.nbytes for split in (self.train, self.held_out) for array in split)

    def feed(self, group: Group, placement: Placement, spread: bool = False) -> Feed:
        train, held_out = (
            SplitView(len(split.lengths), split, partial(make_batch, longest(split)))
            for split in (self.train, self.held_out)
        )
        return feeds.in_memory(
            group, placement, train, held_out, self.held_out_lanes(group.specs[0]), spread=spread
        )


def longest(split: SpeechSplit) -> int:
    """Frames of the longest utterance."""
    return int(split.lengths.max())


def check_split(name: str, split: SpeechSplit, classes: int) -> None:
    """Raises UserError unless the arrays of a split agree."""
    agree = len(split.lengths) == len(split.first) == len(split.labels) == len(split.label_lengths) > 0
    if not agree or split.lengths.min() < 1 or (split.first + split.lengths).max() > len(split.frames):
        raise UserError(
            f"`{name}`: give as many first, lengths, labels and label_lengths, and all of their frames"
        )
    if split.label_lengths.max() > split.labels.shape[1]:
        raise UserError(
            f"`{name}`: `label_lengths` up to {split.label_lengths.max()} of {split.labels.shape} labels"
        )
    if not np.isfinite(split.frames).all():
        raise UserError(f"`{name}`: its frames are not finite")
    check_range(f"{name}.labels", np.asarray(split.labels), classes, "label")


def log_bands(cepstra: Float32[np.ndarray, "frames cepstra"], bands: int) -> Shaped[np.ndarray, "frames _"]:
    """The smooth log-spectrum of cepstra, by an inverse cosine transform; linear, so it adds no information.

    It gives convolutions a frequency axis. Raises UserError for fewer bands than cepstra.
    """
    if bands < cepstra.shape[1]:
        raise UserError(f"`bands={bands}`: give at least {cepstra.shape[1]}, the number of cepstra, or 0")
    return scipy.fft.idct(cepstra, n=bands, axis=1, norm="ortho")


def source_of(spec: Spec, data_dir: str | None = None) -> Speech:
    """The utterances of a spec: `train_samples` of the training split, and validation or test.

    If `validation_samples` is not 0, that many are evaluated: of the set's own validation split, else held out of the
    training split like images. Utterances that CTC cannot align after the front end, or with a letter that no training
    transcript has, are dropped with a warning that counts them. Raises UserError.
    """
    data = Data(**{field.name: getattr(spec, field.name) for field in dataclasses.fields(Data)})
    entry = choose(UTTERANCES, "dataset", spec.dataset).locate(data_dir)
    return prepared(data, spec.front_end, data_dir, entry)


@cache
def prepared(data: Data, front_end: str, data_dir: str | None, entry: str) -> Speech:
    """`Speech` is large, so all specs share it."""
    recorded = once(recordings.load, entry, data.dataset, data_dir)
    if data.bands and not UTTERANCES[data.dataset].has_cepstra(data_dir):
        raise UserError(f"`bands={data.bands}`: `dataset={data.dataset}` has no cepstra; leave it out")
    if data.normalization not in NORMALIZATIONS:
        raise UserError(
            f"`normalization={data.normalization}` is for images: choose one of {', '.join(NORMALIZATIONS)}"
        )
    training = np.flatnonzero(recorded.split == SPLITS.index("train"))
    usable = alignable(recorded, FRONT_ENDS[front_end])
    if not usable.all():
        logging.warning(
            "%s: %d of %d utterances dropped: too short for their transcripts with front_end=%s, or with letters"
            " that no training transcript has",
            data.dataset,
            (~usable).sum(),
            len(usable),
            front_end,
        )
        if not usable[training].any():
            raise UserError(f"`front_end={front_end}`: CTC can align no training utterance; choose another")
    chunks = (log_bands(x, data.bands) if data.bands else x for x in frames_of(recorded, training))
    mean, std = float_statistics(chunks, NORMALIZATIONS[data.normalization])
    indices = split_indices(data, recorded, usable)
    train, held_out = (select(recorded, data.bands, part) for part in indices)
    for split in (train, held_out):
        for start in range(0, len(split.frames), _CHUNK):
            rows = split.frames[start : start + _CHUNK]
            rows[:] = (rows - mean) / np.where(std > 0, std, 1)
    return Speech(data.dataset, train, held_out, recorded.letters, sha256=recorded.digest)


def alignable(recorded: Recordings, stride: int) -> Bool[np.ndarray, " utterances"]:
    """Which utterances CTC can align: with an output for every letter, and one more between two equal letters."""
    labels = np.asarray(recorded.labels, np.int32)
    repeated = ((labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] > 0)).sum(1)
    enough = -(-recorded.lengths // stride) >= recorded.label_lengths + repeated
    return enough & (labels <= len(recorded.letters)).all(1)


def split_indices(
    data: Data, recorded: Recordings, usable: Bool[np.ndarray, " utterances"]
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " held_out"]]:
    """The utterances that train, and those that are held out. Raises UserError for counts that do not fit."""
    splits = [np.flatnonzero(usable & (recorded.split == number)) for number in range(len(SPLITS))]
    train, validation, test = (split[permutation(len(split), data.data_seed)] for split in splits)
    count, has_validation = data.validation_samples, len(validation) > 0
    most = len(validation) if has_validation else len(train) - 1
    if count > most:
        raise UserError(f"`validation_samples={count}`: choose 0 to {most}")
    held_out = np.sort(test)
    if count and has_validation:
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


def frames_of(
    recorded: Recordings, indices: Int[np.ndarray, " utterances"]
) -> Iterator[Float32[np.ndarray, "_ features"]]:
    """The frames of these utterances, one utterance after the other."""
    ends = np.cumsum(recorded.lengths, dtype=np.int64)
    return (recorded.frames[ends[i] - recorded.lengths[i] : ends[i]] for i in indices)


def select(recorded: Recordings, bands: int, indices: Int[np.ndarray, " utterances"]) -> SpeechSplit:
    """The split of these utterances, as `bands` if that is not 0."""
    lengths = np.asarray(recorded.lengths[indices], np.int32)
    frames = np.concatenate(list(frames_of(recorded, indices)))
    return SpeechSplit(
        log_bands(frames, bands) if bands else frames,
        np.cumsum(lengths, dtype=np.int32) - lengths,
        lengths,
        np.asarray(recorded.labels[indices], np.int32),
        np.asarray(recorded.label_lengths[indices], np.int32),
    )
