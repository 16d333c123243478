"""Import of neural-tangents on a current JAX.

neural-tangents 0.6.5, the newest, uses names that JAX 0.6 moved. `load` adds aliases where a name is missing,
changes none that exists, and imports. An empty module replaces its experimental part, which alone needs TensorFlow.
Checked: stax, and empirical_ntk_fn with implementations 1 and 2.
"""

import importlib
import importlib.util
import sys
import warnings
from types import ModuleType

# name that neural-tangents uses -> its place in this JAX
_MOVED = {
    "jax.core": dict.fromkeys(
        ("Jaxpr", "JaxprEqn", "Literal", "Var", "Primitive", "ClosedJaxpr", "subjaxprs"), "jax.extend.core"
    ),
    "jax.interpreters.ad": {
        "zeros_like_p": "jax._src.ad_util",
        **dict.fromkeys(
            ("source_info_util", "config", "map", "reducing_transposes", "call_param_updaters"),
            "jax._src.interpreters.ad",
        ),
    },
    "jax.util": dict.fromkeys(("safe_map", "safe_zip"), "jax._src.util"),
}


def _module(name: str) -> ModuleType:
    """A module of JAX, or an empty one where JAX has removed it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module = sys.modules[name] = ModuleType(name)
        parent, _, child = name.rpartition(".")
        setattr(sys.modules[parent], child, module)
        return module


def _patch() -> None:
    for name, places in _MOVED.items():
        module = _module(name)
        for attribute, place in places.items():
            if not hasattr(module, attribute):
                setattr(module, attribute, getattr(importlib.import_module(place), attribute))
    sys.modules.setdefault("neural_tangents.experimental", ModuleType("neural_tangents.experimental"))


def load() -> ModuleType:
    """neural_tangents, with aliases where this JAX needs them.

    Raises ImportError with one line if the package is missing, or this JAX has removed a name that it needs.
    """
    if importlib.util.find_spec("neural_tangents") is None:
        raise ImportError(
            "neural-tangents is not installed: pip install neural-tangents (3 GB, TensorFlow too)"
        )
    import jax

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # raised by the package at import
            _patch()
            return importlib.import_module("neural_tangents")
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"neural-tangents does not work with jax {jax.__version__} ({error}): see kernels/neural_tangents.py"
        ) from error
