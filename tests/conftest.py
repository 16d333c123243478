"""Four virtual CPU devices, so that every placement can be tested, and a cache of compiled programs for the
tests and the processes that they start; set before jax starts."""

import os
import tempfile

import beartype
import pytest

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

_compiled = tempfile.TemporaryDirectory(prefix="wsn-tests-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _compiled.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# An int is a float, as for mypy and PEP 484; the import hook of pyproject.toml looks the checker up by this name.
beartype.beartype = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


@pytest.fixture
def six_pixels(monkeypatch):
    """Images of six pixels in the place of `digits`, for scripts that load their data by name."""
    import numpy as np

    from experiments.lab import cli
    from wsn import data

    images = np.random.default_rng(0).integers(0, 256, (40, 2, 3, 1), np.uint8)
    tiny = data.Dataset(images, np.zeros(40, np.int32), images[:20], np.zeros(20, np.int32), classes=10)
    monkeypatch.setattr(cli, "dataset", lambda name: tiny if name == "digits" else data.load(name))
