"""Four virtual CPU devices, so that every placement can be tested, and a cache of compiled programs for the
tests and the processes that they start; set before jax starts."""

import gc
import os
import tempfile
from pathlib import Path

import beartype
import pytest

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The processes that tests start, in whatever folder, import this checkout.
_checkout = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_checkout, os.environ.get("PYTHONPATH")]))

# Tracing allocates much and leaves hardly a cycle: by default a fifth of a session's CPU goes into garbage collection.
gc.set_threshold(100_000, 50, 100)

_compiled = tempfile.TemporaryDirectory(prefix="wsn-tests-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _compiled.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# An int is a float, as for mypy and PEP 484; the import hook of pyproject.toml looks the checker up by this name.
beartype.beartype = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as thorough what thorough.txt lists: a test, or one of its cases."""
    listed = set(Path(__file__).with_name("thorough.txt").read_text(encoding="utf-8").splitlines())
    for item in items:
        if listed & {item.nodeid, item.nodeid.partition("[")[0]}:
            item.add_marker("thorough")


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported stays
