"""Where members (networks) and batches live: on one device or many, in one process or several.

In: pure programs over stacked members and batches. Out: the same programs compiled for a `Placement`, and arrays in the
layout that they take. Specs and programs know nothing of devices.
"""

from wsn.devices.backend import initialize
from wsn.devices.placement import (
    AXIS,
    Placement,
    compile_program,
    copy_to_devices,
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
)
from wsn.devices.targets import platform

__all__ = [
    "AXIS",
    "Placement",
    "compile_program",
    "copy_to_devices",
    "gather_lanes",
    "gather_members",
    "initialize",
    "lanes_of_device",
    "memory",
    "place",
    "platform",
    "replicate",
    "return_lanes",
    "scatter_batches",
    "scatter_examples",
    "scatter_lanes",
    "scatter_members",
]
