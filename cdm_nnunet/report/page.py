"""Write ``report.html``: the result record and what its pictures need, in one file that works without a network."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np

from cdm_nnunet.challenges import CHALLENGES
from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dvh import KINDS, Template, cumulative_dvh
from cdm_nnunet.evaluation.pairing import CaseFiles, find_cases
from cdm_nnunet.evaluation.pictures import Scene, load_scene, on_white, roi_colours
from cdm_nnunet.evaluation.record import Evaluation
from cdm_nnunet.fence import Attempt, Refusals, Refused
from cdm_nnunet.files import replacing
from cdm_nnunet.parallel import unordered
from cdm_nnunet.report.case_rows import case_row
from cdm_nnunet.report.curves import MAX_POINTS, drawn_curve
from cdm_nnunet.report.parts import filled, json_script, packed_script, page_head, page_script, plotly_script, resource
from cdm_nnunet.report.volumes import DOSE_STEP_GY, HU_TABLE, display_volume

REPORT_FILE = "report.html"
MAX_REPORT_BYTES = 50_000_000
LEAST_CASE_BYTES, MOST_CASE_BYTES = 300_000, 4_000_000
VOLUME_SHARE = 0.8  # of the report; the rest is Plotly, the record and DVH curves
WASH_COLOURS, DIFFERENCE_COLOURS = "jet", "RdBu_r"
SCRIPTS = ("dom.js", "words.js", "charts.js", "viewer.js", "pictures.js", "cohort.js", "patient.js")
LAST_SCRIPT = "report.js"
PANEL_FOLDERS: list[Traversable] = [resources.files("cdm_nnunet.report") / "panels"]
"""Where the report's panels lie, one module of JavaScript each (``docs/extending.md``)."""
Progress = Callable[[str, int, int], None]
_Parts = tuple[dict[str, Any], bytes]
_Result = TypeVar("_Result")


def write_report(
    evaluation: Evaluation,
    dataset: RawDataset,
    predictions: Path,
    path: Path,
    *,
    processes: int = 1,
    progress: Progress | None = None,
    refusals: Refusals | None = None,
) -> Path:
    """Write the report of an evaluation, whole or not at all.

    Args:
        evaluation: The record; every number in the report's tables is taken from it.
        dataset: The data set that was evaluated, for CT, doses and masks.
        predictions: The folder of ``CASE.nii.gz`` that was evaluated.
        path: The file to write.
        processes: Number of cases that are read at a time.
        progress: Called with ``"report"``, the number of cases done and of all.
        refusals: Takes the cases whose images can't be shown: their numbers are, with the reason. Without it the first
            ends the run.

    Returns:
        The file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    head, script, rest = page_parts(evaluation)
    with replacing(path) as partial_path, partial_path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(head + json_script("record", evaluation.to_json()) + json_script("page", page_data_of(evaluation)))
        file.write(script + packed_script("plotly", gzip.compress(plotly_script().encode(), mtime=0)))
        for _, elements in case_elements(
            evaluation, dataset, predictions, max_bytes=case_bytes(len(evaluation.cases)), processes=processes,
            progress=progress, refusals=refusals,
        ):  # fmt: skip
            file.write(elements)
        file.write(rest)
    return path


def case_elements(
    evaluation: Evaluation,
    dataset: RawDataset,
    predictions: Path,
    *,
    max_bytes: int,
    processes: int = 1,
    progress: Progress | None = None,
    refusals: Refusals | None = None,
) -> Iterator[tuple[int, str]]:
    """The elements with curves and slices of each case, in their order, with the case's place in the evaluation.

    Args:
        evaluation: As for :func:`write_report`.
        dataset: The same.
        predictions: The same.
        max_bytes: Limit of a case's packed volume.
        processes: Number of cases that are read at a time.
        progress: As for ``write_report``.
        refusals: The same.
    """
    names = [case.case for case in evaluation.cases]
    cases = find_cases(dataset, predictions, only=names, refusals=refusals)
    job: Callable[[CaseFiles], _Parts | Refused]
    job = partial(_case_parts, template=evaluation.template, max_bytes=max_bytes)
    job = job if refusals is None else Attempt(job, refusals.log)
    places = {name: place for place, name in enumerate(names)}
    for done, (position, parts) in enumerate(_in_order(unordered(job, cases, processes)), 1):
        case = cases[position].case
        if isinstance(parts, Refused) and refusals is not None:
            refusals.add(case, parts.reason)
        elif not isinstance(parts, Refused):
            place = places[case]
            yield place, json_script(f"case-{place}", parts[0]) + packed_script(f"volume-{place}", parts[1])
        if progress is not None:
            progress("report", done, len(cases))
    for case, reason in ({} if refusals is None else refusals.reasons).items():
        if case in places:
            yield places[case], json_script(f"case-{places[case]}", {"problem": reason})


def _in_order(results: Iterator[tuple[int, _Result]]) -> Iterator[tuple[int, _Result]]:
    """Results by position, from 0 on; what comes too early waits."""
    waiting: dict[int, _Result] = {}
    turn = 0
    for position, result in results:
        waiting[position] = result
        while turn in waiting:
            yield turn, waiting.pop(turn)
            turn += 1


def case_bytes(n_cases: int) -> int:
    """Limit of a case's packed volume in bytes, so that the report stays below 50 MB where that is reasonable."""
    share = VOLUME_SHARE * MAX_REPORT_BYTES / n_cases * 3 / 4  # base64 makes four characters of three bytes
    return int(min(max(share, LEAST_CASE_BYTES), MOST_CASE_BYTES))


def _case_parts(files: CaseFiles, *, template: Template, max_bytes: int) -> _Parts:
    return scene_parts(load_scene(files, template), max_bytes)


def scene_parts(scene: Scene, max_bytes: int) -> _Parts:
    """The DVH curves and the volume's header of a scene, and the packed volume."""
    volume = display_volume(scene, max_bytes)
    return {"volume": volume.header, **_curves(scene)}, volume.packed


def _curves(scene: Scene) -> dict[str, Any]:
    curves: dict[str, Any] = {}
    worst = 0.0
    for name, mask in scene.masks.items():
        curves[name] = {}
        for dose, dose_gy in scene.doses_gy.items():
            drawn = drawn_curve(cumulative_dvh(dose_gy[mask]))
            curves[name][dose] = [drawn.dose_gy.tolist(), drawn.volume_percent.tolist()]
            worst = max(worst, drawn.max_error_percent)
    return {"curves": curves, "max_error_percent": worst}


def page_parts(evaluation: Evaluation, *, framed: bool = False) -> tuple[str, str, str]:
    """A report's page: what stands before the record, its script, and what stands after all data."""
    script = page_script([*(resource("report", name) for name in SCRIPTS), *_panels(), resource("report", LAST_SCRIPT)])
    head, _, rest = resource("report", "report.html").partition("<!--data-->")
    title = f"{evaluation.dataset}: dose evaluation"
    style = resource("report", "report.css")
    head = filled(head, {"head": page_head(title, style, script, plotly_script(), framed=framed)})
    return head, f"<script>{script}</script>\n", rest


def page_data_of(evaluation: Evaluation) -> dict[str, Any]:
    """What the scripts of the report need beside the record."""
    return {
        **page_data(evaluation.template, ("reference", "predicted")),
        "case_rows": [case_row(case) for case in evaluation.cases],
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


def page_data(template: Template, doses: Sequence[str]) -> dict[str, Any]:
    """What the scripts of a page with DVH curves and slices need beside the record.

    Args:
        template: Gives each ROI its colour.
        doses: Names of the doses that are shown, in the order of the packed volumes.
    """
    return {
        "doses": list(doses),
        "generated": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "colours": {
            name: {"dark": colour, "light": "#" + "".join(f"{round(255 * c):02x}" for c in on_white(colour))}
            for name, colour in roi_colours(template).items()
        },
        "index_names": {name: kind.reading for name, kind in KINDS.items() if kind.of_plan},
        "targets": [roi.name for roi in template.rois if roi.kind == "target"],
        "wash": _colour_table(WASH_COLOURS),
        "difference": _colour_table(DIFFERENCE_COLOURS),
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
