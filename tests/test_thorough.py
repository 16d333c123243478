"""thorough.txt lists what the default run leaves to CI: slow tests, and further cases of a property."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
LISTED = (ROOT / "tests" / "thorough.txt").read_text(encoding="utf-8").splitlines()


def test_every_line_is_a_test_and_the_lines_are_sorted():
    """The cases of a parametrized test are its names in brackets, which a collection alone would tell."""
    assert sorted(set(LISTED)) == LISTED
    for line in LISTED:
        path, _, name = line.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name.partition("[")[0] in functions, line
