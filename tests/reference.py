"""Training of one network with one hidden layer in NumPy, in float64."""

import collections
import math

import jax
import numpy as np
import tiny

from wsn.data import normalize
from wsn.spec import Group, Spec
from wsn.training import train


def reference(spec: Spec, seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[float]]:
    """(history, final parameters, norms of the gradients) of ReLU or linear networks under PyTorch's SGD rule."""
    members = train.prepare(Group((spec,), (seed,)), tiny.SPLITS, tiny.SINGLE).members
    flat = {f"{a}/{b}": np.float64(x[0]) for a, sub in members.state.params.items() for b, x in sub.items()}
    mask = {path: array[0] for path, array in members.mask.items()}
    velocity = {path: np.zeros_like(x) for path, x in flat.items()}
    s = tiny.SPLITS
    split = "validation" if spec.validation_samples else "test"
    labels = s.validation_labels if spec.validation_samples else s.test_labels
    x, x_test = (
        np.asarray(normalize(images, s.mean, s.std), np.float64).reshape(len(images), -1)
        for images in (s.train_images, getattr(s, f"{split}_images"))
    )
    size = min(spec.batch_size, len(x))
    steps = math.ceil(len(x) / size)
    history, norms = collections.defaultdict(list), []
    key = jax.random.fold_in(jax.random.key(spec.data_seed if spec.order == "shared" else seed), 2)
    for epoch in range(spec.epochs):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), len(x)))
        loss = correct = 0.0
        for i in range(steps):
            rows = order[i * size : (i + 1) * size]
            rate = spec.learning_rate * factor(spec, epoch, (epoch * steps + i) / (spec.epochs * steps))
            batch_loss, batch_correct, gradient = backward(spec, flat, x[rows], s.train_labels[rows])
            loss, correct = loss + batch_loss, correct + batch_correct
            gradient = {path: g * mask.get(path, 1) / len(rows) for path, g in gradient.items()}
            norms.append(math.sqrt(sum((g**2).sum() for g in gradient.values())))
            clipping = min(1.0, spec.clip / norms[-1]) if spec.clip else 1.0
            for path in flat:
                direction = clipping * gradient[path] + spec.weight_decay * flat[path]
                velocity[path] = spec.momentum * velocity[path] + direction
                flat[path] = flat[path] - rate * velocity[path]
        history["train_loss"].append(loss / len(x))
        history["train_accuracy"].append(correct / len(x))
        loss, correct, _ = backward(spec, flat, x_test, labels)
        history[f"{split}_loss"].append(loss / len(labels))
        history[f"{split}_accuracy"].append(correct / len(labels))
    return {name: np.array(values)[:, None] for name, values in history.items()}, flat, norms


def factor(spec: Spec, epoch: int, progress: float) -> float:
    """The factor of the learning rate in an epoch, after a fraction `progress` of all steps."""
    if spec.schedule == "steps":
        return spec.decay_factor ** sum(epoch >= e for e in set(spec.decay_epochs))
    return 0.5 * (1 + math.cos(math.pi * progress)) if spec.schedule == "cosine" else 1.0


def backward(spec: Spec, params: dict[str, np.ndarray], x: np.ndarray, labels: np.ndarray):
    """Summed cross-entropy, number of correct predictions, and the gradient of the sum."""
    first, last = (1 / math.sqrt(n) if spec.parameterization == "ntk" else 1.0 for n in (9, spec.width))
    before = x @ params["hidden_0/kernel"] * first + params.get("hidden_0/bias", 0)
    slope = before > 0 if spec.activation == "relu" else 1
    hidden = before * slope
    logits = hidden @ params["output/kernel"] * last + params.get("output/bias", 0)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.eye(tiny.CLASSES)[labels]
    d_logits = np.exp(log_p) - target
    d_before = d_logits @ params["output/kernel"].T * last * slope
    gradient = {
        "hidden_0/kernel": x.T @ d_before * first,
        "output/kernel": hidden.T @ d_logits * last,
        "hidden_0/bias": d_before.sum(0),
        "output/bias": d_logits.sum(0),
    }
    correct = (logits.argmax(1) == labels).sum()
    return -(log_p * target).sum(), correct, {path: gradient[path] for path in params}
