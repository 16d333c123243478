"""Float64 in a scope, on the CPU: a function of JAX arrays becomes one of NumPy arrays.

A TPU would emulate float64 (`enumerate_masks` takes 154 s to compile for one), and most GPUs are slow at it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import jax
import numpy as np


def on_cpu() -> AbstractContextManager:
    """In the block this thread computes on the CPU, unless JAX_PLATFORMS leaves it out."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return nullcontext()


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run `function` with 64-bit types on the CPU; NumPy arrays go in and out, so that no float64 JAX array escapes.

    The scope is that of the calling thread; other JAX work is bit-identical. Positional arguments are converted,
    keyword arguments are static.
    """

    @wraps(function)
    def scoped(*arrays: Any, **static: Any) -> Any:
        with jax.enable_x64(True), on_cpu():
            result = function(*(np.asarray(array, np.float64) for array in arrays), **static)
            return jax.tree.map(np.asarray, result)

    return scoped
