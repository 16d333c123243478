"""A short run of every kind of network and data, on the devices of one process or several."""

import io
from dataclasses import replace
from unittest import mock

import numpy as np
import tiny
from PIL import Image

from experiments.benchmarks.of_input import photo
from wsn.data.language.text import Text
from wsn.data.splits import Splits
from wsn.data.stream import Records, Stream
from wsn.devices import hosts
from wsn.networks.models import MODELS, SPEECH_MODELS, TOKEN_MODELS
from wsn.spec import Group
from wsn.training import strategy, train


def encoded(count: int, first: int) -> list[dict]:
    examples = []
    for index in range(first, first + count):
        file = io.BytesIO()
        Image.fromarray(photo(index, 260, 256)).save(file, "PNG")
        examples.append({"image": file.getvalue(), "label": index % tiny.CLASSES})
    return examples


def streamed() -> Stream:
    """Images that are decoded while training runs."""
    splits = (Records(encoded(*part), "image", "label", tiny.CLASSES, "", "") for part in ((21, 0), (5, 50)))
    mean, deviation = np.full((1, 1, 3), 120, np.float32), np.full((1, 1, 3), 60, np.float32)
    return Stream(tiny.CLASSES, *splits, mean, deviation, threads=1)


def images() -> Splits:
    random = np.random.default_rng(0)
    raw, labels = random.integers(0, 256, (28, 8, 8, 3), dtype=np.uint8), np.arange(28, dtype=np.int32) % 4
    one = np.full((1, 1, 3), 120, np.float32)
    parts = (
        part for split in (slice(20), slice(20, 20), slice(20, None)) for part in (raw[split], labels[split])
    )
    return Splits(*parts, one, one, tiny.CLASSES)


def cases():
    """Name → (spec, source, seeds, whether several devices share its batch)."""
    text = Text(
        "tiny", *(np.random.default_rng(i).integers(0, 4, 90, np.uint16) for i in (0, 1)), tuple("abcd"), 4
    )
    for model in MODELS:
        spec = replace(tiny.spec(model=model), width=4, epochs=1, learning_rate=0.01, batch_size=20)
        if model in TOKEN_MODELS:
            spec = replace(spec, task="characters", sequence=4, batch_size=6)
            yield f"{model}, batch", (spec, text, (0,), True)
            yield f"{model}, members", (spec, text, (0, 1, 2), False)
        elif model in SPEECH_MODELS:
            yield model, (replace(spec, task="speech"), tiny.SPEECH, (0, 1, 2), False)
        else:
            yield model, (spec, images(), (0, 1, 2), False)
    yield "streamed", (tiny.spec(width=2, epochs=1, learning_rate=1e-4), streamed(), (0, 1), False)


def curves() -> dict[str, np.ndarray]:
    found = {}
    for name, (spec, source, seeds, by_batch) in cases():
        with mock.patch.object(strategy, "SMALLEST_CUT", 0 if by_batch else strategy.SMALLEST_CUT):
            *_, point = train.train(Group((spec,), seeds), source)
        state = point.snapshot().state  # of all processes
        found |= {f"{name}/{curve}": values for curve, values in point.history.curves.items()}
        found |= {f"{name}/{path}": x for path, x in state.items() if path.startswith((".carry", ".step"))}
    return found


def write(file: str) -> None:
    """The curves of all, in process 0."""
    found = curves()
    if hosts.is_leader():
        np.savez(file, **found)
