"""Small HTML tables, for notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def html_table(title: str, rows: Sequence[Iterable[str]]) -> str:
    """A table under a title.

    Args:
        title: Plain text.
        rows: Cells as plain text, starting with the headings.

    Example:
        >>> html_table("a < b", [("", "Gy"), ("D95%", "66.5")])
        '<p>a &lt; b</p><table><tr><th></th><th>Gy</th></tr><tr><td>D95%</td><td>66.5</td></tr></table>'
    """
    head, *body = rows
    lines = [_row(head, "th"), *(_row(row, "td") for row in body)]
    return f"<p>{html.escape(title)}</p><table>{''.join(lines)}</table>"


def _row(cells: Iterable[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
