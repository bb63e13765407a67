"""Write ``CASE.report.html``: a new patient's record with DVH curves and slices of the predicted dose, in one file."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

from cdm_nnunet.documents import plain
from cdm_nnunet.dvh import Template
from cdm_nnunet.evaluation.pairing import CaseFiles
from cdm_nnunet.evaluation.scene import load_scene
from cdm_nnunet.files import write_text
from cdm_nnunet.patient.record import PatientRecord
from cdm_nnunet.report.case_parts import MOST_CASE_BYTES, case_elements, report_parts
from cdm_nnunet.report.page import page_data
from cdm_nnunet.report.parts import filled, json_script, packed_script, page_head, page_script, plotly_script, resource

PATIENT_REPORT_ENDING = ".report.html"
SCRIPTS = ("dom.js", "words.js", "charts.js", "viewer.js", "pictures.js", "metrics.js", "new_patient.js")


def write_patient_report(record: PatientRecord, files: CaseFiles, template: Template, folder: Path) -> Path:
    """Write the report of a new patient; the file is complete or absent.

    Args:
        record: Every number in the report's tables is taken from it.
        files: CT, ROI masks and predicted dose, for curves and slices.
        template: Template of the record.
        folder: Folder for ``CASE.report.html``.

    Returns:
        Its path.
    """
    scene = load_scene(dataclasses.replace(files, reference=files.predicted), template)
    scene = dataclasses.replace(scene, doses_gy={"predicted": scene.doses_gy["predicted"]})
    parts = report_parts(scene, MOST_CASE_BYTES)
    plotly_js = plotly_script()
    script = page_script([resource("report", name) for name in SCRIPTS])
    head, _, rest = resource("report", "new_patient.html").partition("<!--data-->")
    title = f"{record.case}: {record.label}"
    text = [
        filled(head, {"head": page_head(title, resource("report", "report.css"), script, plotly_js)}),
        json_script("record", plain(record)),
        json_script("page", page_data(template, ("predicted",))),
        f"<script>{script}</script>\n",
        packed_script("plotly", gzip.compress(plotly_js.encode(), mtime=0)),
        case_elements(0, *parts),
        rest,
    ]
    path = folder / (record.case + PATIENT_REPORT_ENDING)
    write_text(path, "".join(text))
    return path
