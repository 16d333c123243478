"""Costs of a compiled program, read from its text (HLO): traffic of memory, all-reduces, the TPU compiler's cycles.

XLA's own analysis counts the body of a loop once, and memory on the chip as if it were the device's; for a GPU there is
none. Here an instruction counts as often as its loops iterate, and arrays in on-chip memory (`S(1)`) not at all.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (.*?[\])}]) ([a-z][\w\-]*)\((.*)$")
ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\](?:\{([\d,]*):?([^{}]*)\})?")
OPERAND = re.compile(r"%([\w.\-]+)")
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
CALLED = re.compile(
    r"\b(?:body|calls|to_apply|branch_computations|called_computations)=\{?((?:%[\w.\-]+(?:, )?)+)"
)
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "iota"}
SLICES = {"dynamic-slice", "slice", "gather"}


class Instruction(NamedTuple):
    name: str
    root: bool
    type: str
    opcode: str
    operands: tuple[str, ...]
    rest: str  # attributes


class Costs(NamedTuple):
    """Of one call of a program on one device."""

    bytes: float  # that its memory reads and writes
    cycles: float
    all_reduces: float
    reduced_bytes: float  # of the arrays in all-reduces


Computations = Mapping[str, Sequence[Instruction]]


def costs(text: str) -> Costs:
    """The costs of a program; 0 of an empty text."""
    computations, entry = parsed(text)
    if not entry:
        return Costs(0, 0, 0, 0)
    total = [0.0] * 4
    for name, times in visited(computations, entry, 1):
        types = {i.name: i.type for i in computations[name]}
        for instruction in computations[name]:
            cycles = CYCLES.search(instruction.rest)
            reduces = instruction.opcode in ("all-reduce", "all-reduce-start")
            of_one = (
                traffic(computations, types, instruction),
                int(cycles[1]) if cycles else 0,
                reduces,
                sum(size(types.get(x, ""), anywhere=True) for x in instruction.operands) * reduces,
            )
            total = [t + times * x for t, x in zip(total, of_one, strict=True)]
    return Costs(*total)


def parsed(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """(computation → its instructions, the name of the first that runs)."""
    computations: dict[str, list[Instruction]] = {}
    entry = name = ""
    for line in text.splitlines():
        if head := COMPUTATION.match(line):
            name = head[2]
            computations[name], entry = [], name if head[1] else entry
        elif name and (match := INSTRUCTION.match(line)):
            arguments, _, rest = match[5].partition(")")
            operands = tuple(OPERAND.findall(arguments))
            if match[4] in ("parameter", "constant"):
                rest, operands = arguments, ()
            computations[name].append(
                Instruction(match[2], bool(match[1]), match[3], match[4], operands, rest)
            )
    return computations, entry


def visited(computations: Computations, name: str, times: int) -> Iterator[tuple[str, int]]:
    """Every computation that runs on its own (not inside a fusion), and how often."""
    yield name, times
    for instruction in computations[name]:
        if instruction.opcode in ("while", "call", "conditional", "async-start"):
            count = times * (iterations(computations, instruction) if instruction.opcode == "while" else 1)
            for names in CALLED.findall(instruction.rest):
                for called in OPERAND.findall(names):
                    yield from visited(computations, called, count)


def iterations(computations: Computations, loop: Instruction) -> int:
    """How often a loop iterates: as noted by the compiler, or the limit that its condition compares with."""
    if known := TRIPS.search(loop.rest):
        return int(known[1])
    [condition] = re.findall(r"condition=%([\w.\-]+)", loop.rest)
    limits = [
        i.rest for i in computations[condition] if i.opcode == "constant" and i.type.startswith("s32[]")
    ]
    return max([int(limit) for limit in limits if limit.isdecimal()], default=1)


def traffic(computations: Computations, types: Mapping[str, str], instruction: Instruction) -> float:
    """Bytes that an instruction reads and writes; of an array that it slices or updates in place, only that part."""
    results, operands = sizes(instruction.type), [size(types.get(x, "")) for x in instruction.operands]
    result = sum(results)
    match instruction.opcode:
        case "custom-call":  # cuBLAS and cuDNN return their work space as well
            return sum(results[:1]) + sum(operands)
        case "fusion":
            [fused] = OPERAND.findall(CALLED.findall(instruction.rest)[0])
            return fusion_traffic(computations[fused], operands, results)
        case opcode if opcode in SLICES:
            return 2 * result
        case "dynamic-update-slice" | "scatter":
            return 2 * operands[-1 if instruction.opcode == "scatter" else 1]
        case "copy-start" | "slice-start":  # its result lists source and destination
            return result
        case opcode if (
            opcode in FREE or opcode.endswith("-done") or opcode in ("while", "call", "conditional")
        ):
            return 0
    return result + sum(operands)


def fusion_traffic(
    fused: Sequence[Instruction], operands: Sequence[float], results: Sequence[float]
) -> float:
    """As `traffic`, of a fusion with operands and results of those bytes."""
    by_name = {i.name: i for i in fused}
    total, updated = 0.0, set()
    for parameter in (i for i in fused if i.opcode == "parameter"):
        users = [i for i in fused if parameter.name in i.operands]
        full = operands[int(parameter.rest)] if int(parameter.rest) < len(operands) else 0.0
        if (
            full
            and users
            and all(
                i.opcode in SLICES | {"dynamic-update-slice"} and i.operands[0] == parameter.name
                for i in users
            )
        ):
            total += min(full, sum(size(i.type, anywhere=True) for i in users if i.opcode in SLICES))
            updated |= {i.name for i in users if i.opcode == "dynamic-update-slice"}
        else:
            total += full
    [root] = [i for i in fused if i.root]
    for name, result in zip(root.operands if root.opcode == "tuple" else (root.name,), results, strict=False):
        while by_name[name].opcode == "bitcast" and by_name[name].operands[0] in by_name:
            [name] = by_name[name].operands
        update = by_name[name].operands[1] if name in updated else name
        total += min(result, size(by_name[update].type, anywhere=True))
    return total


def size(type: str, anywhere: bool = False) -> float:
    """Bytes of all arrays of a type in the device's memory, or anywhere."""
    return sum(sizes(type, anywhere))


def sizes(type: str, anywhere: bool = False) -> list[float]:
    """Bytes of each array of a type, padded to the tiles of its layout; 0 on the chip, unless `anywhere`."""
    return [0.0 if "S(" in array[3] and not anywhere else padded(*array) for array in ARRAY.findall(type)]


def padded(dtype: str, dimensions: str, order: str, layout: str) -> float:
    sides = [int(side) for side in dimensions.split(",") if side]
    tile = re.match(r"T\(([\d,]+)\)", layout)
    minor = [int(axis) for axis in order.split(",") if axis]
    for axis, side in zip(minor, reversed(tile[1].split(",")) if tile else (), strict=False):
        sides[axis] = -(-sides[axis] // int(side)) * int(side)
    bits = 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])
    return math.prod(sides) * bits / 8
