"""The results page without a browser: what is found, what becomes of it, and that nothing is hidden by thinning."""

import re

import numpy as np
import pytest
import report_folders as folders
from hypothesis import given
from hypothesis import strategies as st

from experiments.lab import families, output
from experiments.lab.plots import Plot
from experiments.report import __main__ as report
from experiments.report import chart, charts, read
from experiments.report.read import Reader
from experiments.report.sections import question, sections
from wsn.records.record import Result
from wsn.spec import Group


def found(workdir):
    return sections(Reader().read(workdir), workdir)


def result(values) -> Result:
    curves = {"test_accuracy": np.array(values, np.float32), "train_loss": -np.array(values, np.float32)}
    return Result(folders.spec(6), 0, "finished", curves, np.arange(1, len(values) + 1))


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=300), st.integers(2, 20))
def test_a_thinned_curve_has_the_first_the_last_and_the_extremes(values, points):
    whole, thin = result(values), read.thinned(result(values), points)
    assert len(thin.steps) <= max(points + 4, 0) and (np.diff(thin.steps) > 0).all()
    assert thin.steps[0] == 1 and thin.steps[-1] == len(values)
    assert families.summary([thin]) == families.summary([whole])


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_numbers_of_curves_keep_four_digits(values):
    [rounded] = charts._rounded({"loss": np.array(values, np.float32)}).values()
    np.testing.assert_allclose(rounded, np.array(values, np.float32), rtol=6e-4, atol=1e-30)


def test_what_is_no_number_is_no_point():
    assert charts._rounded({"loss": np.array([1.0, np.nan, np.inf], np.float32)}) == {
        "loss": [1.0, None, None]
    }


def test_rows_of_networks_are_those_of_the_experiments(tmp_path):
    folders.experiment(tmp_path)
    [section] = found(tmp_path)
    [table] = section.tables
    assert [row["width"] for row in table.rows] == [3, 6, 12, 24]
    assert {row["weights"] for row in table.rows} == {222}
    told = families.summary([section.members[i].result for i in table.members[1]])
    assert table.rows[1]["best_test_accuracy_mean"] == pytest.approx(
        told["best_test_accuracy_mean"], rel=1e-5
    )
    assert section.question == question("mlp_grid") != ""


def test_curves_of_a_chart_have_one_value_at_an_x():
    rows = [
        {"kind": kind, "width": w, "rate": 1, "x_mean": w, "x_std": 0.1}
        for kind in ("sparse", "dense")
        for w in (3, 6)
    ]
    one = chart.chart(rows)
    assert (one.axes, one.measures) == (["width"], ["x_mean", "rate"])
    assert one.deviations == {"x_mean": "x_std"} and one.curves == ["sparse", "sparse", "dense", "dense"]
    assert chart.chart([{"what": "a"}]) is None


def test_learning_rates_that_follow_the_width_are_no_axis():
    """They have more values than the widths, as in Figure 8."""
    rates = {("sparse", 3): 2, ("sparse", 6): 6, ("dense", 3): 2.5, ("dense", 6): 5}
    rows = [{"kind": k, "width": w, "learning_rate": rate, "x_mean": w} for (k, w), rate in rates.items()]
    assert chart.chart(rows).axes[0] == "width" and set(chart.chart(rows).curves) == {"sparse", "dense"}
    grid = [{"width": w, "learning_rate": rate, "x_mean": w} for w in (3, 6) for rate in (1, 2, 3)]
    assert chart.chart(grid).axes[0] == "learning_rate"


def test_a_declared_plot_decides_axes_curves_and_deviations():
    rows = [
        {"kind": kind, "base_width": "2", "width": w, "seeds": 1, "y": w, "z_mean": 0, "error": 0.1}
        for kind in "ab"
        for w in ("4", "6")
    ]
    plot = Plot("widening", "y", "widening factor", "Y", curves=("kind", "base_width"), deviation="error")
    declared = chart.chart(rows, plot)
    assert (declared.axes[0], declared.measures[0], declared.plot) == ("widening", "y", plot)
    assert declared.columns["widening"] == [2, 3, 2, 3] and declared.curves == ["a", "a", "b", "b"]
    assert declared.deviations["y"] == "error"
    guessed = chart.chart(rows, plot._replace(y="nosuch"))
    assert guessed.plot is None and guessed.axes[0] == "width"


def test_the_papers_numbers_have_their_difference():
    [row] = chart.compared([{"claim": "C7", "paper": "-0.1", "exponent": "-0.25"}])
    assert list(row.values()) == ["C7", "-0.1", -0.15, "-0.25"]
    [row] = chart.compared([{"accuracy": "0.9", "accuracy_paper": ""}])
    assert row["difference from accuracy_paper"] == ""


def test_a_page_is_made_anew_when_something_has_changed_alone(tmp_path):
    folders.experiment(tmp_path, (3,))
    reader = Reader()
    page = report.write(tmp_path, reader)
    before = page.stat().st_mtime_ns
    report.write(tmp_path, reader)
    assert page.stat().st_mtime_ns == before
    folders.experiment(tmp_path, (6,))
    report.write(tmp_path, reader)
    assert page.stat().st_mtime_ns > before


def test_what_trains_says_how_far_how_long_and_who(tmp_path):
    folders.training(tmp_path, 0.25)
    text = report.write(tmp_path, Reader()).read_text()
    row = re.search(r"<tbody>(<tr><td>width 12.*?</tr>)", text)[1]
    assert "2 networks" in row and "training" in row and "25 %" in row and " on " in row
    folders.changed(
        next(tmp_path.glob("runs/*/partial.jsonl")), lambda h: {"owner": h["owner"] | {"pid": 2**22 + 1}}
    )
    assert "stopped: the same command resumes it" in report.write(tmp_path, Reader()).read_text()


def test_old_damaged_and_aside_are_told(tmp_path):
    folders.experiment(tmp_path)
    folders.damaged(tmp_path)
    path = folders.write(tmp_path, Group((folders.spec(3, learning_rate=0.6),), (0,)), folders.history(1))
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([re.sub(r', "digest": "\w+"', "", header), *lines]) + "\n")
    (tmp_path / "runs" / "x.aside-1").mkdir()
    notes = " ".join(note for section in found(tmp_path) for note in section.notes)
    assert "is corrupt" in notes and "have no checksum" in notes and "archived" in notes


def test_all_that_is_hostile_is_escaped(tmp_path):
    text = "<script>alert(1)</script>"
    folders.hostile(tmp_path, text)
    page = report.write(tmp_path, Reader()).read_text()
    assert text not in page and "&lt;script&gt;" in page
    assert page.count("</script>") == 5, "the page's own: data, the library, and three of ours"


def test_it_is_one_small_file_without_addresses_to_load(tmp_path):
    page = report.write(tmp_path, Reader())
    assert page.stat().st_size < 8e6
    ours = page.read_text().replace(charts_library(), "")
    assert "http://" not in ours and "https://" not in ours and " src=" not in ours


def charts_library() -> str:
    from plotly import offline

    return offline.get_plotlyjs()


def test_what_a_command_says_lies_beside_its_figure(tmp_path, capsys):
    from matplotlib.figure import Figure

    with output.transcript():
        output.print_table([{"width": 3}], ["width"])
        print("wider is better: holds +2 [1, 3]")
        output.write_table(tmp_path, "mine", [{"width": 3}], ["width"])
        plot = Plot("width", "y", "width", "y", ("kind",), lines=(("base", 0.5), ("none", float("nan"))))
        print("wrote", output.write_figure(tmp_path, "mine", Figure(), plot))
    assert "width\n" in capsys.readouterr().out
    [section] = found(tmp_path)
    assert section.tables[0].plot == plot._replace(lines=plot.lines[:1])
    assert "data:image/png;base64,iVBOR" in report.write(tmp_path, Reader()).read_text()
    assert section.said == ["wider is better: holds +2 [1, 3]"] and ("device", "4 × cpu") in section.made
