"""Shares of a machine: every core once or a GPU each, threads within a CPU quota, and no device initialized."""

import importlib.util
import os
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsn.devices import shares
from wsn.devices.shares import Share
from wsn.machine import affinity


def machine(patch: pytest.MonkeyPatch, cores, usable: int | None = None, gpus=()) -> None:
    patch.setattr(shares, "affinity", lambda: frozenset(cores))
    patch.setattr(shares, "usable_cores", lambda: usable or len(cores))
    patch.setattr(shares, "gpus", lambda: gpus)


@given(st.sets(st.integers(0, 500), min_size=1), st.data())
def test_every_core_is_in_one_share_and_shares_are_equal(cores, data):
    count = data.draw(st.integers(1, len(cores)))
    with pytest.MonkeyPatch.context() as patch:
        machine(patch, cores)
        parts = shares.shares(count)
        assert shares.max_shares() == len(cores)
    sizes = [len(part.cores) for part in parts]
    assert len(parts) == count and sum(sizes) == len(cores) and max(sizes) - min(sizes) <= 1
    assert set().union(*(part.cores for part in parts)) == cores
    assert all((part.gpu, part.threads) == (None, len(part.cores)) for part in parts)


def test_under_a_cpu_quota_workers_and_threads_are_few_and_every_core_may_be_used(monkeypatch):
    machine(monkeypatch, range(64), usable=4)
    assert shares.max_shares() == 4
    for count, threads in ((1, 4), (3, 1), (4, 1)):
        parts = shares.shares(count)
        assert parts == [Share(frozenset(range(64)), threads, None)] * count
        assert parts[0].environment == {"PJRT_NPROC": str(threads)}


def test_each_gpu_is_a_share_with_all_cores(monkeypatch):
    machine(monkeypatch, {0, 1, 5}, gpus=("3", "1", "0"))
    assert shares.max_shares() == 3
    assert shares.shares(2) == [Share(frozenset({0, 1, 5}), 3, gpu) for gpu in "31"]
    assert shares.shares(1)[0].environment == {"PJRT_NPROC": "3", "CUDA_VISIBLE_DEVICES": "3"}


def test_a_thread_is_pinned_for_a_block():
    before = affinity()
    with shares.pinned(frozenset({min(before)})):
        assert os.sched_getaffinity(0) == {min(before)}
    assert affinity() == before


@pytest.mark.parametrize(
    ("count", "settings", "gpus"),
    [
        (0, {}, ()),
        (2, {}, ("0", "1")),  # CUDA counts from 0, whatever their numbers in /dev
        (2, {"plugin": "jax_cuda12_plugin"}, ("0", "1")),
        (2, {"plugin": None}, ()),
        (4, {"visible": "3,1"}, ("3", "1")),
        (4, {"visible": "GPU-8932f937-d72c, "}, ("GPU-8932f937-d72c",)),
        (4, {"visible": ""}, ()),
        (4, {"visible": "-1"}, ()),
        (2, {"platforms": "cpu"}, ()),
        (2, {"platforms": "cuda,cpu"}, ("0", "1")),
    ],
)
def test_gpus_are_those_that_jax_would_use(monkeypatch, tmp_path, count, settings, gpus):
    for name in [*(f"nvidia{number + 3}" for number in range(count)), "nvidiactl", "nvidia-uvm", "null"]:
        (tmp_path / name).touch()
    plugin = settings.get("plugin", "jax_cuda13_plugin")
    monkeypatch.setattr(shares, "Path", lambda path: {"/dev": tmp_path}[path])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == plugin or None)
    config = SimpleNamespace(values={"jax_platforms": settings.get("platforms")})
    monkeypatch.setattr(shares, "jax", SimpleNamespace(config=config))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if "visible" in settings:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", settings["visible"])
    assert shares.gpus.__wrapped__() == gpus
