"""Float64 in a scope. In: a function on JAX arrays. Out: the same on numpy arrays, computed in float64."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import numpy as np


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run `function` with 64-bit JAX types; numpy goes in and out, so that no float64 JAX array escapes.

    The scope belongs to the calling thread and leaves the types and bits of all other JAX work as they were.
    Positional arguments are converted; keyword arguments are static and passed as they are.
    """

    @wraps(function)
    def scoped(*arrays: Any, **static: Any) -> Any:
        with jax.enable_x64(True):
            result = function(*(np.asarray(array, np.float64) for array in arrays), **static)
            return jax.tree.map(np.asarray, result)

    return scoped
