"""Text sets: from a name to the tokens of its training, validation and test text.

`python_docs` comes with Python; `text` is any folder of three files; the others are copies that tensorflow-datasets
(TFDS) prepared as array_record.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from absl import logging
from jaxtyping import UInt16

from wsn import folders
from wsn.data.cache import Content, Origin, cached, entry_of_files
from wsn.data.language.vocabulary import END, FREQUENT, LARGEST, TOKENIZERS, Tokenizer
from wsn.data.prepared import entry_name, in_batches, reading, source
from wsn.data.untrusted import check_regular, check_size
from wsn.errors import UserError, choose, one_line
from wsn.stored import reading_error

SPLITS = ("train", "validation", "test")
_BLOCK = 1000  # characters of `python_docs` that are held out together
_PIECE = 2**24  # characters
# Fractions of a text that are characters of their own, not rare ones (of words: those of the held-out texts that the
# training text has): below the first it is refused, below the second there is a warning (for characters).
_LEAST_KNOWN, _FEW_KNOWN = 0.5, 0.95


@dataclasses.dataclass(frozen=True)
class Corpus(Content):
    """The tokens of the three texts; `sha256` is that of the texts in UTF-8, one after the other (of
    `text` with the name and length of each behind it)."""

    train: UInt16[np.ndarray, " train"]
    validation: UInt16[np.ndarray, " validation"]
    test: UInt16[np.ndarray, " test"]
    symbols: tuple[str, ...]


class TextSet(Origin, Protocol):
    """An entry of `TEXTS`."""

    def pieces(self, split: str, data_dir: str | None) -> Iterator[str]:
        """A split in parts that end with a line, but for the last. Raises UserError."""


@dataclasses.dataclass(frozen=True)
class PythonDocs:
    """The language reference that comes with Python (`pydoc_data.topics`), ASCII only: English and code.

    Topics are sorted and joined by a newline. Of ten blocks of 1000 characters the fifth is test, the last validation.
    It differs between versions of Python, so compare losses only within one.
    """

    def locate(self, data_dir: str | None) -> str:
        return f"python_docs-1-{hashlib.sha256(self.text().encode()).hexdigest()[:12]}"

    def text(self) -> str:
        from pydoc_data.topics import topics

        whole = "\n".join(topics[name] for name in sorted(topics))
        return whole.encode("ascii", "ignore").decode()

    def pieces(self, split: str, data_dir: str | None) -> Iterator[str]:
        whole, held_out = self.text(), {4: "test", 9: "validation"}
        blocks = (whole[at : at + _BLOCK] for at in range(0, len(whole), _BLOCK))
        yield "".join(
            block for number, block in enumerate(blocks) if held_out.get(number % 10, "train") == split
        )


@dataclasses.dataclass(frozen=True)
class Tfds:
    """Texts of tensorflow-datasets.

    Attributes:
      name: `name:version`. The version is pinned so that a result names its data.
      end: text to add to every example.
      validation, test: the splits to read, in the notation of TFDS.
    """

    name: str
    end: str = ""
    validation: str = "validation"
    test: str = "test"

    def locate(self, data_dir: str | None) -> str:
        return entry_name(self.name, data_dir, self, instead="python_docs")

    def pieces(self, split: str, data_dir: str | None) -> Iterator[str]:
        with reading(self.name, data_dir):
            part = split if split == "train" else getattr(self, split)
            for batch in in_batches(source(self.name, part, data_dir)):
                yield "".join(example["text"].decode() + self.end for example in batch)


@dataclasses.dataclass(frozen=True)
class Folder:
    """Three files in `data_dir`, in UTF-8, with or without a byte order mark."""

    train: str = "train.txt"
    validation: str = "valid.txt"
    test: str = "test.txt"

    def locate(self, data_dir: str | None) -> str:
        paths = [self._path(split, data_dir) for split in SPLITS]
        for path in paths:
            try:
                check_size(path.name, 4 * check_regular(path))  # of characters, and tokens of two bytes
            except (FileNotFoundError, NotADirectoryError) as error:
                raise UserError(
                    f"`data_dir={path.parent}`: no {path.name} there; `dataset=text` reads {self.train},"
                    f" {self.validation} and {self.test} from it"
                ) from error
            except (OSError, ValueError) as error:
                raise UserError(f"`data_dir`: {reading_error(path, error)}: give a text in a file") from error
        return entry_of_files("text-3", *paths)

    def pieces(self, split: str, data_dir: str | None) -> Iterator[str]:
        path = self._path(split, data_dir)
        try:
            with open(path, encoding="utf-8-sig") as file:
                while lines := file.readlines(_PIECE):
                    yield "".join(lines)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"`data_dir`: {path} cannot be read as UTF-8 text ({one_line(error)}): convert it"
            ) from error

    def _path(self, split: str, data_dir: str | None) -> Path:
        if data_dir is None:
            raise UserError(
                f"`dataset=text`: give the folder of {self.train}, {self.validation} and {self.test} in `data_dir`"
            )
        return folders.local("data_dir", data_dir) / getattr(self, split)


TEXTS: dict[str, TextSet] = {
    "python_docs": PythonDocs(),
    "tiny_shakespeare": Tfds("tiny_shakespeare:1.0.0"),
    # The One Billion Word Benchmark, a sentence a line; its held-out sentences are half validation, half test.
    "lm1b": Tfds("lm1b:1.1.0", end="\n", validation="test[:50%]", test="test[50%:]"),
    "text": Folder(),
}


def load(
    name: str, task: str, vocabulary: int, data_dir: str | None = None, cache_dir: str | None = None
) -> Corpus:
    """The tokens of a text, mapped read-only from the cache that the first call fills.

    `task` is a key of `TOKENIZERS`: characters, or words of a vocabulary of that size. Of `text`, `data_dir` is the
    folder of its three files; `cache_dir` as in `images.load`. Raises UserError for an unknown name, and for texts
    that are missing, empty or of a single character.
    """
    text_set = choose(TEXTS, "dataset", name)
    if task not in TOKENIZERS:
        raise UserError(f"`dataset={name}` is text: choose `task` from {', '.join(TOKENIZERS)}")
    tokenizer = TOKENIZERS[task]
    if tokenizer.sized and vocabulary > LARGEST:
        raise UserError(f"`vocabulary={vocabulary}` is too large: give at most {LARGEST}")
    entry = f"{text_set.locate(data_dir)}-{task}" + (f"-{vocabulary}" if tokenizer.sized else "")
    return cached(
        Corpus,
        folders.cache(cache_dir) / entry,
        lambda: tokenized(name, tokenizer, vocabulary, lambda split: text_set.pieces(split, data_dir)),
    )


def tokenized(
    name: str, tokenizer: Tokenizer, vocabulary: int, pieces: Callable[[str], Iterator[str]]
) -> Corpus:
    """Counts all texts, then cuts them. Raises UserError for an empty text, and for one or too many symbols."""
    digest = hashlib.sha256()
    counts: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    for split in SPLITS:
        for piece in pieces(split):
            digest.update(piece.encode())
            counts[split].update(tokenizer.counts(piece))
        if name == "text":  # of others the splits never change, and old records have their digests
            digest.update(f"{split}: {counts[split].total()}".encode())
        if not counts[split]:
            raise UserError(f"`dataset={name}`: its {split} text is empty")
    unseen = (counts["validation"].keys() | counts["test"].keys()) - counts["train"].keys()
    symbols = tokenizer.symbols(counts["train"], unseen, vocabulary)
    if len(counts["train"]) < 2:
        [only] = counts["train"]
        raise UserError(
            f"`dataset={name}`: its training text is {only!r} alone, so there is nothing to learn"
        )
    if tokenizer.sized:
        _check_unseen(name, counts["validation"] + counts["test"], unseen - {END})
    else:
        _check_rare(name, sum(counts["train"][symbol] for symbol in symbols) / counts["train"].total())
    if len(symbols) > LARGEST:
        raise UserError(
            f"`dataset={name}`: {len(symbols)} different symbols are more than the {LARGEST} supported"
        )
    encode = tokenizer.encoder(symbols)
    train, validation, test = (np.concatenate([encode(piece) for piece in pieces(split)]) for split in SPLITS)
    return Corpus(train, validation, test, tuple(symbols), sha256=digest.hexdigest())


def _check_unseen(name: str, held_out: Counter[str], unseen: Collection[str]) -> None:
    """Raises UserError for held-out texts most of whose words the training text does not have."""
    total = held_out.total() - held_out[END]
    known = total - sum(held_out[word] for word in unseen)
    if known < _LEAST_KNOWN * total:
        raise UserError(
            f"`dataset={name}`: {1 - known / total:.0%} of the words of its held-out texts are not in its training"
            " text, as where no blanks separate words: give a longer text, or characters with `task=characters`"
        )


def _check_rare(name: str, known: float) -> None:
    """Raises UserError for a text that is mostly the symbol of rare characters; warns if much of it is."""
    if known < _LEAST_KNOWN:
        raise UserError(
            f"`dataset={name}`: {1 - known:.0%} of its training text are characters that occur fewer than {FREQUENT}"
            " times, which become one symbol: give a longer text, or words with `task=words`"
        )
    if known < _FEW_KNOWN:
        logging.warning(
            "%s: %.0f %% of the training text are rare characters, read as one", name, 100 * (1 - known)
        )
