"""Output files of a comparison."""

from __future__ import annotations

import json
from pathlib import Path

from cdm_nnunet.comparison.page import page
from cdm_nnunet.comparison.record import Comparison
from cdm_nnunet.comparison.tables import comparison_csv, goals_csv, latex, markdown
from cdm_nnunet.files import write_text


def write_outputs(comparison: Comparison, out: Path) -> dict[str, str]:
    """Write the record, the tables and the HTML file into a folder, each whole or not at all.

    Returns:
        Their paths: ``record``, ``csv``, ``goals``, ``markdown``, ``latex`` and ``html``.
    """
    texts = {
        "csv": ("comparison.csv", comparison_csv(comparison)),
        "goals": ("goals.csv", goals_csv(comparison)),
        "markdown": ("comparison.md", markdown(comparison)),
        "latex": ("comparison.tex", latex(comparison)),
        "html": ("compare.html", page(comparison)),
        "record": ("comparison.json", json.dumps(comparison.to_json(), indent=1, allow_nan=False) + "\n"),
    }
    for name, text in texts.values():
        write_text(out / name, text)
    return {key: str(out / name) for key, (name, _) in texts.items()}
