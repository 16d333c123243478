"""Ranges in lists of numbers: 8:64:8 is 8, 16, …, 64; 8:91:x1.5 is 8, 12, 18, 27, 40, 60, 91, the paper's widths."""

import math
from collections.abc import Callable
from typing import Any

MOST = 1000  # numbers of one range
FORM = "a range is START:STOP:STEP, or START:STOP:xFACTOR"


def expand(text: str, item: Callable[[str], Any]) -> list[Any]:
    """The numbers of a range, including its end if that is reached; [item(text)] of a single value.

    Integers of a geometric range are rounded down, each given once. Raises ValueError with the reason for a malformed
    range, and as `item` does for a single value.
    """
    if ":" not in text or item not in (int, float):
        return [item(text)]
    start, stop, step, geometric = _parse(text, item)
    try:
        steps = math.log(stop / start) / math.log(step) if geometric else (stop - start) / step
    except OverflowError:
        steps = math.inf
    if steps >= MOST:
        raise ValueError(f"a range has {MOST:,} numbers at most")
    count = math.floor(steps * (1 + 1e-12) + 1e-9) + 1
    numbers = [start * step**i if geometric else start + i * step for i in range(count)]
    if item is float:
        return [float(f"{number:.12g}") for number in numbers]
    return list(dict.fromkeys(math.floor(x * (1 + 1e-12)) if geometric else x for x in numbers))


def _parse(text: str, item: Callable[[str], Any]) -> tuple[float, float, float, bool]:
    """(start, stop, step or factor, whether it is geometric). Raises ValueError."""
    start_text, stop_text, step_text = parts if len(parts := text.split(":")) == 3 else ("", "", "")
    geometric = step_text.startswith("x")
    try:
        start, stop = item(start_text), item(stop_text)
        step = float(step_text[1:]) if geometric else item(step_text)
        finite = all(map(math.isfinite, (start, stop, step)))
    except ValueError:
        raise ValueError(FORM + " of whole numbers" * (item is int)) from None
    except OverflowError:
        finite = False
    if not finite:
        raise ValueError("a range takes finite numbers")
    if stop < start:
        raise ValueError("the range ends before it starts")
    if geometric and (step <= 1 or start <= 0):
        raise ValueError("a geometric range takes a start above 0 and a factor above 1")
    if step <= 0:
        raise ValueError("a range takes a step above 0")
    if item is int and geometric:
        stop = math.nextafter(
            stop + 1, -math.inf
        )  # numbers that are rounded down to `stop` belong to the range
    return start, stop, step, geometric
