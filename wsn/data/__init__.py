"""Data: from a name to batches on the device.

In: the name of a data set, sample counts, a seed. Out: sources (`Splits` or `Text` in memory, or a `Stream` from disk)
and the feeds that cut them into batches; what was decoded once lies in a checked cache.
"""

from wsn.data.images import DATASETS, Dataset, load, permutation
from wsn.data.normalization import NORMALIZATIONS, normalize, statistics
from wsn.data.splits import Splits, split

__all__ = [
    "DATASETS",
    "NORMALIZATIONS",
    "Dataset",
    "Splits",
    "load",
    "normalize",
    "permutation",
    "split",
    "statistics",
]


def __getattr__(name: str) -> object:
    if name == "normalise":  # deprecated spelling of `normalize`
        return normalize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
