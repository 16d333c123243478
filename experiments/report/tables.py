"""Tables in HTML: sortable, with a button for the curves of a row, and as CSV in a link. All text is escaped."""

import base64
import csv
import html
import io
from typing import Any

from experiments.report.chart import compared, number
from experiments.report.networks import Table


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
