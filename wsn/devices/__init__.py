"""Where members (networks) and batches live, on one device or many, in one process or several.

In: pure programs over stacked members and batches. Out: the same programs compiled for a `Placement`, and the arrays
as it takes them. Programs and specs know nothing of devices.
"""

from wsn.devices.placement import (
    AXIS,
    Placement,
    compile_program,
    every_device,
    gather_lanes,
    gather_members,
    lanes_of_device,
    memory,
    place,
    replicate,
    return_lanes,
    scatter_batches,
    scatter_examples,
    scatter_lanes,
    scatter_members,
    usable_cores,
)

__all__ = [
    "AXIS",
    "Placement",
    "compile_program",
    "every_device",
    "gather_lanes",
    "gather_members",
    "lanes_of_device",
    "memory",
    "place",
    "replicate",
    "return_lanes",
    "scatter_batches",
    "scatter_examples",
    "scatter_lanes",
    "scatter_members",
    "usable_cores",
]
