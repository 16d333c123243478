"""Tables in HTML: sortable, with a button for the curves of a row, and as CSV in a link. All text is escaped here."""

import base64
import csv
import html
import io
from collections.abc import Sequence
from typing import Any

from experiments.report import chart
from experiments.report.networks import Table


def text(value: Any) -> str:
    return html.escape(str(value).encode("utf-8", "backslashreplace").decode())


def shown_name(column: str) -> str:
    return column.replace("_", " ")


def table_html(name: str, table: Table) -> str:
    """The rows, with the difference from the paper's numbers; `name` is the id."""
    rows = chart.compared(table.rows)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    curves = any(table.members)
    head = "".join(
        f'<th scope="col" aria-sort="none"><button>{text(shown_name(column))}</button></th>'
        for column in columns
    )
    head = ('<th scope="col">curves</th>' if curves else "") + head
    lines = []
    for i, row in enumerate(rows):
        button = f'<button data-row="{i}" aria-label="curves of row {i + 1}">show</button>'
        first = f"<td>{button if table.members[i] else ''}</td>" if curves else ""
        lines.append(f"<tr>{first}{''.join(_cell(row.get(column)) for column in columns)}</tr>")
    link = base64.b64encode(_csv(rows, columns).encode()).decode()
    return f"""<details open id="{name}-d"><summary>{text(table.name)}: {len(rows)} rows</summary>
<div class="scroll"><table id="{name}" class="sortable"><caption class="hidden">{text(table.name)}</caption>
<thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>
<p><a download="{text(table.name)}.csv" href="data:text/csv;base64,{link}">download as CSV</a></p></details>"""


def _cell(value: Any) -> str:
    value = chart.number(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{text('' if value is None else value)}</td>"
    return f'<td class="n">{text(f"{value:,}" if isinstance(value, int) else f"{value:.4g}")}</td>'


def _csv(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
