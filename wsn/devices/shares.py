"""This machine in shares, for worker processes: some of its cores each, or a GPU. Nothing here starts JAX's devices."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax


class Share(NamedTuple):
    """What one process may use."""

    cores: frozenset[int]
    gpu: str | None  # as CUDA_VISIBLE_DEVICES names it


def shares(count: int) -> list[Share]:
    """So many shares: a GPU each with all cores, or where there is no GPU the cores in equal parts, at least one."""
    cores = sorted(usable())
    if gpus():
        return [Share(frozenset(cores), gpu) for gpu in gpus()[:count]]
    edges = [len(cores) * i // count for i in range(count + 1)]
    return [Share(frozenset(cores[start:end]), None) for start, end in zip(edges, edges[1:], strict=False)]


def most() -> int:
    """The most shares that this machine has."""
    return len(gpus()) or len(usable())


def usable() -> frozenset[int]:
    """The cores that this thread may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


@contextlib.contextmanager
def pinned(cores: frozenset[int]) -> Iterator[None]:
    """In the block this thread, and every process that it starts, keeps to these cores, where a system can do that."""
    before = usable()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, before)


@cache
def gpus() -> tuple[str, ...]:
    """The GPUs that jax would use, as CUDA_VISIBLE_DEVICES names them, found without starting CUDA.

    Those of the variable, else one for each /dev/nvidiaN; none where jax has no CUDA or was told to use something else.
    """
    platforms = jax.config.values["jax_platforms"]
    told_others = platforms and not {"cuda", "gpu"} & set(platforms.split(","))
    if told_others or not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip() not in ("", "-1"))
    return tuple(str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*")))
