"""Write ``report.html``: the result record and data for its pictures, in one file that works offline."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from cdm_nnunet.challenges import CHALLENGES
from cdm_nnunet.dvh import KINDS, Template
from cdm_nnunet.evaluation.palette import (
    CLEAR_TO,
    DIFFERENCE_MAP,
    DOSE_MAPS,
    DOSES,
    ISODOSES,
    Role,
    difference_span_gy,
    roi_styles,
    strokes,
)
from cdm_nnunet.evaluation.rank_record import LEAST_FOR_UNUSUAL, UNUSUAL_PERCENT
from cdm_nnunet.evaluation.record import Evaluation
from cdm_nnunet.files import replacing
from cdm_nnunet.report.bands import packed_bands
from cdm_nnunet.report.case_parts import CaseParts
from cdm_nnunet.report.case_rows import case_row
from cdm_nnunet.report.curves import MAX_POINTS
from cdm_nnunet.report.parts import filled, json_script, packed_script, page_head, page_script, plotly_script, resource
from cdm_nnunet.report.volumes import DOSE_STEP_GY, HU_TABLE

REPORT_FILE = "report.html"
SCRIPTS = ("dom.js", "words.js", "charts.js", "viewer.js", "pictures.js", "metrics.js", "cohort.js", "patient.js")
LAST_SCRIPT = "report.js"
PANEL_FOLDERS: list[Traversable] = [resources.files("cdm_nnunet.report") / "panels"]
"""Folder of the report's panels, one module of JavaScript each (``docs/extending.md``)."""


def write_report(evaluation: Evaluation, parts: CaseParts, path: Path) -> Path:
    """Write the report of an evaluation as one file, complete or absent.

    Args:
        evaluation: The record; every number in the report's tables is taken from it.
        parts: Stored parts of each case.
        path: The file to write.

    Returns:
        The file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    head, script, rest = page_parts(evaluation)
    bands = parts.bands([case.case for case in evaluation.cases])
    page = {**page_data_of(evaluation, parts.template), "has_bands": bands is not None}
    with replacing(path) as partial_path, partial_path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(head + json_script("record", evaluation.to_json()) + json_script("page", page))
        file.write(script + packed_script("plotly", gzip.compress(plotly_script().encode(), mtime=0)))
        if bands is not None:
            file.write(packed_script("bands", packed_bands(bands)))
        for place, case in enumerate(evaluation.cases):
            file.write(parts.elements(case.case, place))
        file.write(rest)
    return path


def page_parts(evaluation: Evaluation, *, framed: bool = False) -> tuple[str, str, str]:
    """A report's page: text before the record, script, and text after all data."""
    script = page_script([*(resource("report", name) for name in SCRIPTS), *_panels(), resource("report", LAST_SCRIPT)])
    head, _, rest = resource("report", "report.html").partition("<!--data-->")
    title = f"{evaluation.dataset}: dose evaluation"
    style = resource("report", "report.css")
    head = filled(head, {"head": page_head(title, style, script, plotly_script(), framed=framed)})
    return head, f"<script>{script}</script>\n", rest


def page_data_of(evaluation: Evaluation, template: Template) -> dict[str, Any]:
    """Data for the report's scripts in addition to the record.

    Args:
        evaluation: The record.
        template: Its template with all given colours.
    """
    ranks = {} if evaluation.plan_ranks is None else evaluation.plan_ranks.cases
    return {
        **page_data(template, ("reference", "predicted")),
        "span_gy": difference_span_gy(evaluation.scores.dose_mae_gy),
        "unusual": {"percent": UNUSUAL_PERCENT, "least": LEAST_FOR_UNUSUAL},
        "case_rows": [case_row(case, ranks.get(case.case, {})) for case in evaluation.cases],
        "challenges": [
            {
                "name": challenge.name,
                "title": challenge.title,
                "definition": challenge.definition,
                "scores": [{"key": s.key, "title": s.title, "unit": s.unit} for s in challenge.scores],
            }
            for challenge in CHALLENGES
        ],
    }


def page_data(template: Template, doses: Sequence[Role]) -> dict[str, Any]:
    """Data for the scripts of a page with DVH curves and slices, in addition to the record.

    Args:
        template: Template with the colours of ROIs.
        doses: Names of the displayed doses, in the order of the packed volumes.
    """
    roles = [(dose, dose if len(doses) > 1 else DOSES[0]) for dose in doses]  # (a single one has no gaps)
    return {
        "doses": list(doses),
        "generated": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "colours": {
            name: {
                "dark": style.dark,
                "light": style.light,
                "strokes": {dose: style.strokes(role) for dose, role in roles},
            }
            for name, style in roi_styles(template).items()
        },
        "strokes": {dose: strokes(role) for dose, role in roles},
        "isodoses": list(ISODOSES.items()),
        "index_names": {name: kind.reading for name, kind in KINDS.items() if kind.of_plan},
        "targets": [roi.name for roi in template.rois if roi.kind == "target"],
        "wash": {name: _colour_table(name) for name in DOSE_MAPS},
        "clear_to": CLEAR_TO,
        "difference": _colour_table(DIFFERENCE_MAP),
        "hu_table": HU_TABLE.round().tolist(),
        "dose_step_gy": DOSE_STEP_GY,
        "max_points": MAX_POINTS,
    }


def _colour_table(name: str) -> list[int]:
    """256 colours, red, green and blue one after another."""
    colours = matplotlib.colormaps[name](np.arange(256) / 255)[:, :3]
    return [int(level) for level in (255 * colours).round().ravel()]


def _panels() -> Iterator[str]:
    for folder in PANEL_FOLDERS:
        for module in sorted(folder.iterdir(), key=lambda module: module.name):
            if module.name.endswith(".js"):
                yield module.read_text(encoding="utf-8")
