"""Texts as contiguous streams: a batch holds the next window of each stream.

A step reads `sequence` tokens of each of `batch_size` streams (the lanes) and predicts the token after each. A lane
continues where its last window ended, so the hidden state is carried; `fresh` says where a stream starts without it.

Pair p is token p with the token after it as its target. The lanes of an epoch cut the pairs into equal parts, from a
start that is drawn by seed and wraps around at the end: every pair counts once an epoch, on any number of devices, and
each epoch has the same windows.
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, UInt16

from wsn import devices, seeds
from wsn.data.cache import Content, once
from wsn.data.checks import as_array, check_range
from wsn.data.feeds import Feed, steps_of_epochs
from wsn.data.language import corpora
from wsn.devices import Placement
from wsn.errors import UserError, choose
from wsn.spec import ORDER, Data, Group, Spec

# Streams of an evaluation: enough for the matrix product, few enough that starting without context matters little.
EVALUATION_LANES = 32
MOST = 2**30  # tokens on a device, so that positions fit 32 bits


class TextBatch(NamedTuple):
    """A batch of windows; `weight` is 1, or 0 for padding."""

    inputs: Int[Array, "time lanes"]
    targets: Int[Array, "time lanes"]
    weight: Float[Array, "time lanes"]
    fresh: Bool[Array, " lanes"]  # whether a stream starts here, without a carried state


class Windows(NamedTuple):
    """Places of windows: (steps, lanes), or (members, steps, lanes) if members differ."""

    first: Int[Array | np.ndarray, "..."]  # pair
    length: Int[Array | np.ndarray, "..."]  # in pairs, up to `sequence`; 0 for padding
    fresh: Bool[Array | np.ndarray, "..."]


def windows(pairs: int, lanes: int, sequence: int, start: int = 0) -> Windows:
    """Cuts all pairs into streams of equal length, the last ones shorter, from pair `start` on; (steps, lanes)."""
    each = -(-pairs // lanes)
    steps = -(-each // sequence)
    stream, place = np.arange(lanes) * each, np.arange(steps)[:, None] * sequence
    ends = np.minimum(stream + each, pairs)
    return Windows(
        ((start + stream + place) % pairs).astype(np.int32),
        np.clip(ends - stream - place, 0, sequence).astype(np.int32),
        np.broadcast_to(place == 0, (steps, lanes)),
    )


def make_batch(sequence: int, data: Integer[Array, " tokens"], row: Windows) -> TextBatch:
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
class Text(Content):
    """A `Source` of tokens; `held_out` are those of validation or test. An example is a window. Raises UserError."""

    name: str
    train: Any  # integers, shape (tokens,)
    held_out: Any
    symbols: tuple[str, ...]
    sequence: int

    streamed: ClassVar[bool] = False
    input_shape: ClassVar[tuple[int, ...]] = ()  # a token

    def __post_init__(self) -> None:
        for name in ("train", "held_out"):
            tokens = as_array(name, getattr(self, name))
            if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
                raise UserError(f"`{name}`: {tokens.dtype} of shape {tokens.shape}: give one integer a token")
            object.__setattr__(self, name, check_range(name, tokens, self.classes, "token"))

    @property
    def classes(self) -> int:
        """Symbols of the vocabulary."""
        return len(self.symbols)

    def batch_shapes(self, size: int) -> TextBatch:
        numbers, weight = (jax.ShapeDtypeStruct((self.sequence, size), x) for x in (jnp.int32, jnp.float32))
        fresh: Any = jax.ShapeDtypeStruct((size,), bool)
        return TextBatch(numbers, numbers, weight, fresh)  # type: ignore[arg-type]

    def num_examples(self, data: Data) -> tuple[int, int]:
        train, held_out = (-(-(len(tokens) - 1) // self.sequence) for tokens in (self.train, self.held_out))
        return train, held_out

    def held_out_lanes(self, spec: Spec) -> int:
        return min(EVALUATION_LANES, (len(self.held_out) - 1) // self.sequence)

    def nbytes(self, spec: Spec) -> int:
        return self.train.nbytes + self.held_out.nbytes

    def feed(self, group: Group, placement: Placement, spread: bool = False) -> Feed:
        """Raises UserError for texts that are shorter than a window. Streams are of equal length as they are."""
        spec, shared = group.specs[0], group.specs[0].order == "shared"
        check_length(self, len(self.train), spec.batch_size, "training")
        check_length(self, len(self.held_out), 1, "held-out")
        pairs, held_out_lanes = len(self.train) - 1, self.held_out_lanes(spec)
        seeds = (spec.data_seed,) if shared else tuple(seed for _, seed in group.members)
        cut = [windows(pairs, spec.batch_size, self.sequence, first_pair(seed, pairs)) for seed in seeds]
        rows = cut[0] if shared else jax.tree.map(lambda *x: np.stack(x), *cut)
        steps = cut[0].first.shape[0]
        held_out_rows = windows(len(self.held_out) - 1, held_out_lanes, self.sequence)
        held_out = devices.scatter_batches(placement, held_out_rows)
        return Feed(
            steps,
            spec.batch_size,
            held_out_lanes,
            lambda first, last: devices.scatter_batches(
                placement, steps_of_epochs(lambda epoch: rows, steps, first, last), of_members=not shared
            ),
            lambda: held_out,
            devices.replicate(placement, np.asarray(self.train)),
            devices.replicate(placement, np.asarray(self.held_out)),
            partial(make_batch, self.sequence),
            partial(make_batch, self.sequence),
        )


@seeds.fixed_bits
def first_pair(seed: int, pairs: int) -> int:
    """The pair at which the first lane starts."""
    key = jax.random.fold_in(seeds.key(seed), ORDER)
    return int(jax.random.randint(key, (), 0, pairs, jnp.int32))  # the default is int64 under JAX_ENABLE_X64


def check_length(text: Text, tokens: int, lanes: int, which: str) -> None:
    """Raises UserError for fewer tokens than a window of every lane and the last target, and for more than `MOST`."""
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


def source_of(spec: Spec, data_dir: str | None = None) -> Text:
    """The text of a spec: its first `train_samples` tokens train, its first `validation_samples` are evaluated.

    The validation text is used if `validation_samples` is not 0, else the whole test text. The vocabulary is that of
    the whole training text, so the number of weights does not depend on the subset. Raises UserError.
    """
    entry = choose(corpora.TEXTS, "dataset", spec.dataset).locate(data_dir)
    tokens = once(corpora.load, entry, spec.dataset, spec.task, spec.vocabulary, data_dir)
    train = subset("train_samples", spec.train_samples, tokens.train)
    if spec.validation_samples:
        held_out = subset("validation_samples", spec.validation_samples, tokens.validation)
    else:
        held_out = tokens.test
    return Text(spec.dataset, train, held_out, tokens.symbols, spec.sequence, sha256=tokens.digest)


def subset(argument: str, count: int | None, tokens: UInt16[np.ndarray, " _"]) -> UInt16[np.ndarray, " _"]:
    """The first `count` tokens. Raises UserError if there are fewer."""
    if count is not None and count > len(tokens):
        raise UserError(f"`{argument}={count}`: choose at most the {len(tokens)} tokens of the text")
    return tokens[:count]
