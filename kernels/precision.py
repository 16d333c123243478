"""Float64 in a scope: a function of JAX arrays becomes one of NumPy arrays that computes in float64."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import numpy as np


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run `function` with 64-bit JAX types; NumPy arrays go in and out, so that no float64 JAX array escapes.

    The scope is that of the calling thread; other JAX work is bit-identical. Positional arguments are converted,
    keyword arguments are static.
    """

    @wraps(function)
    def scoped(*arrays: Any, **static: Any) -> Any:
        with jax.enable_x64(True):
            result = function(*(np.asarray(array, np.float64) for array in arrays), **static)
            return jax.tree.map(np.asarray, result)

    return scoped
