"""Speech: which letters were said, without an alignment (Graves et al. 2006: connectionist temporal classification)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from wsn.data.speech.utterances import Frames, SpeechBatch
from wsn.networks.layers import BatchWeights, Model, Params, Stats
from wsn.tasks.task import LOSS, Carry, Context, Metric, Task, Totals, nothing_carried

BLANK = 0
LETTER_ERROR_RATE = Metric(
    "letter_error_rate",
    lambda totals: totals["edits"] / totals["weight"],
    "low",
    "fraction",
    least=0.0,
    in_training=False,
)


def speech(model: Model) -> Task:
    """CTC loss in nats a letter, and the edits that turn the likeliest path into the transcript, a letter.

    The mean is over the letters of a batch: an utterance counts for as much as it says.
    """

    def totals(logits: Frames, batch: SpeechBatch) -> Totals:
        loss = ctc(logits, batch.labels, batch.label_lengths)
        return {
            "loss": jnp.sum(loss * batch.weight),
            "weight": jnp.sum(batch.label_lengths * batch.weight),
        }

    def training(
        params: Params, stats: Stats, carry: Carry, batch: SpeechBatch, context: Context
    ) -> tuple[Totals, Stats, Carry]:
        batch_weights = BatchWeights(batch.weight, context.axis)
        logits, stats = model.apply_training(params, stats, batch.inputs, batch_weights)
        return totals(logits, batch), stats, carry

    def evaluation(
        params: Params, stats: Stats, carry: Carry, batch: SpeechBatch, context: Context
    ) -> tuple[Totals, Carry]:
        logits = model.apply(params, stats, batch.inputs)
        errors = edits(logits, batch.labels, batch.label_lengths)
        return totals(logits, batch) | {"edits": jnp.sum(errors * batch.weight)}, carry

    return Task((LOSS, LETTER_ERROR_RATE), nothing_carried, training, evaluation)


def ctc(
    logits: Frames, labels: Int[Array, "batch labels"], label_lengths: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """−ln of the probability of all alignments of the labels, in nats."""
    behind = jnp.arange(labels.shape[1]) >= label_lengths[:, None]
    return optax.ctc_loss(
        logits.values, 1.0 - logits.valid, labels, behind.astype(jnp.float32), blank_id=BLANK
    )


def edits(
    logits: Frames, labels: Int[Array, "batch labels"], label_lengths: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """Levenshtein's distance from the greedy transcript to the labels.

    The transcript has the likeliest class of every frame, once where it repeats, without blanks. Each of its letters
    makes a row of the dynamic programme: the distances of the letters so far to the first 0, 1, … labels.
    """
    best = jnp.where(logits.valid, jnp.argmax(logits.values, -1), BLANK)
    before = jnp.pad(best, ((0, 0), (1, 0)), constant_values=BLANK)[:, :-1]
    said = (best != BLANK) & (best != before)
    places = jnp.arange(labels.shape[1] + 1)

    def extended(row: Array, now: tuple[Array, Array]) -> tuple[Array, None]:
        letter, is_said = now[0][:, None], now[1][:, None]
        replaced = row[:, :-1] + (labels != letter)
        without = jnp.concatenate([row[:, :1] + 1, jnp.minimum(row[:, 1:] + 1, replaced)], axis=1)
        # Labels may be left out from any place on: min over k ≤ j of without[k] + j − k.
        found = jax.lax.cummin(without - places, axis=1) + places
        return jnp.where(is_said, found, row), None

    start = jnp.broadcast_to(places, (len(labels), places.size))
    last, _ = jax.lax.scan(extended, start, (best.T, said.T))
    return jnp.take_along_axis(last, label_lengths[:, None], axis=1)[:, 0].astype(jnp.float32)


SPEECH: dict[str, Callable[[Model], Task]] = {"speech": speech}
