"""Tokens: a text becomes numbers of a vocabulary that is counted on the whole training text, whatever the subset.

Characters: all of them, but if there are more than 128, those that occur fewer than 100 times become one symbol.
Words, between blanks: the most frequent ones, with one symbol for all others and one for the end of a line.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt16

UNKNOWN, END = "<unk>", "<eos>"
FEW_CHARACTERS, FREQUENT = 128, 100
LARGEST = 2**16  # so that a token fits 16 bits

Encode = Callable[[str], UInt16[np.ndarray, " tokens"]]


class Tokenizer(NamedTuple):
    """A way to cut texts. A text may come in pieces that end with a line, or anywhere for characters."""

    counts: Callable[[str], Counter[str]]
    # (counts of the training text, symbols that only the held-out texts have, `vocabulary`) → symbols, by number
    symbols: Callable[[Counter[str], Collection[str], int], list[str]]
    encoder: Callable[[Sequence[str]], Encode]
    sized: bool  # whether `vocabulary` is read


def character_symbols(counts: Counter[str], unseen: Collection[str], size: int) -> list[str]:
    """Characters by code point; last the symbol of rare characters, and of those that only held-out texts have."""
    least = FREQUENT if len(counts) > FEW_CHARACTERS else 1
    common = sorted(character for character, count in counts.items() if count >= least)
    return common if len(common) == len(counts) and not unseen else [*common, UNKNOWN]


def character_encoder(symbols: Sequence[str]) -> Encode:
    table = np.full(0x110000, len(symbols) - 1, np.uint16)
    for number, symbol in enumerate(symbols):
        if len(symbol) == 1:
            table[ord(symbol)] = number
    return lambda text: table[np.frombuffer(text.encode("utf-32-le"), "<u4")]


def words(text: str) -> list[str]:
    """The words of a text, and the end of each line as a word."""
    return text.replace("\n", f" {END} ").split()


def word_symbols(counts: Counter[str], unseen: Collection[str], size: int) -> list[str]:
    """`size` symbols, or as many as there are: `<unk>`, `<eos>`, then words by frequency."""
    others = sorted((-count, word) for word, count in counts.items() if word not in (UNKNOWN, END))
    return [UNKNOWN, END, *(word for _, word in others[: size - 2])]


def word_encoder(symbols: Sequence[str]) -> Encode:
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    unknown = numbers[UNKNOWN]
    return lambda text: np.array([numbers.get(word, unknown) for word in words(text)], np.uint16)


# Task of a language model → how its texts are cut.
TOKENIZERS: dict[str, Tokenizer] = {
    "characters": Tokenizer(Counter, character_symbols, character_encoder, sized=False),
    "words": Tokenizer(lambda text: Counter(words(text)), word_symbols, word_encoder, sized=True),
}
