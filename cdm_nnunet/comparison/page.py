"""The page of a comparison, in the style of the report: one file, or a folder for many cases; both work offline."""

from __future__ import annotations

import gzip
import json
import secrets
from pathlib import Path
from typing import Any

from cdm_nnunet.comparison import origins, sentences
from cdm_nnunet.comparison.images import NOT_ASKED_FOR, Images, Parts, dose_names, packed_cases
from cdm_nnunet.comparison.record import Comparison
from cdm_nnunet.comparison.statistics import MIN_PATIENTS
from cdm_nnunet.dvh import Template
from cdm_nnunet.files import write_text
from cdm_nnunet.report.case_parts import MOST_CASES_IN_A_FILE
from cdm_nnunet.report.folder import DATA_FOLDER, INDEX_FILE, data_page, packed_text
from cdm_nnunet.report.page import page_data
from cdm_nnunet.report.parts import filled, json_script, packed_script, page_head, page_script, plotly_script, resource

PAGE_FILE, PAGE_FOLDER = "compare.html", "compare"
SCRIPTS = (
    ("report", "dom.js"),
    ("report", "words.js"),
    ("report", "charts.js"),
    ("report", "viewer.js"),
    ("comparison", "patient.js"),
    ("comparison", "compare.js"),
)


def is_folder(comparison: Comparison) -> bool:
    """Whether the page is a folder."""
    return len(comparison.cases) > MOST_CASES_IN_A_FILE


def page(comparison: Comparison, images: Images | str = NOT_ASKED_FOR, *, log: Path | None = None, n: int = 1) -> str:
    """The page as one file.

    Everything that is shown comes from the record and the images, and enters the page as data: no text in it can become
    markup.

    Args:
        comparison: The record.
        images: The images of its cases, or the reason why there are none.
        log: File for the tracebacks of internal errors.
        n: Number of cases read at a time.
    """
    head, script, rest = _frame(comparison)
    made = {} if isinstance(images, str) else dict(packed_cases(images, log or Path("errors.log"), n))
    places = {case: place for place, case in enumerate(comparison.cases)}
    data = [json_script("record", comparison.to_json()), json_script("page", _page_data(comparison, images))]
    plotly = packed_script("plotly", gzip.compress(plotly_script().encode(), mtime=0))
    return "".join(
        [head, *data, script, plotly, *(_elements(places[case], made[case]) for case in places if made), rest]
    )


def write_page_folder(comparison: Comparison, images: Images | str, folder: Path, log: Path, n: int) -> None:
    """Write the page as a new folder: a light first page, and one file per case.

    Args:
        comparison: As for :func:`page`.
        images: The same.
        folder: The folder to make.
        log: As for :func:`page`.
        n: The same.
    """
    key, data = secrets.token_hex(16), folder / DATA_FOLDER
    data.mkdir(parents=True)
    places = {case: place for place, case in enumerate(comparison.cases)}
    for case, parts in () if isinstance(images, str) else packed_cases(images, log, n):
        write_text(data / f"case_{places[case]}.html", data_page(key, _elements(places[case], parts)))
    record = comparison.to_json()
    errors = [quantity["patients"] for quantity in record["quantities"]]
    write_text(data / "errors.html", data_page(key, packed_text("errors", json.dumps(errors, allow_nan=False))))
    write_text(data / "plotly.html", data_page(key, packed_text("plotly", plotly_script())))
    record["quantities"] = [{**quantity, "patients": {}} for quantity in record["quantities"]]
    words = {**_page_data(comparison, images), "files": {"key": key, "folder": DATA_FOLDER}}
    head, script, rest = _frame(comparison, framed=True)
    write_text(folder / INDEX_FILE, head + json_script("record", record) + json_script("page", words) + script + rest)


def _frame(comparison: Comparison, *, framed: bool = False) -> tuple[str, str, str]:
    """Text before the data, script, and text after all data."""
    script = page_script([resource(package, name) for package, name in SCRIPTS])
    style = resource("report", "report.css") + resource("comparison", "compare.css")
    head, _, rest = resource("comparison", "compare.html").partition("<!--data-->")
    title = sentences.title(comparison)
    head = filled(head, {"head": page_head(title, style, script, plotly_script(), framed=framed)})
    return head, f"<script>{script}</script>\n", rest


def _elements(place: int, parts: Parts | str) -> str:
    if isinstance(parts, str):
        return json_script(f"case-{place}", {"problem": parts})
    return json_script(f"case-{place}", parts[0]) + packed_script(f"volume-{place}", parts[1])


def _drawn(template: Template, names: list[str]) -> dict[str, Any]:
    """Styles of doses and ROIs: the candidates share one, because one is shown at a time."""
    data = page_data(template, ("reference", "predicted", "other"))
    for strokes in (data["strokes"], *(colours["strokes"] for colours in data["colours"].values())):
        strokes.update(dict.fromkeys(names[3:], strokes["other"]))
    return {**data, "doses": names}


def _page_data(comparison: Comparison, images: Images | str) -> dict[str, Any]:
    """Data of the page in addition to the record: sentences shared with other renderings, and styles of images."""
    names = dose_names(len(comparison.models))
    drawn = {"no_images": images, "doses": []} if isinstance(images, str) else _drawn(images.template, names)
    return {
        **drawn,
        "title": sentences.title(comparison),
        "cases": list(comparison.cases),
        "dose_names": dict(zip(comparison.models, names[1:], strict=True)),
        "min_patients": MIN_PATIENTS,
        "goals": [sentences.goal_title(goal) for goal in comparison.goals],
        "levels": sentences.LEVEL_TITLES,
        "verdicts": {
            name: [sentences.verdict(result.paired[name]) for result in comparison.quantities]
            for name in comparison.candidates
        },
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
