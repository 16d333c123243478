"""What README.md tells a reader to type works."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from experiments.results import __main__ as gallery
from experiments.results import index, tables, text

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_every_number_of_a_result_is_in_the_table_that_it_names():
    assert gallery.problems(README, gallery.FIGURES, tables.read(gallery.FIGURES / gallery.CLAIMS)) == []


@pytest.mark.parametrize(
    ("stated", "changed"),
    [("0.899 ± 0.003", "0.998 ± 0.003"), ("+2.3 points", "+2.9 points"), ("504,190", "504,191")],
)
def test_a_number_that_drifts_is_found(stated, changed):
    assert stated in README
    drifted = README.replace(stated, changed)
    found = gallery.problems(drifted, gallery.FIGURES, tables.read(gallery.FIGURES / gallery.CLAIMS))
    assert len(found) == 1 and changed.split()[0] in found[0]


def test_a_result_without_a_table_and_an_exception_without_a_number_are_found():
    [block] = text.blocks("Width 8 has 0.93.\n")
    assert text.wrong(block, {}) == [
        "8 is not in a table that is named",
        "0.93 is not in a table that is named",
    ]
    [block] = text.blocks("Width 8.\n<!-- numbers: a.csv; not: 8 (a setting), 9 (none) -->\n")
    assert text.wrong(block, {"a.csv": []}) == ["9 is an exception, and not in the text"]
    [block] = text.blocks("Width 8.\n<!-- numbers: b.csv -->\n")
    assert text.wrong(block, {"a.csv": [8]}) == ["there is no b.csv", "8 is not in b.csv"]


@given(st.floats(-1e6, 1e6), st.integers(0, 4))
def test_a_number_is_found_as_it_is_printed(value, digits):
    printed = f"{value:,.{digits}f}".replace("-", "−")
    assert text.is_in(printed, [value]) and text.is_in(printed.lstrip("−"), [value])
    assert text.is_in(f"{100 * value:.{digits}f}".replace("-", "−"), [value], (1, 100))
    assert not text.is_in(f"+{abs(value):.{digits}f}", [abs(value) + 2])


def test_names_and_code_are_no_numbers():
    said = (
        "Figures 6, 7, 12 to 14 of ResNet-18 on CIFAR-100 (`--seeds=3`), Theorem 1, 2^784, 1.5 and −2 × 10¹¹"
    )
    [block] = text.blocks(said)
    assert block.numbers == ["1.5", "−2"]


def test_the_gallery_is_up_to_date():
    """Run python -m experiments.gallery after a table has changed."""
    derived = gallery.claims(gallery.FIGURES)
    assert derived == tables.read(gallery.FIGURES / gallery.CLAIMS)
    listed = (gallery.FIGURES / "index.md").read_text()
    assert listed == index.drawn(gallery.FIGURES)
    for picture in gallery.FIGURES.glob("*.png"):
        assert f"({picture.name})" in listed


def test_seeds_are_given_back_by_their_mean_and_deviation():
    found = tables.values(0.5, 0.1, 7)
    assert np.mean(found) == pytest.approx(0.5) and np.std(found, ddof=1) == pytest.approx(0.1)
    assert tables.values(0.5, 0.0, 1) == [0.5]


def code(heading):
    """The block of Python under a heading."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return section.partition("```python\n")[2].partition("```")[0]


def test_your_own_network_has_the_weights_of_the_narrow_one_and_keeps_them(capsys):
    block = code("Your own network")
    assert 0 < sum(map(bool, block.splitlines())) <= 15
    names = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), names)
    assert capsys.readouterr().out == "592\n"
    model, optimizer, mask = names["model"], names["optimizer"], names["mask"]
    images = jax.random.normal(jax.random.key(0), (4, 64))
    before = model.hidden.kernel[...]
    optimizer.update(model, nnx.grad(lambda model: jnp.mean((model(images) - 1) ** 2))(model))
    for name in ("hidden", "output"):
        kept = mask[name]["kernel"][...]
        assert np.array_equal(getattr(model, name).kernel[...] != 0, kept)
    assert not np.array_equal(model.hidden.kernel[...], before)


def test_the_notebook_trains_a_family(capsys):
    """Each width with its accuracies of three seeds; wider is better with 222 weights each."""
    exec(compile(code("Read it"), "README.md", "exec"), {"__name__": "readme"})
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    accuracy = {int(width): np.fromstring(values.strip("[]"), sep=" ") for width, values in lines}
    assert list(accuracy) == [3, 6, 12] and all(len(values) == 3 for values in accuracy.values())
    assert accuracy[12].mean() > accuracy[3].mean()


def test_the_theory_is_three_lines(capsys):
    exec(compile(code("Results"), "README.md", "exec"), {"__name__": "readme"})
    distances, errors = capsys.readouterr().out.split("] [")
    values = np.fromstring(distances.strip("[]"), sep=" ")
    assert len(values) == 3 and (values > 0).all() and errors
