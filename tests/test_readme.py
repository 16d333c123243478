"""README.md, experiments/RESULTS.md and experiments/README.md: current, complete, and their code runs."""

import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.lab import contents
from experiments.results import __main__ as results
from experiments.results import records, tables, template
from wsn.errors import UserError

ROOT = Path(__file__).parents[1]
README, RESULTS = (ROOT / name for name in ("README.md", "experiments/RESULTS.md"))


def test_generated_texts_are_current():
    """Run python -m experiments.results after a table, a template or a docstring has changed."""
    for path, text in results.texts().items():
        assert path.read_text(encoding="utf-8") == text, path


@pytest.mark.parametrize(
    ("table", "old", "new", "shown"),
    [
        ("kernel_distance_mnist", "sparse,128,0.0625,6352,10,0,300,260,0.89863", None, "0.950 ± 0.003"),
        ("halting_time_an4_claims", "-0.395637", "-0.495637", "−0.50 [−0.72, −0.07]"),
    ],
)
def test_a_changed_table_changes_the_text(tmp_path, table, old, new, shown):
    shutil.copytree(results.FIGURES, tmp_path / "figures")
    path = tmp_path / "figures" / f"{table}.csv"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new or old.replace("0.89863", "0.95")))
    text = results.results(tmp_path / "figures")
    assert shown in text and text != RESULTS.read_text()
    assert results.glance(tmp_path / "figures") not in README.read_text()


def test_every_figure_and_table_is_linked_and_every_link_leads_somewhere():
    text = RESULTS.read_text()
    for path in [*results.FIGURES.glob("*.png"), *results.FIGURES.glob("*.csv")]:
        assert f"(figures/{path.name})" in text, path
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\((?:experiments/RESULTS\.md)?#([^)]*)\)", text + results.glance())
    assert set(links) <= anchors
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", text):
        assert (RESULTS.parent / link).exists(), link


@pytest.mark.parametrize("figure", records.figures())
def test_a_figure_is_drawn_again_from_its_records(figure, tmp_path):
    try:
        drawn = records.redraw(figure, tmp_path / figure)
    except UserError as error:
        if "no prepared copy" not in str(error):
            raise
        pytest.skip(f"texts are not here: {error}")
    assert drawn.read_text() == (records.FIGURES / f"{figure}.csv").read_text()


def test_a_figure_without_records_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RECORDS", tmp_path)
    (tmp_path / "resnet_width_short").mkdir()
    with pytest.raises(UserError, match="no record"):
        records.redraw("resnet_width_short", tmp_path / "drawn")


class Small(tables.Tables):
    """Two tables."""

    def __init__(self):
        super().__init__(Path("nowhere"), {"t": self.rows, "big": lambda _: [{"n": 6352, "m": ""}]})

    def rows(self, _):
        for width, value in ((8, -0.004), (32, 0.8949)):
            yield {"width": width, "curve": "all, 1 %", "x": value, "low": -0.1, "verdict": "holds"}


@pytest.mark.parametrize(
    ("placeholder", "text"),
    [
        ("{t: width=32, x, .1%}", "89.5 %"),
        ("{t: width=32, x, .3g%}", "89.5 %"),
        ("{t: width=8, x [low], +.1p}", "−0.4 [−10.0]"),
        ("{t: width=8, x, .2f}", "0.00"),
        ('{t: curve="all, 1 %" width=8, width, d}', "8"),
        ("{t: width=32,8, x, .2f}", "0.89 | 0.00"),
        ("{t: width=*, width, d}", "8 | 32"),
        ("{t: width=*, width, ---}", "--- | ---"),
        ("{t, verdict, small} {t, verdict, full}", "consistent reproduced"),
        ("{big, n, ,} weights", "6,352 weights"),
        ("{t, max width, d} {t, sum width, d} {t, count low, d} {t: width=8, mean x, .3f}", "32 40 1 −0.004"),
    ],
)
def test_placeholders(placeholder, text):
    assert template.fill(placeholder, Small()) == text


@pytest.mark.parametrize(
    ("placeholder", "message"),
    [
        ("{u, x, d}", "no table u"),
        ("{t: height=8, x, d}", "t has no column height, but width, curve"),
        ("{t: width=8, y, d}", "no column y, but width, curve"),
        ("{t: width=9, x, d}", "no rows of t have width=9"),
        ("{t, x, .2f}", "2 rows of t have no condition"),
        ("{t: width=8, x, d}", "-0.004 has no format d"),
        ("{big, m, d}", "the cell is empty"),
        ("{t, max y, d}", "no column y"),
        ("{t x}", "write {table: key=value, columns, format}"),
    ],
)
def test_errors_name_the_placeholder(placeholder, message):
    with pytest.raises(UserError, match=re.escape(f"{placeholder}: ")) as error:
        template.fill(f"Some text {placeholder}.", Small())
    assert message in str(error.value)


def test_seeds_are_given_back_by_their_mean_and_deviation():
    values = tables.seed_values({"a_mean": 0.5, "a_std": 0.1, "seeds": 7}, "a_mean")
    assert np.mean(values) == pytest.approx(0.5) and np.std(values, ddof=1) == pytest.approx(0.1)
    assert tables.seed_values({"a_mean": 0.5, "a_std": 0.0, "seeds": 1}, "a_mean") == [0.5]


def test_the_table_of_readme_is_replaced_alone():
    readme = "# x\n\n## Results at a glance\n\nWords.\n\n| a |\n|---|\n| 1 |\n\nMore.\n\n| b |\n"
    assert results.with_glance(readme, "| new |\n") == readme.replace("| a |\n|---|\n| 1 |\n", "| new |\n")
    with pytest.raises(UserError, match="no section"):
        results.with_glance("# x\n\n| a |\n", "| new |\n")


def test_commands_are_read_with_what_they_need():
    text = (
        "One.\n\n    python -m experiments.x --a=1 \\\n        --b    # digits, a minute\n    other   # no\n"
    )
    assert contents.lines(text) == [("python -m experiments.x --a=1 --b", "digits, a minute")]


def test_every_command_says_which_data_and_time_it_needs():
    for path in contents.files().values():
        for line in contents.lines(contents.docstring(path)):
            assert line.needs, line.command


def test_every_command_of_a_figure_has_its_preset():
    for path in results.FIGURES.glob("*.command"):
        command = path.read_text()
        known = contents.command(command.split()[2].rpartition(".")[2]).presets
        assert set(re.findall(r"--preset=(\w+)", command)) <= set(known), command


def blocks(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


@pytest.mark.parametrize("code", [code for code in blocks(README) if "nnx.Optimizer" not in code])
def test_code_runs(code, capsys):
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out


def test_your_own_network_has_the_weights_of_the_narrow_one_and_keeps_them(capsys):
    [code] = [code for code in blocks(README) if "nnx.Optimizer" in code]
    assert sum(map(bool, code.splitlines())) <= 15
    names = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    assert capsys.readouterr().out == "592\n"
    model, optimizer = names["model"], names["optimizer"]
    [mask] = [value for name, value in names.items() if name in ("mask", "keep")]
    images = jax.random.normal(jax.random.key(0), (4, 64))
    before = model.hidden.kernel[...]
    optimizer.update(model, nnx.grad(lambda model: jnp.mean((model(images) - 1) ** 2))(model))
    for name in ("hidden", "output"):
        assert np.array_equal(getattr(model, name).kernel[...] != 0, mask[name]["kernel"][...])
    assert not np.array_equal(model.hidden.kernel[...], before)
