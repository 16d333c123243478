"""Shares of this machine for worker processes: some cores each, or a GPU. Nothing here initializes JAX's devices."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax

from wsn.machine import affinity, usable_cores


class Share(NamedTuple):
    """What one process may use."""

    cores: frozenset[int]  # that it may run on
    threads: int  # that it should compute with: fewer than cores where a container has a CPU quota
    gpu: str | None  # as CUDA_VISIBLE_DEVICES names it

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the process, read when JAX's devices are initialized."""
        gpu = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        return gpu | {"PJRT_NPROC": str(self.threads)}


def shares(count: int) -> list[Share]:
    """That many shares: a GPU each with all cores, or without GPUs equal parts of the cores, at least one.

    Under a CPU quota every process may run on all cores, since other containers may use the same ones.
    """
    cores, usable = sorted(affinity()), usable_cores()
    if gpus():
        return [Share(frozenset(cores), usable, gpu) for gpu in gpus()[:count]]
    if usable < len(cores):
        return [Share(frozenset(cores), max(1, usable // count), None)] * count
    edges = [len(cores) * i // count for i in range(count + 1)]
    parts = [frozenset(cores[start:end]) for start, end in zip(edges, edges[1:], strict=False)]
    return [Share(part, len(part), None) for part in parts]


def max_shares() -> int:
    """The largest number of shares of this machine."""
    return len(gpus()) or usable_cores()


@contextlib.contextmanager
def pinned(cores: frozenset[int]) -> Iterator[None]:
    """In the block this thread, and every process that it starts, runs on these cores, where the system supports it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = affinity()
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@cache
def gpus() -> tuple[str, ...]:
    """The GPUs that JAX would use, as CUDA_VISIBLE_DEVICES names them, without initializing CUDA.

    Those of the variable, else one for each /dev/nvidiaN; none if JAX has no CUDA plugin or is set to another platform.
    """
    platforms = jax.config.values["jax_platforms"]
    other_platform = platforms and not {"cuda", "gpu"} & set(platforms.split(","))
    if other_platform or not any(
        importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)
    ):
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip() not in ("", "-1"))
    return tuple(str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*")))
