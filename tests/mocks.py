"""Training, stubbed: what `train.train` yields, without a network and without JAX."""

import time
from functools import partial

import numpy as np

from wsn.spec import Group
from wsn.training import train
from wsn.training.history import EMPTY, History, Snapshot

STEPS = 3  # of an epoch of `tiny.spec`
CURVES = "train_loss", "train_accuracy", "test_loss", "test_accuracy"


def stub_train(
    group: Group, splits=None, *, resume=None, placement=None, execution="masked", seconds: float = 0.0
):
    """In place of `train.train`: every epoch depends on the one before through the state, as in real training."""
    state = resume.state[".x"] if resume else np.array([seed for _, seed in group.members], np.float32)
    empty = {name: np.empty((0, len(state)), np.float32) for name in CURVES}
    history = resume.history if resume else EMPTY._replace(curves=empty)
    epochs = group.specs[0].epochs
    for epoch in range(history.rows, epochs):
        time.sleep(seconds)
        state = np.float32(0.7) * state + np.float32(group.specs[0].learning_rate) / np.float32(epoch + 1)
        step = STEPS * (epoch + 1)
        curves = {name: np.vstack([x, state / (1 + state)]) for name, x in history.curves.items()}
        history = History(np.append(history.step, np.int64(step)), curves)
        take = partial(Snapshot, {".x": state}, history)
        yield train.EvalPoint(step, STEPS * epochs, step == STEPS * epochs, history, take)
