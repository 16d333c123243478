"""Audio: recordings in a prepared copy, and log-spectrograms.

Records are parsed with the protocol buffers of tensorflow-datasets (TFDS): its own audio decoder imports TensorFlow.
"""

import contextlib
import os
from collections.abc import Iterator
from itertools import chain

import numpy as np
from jaxtyping import Float32, Shaped

from wsn.data.prepared import in_batches, reading, without_group_size_notice

_BATCH = 256
WINDOW, HOP = 0.020, 0.010  # seconds
FLOOR = 1e-6  # of power, before its logarithm: 60 dB below the mean of the audio

LARGEST_RECORD = 2**25  # bytes of an example, of whose numbers Python makes 36 each: five minutes at 16 kHz

Fields = dict[str, list]  # feature → its values


def log_spectrogram(
    samples: Shaped[np.ndarray, " samples"], rate: int
) -> Float32[np.ndarray, "frames frequencies"]:
    """ln of the power in windows of 20 ms, 10 ms apart, of audio scaled to mean power 1 (Amodei et al. 2016).

    `rate` in Hz; frequencies from 0 to rate/2 in steps of 50 Hz: 81 at 8 kHz, 161 at 16 kHz. Silent audio gives values
    that are not finite, and audio shorter than a window gives no frame.
    """
    window, hop = round(WINDOW * rate), round(HOP * rate)
    x = samples.astype(np.float64)
    if len(x) < window:
        return np.zeros((0, window // 2 + 1), np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = x / np.sqrt(np.mean(x**2))
    frames = np.lib.stride_tricks.sliding_window_view(x, window)[::hop] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames)) ** 2 / window
    return np.log(np.maximum(power, FLOOR)).astype(np.float32)


def examples(name: str, split: str, data_dir: str | None) -> Iterator[Fields]:
    """The examples of a split of the prepared copy of `name:version`. Raises UserError for a damaged copy."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource
    from tensorflow_datasets.proto import tf_example_pb2

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(reading(name, data_dir))
        files = [os.fspath(file) for file in sorted(folder.glob(f"*-{split}.array_record-*"))]
        if not files:
            return
        stack.enter_context(without_group_size_notice())
        source = stack.enter_context(ArrayRecordDataSource(files))
        for record in chain.from_iterable(in_batches(source, _BATCH)):
            if len(record) > LARGEST_RECORD:
                raise ValueError(f"an example of {len(record)} bytes")
            features = tf_example_pb2.Example.FromString(record).features.feature
            yield {key: list(getattr(x, x.WhichOneof("kind")).value) for key, x in features.items()}
