"""How members (networks) and batches are cut over devices. The only file with `pmap`.

A training program is a pure function of stacked members, batches and data. A `Placement` says how it runs:

- `single`:  on one device, by `jit`;
- `members`: the leading axis of members is cut over the devices, without communication (small networks);
- `batch`:   every device holds all members and a slice of each batch; sums meet in `psum` over `AXIS`.

The devices may belong to several processes: each feeds its own slices and gets the whole result.
A *lane* is a place in a batch: an example, or a stream of text whose hidden state is carried from batch to batch.
Results depend on the spec and not on the placement, up to the order of float32 sums.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wsn.devices import targets
from wsn.devices.backend import initialize
from wsn.machine import memory_limit

AXIS = "batch"


class Placement(NamedTuple):
    kind: Literal["single", "members", "batch"]
    devices: tuple[jax.Device, ...]

    @property
    def axis(self) -> str | None:
        """The name of the axis over which gradients and counts are summed, or None."""
        return AXIS if self.kind == "batch" else None

    @property
    def local(self) -> list[int]:
        """Indices into `devices` of this process's devices; of all where programs are compiled for a target."""
        if targets.current():
            return [*range(len(self.devices))]
        return [i for i, device in enumerate(self.devices) if device.process_index == jax.process_index()]

    @property
    def host(self) -> tuple[int, int]:
        """(index of this process, number) among the processes that feed the devices."""
        if len(self.local) == len(self.devices):
            return 0, 1
        processes = sorted({device.process_index for device in self.devices})
        return processes.index(jax.process_index()), len(processes)


def place(
    members: int, devices: tuple[jax.Device, ...] | None = None, *, by_batch: bool = False
) -> Placement:
    """Cut the batch over the devices, or the members: each device has one at least, and others are not used.

    Over several processes all devices are used, since all processes take part in a run.
    Raises UserError if JAX cannot initialize its devices.
    """
    devices = initialize() if devices is None else devices
    several = len({device.process_index for device in devices}) > 1
    used = devices if by_batch or several else devices[:members]
    if len(used) == 1:
        return Placement("single", used)
    return Placement("batch" if by_batch else "members", used)


def compile_program(
    placement: Placement,
    program: Callable,
    *,
    donate: bool = False,
    batches_of_members: bool = False,
    lanes: Any = None,
    lanes_out: Any = None,
) -> Callable:
    """Compile `program(members, batches, data)`; `donate` reuses the memory of `members`.

    Members and every result have a leading axis of members; batches come from `scatter_batches`; data are the same on
    all devices. `lanes` and `lanes_out` are prefixes of the trees of members and of results: 0 for leaves that are cut
    over the devices with the batch (`scatter_lanes`), None for replicated ones.
    """
    donated = (0,) if donate else ()
    pmap = partial(jax.pmap, program, devices=placement.devices, donate_argnums=donated)
    if placement.kind == "single":
        compiled = jax.jit(program, donate_argnums=donated)
    elif placement.kind == "members":
        compiled = pmap(in_axes=(0, 0 if batches_of_members else None, None))
    else:  # Replicated results are equal on all devices, so one copy is returned unstacked.
        compiled = pmap(axis_name=AXIS, in_axes=(lanes, 0, None), out_axes=lanes_out)
    return targets.when_called(compiled, placement.devices) if targets.current() else compiled


def scatter_members(placement: Placement, tree: Any) -> Any:
    """Stacked members → the layout of the compiled program; the last member is repeated as padding."""
    if placement.kind == "batch":
        return replicate(placement, tree)
    if placement.kind == "single":
        # Committed to the device, as results are: else the program would be compiled again for its own results.
        return _put(tree, placement.devices[0])
    count = len(placement.devices)

    def cut(x):
        x = np.asarray(x)
        per_device = -(-len(x) // count)
        x = np.concatenate([x, np.repeat(x[-1:], count * per_device - len(x), axis=0)])
        return x.reshape(count, per_device, *x.shape[1:])[np.array(placement.local)]

    return _put(jax.tree.map(cut, tree), _on_devices(placement, AXIS))


def gather_members(placement: Placement, tree: Any, members: int) -> Any:
    """The inverse of `scatter_members`, as NumPy arrays on every host: with several processes, a collective."""
    if placement.kind != "members":
        return jax.tree.map(np.asarray, tree)
    return jax.tree.map(lambda x: of_all_devices(placement, x).reshape(-1, *x.shape[2:])[:members], tree)


def of_all_devices(placement: Placement, x: Any) -> np.ndarray:
    """The parts of an array on the devices of all processes, stacked; a collective if there are several."""
    if len(placement.local) == len(placement.devices):
        return np.asarray(x)
    return multihost_utils.process_allgather(np.asarray(x), tiled=True)


def lanes_of_device(placement: Placement, lanes: int) -> int:
    """Lanes of a batch per device, padding included."""
    return -(-lanes // len(placement.devices)) if placement.kind == "batch" else lanes


def scatter_lanes(placement: Placement, tree: Any) -> Any:
    """Arrays (members, lanes, …), such as hidden states, cut over the devices like the batch."""
    if placement.kind != "batch":
        return scatter_members(placement, tree)
    count, local = len(placement.devices), placement.local

    def cut(x):
        x = np.pad(x, [(0, 0), (0, -x.shape[1] % count)] + [(0, 0)] * (x.ndim - 2))
        slices = np.moveaxis(x.reshape(len(x), count, -1, *x.shape[2:]), 1, 0)
        return slices[np.array(local)]

    return _put(jax.tree.map(cut, tree), _on_devices(placement, AXIS))


def gather_lanes(placement: Placement, tree: Any, members: int, lanes: int) -> Any:
    """The inverse of `scatter_lanes`, as NumPy arrays on every host: with several processes, a collective."""
    if placement.kind != "batch":
        return gather_members(placement, tree, members)

    def joined(x):
        x = np.moveaxis(of_all_devices(placement, x), 0, 1)
        return x.reshape(len(x), -1, *x.shape[3:])[:, :lanes]

    return jax.tree.map(joined, tree)


def return_lanes(placement: Placement, tree: Any) -> Any:
    """Lanes of one member, cut as by `scatter_lanes`, put back on their devices after a program gathered them."""
    if placement.kind != "batch":
        return tree
    return _put(tree, _on_devices(placement, AXIS))


def copy_to_devices(placement: Placement, tree: Any) -> Any:
    """One device's carry of a member, stacked once for each device of this process that shares a batch."""
    if placement.kind != "batch":
        return tree
    return jax.tree.map(lambda x: jnp.stack([x] * len(placement.local)), tree)


def scatter_batches(placement: Placement, tree: Any, *, of_members: bool = False) -> Any:
    """Batches with the examples on the last axis → the layout of the compiled program.

    `batch` cuts the examples over the devices and keeps the slices of this process, padded with zeros: a valid index of
    an example, with weight 0. `members` cuts batches that differ between members (`of_members`).
    """
    if placement.kind == "members" and of_members:
        return scatter_members(placement, tree)
    if placement.kind != "batch":
        return tree
    count, local = len(placement.devices), placement.local

    def cut(x):
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % count)])
        slices = jnp.moveaxis(x.reshape(*x.shape[:-1], count, -1), -2, 0)
        return slices if len(local) == count else slices[np.array(local)]

    return jax.tree.map(cut, tree)


def scatter_examples(placement: Placement, tree: Any, axis: int = 0) -> Any:
    """This process's part of one batch, examples along `axis`, cut over its devices and padded with zeros."""
    if placement.kind != "batch":
        return tree
    local = len(placement.local)

    def cut(x):
        x = np.pad(x, [(0, -x.shape[axis] % local if i == axis else 0) for i in range(x.ndim)])
        return np.moveaxis(x.reshape(*x.shape[:axis], local, -1, *x.shape[axis + 1 :]), axis, 0)

    return jax.tree.map(cut, tree)


def replicate(placement: Placement, tree: Any) -> Any:
    """Arrays copied to every device of this process, once instead of at every call."""
    if placement.kind == "single":
        return _put(tree, placement.devices[0])
    return _put(tree, _on_devices(placement, None))


def _on_devices(placement: Placement, axis: str | None) -> NamedSharding:
    """Leading axes over the devices of this process, or copies; else `pmap` moves its arguments, and warns of it."""
    mesh = Mesh(np.array([placement.devices[i] for i in placement.local]), (AXIS,))
    return NamedSharding(mesh, PartitionSpec(axis))


def _put(tree: Any, where: Any) -> Any:
    """Arrays on devices; their shapes where the devices are not here."""
    return targets.shapes(tree) if targets.current() else jax.device_put(tree, where)


def memory() -> float | None:
    """Bytes of memory of all devices of the run (for CPUs, of their processes); None if the device does not say."""
    devices = initialize()
    if devices[0].platform != "cpu":
        return len(devices) * (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0) or None
    return jax.process_count() * memory_limit()
