"""The data of a spec, loaded once a process."""

from functools import cache

from wsn.data.feeds import Source
from wsn.data.images import Dataset, load
from wsn.data.splits import Splits, split
from wsn.data.stream import STREAMS, Stream
from wsn.spec import Spec


def source_of(spec: Spec, data_dir: str | None = None) -> Source:
    """The data that a spec trains on; `data_dir` as in `load`. Raises UserError."""
    if spec.dataset in STREAMS:
        return stream(spec.dataset, data_dir)
    settings = spec.train_samples, spec.validation_samples, spec.data_seed, spec.normalization
    return splits(spec.dataset, data_dir, *settings)


@cache
def dataset(name: str, data_dir: str | None) -> Dataset:
    """A data set that is held in memory."""
    return load(name, data_dir)


@cache
def stream(name: str, data_dir: str | None) -> Stream:
    """A data set that is streamed."""
    return STREAMS[name].open(data_dir)


@cache
def splits(
    name: str, data_dir: str | None, train_samples: int | None, held_out: int, seed: int, normalization: str
) -> Splits:
    """A data set cut up and normalised."""
    return split(
        dataset(name, data_dir),
        train_samples=train_samples,
        validation_samples=held_out,
        data_seed=seed,
        normalization=normalization,
    )
