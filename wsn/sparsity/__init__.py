"""Sparsity: a budget of weights, and which ones a network keeps of it. Needs no data, and no training.

In: shapes or parameters of anyone's network, a number of weights, a key. Out: kept counts, positions, masks,
initial parameters, and an optimizer under which removed weights stay 0 (`network` has the whole in one place).
"""

import warnings
from collections.abc import Callable
from typing import Any

from wsn.sparsity.budget import DISTRIBUTIONS, kept_counts
from wsn.sparsity.masks import apply_mask
from wsn.sparsity.network import is_kernel, mask_and_rescale, num_kept, random_mask, with_static_mask
from wsn.sparsity.patterns import PATTERNS

__all__ = [
    "DISTRIBUTIONS",
    "PATTERNS",
    "apply_mask",
    "is_kernel",
    "kept_counts",
    "mask_and_rescale",
    "num_kept",
    "random_mask",
    "with_static_mask",
]

# Names before 0.2. Their argument `keep` is `mask` now.
_RENAMED: dict[str, Callable[..., Any]] = {
    "draw_keep": random_mask,
    "start": mask_and_rescale,
    "counts": num_kept,
    "apply_masks": apply_mask,
}


def __getattr__(name: str) -> Callable[..., Any]:
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = _RENAMED[name]
    note = f"wsn.sparsity.{name} is now wsn.sparsity.{function.__name__}; the old name will be removed"
    warnings.warn(note, DeprecationWarning, stacklevel=2)

    def renamed(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **{"mask" if key == "keep" else key: value for key, value in kwargs.items()})

    return renamed
