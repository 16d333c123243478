"""Ranges are what a list of their numbers would be, and bad ones end in a line before any list is made."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from experiments.lab import families, flags
from experiments.lab.ranges import MOST, expanded
from experiments.theory import optimum
from experiments.width import kernel_distance
from wsn.errors import UserError


def widths(text: str) -> tuple[int, ...]:
    return flags.parse(kernel_distance.COMMAND, [f"--widths={text}"])[0].widths


def test_the_widths_of_the_paper_are_a_range():
    assert widths("8:91:x1.5") == families.PAPER.widths
    assert widths("8:64:8") == (8, 16, 24, 32, 40, 48, 56, 64)
    assert widths("3,8:16:x2,20") == (3, 8, 16, 20)


def test_ranges_of_numbers_that_are_not_whole():
    told, _ = flags.parse(optimum.COMMAND, ["--np=1:2:0.5,10:1000:x10"])
    assert told.np == (1, 1.5, 2, 10, 100, 1000)
    assert expanded("0.1:0.5:0.1", float) == [0.1, 0.2, 0.3, 0.4, 0.5]


@given(st.integers(-(10**6), 10**6), st.integers(0, 10**6), st.integers(1, 10**4))
def test_an_arithmetic_range_is_pythons_with_its_end(start, length, step):
    assume(length / step < MOST)
    assert expanded(f"{start}:{start + length}:{step}", int) == list(range(start, start + length + 1, step))


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.floats(1.01, 100))
def test_a_geometric_range_rises_by_its_factor_and_ends_in_bounds(start, length, factor):
    stop = start + length
    assume(math.log(stop / start + 1) / math.log(factor) < MOST - 1)
    found = expanded(f"{start}:{stop}:x{factor}", int)
    assert found[0] == start and found == sorted(set(found)) and found[-1] <= stop
    assert (found[-1] + 1) * factor > stop, "the next would be beyond the end"


@pytest.mark.parametrize(
    "text",
    [
        "8:64:0", "8:64:-8", "64:8:8", "8:64:x1", "8:64:x0.5", "0:64:x2", "8:64", "8:64:8:8", "8::8", "a:b:c",
        "1:1000000000000:1", "1:2:x1.0000001", "1:9:xnan", "1:9:xinf", f"1:{'9' * 400}:1", "8:64:1.5", ":",
    ],
)  # fmt: skip
def test_bad_ranges_end_in_a_line(text):
    with pytest.raises(UserError, match="^`widths=[^\n]* range[^\n]*$"):
        widths(text)


def test_what_is_no_range_is_told_as_before():
    with pytest.raises(UserError, match="^`widths=3`,x is not a comma-separated list of whole numbers$"):
        widths("3,x")
