"""Speech: utterances of any length with their transcripts, for connectionist temporal classification (CTC).

In: recordings, how many of them train. Out: `Speech`, a source. The frames of all utterances lie on the device one
after the other, and a batch is filled up to the longest utterance of its split. A row is the indices of its
utterances.
"""

import dataclasses
import os
from functools import cache, partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from absl import logging
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, Shaped

from wsn.data import feeds, recordings
from wsn.data.batches import Indices
from wsn.data.feeds import Feed, Part
from wsn.data.images import permutation
from wsn.data.recordings import SPLITS, UTTERANCES, Recordings
from wsn.devices import Placement
from wsn.errors import UserError
from wsn.spec import Data, Group, Spec

EVALUATION_UTTERANCES = 50  # of a batch: whole utterances are long
# What a network does with frames first → for how many of them it then has one output: two convolutions, the first of
# stride 2, or three frames joined to one.
FRONT_ENDS = {"conv": 2, "stack": 3}


class Frames(NamedTuple):
    """Sequences side by side; what lies behind their `lengths` is padding, whatever its values."""

    values: Float[Array, "batch time features"]
    lengths: Int[Array, " batch"]

    @property
    def valid(self) -> Bool[Array, "batch time"]:
        """Which are not padding."""
        return jnp.arange(self.values.shape[1]) < self.lengths[:, None]


class Utterances(NamedTuple):
    """A batch; `weight` is 1, or 0 for padding. Labels are letters from 1, filled up with 0."""

    inputs: Frames
    labels: Int[Array, "batch labels"]
    label_lengths: Int[Array, " batch"]
    weight: Float[Array, " batch"]


class Spoken(NamedTuple):
    """A split, on the host or on a device; `first` is the place of an utterance's first frame."""

    frames: Float32[Array | np.ndarray, "frames features"]
    first: Int32[Array | np.ndarray, " utterances"]
    lengths: Int32[Array | np.ndarray, " utterances"]
    labels: Int32[Array | np.ndarray, "utterances labels"]
    label_lengths: Int32[Array | np.ndarray, " utterances"]


def take(longest: int, data: Spoken, indices: Indices) -> Utterances:
    """The batch of one row of `Indices`, filled up to `longest` frames."""
    chosen = indices.examples
    time = jnp.arange(longest)
    values = data.frames[jnp.minimum(data.first[chosen][:, None] + time, len(data.frames) - 1)]
    inputs = Frames(values, data.lengths[chosen])
    return Utterances(inputs, data.labels[chosen], data.label_lengths[chosen], indices.weight)


@dataclasses.dataclass(frozen=True)
class Speech:
    """The utterances that train, and those that are held out (validation or test), normalised."""

    name: str
    train: Spoken
    held_out: Spoken
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

    def example(self, size: int) -> Utterances:
        """The shapes of a batch of so many utterances."""
        array: Any = jax.ShapeDtypeStruct
        numbers = array((size,), jnp.int32)
        frames = Frames(array((size, *self.input_shape), jnp.float32), numbers)
        labels = array((size, self.train.labels.shape[1]), jnp.int32)
        return Utterances(frames, labels, numbers, array((size,), jnp.float32))

    def examples(self, data: Data) -> tuple[int, int]:
        """How many utterances train and are evaluated."""
        return len(self.train.lengths), len(self.held_out.lengths)

    def feed(self, group: Group, placement: Placement) -> Feed:
        """The batches of a group. Raises UserError for batches that need more memory than there is."""
        return resident(self, group, placement)


def resident(speech: Speech, group: Group, placement: Placement) -> Feed:
    """All frames on the device."""
    spec = group.specs[0]
    lanes = spec.batch_size * (1 if spec.order == "shared" else len(group.members))
    check_memory(speech, spec, lanes)
    train, held_out = (
        Part(len(part.lengths), part, partial(take, longest(part)))
        for part in (speech.train, speech.held_out)
    )
    return feeds.resident(group, placement, train, held_out, EVALUATION_UTTERANCES)


def longest(spoken: Spoken) -> int:
    """In frames."""
    return int(spoken.lengths.max())


def check_memory(speech: Speech, spec: Spec, lanes: int) -> None:
    """Raises UserError where frames and one batch of `lanes` utterances are more than the memory of this machine.

    A lower bound, before anything is allocated: the frames, and of the front end what it puts out.
    """
    frames, features = speech.input_shape
    outputs = 1 + (spec.channels / 4 if spec.front_end == "conv" else 1)
    resident = speech.train.frames.nbytes + speech.held_out.frames.nbytes
    needed = resident + 4 * frames * features * lanes * outputs
    if needed > (there := memory()):
        raise UserError(
            f"--batch_size={spec.batch_size}: the longest utterance has {frames} frames, so that frames and a batch"
            f" of {lanes} need {needed / 2**30:.1f} GiB, more than the {there / 2**30:.1f} GiB that there are: take a"
            " smaller --batch_size or fewer --train_samples"
        )


def memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@cache
def opened(name: str, data_dir: str | None) -> Recordings:
    """The recordings, opened once a process."""
    return recordings.load(name, data_dir)


@cache
def normalised(
    name: str, data_dir: str | None, bands: int, normalization: str
) -> Float32[np.ndarray, "frames features"]:
    """The frames of all recordings, by the statistics of the full training split. Raises UserError."""
    found = opened(name, data_dir)
    frames = np.asarray(found.frames)
    if bands:
        frames = log_bands(frames, bands)
    trains = np.repeat(found.split == SPLITS.index("train"), found.lengths)
    mean, deviation = statistics(frames[trains], normalization)
    return ((frames - mean) / np.where(deviation > 0, deviation, 1)).astype(np.float32)


def log_bands(cepstra: Float32[np.ndarray, "frames cepstra"], bands: int) -> Shaped[np.ndarray, "frames _"]:
    """The smooth log-spectrum that so few cepstra stand for: an inverse cosine transform, so a linear map.

    Raises UserError for fewer bands than cepstra.
    """
    if bands < cepstra.shape[1]:
        raise UserError(
            f"--bands={bands}: give at least {cepstra.shape[1]}, as many as there are cepstra, or 0"
        )
    return scipy.fft.idct(cepstra, n=bands, axis=1, norm="ortho")


def statistics(frames: Float[np.ndarray, "frames features"], normalization: str) -> tuple[Any, Any]:
    """Mean and deviation of all values (`scalar`), or of each feature (`pixel`). Raises UserError for another."""
    axes = {"scalar": None, "pixel": 0}
    if normalization not in axes:
        raise UserError(f"--normalization={normalization} is for images: choose one of {', '.join(axes)}")
    axis = axes[normalization]
    return frames.mean(axis, np.float64), frames.std(axis, np.float64)


def source_of(spec: Spec, data_dir: str | None = None) -> Speech:
    """The utterances of a spec: `train_samples` of the training split, and validation or test.

    Where `validation_samples` is not 0, that many are evaluated: of the set's own validation split, else held out of
    the training split as images are. What CTC cannot align after the front end is dropped, with a warning that says
    how many. Raises UserError.
    """
    found = opened(spec.dataset, data_dir)
    if spec.bands and not UTTERANCES[spec.dataset].cepstra:
        raise UserError(f"--bands={spec.bands}: --dataset={spec.dataset} has no cepstra; leave it out")
    frames = normalised(spec.dataset, data_dir, spec.bands, spec.normalization)
    usable = alignable(found, FRONT_ENDS[spec.front_end])
    if not usable.all():
        logging.warning(
            "%s: %d of %d utterances dropped: too short for their transcripts with --front_end=%s, or with letters"
            " that no training transcript has",
            spec.dataset,
            (~usable).sum(),
            len(usable),
            spec.front_end,
        )
    train, held_out = chosen(spec, found, usable)
    return Speech(spec.dataset, cut(found, frames, train), cut(found, frames, held_out), found.letters)


def alignable(found: Recordings, stride: int) -> Bool[np.ndarray, " utterances"]:
    """Whether CTC can align them: with an output for every letter, and one more between two that are equal."""
    labels = np.asarray(found.labels, np.int32)
    repeated = ((labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] > 0)).sum(1)
    enough = -(-found.lengths // stride) >= found.label_lengths + repeated
    return enough & (labels <= len(found.letters)).all(1)


def chosen(
    spec: Spec, found: Recordings, usable: Bool[np.ndarray, " utterances"]
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " held_out"]]:
    """Which utterances train and which are held out. Raises UserError for counts that do not fit."""
    own = [np.flatnonzero(usable & (found.split == number)) for number in range(len(SPLITS))]
    train, validation, test = (part[permutation(len(part), spec.data_seed)] for part in own)
    count = spec.validation_samples
    if count:
        apart = len(validation) > 0
        most = len(validation) if apart else len(train) - 1
        if count > most:
            raise UserError(f"--validation_samples={count}: choose 0 to {most}")
        held_out = validation[:count] if apart else train[len(train) - count :]
        train = train if apart else train[: len(train) - count]
    else:
        held_out = test[np.argsort(test)]
    for name, part in (("training", train), ("held-out", held_out)):
        if not len(part):
            raise UserError(
                f"--dataset={spec.dataset}: CTC can align none of its {name} utterances with"
                f" --front_end={spec.front_end}: choose another"
            )
    if spec.train_samples is not None and spec.train_samples > len(train):
        raise UserError(f"--train_samples={spec.train_samples}: choose 1 to {len(train)}")
    return train[: spec.train_samples], held_out


def cut(
    found: Recordings,
    frames: Float32[np.ndarray, "frames features"],
    utterances: Int[np.ndarray, " utterances"],
) -> Spoken:
    """The part of the recordings that those utterances are."""
    first = np.cumsum(found.lengths, dtype=np.int64) - found.lengths
    lengths = np.asarray(found.lengths[utterances], np.int32)
    return Spoken(
        np.concatenate([frames[first[u] : first[u] + found.lengths[u]] for u in utterances]),
        np.cumsum(lengths, dtype=np.int32) - lengths,
        lengths,
        np.asarray(found.labels[utterances], np.int32),
        np.asarray(found.label_lengths[utterances], np.int32),
    )
