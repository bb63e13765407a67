"""Write the report of many cases as a folder: a light first page, and one data file per case, loaded on demand.

From ``file://`` a page can neither fetch a file nor read an image's pixels, and a script tag would run any content of a
file. So a data file is a separate page with inert data and one fixed script, the only one that may run there. The
report opens it in a hidden frame, and receives the data as a message. A shared key excludes other pages.
"""

from __future__ import annotations

import gzip
import json
import secrets
from pathlib import Path
from typing import Any

from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.record import Evaluation
from cdm_nnunet.files import write_text
from cdm_nnunet.report.bands import packed_bands
from cdm_nnunet.report.case_parts import CaseParts
from cdm_nnunet.report.page import page_data_of, page_parts
from cdm_nnunet.report.parts import csp_hashes, filled, json_script, packed_script, plotly_script, resource

REPORT_FOLDER = "report"
INDEX_FILE = "index.html"
DATA_FOLDER = "data"


def write_report_folder(evaluation: Evaluation, parts: CaseParts, folder: Path) -> Path:
    """Write the report of an evaluation into a new folder.

    The caller must make sure that a partly written folder is not mistaken for a report.

    Args:
        evaluation: As for :func:`~cdm_nnunet.report.page.write_report`.
        parts: As for that function.
        folder: The folder to make.

    Returns:
        The page to open.
    """
    key = secrets.token_hex(16)
    data = folder / DATA_FOLDER
    data.mkdir(parents=True)
    record = evaluation.to_json()
    for place, case in enumerate(evaluation.cases):
        elements = json_script(f"result-{place}", case.to_json()) + parts.elements(case.case, place)
        if record["plan_ranks"] is not None:
            elements += json_script(f"ranks-{place}", record["plan_ranks"]["cases"][case.case])
        write_text(data / f"case_{place}.html", data_page(key, elements))
    bands = parts.bands([case.case for case in evaluation.cases])
    return write_cohort(evaluation, folder, key, parts.template, bands)


def write_cohort(
    evaluation: Evaluation,
    folder: Path,
    key: str,
    template: Template | None = None,
    bands: dict[str, Any] | None = None,
) -> Path:
    """Write a report folder without the files of single cases.

    Args:
        evaluation: The record.
        folder: The report's folder.
        key: Key of its data files.
        template: The record's template with all given colours; None uses it unchanged.
        bands: The DVH curves of the cohort; None without.

    Returns:
        The page to open.
    """
    data = folder / DATA_FOLDER
    data.mkdir(parents=True, exist_ok=True)
    record = evaluation.to_json()
    write_text(data / "whole.html", data_page(key, packed_text("whole", json.dumps(record, allow_nan=False))))
    write_text(data / "plotly.html", data_page(key, packed_text("plotly", plotly_script())))
    ranks = record["plan_ranks"]
    light = {**record, "cases": {}, "plan_ranks": None if ranks is None else {**ranks, "cases": {}}}
    page = {
        **page_data_of(evaluation, template or evaluation.template),
        "files": {"key": key, "folder": DATA_FOLDER},
        "has_bands": bands is not None,
    }
    if bands is not None:
        write_text(data / "bands.html", data_page(key, packed_script("bands", packed_bands(bands))))
    write_text(folder / INDEX_FILE, _index(evaluation, light, page))
    return folder / INDEX_FILE


def refuse_foreign_folder(out: Path, name: str = REPORT_FOLDER) -> None:
    """Refuse a folder of the report's name that is not a report: it would be removed.

    Args:
        out: Parent of the report's folder.
        name: Its name.

    Raises:
        InputError: If it is not a report.
    """
    folder = out / name
    if folder.exists() and not (folder / INDEX_FILE).is_file():
        raise InputError(f"{folder} is not a report of this software and would be replaced; move it away")


def _index(evaluation: Evaluation, record: dict[str, Any], page: dict[str, Any]) -> str:
    head, script, rest = page_parts(evaluation, framed=True)
    return "".join([head, json_script("record", record), json_script("page", page), script, rest])


def data_page(key: str, elements: str) -> str:
    """A data file, which sends its elements to the page that knows the key."""
    script = resource("report", "data.js")
    values = {"csp-hashes": csp_hashes(script), "data": json_script("key", key) + elements, "script": script}
    return filled(resource("report", "data.html"), values)


def packed_text(element_id: str, text: str) -> str:
    """A compressed element with a text."""
    return packed_script(element_id, gzip.compress(text.encode(), mtime=0))
