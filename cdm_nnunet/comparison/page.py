"""Render ``compare.html``: the record in one file that works without a network, in the look of the report."""

from __future__ import annotations

import html

from cdm_nnunet.comparison import origins, sentences
from cdm_nnunet.comparison.record import Comparison
from cdm_nnunet.report.parts import filled, json_script, page_head, page_script, plotly_script, resource


def page(comparison: Comparison) -> str:
    """The whole HTML file.

    Everything that is shown comes from the record, and enters the page as data: no text in it can become markup.
    """
    plotly = plotly_script()
    script = page_script([resource("report", "dom.js"), resource("comparison", "compare.js")])
    style = resource("report", "report.css") + resource("comparison", "compare.css")
    title = sentences.title(comparison)
    values = {
        "head": page_head(title, style, plotly, script),
        "title": html.escape(title),
        "data": json_script("record", comparison.to_json()) + json_script("page", _worded(comparison)),
        "plotly": f"<script>{plotly}</script>",
        "script": f"<script>{script}</script>",
    }
    return filled(resource("comparison", "compare.html"), values)


def _worded(comparison: Comparison) -> dict[str, object]:
    """What the page says in sentences, which other renderings say too."""
    return {
        "title": sentences.title(comparison),
        "levels": sentences.LEVEL_TITLES,
        "headlines": {
            name: [sentences.headline(result, name) for result in comparison.at("score")]
            for name in comparison.candidates
        },
        "dropped": sentences.dropped(comparison),
        "models": {
            "title": origins.TITLE,
            "columns": {name: origins.columns(comparison.baseline, name) for name in comparison.candidates},
            "rows": {name: origins.rows(comparison, name) for name in comparison.candidates},
            "unknown": origins.unknown(comparison),
        },
        "methods": sentences.methods(comparison),
    }
