"""What README.md tells a reader to type works."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

README = (Path(__file__).parents[1] / "README.md").read_text()


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
    model, optimizer, keep = names["model"], names["optimizer"], names["keep"]
    images = jax.random.normal(jax.random.key(0), (4, 64))
    before = model.hidden.kernel[...]
    optimizer.update(model, nnx.grad(lambda model: jnp.mean((model(images) - 1) ** 2))(model))
    for name in ("hidden", "output"):
        kept = keep[name]["kernel"][...]
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
