"""Machines that are not here: programs are compiled for a TPU slice or for GPUs, without either.

    with target("v5e:4x8") as machine:
        …  # as on that machine, with programs called under `jax.eval_shape`
    machine.programs  # what the compiler says of each

In the block, `placement` and `strategy` take the machine for the one that is here; arrays that would be put on its
devices are shapes, and a program that is called is compiled instead. The compiler is the accelerator's library, which
needs no accelerator.
"""

import contextlib
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from wsn.devices import hlo
from wsn.errors import UserError, choose, one_line


class Chip(NamedTuple):
    """The most that a chip can do, in a second."""

    flops: dict[str, float]  # `compute_dtype` → FLOP/s of matrix products
    memory: float  # bytes
    bandwidth: float  # bytes/s of its memory
    links: float  # bytes/s to other chips of its slice or host, all links together, one direction
    clock: float = 0.0  # cycles/s of the compiler's estimates; 0: it makes none
    network: float = 0.0  # bytes/s of a host to others; 0: a slice has links between all chips


def tpu(flops: float, memory: float, bandwidth: float, links: float, clock: float) -> Chip:
    """Its units multiply bfloat16: float32 takes six products of parts of its numbers, TF32's precision three."""
    return Chip({"bfloat16": flops, "tf32": flops / 3, "float32": flops / 6}, memory, bandwidth, links, clock)


# TPUs: docs.cloud.google.com/tpu/docs, v4 to v6e; the clock is FLOP/s over 2 × multipliers (8 · 128², 4 · 128²,
# 8 · 128², 4 · 256²). GPUs: NVIDIA's data sheets, SXM with 80 GB, no sparsity; hosts of 8, an InfiniBand adapter a GPU.
CHIPS = {
    "v4": tpu(275e12, 32 * 2**30, 1228e9, 300e9, 1.05e9),
    "v5e": tpu(197e12, 16 * 2**30, 819e9, 200e9, 1.5e9),
    "v5p": tpu(459e12, 95 * 2**30, 2765e9, 600e9, 1.75e9),
    "v6e": tpu(918e12, 32 * 2**30, 1640e9, 448e9, 1.75e9),
    "a100": Chip(
        {"bfloat16": 312e12, "tf32": 156e12, "float32": 19.5e12}, 80e9, 2039e9, 300e9, network=8 * 25e9
    ),
    "h100": Chip(
        {"bfloat16": 989e12, "tf32": 494e12, "float32": 67e12}, 80e9, 3350e9, 450e9, network=8 * 50e9
    ),
}
TPU_HOSTS = {4: (2, 2, 1), 8: (2, 4, 1), 1: (1, 1, 1)}  # chips → their layout in one host
LIBRARIES = {
    "tpu": ("TPU_LIBRARY_PATH", "'libtpu==0.0.42.*'", "FOLDER/libtpu/libtpu.so", "{}"),
    "gpu": (
        "PJRT_NAMES_AND_LIBRARY_PATHS",
        f"jax-cuda12-pjrt=={jax.__version__}",
        "cuda:FOLDER/jax_plugins/xla_cuda12/xla_cuda_plugin.so",
        "cuda:{}",
    ),
}


class Compiled(NamedTuple):
    """What the compiler says of a program: per device, and of one call, with the iterations of its loops."""

    peak: float  # bytes of memory
    arguments: float  # bytes
    donated: float  # bytes of arguments whose memory results reuse
    fits: bool  # where the compiler gives up, `peak` is all that it says
    costs: hlo.Costs
    seconds: float  # CPU time of the compiler
    text: str


class Machine(NamedTuple):
    """A machine that is not here."""

    name: str
    platform: str  # as `jax.default_backend`
    chip: Chip
    devices: tuple[Any, ...]
    programs: list[Compiled]  # those compiled so far

    @property
    def links(self) -> float:
        """Bytes/s of an all-reduce for each device and direction: a host's rings share its network, each with all."""
        several = len({device.process_index for device in self.devices}) > 1
        return min(self.chip.links, self.chip.network) if several and self.chip.network else self.chip.links


_CURRENT: ContextVar[Machine | None] = ContextVar("target", default=None)


def current() -> Machine | None:
    """The machine that programs are compiled for, instead of the one that is here."""
    return _CURRENT.get()


def platform() -> str:
    """The platform that programs are built for: "cpu", "gpu" or "tpu"."""
    machine = current()
    return machine.platform if machine else jax.default_backend()


@contextlib.contextmanager
def target(name: str) -> Iterator[Machine]:
    """In the block, programs are compiled for a machine such as `v5e:4x8` or `h100:4x8` (hosts × GPUs of each).

    Raises UserError for an unknown machine, and where the compiler's library is missing.
    """
    chip = choose(CHIPS, "target", name.partition(":")[0])
    kind = "tpu" if chip.clock else "gpu"
    machine = Machine(name, kind, chip, _devices(name, kind), [])
    token = _CURRENT.set(machine)
    try:
        yield machine
    finally:
        _CURRENT.reset(token)


def library(kind: str) -> bool:
    """Whether the compiler of a platform is here."""
    variable, *_, pattern = LIBRARIES[kind]
    value = os.environ.get(variable, "")
    return value.startswith(pattern.format("")) and Path(value.removeprefix(pattern.format(""))).is_file()


@cache
def _devices(name: str, kind: str) -> tuple[Any, ...]:
    if not library(kind):
        variable, package, place, _ = LIBRARIES[kind]
        raise UserError(
            f"`target={name}`: needs the compiler's library, not its devices: pip download --no-deps {package}, unzip"
            f" the wheel into FOLDER, and set {variable}={place}"
        )
    chip, _, shape = name.partition(":")
    if not re.fullmatch(r"(\d+x){0,2}\d+", shape or "1"):
        raise UserError(f"`target={name}`: give {chip}:N, {chip}:NxM or {chip}:NxMxK")
    sides = [int(side) for side in (shape or "1").split("x")]
    try:
        if kind == "gpu":
            config = Path(__file__).with_name(f"{chip}.pbtxt").read_text(encoding="utf-8")
            hosts = "x".join(map(str, [1, 1, *sides][-3:]))
            return tuple(
                topologies.get_topology_desc("", "cuda", target_config=config, topology=hosts).devices
            )
        # The library would ask Google's metadata server, and lock itself for one process.
        for variable, value in {
            "TPU_SKIP_MDS_QUERY": "1",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            "TPU_ACCELERATOR_TYPE": "v5litepod-1",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_WORKER_ID": "0",
        }.items():
            os.environ.setdefault(variable, value)
        sides += [1] * ((2 if chip in ("v5e", "v6e") else 3) - len(sides))
        options: dict[str, Any] = {"chip_config_name": "megacore"} if chip == "v4" else {}
        if math.prod(sides) in TPU_HOSTS and chip in ("v5e", "v6e"):
            options["chips_per_host_bounds"] = TPU_HOSTS[math.prod(sides)]
        layout = "x".join(map(str, sides))
        return tuple(topologies.get_topology_desc(f"{chip}:{layout}", "tpu", **options).devices)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"`target={name}`: no such machine ({one_line(error)})") from error


def shapes(tree: Any) -> Any:
    """The shapes and dtypes of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def when_called(function: Any, devices: tuple[Any, ...]) -> Callable:
    """A function by `jit` (for one device) or `pmap` that is compiled when it is called, and returns zeros."""
    machine = current()
    assert machine, "only in a block of `target`"
    where = SingleDeviceSharding(devices[0]) if len(devices) == 1 else None
    done: dict[Any, Any] = {}

    def call(*arguments: Any) -> Any:
        leaves, tree = jax.tree.flatten(arguments)
        key = tree, tuple((x.shape, str(x.dtype)) for x in leaves)
        if key not in done:
            given = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where) for x in leaves]
            done[key] = _compile(machine, function.lower(*jax.tree.unflatten(tree, given)))
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), done[key])

    return call


def _compile(machine: Machine, lowered: Any) -> Any:
    """Compile a program, and note what the compiler says. Returns the shapes of its results."""
    start = time.process_time()
    # Triton's products would be chosen by running them.
    options = {"xla_gpu_enable_triton_gemm": False} if machine.platform == "gpu" else None
    try:
        executable = lowered.compile(options)
        sizes, text = executable.memory_analysis(), executable.as_text()
        numbers = sizes.peak_memory_in_bytes, sizes.argument_size_in_bytes, sizes.alias_size_in_bytes
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"Used ([\d.]+)([MGT]) of", str(error))
        if not used:
            raise
        numbers, text = (float(used[1]) * 2 ** {"M": 20, "G": 30, "T": 40}[used[2]], 0, 0), ""
    seconds = time.process_time() - start
    machine.programs.append(Compiled(*numbers, bool(text), hlo.costs(text), seconds, text))
    return lowered.out_info
