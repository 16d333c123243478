"""This machine in shares: every core once, a GPU each, and nothing started to count them."""

import importlib.util
import os
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsn.devices import shares
from wsn.devices.shares import Share


@given(st.sets(st.integers(0, 500), min_size=1), st.data())
def test_every_core_is_in_one_share_and_shares_are_alike(cores, data):
    count = data.draw(st.integers(1, len(cores)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shares, "usable", lambda: frozenset(cores))
        patched.setattr(shares, "gpus", lambda: ())
        parts = shares.shares(count)
        assert shares.most() == len(cores)
    sizes = [len(part.cores) for part in parts]
    assert len(parts) == count and sum(sizes) == len(cores) and max(sizes) - min(sizes) <= 1
    assert set().union(*(part.cores for part in parts)) == cores
    assert all(part.gpu is None for part in parts)


def test_a_thread_is_pinned_for_a_block():
    before = shares.usable()
    with shares.pinned(frozenset({min(before)})):
        assert os.sched_getaffinity(0) == {min(before)}
    assert shares.usable() == before


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with so many GPUs, and what jax was told of it."""

    def made(devices=0, *, plugin="jax_cuda13_plugin", visible=None, platforms=None):
        for number in range(devices):
            (tmp_path / f"nvidia{number + 3}").touch()
        for other in ("nvidiactl", "nvidia-uvm", "null"):
            (tmp_path / other).touch()
        monkeypatch.setattr(shares, "Path", lambda path: tmp_path if path == "/dev" else None)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: True if name == plugin else None)
        config = SimpleNamespace(values={"jax_platforms": platforms})
        monkeypatch.setattr(shares, "jax", SimpleNamespace(config=config))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return shares.gpus.__wrapped__()

    return made


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, ()),
        ({"devices": 2}, ("0", "1")),  # CUDA counts from 0, whatever their numbers in /dev
        ({"devices": 2, "plugin": "jax_cuda12_plugin"}, ("0", "1")),
        ({"devices": 2, "plugin": None}, ()),
        ({"devices": 4, "visible": "3,1"}, ("3", "1")),
        ({"devices": 4, "visible": "GPU-8932f937-d72c, "}, ("GPU-8932f937-d72c",)),
        ({"devices": 4, "visible": ""}, ()),
        ({"devices": 4, "visible": "-1"}, ()),
        ({"devices": 1, "platforms": "cpu"}, ()),
        ({"devices": 1, "platforms": "cuda,cpu"}, ("0",)),
    ],
    ids=str,
)
def test_gpus_are_found_where_jax_would_use_them(machine, settings, found):
    assert machine(**settings) == found


def test_every_worker_has_a_gpu_and_all_cores(monkeypatch):
    monkeypatch.setattr(shares, "gpus", lambda: ("3", "1", "0"))
    cores = shares.usable()
    assert shares.most() == 3
    assert shares.shares(2) == [Share(cores, "3"), Share(cores, "1")]
