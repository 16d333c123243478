"""The page in a real browser: drawn, hovered, clicked, renewed; nothing on its console, and no script of a record."""

import time
from pathlib import Path

import browser as real
import pytest
import report_folders as folders
from matplotlib.figure import Figure

from experiments.beyond import own_network, patterns, rate_transfer, width_or_weights
from experiments.convergence import halting_time, path_geometry
from experiments.lab import contents, output
from experiments.report import __main__ as report
from experiments.report.read import Reader
from experiments.results.tables import Tables
from experiments.width import bottleneck, conv_masks, figure6, figure8, mlp_grid

# The plot that each experiment declares for its figure, by a committed table.
PLOTS = {
    "kernel_distance": figure8.plot,
    "mlp_grid": mlp_grid.PLOT,
    "bottleneck": bottleneck.PLOT,
    "conv_masks_cifar10": conv_masks.PLOT,
    "resnet_width": figure6.PLOT,
    "patterns": patterns.plot,
    "patterns_million": patterns.plot,
    "rate_transfer": rate_transfer.PLOT,
    "own_network": own_network.PLOT,
    "halting_time": halting_time.PLOT,
    "path_geometry_small": path_geometry.PLOT,
    "width_or_weights": width_or_weights.PLOT,
}
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


def wait(browser, script: str, *arguments):
    """What a script returns, once that is true."""
    deadline = time.monotonic() + 30
    while not (found := browser.execute_script(f"return {script}", *arguments)):
        assert time.monotonic() < deadline, script
        time.sleep(0.1)
    return found


POINTS = "document.querySelectorAll('section.shown .plot .point').length"


def opened(browser, page: Path, shows: str = POINTS) -> None:
    """Open the page and wait until it shows something."""
    real.opened(browser, page)
    wait(browser, shows)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("results")
    folders.experiment(workdir / "grid")
    folders.diverging(workdir / "lost")
    folders.damaged(workdir / "grid")
    return report.write(workdir, Reader())


@pytest.fixture(scope="module")
def light():
    with real.chromium() as browser:
        yield browser


@pytest.fixture(autouse=True)
def silent(light):
    """No test leaves anything on the console."""
    yield
    assert real.complaints(light) == []


def test_figures_are_drawn(light, page):
    opened(light, page)
    assert wait(light, POINTS) == 4
    box = light.execute_script("return document.querySelector('.plot .lines path').getBBox().width")
    assert box > 100, "a line across the figure"
    assert ", 3 diverged" in light.page_source and "is corrupt" in light.page_source


@pytest.mark.parametrize("name", PLOTS)
def test_the_chart_has_the_axes_of_the_figure(light, tmp_path, name):
    rows = Tables(contents.ROOT / "figures")[name]
    plot = PLOTS[name](rows) if callable(PLOTS[name]) else PLOTS[name]
    with output.transcript():
        output.write_table(tmp_path, name, rows, list(rows[0]))
        output.write_figure(tmp_path, name, Figure(), plot)
    opened(light, report.write(tmp_path, Reader()))
    titles = "['xtitle', 'ytitle'].map(name => document.querySelector(`section.shown .${name}`).textContent)"
    assert light.execute_script(f"return {titles}") == [plot.xlabel, plot.ylabel]
    chosen = "['x', 'y'].map(name => document.querySelector(`section.shown [id$='-${name}0']`).value)"
    assert light.execute_script(f"return {chosen}") == [plot.x, plot.y]
    kind = light.execute_script("return document.querySelector('section.shown .plot').layout.xaxis.type")
    assert (kind == "log") == plot.logx
    shown = "document.querySelectorAll('section.shown .shapelayer path, section.shown .label-temp').length"
    assert bool(light.execute_script(f"return {shown}")) == bool(plot.lines)
    assert "data:image/png" in light.find_element("css selector", "section.shown img").get_attribute("src")


def test_hover_says_mean_and_deviation(light, page):
    opened(light, page)
    light.execute_script(
        "Plotly.Fx.hover(document.querySelector('section.shown .plot'), [{curveNumber: 0, pointNumber: 1}])"
    )
    hover = wait(light, "document.querySelector('.hoverlayer')?.textContent")
    assert "±" in hover and "weights" in hover and "connectivity" in hover and "seeds 2" in hover


def test_a_click_on_a_point_shows_its_curves(light, page):
    from selenium.webdriver import ActionChains

    opened(light, page)
    point = light.find_elements("css selector", "section.shown .plot .point")[2]
    ActionChains(light).move_to_element(point).pause(0.3).click().perform()
    chosen = wait(
        light, "document.querySelector('section.shown [id$=chosen]').textContent.includes('width 12')"
    )
    assert chosen and len(light.find_elements("css selector", "section.shown [id$=curves] .lines path")) == 4


def test_by_keyboard_a_row_shows_its_curves_and_a_column_is_sorted(light, page):
    real.opened(light, page)
    button = light.find_element("css selector", "section.shown button[data-row='1']")
    button.send_keys("\n")
    wait(light, "document.querySelector('section.shown [id$=chosen]').textContent.includes('width 6')")
    head = light.find_element("xpath", "//section[contains(@class, 'shown')]//th/button[text()='width']")
    head.send_keys("\n")
    head.send_keys("\n")
    assert head.find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    widths = light.execute_script(
        "const place = arguments[0].parentElement.cellIndex;"
        "return [...arguments[0].closest('table').tBodies[0].rows].map((row) => +row.cells[place].textContent)",
        head,
    )
    assert widths == sorted(widths, reverse=True)


def test_axes_can_be_chosen(light, page):
    real.opened(light, page)
    for name, text in (("[id$='-x0']", "connectivity"), ("[id$='-y0']", "final test loss mean")):
        light.find_element("css selector", f"section.shown {name}").send_keys(text)
    titles = wait(
        light,
        "[...document.querySelectorAll('section.shown .xtitle, section.shown .ytitle')].map(t => t.textContent)",
    )
    assert "connectivity" in titles and "final test loss mean" in titles


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_dark_and_on_a_phone(page, width, scheme, tmp_path):
    with real.chromium(width, 1400, scheme) as browser:
        opened(browser, page)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        back, text = browser.execute_script(
            "s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        )
        assert (sum(map(int, back[4:-1].split(","))) < 200) == (scheme == "dark")
        assert text in browser.page_source or text.replace(" ", "") in browser.page_source.replace(" ", "")


def test_the_curves_so_far_of_what_trains_are_drawn(light, tmp_path):
    folders.training(tmp_path, 0.5)
    real.opened(light, report.write(tmp_path, Reader()))
    assert wait(light, "document.querySelectorAll('section.shown [id$=curves] .lines path').length") == 4
    assert "50 %" in light.find_element("css selector", ".progress").text


def test_a_hostile_folder_runs_no_script(light, tmp_path):
    folders.hostile(tmp_path, HOSTILE)
    opened(light, report.write(tmp_path, Reader()), "document.querySelectorAll('section').length")
    for tab in light.find_elements("css selector", "nav a"):
        tab.click()
        time.sleep(0.2)
    assert light.title.startswith("wsn") and light.find_elements("css selector", "img") == []
    assert "<script>document" in light.find_element("tag name", "body").text


def test_an_open_page_follows_and_keeps_its_place(light, tmp_path):
    folders.experiment(tmp_path / "grid")
    folders.diverging(tmp_path / "lost")
    reader = Reader()
    page = report.write(tmp_path, reader, seconds=0.5)
    real.opened(light, page)
    light.find_elements("css selector", "nav a")[1].click()
    wait(light, POINTS)
    wait(light, "(scrollTo(0, 300), scrollY == 300)")  # once what is drawn is that long
    light.execute_script("document.querySelector('section.shown [id$=-logy]').click()")
    hash = light.execute_script("return location.hash")
    folders.experiment(tmp_path / "grid", widths=(48,))
    report.write(tmp_path, reader, seconds=0.5)
    wait(light, "document.querySelectorAll('section')[0].querySelectorAll('tbody tr').length == 5")
    assert light.execute_script("return [location.hash, scrollY]") == [hash, 300]
    assert light.execute_script("return document.querySelector('section.shown [id$=-logy]').checked")


def test_an_empty_folder_says_what_to_run(light, tmp_path):
    real.opened(light, report.write(tmp_path, Reader()))
    assert "python -m experiments.kernel_distance" in light.find_element("tag name", "main").text
