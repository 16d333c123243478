"""CTC against closed forms and PyTorch, letter errors against a library, no influence of padding."""

from itertools import groupby

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from wsn.data.speech.utterances import Frames
from wsn.tasks import speech


def numbers(*values: int) -> jax.Array:
    return jnp.asarray(values, jnp.int32)


@pytest.mark.parametrize(
    ("classes", "frames", "labels", "loss"),
    [
        (2, 2, [1], np.log(4 / 3)),
        (2, 3, [1, 1], np.log(8)),
        (3, 3, [1, 2], np.log(27 / 5)),
        (2, 3, [], np.log(8)),
    ],
)
def test_the_loss_of_uniform_logits_counts_alignments(classes, frames, labels, loss):
    """ln(paths / alignments); with padding of frames, labels and utterances."""
    logits = Frames(jnp.zeros((2, 5, classes)), numbers(frames, 5))
    padded = jnp.zeros((2, 4), jnp.int32).at[0, : len(labels)].set(numbers(*labels))
    losses = speech.ctc(logits, padded, numbers(len(labels), 0))
    assert losses[0] == pytest.approx(loss, abs=1e-6)


# Losses by PyTorch 2.13 and optax for normal logits: utterances of 12, 9 and 7 frames with 4, 3 and 2 labels.
LENGTHS, LABEL_LENGTHS = numbers(12, 9, 7), numbers(4, 3, 2)
LOSSES = (11.980315, 10.168968, 8.502473)


def random_utterances() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 12, 6)).astype(np.float32)
    return logits, random.integers(1, 6, (3, 4)).astype(np.int32)


def test_the_loss_of_random_logits_is_that_of_references():
    logits, labels = random_utterances()
    losses = speech.ctc(Frames(jnp.asarray(logits), LENGTHS), jnp.asarray(labels), LABEL_LENGTHS)
    np.testing.assert_allclose(losses, LOSSES, rtol=1e-6)


def test_the_loss_and_its_gradient_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    logits, labels = random_utterances()
    x = torch.tensor(logits, requires_grad=True)
    log_p = x.log_softmax(-1).transpose(0, 1)
    sizes = [torch.tensor(np.asarray(n)) for n in (LENGTHS, LABEL_LENGTHS)]
    theirs = torch.nn.functional.ctc_loss(log_p, torch.tensor(labels), *sizes, reduction="none")
    theirs.sum().backward()
    total = lambda x: speech.ctc(Frames(x, LENGTHS), jnp.asarray(labels), LABEL_LENGTHS).sum()  # noqa: E731
    np.testing.assert_allclose(total(jnp.asarray(logits)), theirs.sum().item(), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(logits)), x.grad.numpy(), atol=1e-5)


def test_the_gradient_after_the_end_of_an_utterance_is_0():
    logits, labels = random_utterances()

    def total(x):
        return speech.ctc(Frames(x, LENGTHS), jnp.asarray(labels), LABEL_LENGTHS).sum()

    slope = np.asarray(jax.grad(total)(jnp.asarray(logits)))
    padding = np.arange(12) >= np.asarray(LENGTHS)[:, None]
    assert not slope[padding].any() and slope[~padding].any(-1).all()


@pytest.mark.parametrize(("time", "most"), [(9, 6), (30, 3)])
def test_letter_errors_are_those_of_a_library(time, most):
    """Of the greedy transcript: repeats merged, then blanks removed; also without frames or labels, and with far more
    letters than labels."""
    random, count, classes = np.random.default_rng(0), 300, 4
    logits = random.normal(size=(count, time, classes)).astype(np.float32)
    lengths = random.integers(0, time + 1, count).astype(np.int32)
    label_lengths = random.integers(0, most + 1, count).astype(np.int32)
    labels = random.integers(1, classes, (count, most)).astype(np.int32)
    errors = jax.jit(speech.edits)(
        Frames(jnp.asarray(logits), jnp.asarray(lengths)), jnp.asarray(labels), jnp.asarray(label_lengths)
    )
    for i in range(count):
        once = [int(best) for best, _ in groupby(logits[i, : lengths[i]].argmax(-1))]
        letters = [letter for letter in once if letter != speech.BLANK]
        assert errors[i] == Levenshtein.distance(letters, labels[i, : label_lengths[i]].tolist())


def test_right_letters_in_any_alignment_are_no_errors():
    path = jnp.asarray([[1, 1, 0, 1, 2, 0]])
    logits = Frames(jax.nn.one_hot(path, 3), numbers(6))
    assert speech.edits(logits, numbers(1, 1, 2)[None], numbers(3)) == 0
    assert speech.LETTER_ERROR_RATE.of({"edits": 3.0, "weight": 12.0}) == 0.25
