"""Ranges in lists of numbers: 8:64:8 is 8, 16, …, 64; 8:91:x1.5 is 8, 12, 18, 27, 40, 60, 91, the paper's widths."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

MOST = 1000  # numbers of one range
FORM = "a range is START:STOP:STEP, or START:STOP:xFACTOR"


class Range(NamedTuple):
    start: float
    stop: float
    step: float
    geometric: bool


def expanded(text: str, item: Callable[[str], Any]) -> list[Any]:
    """The numbers of a range, with its end if that is reached; of what is none, the one item that it is.

    Whole numbers of a geometric range are rounded down, each given once. Raises ValueError, saying what is wrong with
    a range; of anything else as `item` does.
    """
    if ":" not in text or item not in (int, float):
        return [item(text)]
    try:
        parsed = _parsed(text, item)
        numbers = _numbers(parsed)
    except OverflowError:
        raise ValueError("a range of so large numbers") from None
    if item is int and parsed.geometric:
        return list(dict.fromkeys(math.floor(number * (1 + 1e-12)) for number in numbers))
    return [number if item is int else float(f"{number:.12g}") for number in numbers]


def _parsed(text: str, item: Callable[[str], Any]) -> Range:
    parts = text.split(":")
    if len(parts) != 3:
        raise ValueError(FORM)
    geometric = parts[2].startswith("x")
    try:
        start, stop = item(parts[0]), item(parts[1])
        step = float(parts[2][1:]) if geometric else item(parts[2])
    except ValueError:
        raise ValueError(FORM + " of whole numbers" * (item is int)) from None
    if not all(map(math.isfinite, (start, stop, step))):
        raise ValueError("a range takes finite numbers")
    if stop < start:
        raise ValueError("the range ends before it starts")
    if geometric and (step <= 1 or start <= 0):
        raise ValueError("a geometric range takes a start above 0 and a factor above 1")
    if step <= 0:
        raise ValueError("a range takes a step above 0")
    if item is int and geometric:
        stop = math.nextafter(stop + 1, -math.inf)  # what is rounded down to the end is in
    return Range(start, stop, step, geometric)


def _numbers(r: Range) -> list[float]:
    steps = math.log(r.stop / r.start) / math.log(r.step) if r.geometric else (r.stop - r.start) / r.step
    if steps >= MOST:
        raise ValueError(f"a range has {MOST:,} numbers at most")
    count = math.floor(steps * (1 + 1e-12) + 1e-9) + 1
    return [r.start * r.step**i if r.geometric else r.start + i * r.step for i in range(count)]
