"""Sets of utterances: from a name to frames of features and their transcripts.

`digit_lines` comes with scikit-learn and is handwriting, not speech; `packed` is any `.npz` of features; the others are
audio that tensorflow-datasets (TFDS) prepared as array_record.
"""

import dataclasses
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32, Int32, UInt8, UInt16

from wsn import folders, machine
from wsn.data.cache import Content, Origin, cached, entry_of_files
from wsn.data.images import DATASETS
from wsn.data.prepared import entry_name
from wsn.data.speech.audio import examples, log_spectrogram
from wsn.data.untrusted import arrays_of_npz
from wsn.errors import UserError, choose, one_line
from wsn.machine import memory_limit

SPLITS = ("train", "validation", "test")
DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")


class Utterance(NamedTuple):
    """One recording and its transcript."""

    split: str  # one of `SPLITS`
    frames: Float32[np.ndarray, "frames features"]
    text: str


@dataclasses.dataclass(frozen=True)
class Recordings(Content):
    """Utterances, with all frames in one array. Letters are numbered from 1; 0 is padding, and the blank of CTC."""

    frames: Float32[np.ndarray, "frames features"]
    lengths: Int32[np.ndarray, " utterances"]
    labels: UInt16[np.ndarray, "utterances most"]
    label_lengths: Int32[np.ndarray, " utterances"]
    split: UInt8[np.ndarray, " utterances"]  # index in `SPLITS`
    letters: tuple[str, ...]  # of the training transcripts; any other letter has the number after them


class UtteranceSet(Origin, Protocol):
    """An entry of `UTTERANCES`."""

    def has_cepstra(self, data_dir: str | None) -> bool:
        """Whether its features are cepstra, whose files `locate` has found."""

    def utterances(self, data_dir: str | None) -> Iterator[Utterance]:
        """All utterances, split by split. Raises UserError."""


def random_strings(seed: int, count: int, shortest: int, longest: int) -> Iterator[tuple[int, list[int]]]:
    """`count` strings of `shortest` to `longest` large random numbers, each with one more for the whole string.

    From the raw bits of Philox, which are the same in every version of NumPy.
    """
    words = np.random.Philox(key=seed).random_raw((longest + 2) * count).reshape(count, longest + 2)
    for whole, length, *items in words.tolist():
        yield whole, items[: shortest + length % (longest - shortest + 1)]


class DigitLines:
    """Lines of 1 to 5 of scikit-learn's handwritten digits: a column of 8 pixels is a frame.

    Of the training images of `digits`, the last 297 are for validation alone: no two splits share an image.
    """

    counts: ClassVar[tuple[int, ...]] = (2000, 300, 300)  # lines of each split

    def locate(self, data_dir: str | None) -> str:
        return "digit_lines-1"

    def has_cepstra(self, data_dir: str | None) -> bool:
        return False

    def utterances(self, data_dir: str | None) -> Iterator[Utterance]:
        digits = DATASETS["digits"].decode(None)
        images = np.concatenate([digits.train_images, digits.test_images])[..., 0].astype(np.float32)
        labels = np.concatenate([digits.train_labels, digits.test_labels])
        ends = np.cumsum([0, 1000, 297, len(digits.test_labels)]).tolist()
        for seed, (split, count) in enumerate(zip(SPLITS, self.counts, strict=True)):
            first, size = ends[seed], ends[seed + 1] - ends[seed]
            for _, items in random_strings(seed, count, 1, 5):
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

    def locate(self, data_dir: str | None) -> str:
        return entry_name(self.name, data_dir, self, instead="digit_lines")

    def has_cepstra(self, data_dir: str | None) -> bool:
        return False

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
            for speaker, items in random_strings(seed, count if speakers else 0, 3, 6):
                recordings = speakers[speaker % len(speakers)]
                chosen = [recordings[item % len(recordings)] for item in items]
                audio = np.concatenate([samples for _, samples in chosen])
                text = " ".join(name.partition(" ")[0] for name, _ in chosen)
                yield Utterance(split, log_spectrogram(audio, self.rate), text)


@dataclasses.dataclass(frozen=True)
class LibriSpeech:
    """Read English at 16 kHz, with the official parts as splits."""

    name: str = "librispeech/default:2.1.1"
    parts: tuple[tuple[str, ...], ...] = (
        ("train_clean100", "train_clean360", "train_other500"),
        ("dev_clean",),
        ("test_clean",),
    )
    rate: int = 16_000

    def locate(self, data_dir: str | None) -> str:
        return entry_name(self.name, data_dir, self, instead="digit_lines")

    def has_cepstra(self, data_dir: str | None) -> bool:
        return False

    def utterances(self, data_dir: str | None) -> Iterator[Utterance]:
        for split, parts in zip(SPLITS, self.parts, strict=True):
            for part in parts:
                for example in examples(self.name, part, data_dir):
                    audio = np.array(example["speech"], np.float32)
                    yield Utterance(split, log_spectrogram(audio, self.rate), example["text"][0].decode())


@dataclasses.dataclass(frozen=True)
class Packed:
    """An `.npz` of features with four arrays.

    `cepstra` or `features` (frames, features): all utterances one after the other; `lengths`: their frames; `texts`;
    `train`: 1 for those that train, 0 for test.
    """

    def locate(self, data_dir: str | None) -> str:
        return entry_of_files("packed", self._path(data_dir))

    def has_cepstra(self, data_dir: str | None) -> bool:
        with zipfile.ZipFile(self._path(data_dir)) as archive:
            return "features.npy" not in archive.namelist()

    def utterances(self, data_dir: str | None) -> Iterator[Utterance]:
        path = self._path(data_dir)
        try:
            arrays = arrays_of_npz(path, leave_out=("ids",))
        except Exception as error:  # zip, zlib and NumPy's header each raise their own kinds
            raise UserError(f"`data_dir={path}`: cannot be read as .npz ({one_line(error)})") from error
        frames, lengths, texts, train = self._checked(path, arrays)
        for end, length, text, trains in zip(np.cumsum(lengths), lengths, texts, train, strict=True):
            part = frames[end - length : end].astype(np.float32)
            yield Utterance("train" if trains else "test", part, str(text))

    def _checked(self, path: Path, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Frames, lengths, texts, train. Raises UserError if one is missing or they do not agree."""
        frames = arrays.get("features", arrays.get("cepstra"))
        missing = [name for name in ("lengths", "texts", "train") if name not in arrays]
        if frames is None or missing:
            missing += ["features (or cepstra)"] if frames is None else []
            raise UserError(f"`data_dir={path}`: has no {', '.join(missing)}; all four are needed")
        lengths, texts, train = (arrays[name] for name in ("lengths", "texts", "train"))
        for name, kinds in (("lengths", "iu"), ("texts", "U"), ("train", "biu")):
            if arrays[name].ndim != 1 or arrays[name].dtype.kind not in kinds:
                raise UserError(
                    f"`data_dir={path}`: its {name} are {arrays[name].dtype} of shape {arrays[name].shape}: give"
                    " (utterances,) of integers, texts, and 1 or 0 for train"
                )
        if not np.isin(train, (0, 1)).all():
            bad = np.flatnonzero(~np.isin(train, (0, 1)))[0]
            raise UserError(f"`data_dir={path}`: train[{bad}] is {train[bad]}: give 1 (train) or 0 (test)")
        agree = len(lengths) == len(texts) == len(train) > 0 and frames.ndim == 2
        # The largest first: a sum of large ones may overflow.
        agree = agree and lengths.min() >= 0 and lengths.max() <= len(frames) == lengths.sum()
        if not agree or frames.dtype.kind not in "fiu":
            raise UserError(
                f"`data_dir={path}`: its arrays do not fit together: frames are {frames.dtype} of shape {frames.shape},"
                f" and there are {len(lengths)} lengths of {lengths.sum()} frames, {len(texts)} texts, {len(train)}"
                " entries of train"
            )
        return frames, lengths, texts, train

    def _path(self, data_dir: str | None) -> Path:
        if data_dir is None:
            raise UserError("`dataset=packed`: give an .npz file, or a folder that has one, in `data_dir`")
        path = folders.local("data_dir", data_dir)
        files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        if len(files) != 1 or not files[0].is_file():
            raise UserError(f"`data_dir={data_dir}`: no .npz file there, or several; name the one to read")
        return files[0]


UTTERANCES: dict[str, UtteranceSet] = {
    "digit_lines": DigitLines(),
    "spoken_digit": SpokenDigits(),
    "librispeech": LibriSpeech(),
    "packed": Packed(),
}


def load(name: str, data_dir: str | None = None, cache_dir: str | None = None) -> Recordings:
    """The arrays of a set of utterances, mapped read-only from the cache that the first call fills.

    Of `packed`, `data_dir` is its file; else both folders are as in `images.load`. Raises UserError for an unknown
    name, and for data that are missing, damaged, not finite or without a transcript.
    """
    utterance_set = choose(UTTERANCES, "dataset", name)
    entry = folders.cache(cache_dir) / f"{utterance_set.locate(data_dir)}-utterances"
    return cached(Recordings, entry, lambda: pack(name, utterance_set.utterances(data_dir)))


def pack(name: str, utterances: Iterator[Utterance]) -> Recordings:
    """Joins utterances into arrays. Raises UserError for an empty split and as `check_utterance` does."""
    every: list[Utterance] = []
    size, available = 0, memory_limit()
    for number, utterance in enumerate(utterances):
        check_utterance(f"`dataset={name}`: utterance {number}", utterance, every[0] if every else utterance)
        every.append(utterance)
        size += utterance.frames.nbytes
        if 2 * size > available:  # once in parts, and once joined
            raise UserError(
                f"`dataset={name}`: the frames of its first {len(every)} utterances fill half of the"
                f" {machine.gib(available)} of this machine; take another, or a part of it"
            )
    for split in ("train", "test"):
        if not any(utterance.split == split for utterance in every):
            raise UserError(f"`dataset={name}`: its {split} split is empty")
    letters = sorted(
        {letter for utterance in every if utterance.split == "train" for letter in utterance.text}
    )
    numbers = {letter: number for number, letter in enumerate(letters, 1)}
    labels = np.zeros((len(every), max(len(utterance.text) for utterance in every)), np.uint16)
    for row, utterance in zip(labels, every, strict=True):
        row[: len(utterance.text)] = [numbers.get(letter, len(letters) + 1) for letter in utterance.text]
    return Recordings(
        np.concatenate([utterance.frames for utterance in every]),
        np.array([len(utterance.frames) for utterance in every], np.int32),
        labels,
        np.array([len(utterance.text) for utterance in every], np.int32),
        np.array([SPLITS.index(utterance.split) for utterance in every], np.uint8),
        tuple(letters),
    )


def check_utterance(where: str, utterance: Utterance, first: Utterance) -> None:
    """Raises UserError for an utterance that cannot be learned from, or whose features are not those of the first."""
    split, frames, text = utterance
    if split not in SPLITS:
        raise UserError(f"{where}: its split {split!r} is none of {', '.join(SPLITS)}")
    where += f" of its {split} split"
    if frames.ndim != 2 or frames.shape[1:] != first.frames.shape[1:] or frames.dtype != np.float32:
        raise UserError(
            f"{where}: frames are {frames.dtype} of shape {frames.shape}: give float32 of shape (frames,"
            f" {first.frames.shape[-1]}), as of the first"
        )
    if not len(frames) or not np.isfinite(frames).all():
        raise UserError(f"{where} is broken: it has no frames, is silent or not finite; leave it out")
    if not text.strip():
        raise UserError(f"{where} has a transcript without letters; leave it out")
