"""Sparsity for anyone's network: masks, initial parameters, and optimizers under which removed weights stay 0.

README.md in this folder is the guide. Nothing here needs data or training.
"""

import warnings
from collections.abc import Callable
from typing import Any

from wsn.sparsity.axes import Axes, linen_axes, nnx_axes
from wsn.sparsity.budget import DISTRIBUTIONS, kept_counts
from wsn.sparsity.masks import apply_mask
from wsn.sparsity.network import is_kernel, mask_and_rescale, num_kept, random_mask
from wsn.sparsity.optimizer import with_static_mask
from wsn.sparsity.patterns import PATTERNS

__all__ = [
    "DISTRIBUTIONS",
    "PATTERNS",
    "Axes",
    "apply_mask",
    "is_kernel",
    "kept_counts",
    "linen_axes",
    "mask_and_rescale",
    "nnx_axes",
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
