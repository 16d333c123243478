"""Utterances by name: from a name to frames of features and their transcripts, mapped from a checked cache.

`digit_lines` comes with scikit-learn and is handwriting, not speech; `packed` is any `.npz` of features; the others are
audio of which tensorflow-datasets (TFDS) prepared a copy as array_record.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32, Int32, UInt8, UInt16

from wsn import folders, machine
from wsn.data import cache
from wsn.data.images import DATASETS
from wsn.data.prepared import located
from wsn.data.speech.audio import examples, log_spectrogram
from wsn.data.untrusted import arrays_of_npz
from wsn.errors import UserError, choose, one_line
from wsn.machine import memory_limit

SPLITS = ("train", "validation", "test")
DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")


class Utterance(NamedTuple):
    """What is said once, and what it sounds like."""

    split: str
    frames: Float32[np.ndarray, "frames features"]
    text: str


class Recordings(NamedTuple):
    """Utterances, their frames one after the other. Letters are numbered from 1; 0 is padding, and CTC's blank."""

    frames: Float32[np.ndarray, "frames features"]
    lengths: Int32[np.ndarray, " utterances"]
    labels: UInt16[np.ndarray, "utterances most"]
    label_lengths: Int32[np.ndarray, " utterances"]
    split: UInt8[np.ndarray, " utterances"]  # place in `SPLITS`
    letters: tuple[str, ...]  # of the training transcripts; one that only others have is numbered after them


_ARRAYS = ("frames", "lengths", "labels", "label_lengths", "split")


class Sounds(Protocol):
    """Where utterances come from."""

    cepstra: ClassVar[bool]  # whether their features may be cepstra

    def locate(self, data_dir: str | None) -> str:
        """Makes sure that they are there; returns a file name that changes whenever they do. Raises UserError."""

    def utterances(self, data_dir: str | None) -> Iterator[Utterance]:
        """All of them, split by split. Raises UserError."""


def drawn(seed: int, count: int, shortest: int, longest: int) -> Iterator[tuple[int, list[int]]]:
    """`count` strings of `shortest` to `longest` large random numbers, each with one more for the whole string.

    From the raw bits of Philox, which never change between versions of NumPy.
    """
    words = np.random.Philox(key=seed).random_raw((longest + 2) * count).reshape(count, longest + 2)
    for whole, length, *items in words.tolist():
        yield whole, items[: shortest + length % (longest - shortest + 1)]


class DigitLines:
    """Lines of 1 to 5 of scikit-learn's handwritten digits: a column of 8 pixels is a frame.

    Of the training images of `digits`, the last 297 are for validation alone: no two splits share an image.
    """

    counts: ClassVar[tuple[int, ...]] = (2000, 300, 300)  # lines of each split
    cepstra: ClassVar[bool] = False

    def locate(self, data_dir: str | None) -> str:
        return "digit_lines-1"

    def utterances(self, data_dir: str | None) -> Iterator[Utterance]:
        digits = DATASETS["digits"].decode(None)
        images = np.concatenate([digits.train_images, digits.test_images])[..., 0].astype(np.float32)
        labels = np.concatenate([digits.train_labels, digits.test_labels])
        ends = np.cumsum([0, 1000, 297, len(digits.test_labels)]).tolist()
        for seed, (split, count) in enumerate(zip(SPLITS, self.counts, strict=True)):
            first, size = ends[seed], ends[seed + 1] - ends[seed]
            for _, items in drawn(seed, count, 1, 5):
                chosen = [first + item % size for item in items]
                line = np.concatenate([images[i].T for i in chosen])
                yield Utterance(split, line, "".join(str(labels[i]) for i in chosen))


@dataclasses.dataclass(frozen=True)
class SpokenDigits:
    """Strings of 3 to 6 recordings of one speaker, from the Free Spoken Digit Dataset (8 kHz), spelled out.

    Of the 50 recordings of a digit by a speaker, numbers 0 to 4 are test, as its authors have it, and 5 to 9
    validation: no two splits share a recording.
    """

    name: str = "spoken_digit:1.0.9"
    counts: tuple[int, ...] = (1000, 200, 200)  # strings of each split
    rate: int = 8000
    cepstra: ClassVar[bool] = False

    def locate(self, data_dir: str | None) -> str:
        return located(self.name, data_dir, self, instead="digit_lines")

    def utterances(self, data_dir: str | None) -> Iterator[Utterance]:
        spoken: dict[tuple[str, str], list[tuple[str, np.ndarray]]] = {}
        for example in examples(self.name, "train", data_dir):
            file = example["audio/filename"][0].decode()
            digit, speaker, number = file.removesuffix(".wav").split("_")
            split = "test" if int(number) < 5 else "validation" if int(number) < 10 else "train"
            audio = np.array(example["audio"], np.float32)
            spoken.setdefault((split, speaker), []).append((f"{DIGITS[int(digit)]} {number}", audio))
        for seed, (split, count) in enumerate(zip(SPLITS, self.counts, strict=True)):
            speakers = [sorted(spoken[key], key=lambda x: x[0]) for key in sorted(spoken) if key[0] == split]
            for speaker, items in drawn(seed, count if speakers else 0, 3, 6):
                recordings = speakers[speaker % len(speakers)]
                chosen = [recordings[item % len(recordings)] for item in items]
                audio = np.concatenate([samples for _, samples in chosen])
                text = " ".join(name.partition(" ")[0] for name, _ in chosen)
                yield Utterance(split, log_spectrogram(audio, self.rate), text)


@dataclasses.dataclass(frozen=True)
class LibriSpeech:
    """Read English at 16 kHz. Which of its parts train and are held out is in TFDS' names."""

    name: str = "librispeech/default:2.1.1"
    parts: tuple[tuple[str, ...], ...] = (
        ("train_clean100", "train_clean360", "train_other500"),
        ("dev_clean",),
        ("test_clean",),
    )
    rate: int = 16_000
    cepstra: ClassVar[bool] = False

    def locate(self, data_dir: str | None) -> str:
        return located(self.name, data_dir, self, instead="digit_lines")

    def utterances(self, data_dir: str | None) -> Iterator[Utterance]:
        for split, parts in zip(SPLITS, self.parts, strict=True):
            for part in parts:
                for example in examples(self.name, part, data_dir):
                    audio = np.array(example["speech"], np.float32)
                    yield Utterance(split, log_spectrogram(audio, self.rate), example["text"][0].decode())


@dataclasses.dataclass(frozen=True)
class Packed:
    """An `.npz` of features: `cepstra` or `features` (frames, features), all utterances one after the other, their
    `lengths` and `texts`, and `train`, which of them train; the others are test."""

    cepstra: ClassVar[bool] = True

    def locate(self, data_dir: str | None) -> str:
        path = self._path(data_dir).resolve()
        status = path.stat()
        facts = os.fspath(path), status.st_size, status.st_mtime_ns
        return f"packed-{hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}"

    def utterances(self, data_dir: str | None) -> Iterator[Utterance]:
        path = self._path(data_dir)
        try:
            found = arrays_of_npz(path, leave_out=("ids",))
        except Exception as error:  # zip, zlib and NumPy's header each raise their own kinds
            raise UserError(f"`data_dir={path}`: cannot be read as .npz ({one_line(error)})") from error
        frames = found.get("features", found.get("cepstra"))
        missing = [name for name in ("lengths", "texts", "train") if name not in found]
        if frames is None or missing:
            missing += ["features (or cepstra)"] if frames is None else []
            raise UserError(f"`data_dir={path}`: has no {', '.join(missing)}; it needs them all")
        lengths, texts, train = (found[name] for name in ("lengths", "texts", "train"))
        for name, kinds in (("lengths", "iu"), ("texts", "U"), ("train", "biu")):
            if found[name].ndim != 1 or found[name].dtype.kind not in kinds:
                raise UserError(
                    f"`data_dir={path}`: its {name} are {found[name].dtype} of shape {found[name].shape}: give"
                    " (utterances,) of whole numbers, texts, and whether each trains"
                )
        if frames.ndim != 2 or frames.dtype.kind not in "fiu" or not _fit(lengths, len(frames), texts, train):
            raise UserError(
                f"`data_dir={path}`: its arrays do not fit together: (frames, features) of {frames.shape},"
                f" lengths of {lengths.sum()} frames, and {len(lengths)} lengths, {len(texts)} texts,"
                f" {len(train)} entries of train"
            )
        ends = np.cumsum(lengths)
        for end, length, text, trains in zip(ends, lengths, texts, train, strict=True):
            part = frames[end - length : end].astype(np.float32)
            yield Utterance("train" if trains else "test", part, str(text))

    def _path(self, data_dir: str | None) -> Path:
        if data_dir is None:
            raise UserError("`dataset=packed`: give an .npz file, or a folder that has one, in `data_dir`")
        path = folders.local("data_dir", data_dir)
        files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        if len(files) != 1 or not files[0].is_file():
            raise UserError(f"`data_dir={data_dir}`: no .npz file there, or several; name the one to read")
        return files[0]


def _fit(lengths: np.ndarray, frames: int, *others: np.ndarray) -> bool:
    """Whether lengths are those of parts of so many frames, and there are as many of the others."""
    if not all(len(other) == len(lengths) for other in others) or not len(lengths):
        return False
    return bool(lengths.min() >= 0 and lengths.max() <= frames and lengths.sum() == frames)


UTTERANCES: dict[str, Sounds] = {
    "digit_lines": DigitLines(),
    "spoken_digit": SpokenDigits(),
    "librispeech": LibriSpeech(),
    "packed": Packed(),
}


def load(name: str, data_dir: str | None = None, cache_dir: str | None = None) -> Recordings:
    """From the name of a set of utterances to its arrays, mapped (read-only) from the cache that the first call fills.

    Args:
      name: a key of `UTTERANCES`.
      data_dir: folder of tensorflow-datasets, default `$TFDS_DATA_DIR`; of `packed`, its file.
      cache_dir: folder of decoded arrays; default `$WSN_CACHE_DIR`, then `~/.cache/wsn`.

    Raises:
      UserError: unknown name; data that are missing, damaged, not finite or without a transcript.
    """
    sounds = choose(UTTERANCES, "dataset", name)
    content = cache.cached(
        folders.cache(cache_dir) / f"{sounds.locate(data_dir)}-utterances",
        lambda: packed(name, sounds.utterances(data_dir)),
        _ARRAYS,
        {"letters": tuple},
    )
    frames, lengths, labels, label_lengths, split = (content.arrays[name] for name in _ARRAYS)
    return Recordings(frames, lengths, labels, label_lengths, split, **content.facts)


def packed(name: str, utterances: Iterator[Utterance]) -> cache.Content:
    """Utterances in arrays. Raises UserError for a split without any, for frames that are not finite and for texts
    without letters."""
    every, size, there = [], 0, memory_limit()
    for number, utterance in enumerate(utterances):
        check(f"`dataset={name}`: utterance {number} of its {utterance.split} split", utterance)
        every.append(utterance)
        size += utterance.frames.nbytes
        if 2 * size > there:  # once in parts, and once joined
            raise UserError(
                f"`dataset={name}`: the frames of its first {len(every)} utterances fill half of the"
                f" {machine.gib(there)} of this machine; take another, or a part of it"
            )
    for split in ("train", "test"):
        if not any(utterance.split == split for utterance in every):
            raise UserError(f"`dataset={name}`: its {split} split is empty")
    letters = sorted({letter for one in every if one.split == "train" for letter in one.text})
    numbers = {letter: number for number, letter in enumerate(letters, 1)}
    labels = np.zeros((len(every), max(len(one.text) for one in every)), np.uint16)
    for row, one in zip(labels, every, strict=True):
        row[: len(one.text)] = [numbers.get(letter, len(letters) + 1) for letter in one.text]
    arrays: dict[str, np.ndarray] = {
        "frames": np.concatenate([one.frames for one in every]),
        "lengths": np.array([len(one.frames) for one in every], np.int32),
        "labels": labels,
        "label_lengths": np.array([len(one.text) for one in every], np.int32),
        "split": np.array([SPLITS.index(one.split) for one in every], np.uint8),
    }
    facts: dict[str, Any] = {"letters": tuple(letters)}
    return cache.Content(arrays, facts)


def check(where: str, utterance: Utterance) -> None:
    """Raises UserError for an utterance from which nothing can be learnt; `where` says which it is."""
    if not len(utterance.frames) or not np.isfinite(utterance.frames).all():
        raise UserError(f"{where} is broken: its frames are none, silent or not finite; leave it out")
    if not utterance.text.strip():
        raise UserError(f"{where} has a transcript without letters; leave it out")
