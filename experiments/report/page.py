"""The page: sections → one HTML file that contains its library, data and style.

All text is escaped where it enters HTML, and a policy allows the scripts alone whose hashes it names.
"""

import base64
import csv
import datetime
import hashlib
import html
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from plotly import offline

from experiments.report.chart import compared, number
from experiments.report.charts import data_of
from experiments.report.networks import Table
from experiments.report.read import Trained
from experiments.report.sections import Section
from wsn.records.progress import duration

FOLDER = Path(__file__).parent
WIDE = 8  # an axis whose largest value is as many times its least is logarithmic at first
TIME = "%Y-%m-%d %H:%M UTC"
NOTHING = """<p>There is nothing here yet. Train a family of networks in a minute or two, and write this page again:</p>
<pre>python -m experiments.kernel_distance
python -m experiments.report</pre>"""
UNSAID = (
    "<p>Not stored: an older version drew this. Its command prints it again; completed runs are skipped.</p>"
)
ABOUT = """Points are means over seeds, bars standard deviations where the table has them. A click on a point shows the
curves of its networks; so does the button of a row in the table below."""


def page(sections: Sequence[Section], workdir: Path, seconds: float | None = None) -> str:
    """The whole page; with `seconds` an open page looks for a newer one that often."""
    names = {_identifier(section): section for section in sections}
    data = json.dumps({"sections": data_of(names)}, separators=(",", ":"), allow_nan=False)
    data = data.replace("<", "\\u003c")  # so that it cannot end its script element
    main = "".join(_section(name, section) for name, section in names.items())
    made = datetime.datetime.now(datetime.UTC)
    scripts = [_file("fresh.js"), offline.get_plotlyjs(), _file("page.js")]
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:;"
        " frame-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
    watch = f' data-watch="{seconds:g}"' if seconds else ""
    return f"""<!DOCTYPE html>
<html lang="en" data-made="{made.timestamp():.3f}"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}"><script>{scripts[0]}</script>
<meta name="viewport" content="width=device-width, initial-scale=1"><title>wsn: {text(workdir.name)}</title>
<style>{_file("page.css")}</style></head><body{watch}>
<a class="skip" href="#main">to the results</a>
<header><h1>Width at a fixed number of weights</h1>
<div class="live" id="made"><p>{text(workdir)}, {_counted(sections)}, {made.strftime(TIME)}</p></div></header>
<nav aria-label="Experiments" class="live" id="nav">{_navigation(names)}</nav>
<main id="main">{main or NOTHING}</main>
<script type="application/json" id="data">{data}</script>
{"".join(f"<script>{script}</script>" for script in scripts)}</body></html>
"""


def _section(name: str, section: Section) -> str:
    where = "" if section.folder == "." else f" <small>{text(section.folder)}</small>"
    said = "".join(f"<p>{text(line)}</p>" for line in section.said if line.strip())
    notes = "".join(f"<li>{text(note)}</li>" for note in section.notes)
    tables = "".join(table_html(f"{name}-t{i}", table) for i, table in enumerate(section.tables))
    return f"""<section id="{name}" class="tab" aria-labelledby="{name}-h">
<div class="live" id="{name}-top"><h2 id="{name}-h">{text(section.title)}{where}</h2>
<p class="question">{text(section.question)}</p>
{f'<div class="verdict"><h3>Verdict</h3>{said or UNSAID}</div>' if said or section.command else ""}
{f'<ul class="notes">{notes}</ul>' if notes else ""}{_progress(section.groups)}</div>
<div class="live" id="{name}-controls">{_controls(name, section)}</div>
<figure hidden><figcaption>{ABOUT}</figcaption>
<div class="plot" id="{name}-plot" role="img" aria-label="{text(section.title)}; its numbers are below"></div>
</figure>
<div class="live" id="{name}-picture">{_picture(section)}</div>
<figure hidden><figcaption id="{name}-chosen" aria-live="polite"></figcaption>
<div class="plot" id="{name}-curves" role="img" aria-label="Curves of the chosen networks over training"></div></figure>
<div class="live" id="{name}-tables">{tables}</div>
<div class="live" id="{name}-made">{_made(section)}</div></section>
"""


def _controls(name: str, section: Section) -> str:
    """The choice of a table, its axes, and the metric of curves."""
    parts, charts = [], [table.chart for table in section.tables]
    drawn = [(str(i), section.tables[i].name) for i, chart in enumerate(charts) if chart]
    if drawn:
        parts.append(_select(f"{name}-table", "table", drawn))
    for i, chart in enumerate(charts):
        if chart:
            axes = [
                _select(f"{name}-{axis}{i}", axis, [(value, words(value)) for value in values])
                for axis, values in (("x", chart.axes), ("y", chart.measures))
            ]
            parts.append(f'<span data-of="{i}"{" hidden" * (str(i) != drawn[0][0])}>{" ".join(axes)}</span>')
    if first := next((chart for chart in charts if chart), None):
        logx = first.plot.logx if first.plot else wide(first.columns[first.axes[0]])
        parts += [_check(f"{name}-logx", "log x", logx)]
        parts += [_check(f"{name}-logy", "log y", bool(first.plot and first.plot.logy))]
    curves = dict.fromkeys(curve for member in section.members for curve in member.result.curves)
    metrics = list(dict.fromkeys(curve.partition("_")[2] or curve for curve in curves))
    metrics.sort(key=lambda metric: metric != "loss")
    if metrics:
        options = [(metric, words(metric)) for metric in metrics]
        parts += [_select(f"{name}-metric", "curves of", options)]
        parts += [_check(f"{name}-epochs", "over epochs"), _check(f"{name}-logc", "log curves")]
    return f'<div class="controls">{"".join(parts)}</div>'


def _select(name: str, label: str, options: Iterable[tuple[str, str]]) -> str:
    inside = "".join(f'<option value="{text(value)}">{text(shown)}</option>' for value, shown in options)
    return f'<label for="{name}">{label} <select id="{name}">{inside}</select></label>'


def wide(values: Sequence[Any]) -> bool:
    """Whether an axis with these values is best logarithmic."""
    known = [value for value in values if value is not None]
    return all(isinstance(v, int | float) for v in known) and 0 < WIDE * min(known) <= max(known)


def _check(name: str, label: str, checked: bool = False) -> str:
    return f'<label for="{name}"><input type="checkbox" id="{name}"{" checked" * checked}>{label}</label>'


def _progress(groups: Sequence[Trained]) -> str:
    """The groups that are not finished: progress, time left, process."""
    bar, rows = '<progress value="{:.4f}" aria-label="done"></progress> {:.0f} %', []
    for group in groups:
        if group.state == "finished":
            continue
        header, spec = group.header, group.members[0].result.spec
        share, left, owner = header.get("share"), header.get("left"), header.get("owner")
        training = group.state == "training"
        state = {
            "stopped": "stopped: the same command resumes it",
            "silent": f"no update since {header.get('written')}",
        }
        lost = sum(member.state == "diverged" for member in group.members)
        rows.append(
            f"<tr><td>width {spec.width}{' sparse' if spec.kept else ''}, {len(group.members)} networks</td>"
            f"<td>{state.get(group.state, group.state)}{f', {lost} diverged' if lost else ''}</td>"
            f"<td>{bar.format(share, 100 * share) if share is not None else 'not evaluated yet'}</td>"
            f"<td>{duration(left) if left is not None and training else ''}</td>"
            f"<td>{text('{pid} on {host}'.format(**owner)) if owner else ''}</td></tr>"
        )
    if not rows:
        return ""
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("group", "state", "done", "time left", "process")
    )
    return f"""<div class="scroll"><table class="progress"><caption>In training</caption>
<thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>"""


# Tables: sortable, with a button for the curves of a row, and as CSV in a link.


def text(value: Any) -> str:
    return html.escape(str(value).encode("utf-8", "backslashreplace").decode())


def words(column: str) -> str:
    return column.replace("_", " ")


def table_html(name: str, table: Table) -> str:
    """The rows, with the difference from the paper's numbers; `name` is the id."""
    rows, title = compared(table.rows), text(table.name)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    heads = [f'<th scope="col" aria-sort="none"><button>{text(words(c))}</button></th>' for c in columns]
    curves = any(table.members)
    if curves:
        heads.insert(0, '<th scope="col">curves</th>')
    lines = []
    for i, row in enumerate(rows):
        button = f'<button data-row="{i}" aria-label="curves of row {i + 1}">show</button>'
        first = f"<td>{button if table.members[i] else ''}</td>" if curves else ""
        lines.append(f"<tr>{first}{''.join(_cell(row.get(column)) for column in columns)}</tr>")
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    link = base64.b64encode(file.getvalue().encode()).decode()
    return f"""<details open id="{name}-d"><summary>{title}: {len(rows)} rows</summary>
<div class="scroll"><table id="{name}" class="sortable"><caption class="hidden">{title}</caption>
<thead><tr>{"".join(heads)}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>
<p><a download="{title}.csv" href="data:text/csv;base64,{link}">download as CSV</a></p></details>"""


def _cell(value: Any) -> str:
    value = number(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{text('' if value is None else value)}</td>"
    return f'<td class="n">{text(f"{value:,}" if isinstance(value, int) else f"{value:.4g}")}</td>'


def _picture(section: Section) -> str:
    """The figure as the experiment drew it, inside the page."""
    try:
        picture = section.figure.read_bytes() if section.figure else b""
    except OSError:
        picture = b""
    if not picture.startswith(b"\x89PNG"):
        return ""
    source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    return f"""<details><summary>The figure of the experiment</summary>
<img src="{source}" alt="{text(section.title)}, as the experiment drew it"></details>"""


def _made(section: Section) -> str:
    """The command, versions, device and time."""
    items = [("drawn", section.time.strftime(TIME))] if section.time else []
    items += section.made
    inside = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in items)
    command = f"<pre>{text(section.command)}</pre>" if section.command else ""
    return f"{command}<dl>{inside}</dl>"


def _navigation(names: dict[str, Section]) -> str:
    items = []
    for name, section in names.items():
        training = sum(group.state == "training" for group in section.groups)
        badge = f" <b>{training} in training</b>" if training else ""
        where = "" if section.folder == "." else f"{section.folder}/"
        items.append(f'<li><a href="#{name}">{text(where + section.title)}{badge}</a></li>')
    return f"<ul>{''.join(items)}</ul>"


def _counted(sections: Sequence[Section]) -> str:
    groups = [group for section in sections for group in section.groups]
    networks = sum(len(group.members) for group in groups)
    lost = sum(member.state == "diverged" for group in groups for member in group.members)
    counted = f"{len(groups)} groups with {networks} networks"
    return f"{counted}, {lost} diverged" if lost else counted


def _identifier(section: Section) -> str:
    """A stable id of letters that need no escape."""
    place = f"{section.folder}/{section.title}"
    plain = re.sub(r"[^a-z0-9]+", "-", place.lower()).strip("-")
    return f"{plain}-{hashlib.sha256(place.encode(errors='surrogateescape')).hexdigest()[:6]}"


def _file(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
