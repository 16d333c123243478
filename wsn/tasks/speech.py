"""Speech recognition without an alignment: connectionist temporal classification (Graves et al. 2006).

Letter errors are counted on the device, so evaluation is the same under `vmap`, `pmap` and `scan`. They cost a seventh
of a step of a small network, so training does without.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from wsn.data.speech.utterances import Frames, SpeechBatch
from wsn.networks.layers import Model
from wsn.tasks.task import LOSS, Metric, Task, Totals, independent_batches

BLANK = 0
LETTER_ERROR_RATE = Metric(
    "letter_error_rate",
    lambda totals: totals["edits"] / totals["weight"],
    "low",
    "fraction",
    in_training=False,
)


def speech(model: Model) -> Task:
    """CTC loss in nats per letter, and edits per letter that turn the likeliest path into the transcript.

    The mean is over the letters of a batch, so long transcripts count more.
    """

    def totals(logits: Frames, batch: SpeechBatch) -> Totals:
        loss = ctc(logits, batch.labels, batch.label_lengths)
        return {
            "loss": jnp.sum(loss * batch.weight),
            "weight": jnp.sum(batch.label_lengths * batch.weight),
        }

    def held_out_totals(logits: Frames, batch: SpeechBatch) -> Totals:
        errors = edits(logits, batch.labels, batch.label_lengths)
        return totals(logits, batch) | {"edits": jnp.sum(errors * batch.weight)}

    return independent_batches(model, (LOSS, LETTER_ERROR_RATE), totals, held_out_totals)


def ctc(
    logits: Frames, labels: Int[Array, "batch labels"], label_lengths: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """−ln of the probability of all alignments of the labels, in nats."""
    padding = jnp.arange(labels.shape[1]) >= label_lengths[:, None]
    return optax.ctc_loss(
        logits.values, 1.0 - logits.valid, labels, padding.astype(jnp.float32), blank_id=BLANK
    )


def edits(
    logits: Frames, labels: Int[Array, "batch labels"], label_lengths: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """Levenshtein distance from the greedy transcript to the labels.

    The transcript is the likeliest class of every frame, repeats merged, blanks removed. Each of its letters adds a row
    of the dynamic program: the distances from the letters so far to the first 0, 1, … labels.
    """
    best = jnp.where(logits.valid, jnp.argmax(logits.values, -1), BLANK)
    before = jnp.pad(best, ((0, 0), (1, 0)), constant_values=BLANK)[:, :-1]
    is_letter = (best != BLANK) & (best != before)
    columns = jnp.arange(labels.shape[1] + 1)

    def add_letter(row: Array, frame: tuple[Array, Array]) -> tuple[Array, None]:
        letter, is_letter = frame[0][:, None], frame[1][:, None]
        substituted = row[:, :-1] + (labels != letter)
        deleted = jnp.concatenate([row[:, :1] + 1, jnp.minimum(row[:, 1:] + 1, substituted)], axis=1)
        # Any number of insertions: min over k ≤ j of deleted[k] + j − k.
        inserted = jax.lax.cummin(deleted - columns, axis=1) + columns
        return jnp.where(is_letter, inserted, row), None

    start = jnp.broadcast_to(columns, (len(labels), columns.size))
    last, _ = jax.lax.scan(add_letter, start, (best.T, is_letter.T))
    return jnp.take_along_axis(last, label_lengths[:, None], axis=1)[:, 0].astype(jnp.float32)


SPEECH: dict[str, Callable[[Model], Task]] = {"speech": speech}
