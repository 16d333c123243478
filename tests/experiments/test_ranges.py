"""Ranges equal the list of their numbers; malformed ones end in one line before a list is made."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from experiments.lab import flags, recipe
from experiments.lab.ranges import MOST, expand
from experiments.theory import optimum
from experiments.width import kernel_distance
from wsn.errors import UserError


def widths(text: str) -> tuple[int, ...]:
    return flags.parse(kernel_distance.COMMAND, [f"--widths={text}"])[0].widths


def test_ranges_of_integers_and_of_floats():
    assert widths("8:91:x1.5") == recipe.PAPER["widths"]
    assert widths("3,8:64:8,20") == (3, 8, 16, 20, 24, 32, 40, 48, 56, 64)
    settings, _ = flags.parse(optimum.COMMAND, ["--np=1:2:0.5,10:1000:x10"])
    assert settings.np == (1, 1.5, 2, 10, 100, 1000)
    assert expand("0.1:0.5:0.1", float) == [0.1, 0.2, 0.3, 0.4, 0.5]


@given(st.integers(-(10**6), 10**6), st.integers(0, 10**6), st.integers(1, 10**4))
def test_an_arithmetic_range_is_that_of_python_with_its_end(start, length, step):
    assume(length / step < MOST)
    assert expand(f"{start}:{start + length}:{step}", int) == list(range(start, start + length + 1, step))


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.floats(1.01, 100))
def test_a_geometric_range_rises_by_its_factor_up_to_its_end(start, length, factor):
    stop = start + length
    assume(math.log(stop / start + 1) / math.log(factor) < MOST - 1)
    numbers = expand(f"{start}:{stop}:x{factor}", int)
    assert numbers[0] == start and numbers == sorted(set(numbers)) and numbers[-1] <= stop
    assert (numbers[-1] + 1) * factor > stop, "the next number would be beyond the end"


@pytest.mark.parametrize(
    "text",
    [
        "8:64:0", "8:64:-8", "64:8:8", "8:64:x1", "8:64:x0.5", "0:64:x2", "8:64", "8:64:8:8", "8::8", "a:b:c",
        "1:1000000000000:1", "1:2:x1.0000001", "1:9:xnan", "1:9:xinf", f"1:{'9' * 400}:1", "8:64:1.5", ":",
        f"1:{'9' * 400}:x1.5", "3,x",
    ],
)  # fmt: skip
def test_malformed_lists_end_in_one_line(text):
    reason = "is not a comma-separated list of whole numbers" if ":" not in text else "range"
    with pytest.raises(UserError, match=rf"^`widths={text}`[^\n]* {reason}[^\n]*$"):
        widths(text)
