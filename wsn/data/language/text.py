"""Language: texts as contiguous streams, of which a batch holds the next window of each.

In: the tokens of a text, how many of them train, the length of a window. Out: `Text`, a source. A step reads `sequence`
tokens of each of `batch_size` streams (the lanes) and predicts the token after each. A lane goes on where its last
window ended, so the hidden state is carried; `fresh` says where it must not be.

Pair p is token p with the token after it as its target. The lanes of an epoch cut the pairs into equal parts, from a
place that is drawn by seed, around the end to the start: every pair counts once an epoch, whatever the devices.
"""

import dataclasses
from functools import cache, partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt16

from wsn import devices
from wsn.data.feeds import Feed, steps_of
from wsn.data.language import corpora
from wsn.devices import Placement
from wsn.errors import UserError
from wsn.spec import ORDER, Data, Group, Spec

# Streams of an evaluation: enough for the matrix product, few enough for their starts without context to matter little.
EVALUATION_LANES = 32
MOST = 2**30  # tokens on a device, so that places fit 32 bits


class TextBatch(NamedTuple):
    """A batch: windows side by side; `weight` is 1, or 0 for padding."""

    inputs: Int[Array, "time lanes"]
    targets: Int[Array, "time lanes"]
    weight: Float[Array, "time lanes"]
    fresh: Bool[Array, " lanes"]  # whether a stream starts here, without what was carried


class Windows(NamedTuple):
    """Where windows lie: (steps, lanes), or (members, steps, lanes) where members differ."""

    first: Int[Array | np.ndarray, "..."]  # pair
    length: Int[Array | np.ndarray, "..."]  # in pairs, up to `sequence`; 0 for padding
    fresh: Bool[Array | np.ndarray, "..."]


def windows(pairs: int, lanes: int, sequence: int, start: int = 0) -> Windows:
    """All pairs in streams of equal length but the last ones, from pair `start` around; (steps, lanes)."""
    each = -(-pairs // lanes)
    steps = -(-each // sequence)
    stream, place = np.arange(lanes) * each, np.arange(steps)[:, None] * sequence
    ends = np.minimum(stream + each, pairs)
    return Windows(
        ((start + stream + place) % pairs).astype(np.int32),
        np.clip(ends - stream - place, 0, sequence).astype(np.int32),
        np.broadcast_to(place == 0, (steps, lanes)),
    )


def make_batch(sequence: int, data: UInt16[Array, " tokens"], row: Windows) -> TextBatch:
    """The batch of one row of `Windows`."""
    time = jnp.arange(sequence)[:, None]
    places = (row.first + time) % (len(data) - 1)
    return TextBatch(
        data[places].astype(jnp.int32),
        data[places + 1].astype(jnp.int32),
        (time < row.length).astype(jnp.float32),
        jnp.asarray(row.fresh),
    )


@dataclasses.dataclass(frozen=True)
class Text:
    """The tokens that train, and those that are held out (validation or test); an example is a window of a stream."""

    name: str
    train: UInt16[np.ndarray, " train"]
    held_out: UInt16[np.ndarray, " held_out"]
    symbols: tuple[str, ...]
    sequence: int
    sha256: str | None = None  # of the whole text, its three splits

    streamed: ClassVar[bool] = False
    input_shape: ClassVar[tuple[int, ...]] = ()  # a token

    @property
    def classes(self) -> int:
        """Symbols of the vocabulary."""
        return len(self.symbols)

    def batch_shapes(self, size: int) -> TextBatch:
        """The shapes of a batch of so many lanes."""
        shape = (self.sequence, size)
        array: Any = jax.ShapeDtypeStruct
        return TextBatch(
            array(shape, jnp.int32), array(shape, jnp.int32), array(shape, jnp.float32), array((size,), bool)
        )

    def num_examples(self, data: Data) -> tuple[int, int]:
        """How many windows train and are evaluated."""
        train, held_out = (-(-(len(tokens) - 1) // self.sequence) for tokens in (self.train, self.held_out))
        return train, held_out

    def held_out_lanes(self, spec: Spec) -> int:
        """In how many streams the held-out text is read."""
        return min(EVALUATION_LANES, (len(self.held_out) - 1) // self.sequence)

    def nbytes(self, spec: Spec) -> int:
        """All tokens lie on the device."""
        return self.train.nbytes + self.held_out.nbytes

    def feed(self, group: Group, placement: Placement) -> Feed:
        """The batches of a group. Raises UserError for texts that are shorter than a window."""
        return resident(self, group, placement)


def resident(text: Text, group: Group, placement: Placement) -> Feed:
    """Both texts on the device; rows are places of windows, the same in every epoch."""
    spec = group.specs[0]
    pairs, lanes = len(text.train) - 1, spec.batch_size
    check_length(text, len(text.train), lanes, "training")
    check_length(text, len(text.held_out), 1, "held-out")
    seeds = (spec.data_seed,) if spec.order == "shared" else tuple(seed for _, seed in group.members)
    cut = [windows(pairs, lanes, text.sequence, first_pair(seed, pairs)) for seed in seeds]
    rows = cut[0] if spec.order == "shared" else jax.tree.map(lambda *x: np.stack(x), *cut)
    steps = cut[0].first.shape[0]
    held_out_pairs = len(text.held_out) - 1
    held_out_lanes = text.held_out_lanes(spec)
    held_out = devices.scatter_batches(placement, windows(held_out_pairs, held_out_lanes, text.sequence))
    take_windows = partial(make_batch, text.sequence)
    return Feed(
        steps,
        lanes,
        held_out_lanes,
        lambda first, last: devices.scatter_batches(
            placement, steps_of(lambda epoch: rows, steps, first, last), of_members=spec.order != "shared"
        ),
        lambda: held_out,
        devices.replicate(placement, np.asarray(text.train)),
        devices.replicate(placement, np.asarray(text.held_out)),
        take_windows,
        take_windows,
    )


def first_pair(seed: int, pairs: int) -> int:
    """Where the first lane starts."""
    return int(jax.random.randint(jax.random.fold_in(jax.random.key(seed), ORDER), (), 0, pairs))


def check_length(text: Text, tokens: int, lanes: int, which: str) -> None:
    """Raises UserError for fewer tokens than a window of every lane and the last target, and for too many."""
    least = lanes * text.sequence + 1
    if tokens < least:
        streams = f"one window of {lanes} streams" if lanes > 1 else "one window"
        raise UserError(
            f"`dataset={text.name}`: the {which} text of {tokens} tokens is shorter than {streams} of"
            f" `sequence={text.sequence}`: take at least {least} tokens, a shorter `sequence` or a smaller `batch_size`"
        )
    if tokens > MOST:
        raise UserError(
            f"`dataset={text.name}`: the {which} text of {tokens} tokens is too long: take at most {MOST}"
        )


@cache
def corpus(name: str, task: str, vocabulary: int, data_dir: str | None) -> corpora.Corpus:
    """The tokens of a text, opened once a process."""
    return corpora.load(name, task, vocabulary, data_dir)


def source_of(spec: Spec, data_dir: str | None = None) -> Text:
    """The text of a spec: its first `train_samples` tokens train, its first `validation_samples` are evaluated.

    The validation text is used where `validation_samples` is not 0, else the test text, whole. The vocabulary is that
    of the whole training text. Raises UserError.
    """
    tokens = corpus(spec.dataset, spec.task, spec.vocabulary, data_dir)
    train = subset("train_samples", spec.train_samples, tokens.train)
    if spec.validation_samples:
        held_out = subset("validation_samples", spec.validation_samples, tokens.validation)
    else:
        held_out = tokens.test
    return Text(spec.dataset, train, held_out, tokens.symbols, spec.sequence, tokens.sha256)


def subset(flag: str, count: int | None, tokens: UInt16[np.ndarray, " _"]) -> UInt16[np.ndarray, " _"]:
    """The first `count` tokens. Raises UserError where there are fewer."""
    if count is not None and count > len(tokens):
        raise UserError(f"`{flag}={count}`: choose at most the {len(tokens)} tokens that there are")
    return tokens[:count]
