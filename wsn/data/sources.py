"""Sources by name: what a spec trains on, opened once a process.

In: the data of a spec, and the folder where prepared copies lie. Out: `Splits`, a
`Text` or `Speech` in memory, or a `Stream`.
"""

from functools import cache

from wsn.data import images
from wsn.data.feeds import Source
from wsn.data.images import DATASETS, Dataset
from wsn.data.language import text
from wsn.data.language.corpora import TEXTS
from wsn.data.speech import utterances
from wsn.data.speech.recordings import UTTERANCES
from wsn.data.splits import Splits, split
from wsn.data.stream import STREAMS, Stream
from wsn.errors import UserError, choose
from wsn.spec import Spec


def image_shape_and_classes(name: str) -> tuple[tuple[int, ...], int]:
    """(height, width, channels) and number of classes of a data set, which need not be there.

    Raises UserError for an unknown one.
    """
    if name in STREAMS:
        return STREAMS[name].input_shape, STREAMS[name].classes
    source = choose(DATASETS, "dataset", name)
    return source.shape, source.classes


@cache
def dataset(name: str, data_dir: str | None = None) -> Dataset:
    """The images of a data set. Raises UserError for one that is streamed."""
    if name in STREAMS:
        known = ", ".join(DATASETS)
        raise UserError(
            f"`dataset={name}` is streamed, which this experiment cannot use: choose one of {known}"
        )
    return images.load(name, data_dir)


@cache
def stream(name: str, data_dir: str | None = None) -> Stream:
    """The streamed data set, opened."""
    return STREAMS[name].open(data_dir)


@cache
def splits(
    name: str,
    data_dir: str | None,
    train_samples: int | None,
    validation_samples: int,
    data_seed: int,
    normalization: str,
) -> Splits:
    """The data set, cut and with its statistics; `Splits` is large, so the same one serves every spec."""
    return split(
        dataset(name, data_dir),
        train_samples=train_samples,
        validation_samples=validation_samples,
        data_seed=data_seed,
        normalization=normalization,
    )


def source_of(spec: Spec, data_dir: str | None = None) -> Source:
    """The source that a spec trains on; default folder `$TFDS_DATA_DIR`. Raises UserError."""
    if spec.dataset in TEXTS:
        return text.source_of(spec, data_dir)
    if spec.dataset in UTTERANCES:
        return utterances.source_of(spec, data_dir)
    if spec.dataset in STREAMS:
        return stream(spec.dataset, data_dir)
    return splits(
        spec.dataset,
        data_dir,
        spec.train_samples,
        spec.validation_samples,
        spec.data_seed,
        spec.normalization,
    )
