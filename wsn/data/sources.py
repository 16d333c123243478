"""From a spec to the `Source` that it trains on.

Large data are opened once a process and shared by all specs, until their files change: what is opened is cached by the
name of the cache entry too, which `locate` gives.
"""

from functools import cache
from typing import Any

from wsn.data import images
from wsn.data.cache import once
from wsn.data.feeds import Source
from wsn.data.images import DATASETS, Dataset
from wsn.data.language import text
from wsn.data.language.corpora import TEXTS
from wsn.data.large_images import STREAMS
from wsn.data.speech import utterances
from wsn.data.speech.recordings import UTTERANCES
from wsn.data.splits import Splits, split
from wsn.data.stream import Stream
from wsn.errors import UserError, choose
from wsn.spec import Spec


def image_shape_and_classes(name: str) -> tuple[tuple[int, ...], int]:
    """(height, width, channels) and number of classes of an image set, known without its files. Raises UserError."""
    if name in STREAMS:
        return STREAMS[name].input_shape, STREAMS[name].classes
    image_set = choose(DATASETS, "dataset", name)
    return image_set.shape, image_set.classes


def dataset(name: str, data_dir: str | None = None) -> Dataset:
    """The arrays of an image set. Raises UserError for one that is streamed."""
    if name in STREAMS:
        known = ", ".join(DATASETS)
        raise UserError(
            f"`dataset={name}` is streamed, which this experiment cannot use: choose one of {known}"
        )
    return once(images.load, _entry(name, data_dir), name, data_dir)


@cache
def stream(name: str, data_dir: str | None = None) -> Stream:
    """A streamed data set, opened."""
    return STREAMS[name].open(data_dir)


@cache
def _splits(name: str, data_dir: str | None, entry: str, **settings: Any) -> Splits:
    return split(dataset(name, data_dir), **settings)


def _entry(name: str, data_dir: str | None) -> str:
    return choose(DATASETS, "dataset", name).locate(data_dir)


def source_of(spec: Spec, data_dir: str | None = None) -> Source:
    """The data of a spec, from `data_dir` (default: `$TFDS_DATA_DIR`). Raises UserError."""
    if spec.dataset in TEXTS:
        return text.source_of(spec, data_dir)
    if spec.dataset in UTTERANCES:
        return utterances.source_of(spec, data_dir)
    if spec.dataset in STREAMS:
        return stream(spec.dataset, data_dir)
    settings = ("train_samples", "validation_samples", "data_seed", "normalization")
    fields = {name: getattr(spec, name) for name in settings}
    return _splits(spec.dataset, data_dir, _entry(spec.dataset, data_dir), **fields)
