"""Curves and slices of cases: made when a case is read, and stored on disk until its report is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdm_nnunet.dvh import Template, cumulative_dvh
from cdm_nnunet.evaluation.gamma import GammaRule
from cdm_nnunet.evaluation.pairing import CaseImages
from cdm_nnunet.evaluation.scene import Scene, scene_of
from cdm_nnunet.report.bands import cohort_bands
from cdm_nnunet.report.curves import drawn_curve
from cdm_nnunet.report.parts import json_script, packed_script
from cdm_nnunet.report.sorted_doses import sorted_doses
from cdm_nnunet.report.volumes import display_volume

MAX_REPORT_BYTES = 50_000_000
LEAST_CASE_BYTES, MOST_CASE_BYTES = 300_000, 4_000_000
VOLUME_SHARE = 0.8  # share of the report; the rest is Plotly, the record and DVH curves
MOST_CASES_IN_A_FILE = 60
"""With more cases than these the report is a folder."""


@dataclass(frozen=True)
class CaseParts:
    """Parts of a report for each case in addition to the record.

    Attributes:
        folder: Their folder.
        template: Template of the displayed ROIs.
        problems: Reasons for missing curves and slices, by case.
        gamma: Gamma criteria of the slices; None for no gamma.
    """

    folder: Path
    template: Template
    problems: dict[str, str] = field(default_factory=dict)
    gamma: GammaRule | None = None

    def keep(self, n_cases: int, images: CaseImages) -> None:
        """Make the parts of a case; also in worker processes.

        Args:
            n_cases: Number of cases in the report; with more cases, slices are coarser.
            images: The case.

        Raises:
            InputError: If the CT can't be read or has another grid.
        """
        parts, *packed = report_parts(scene_of(images, self.template, self.gamma), case_bytes(n_cases))
        header, *data = self._files(images.files.case)
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text(json.dumps(parts, allow_nan=False), encoding="utf-8")
        for path, content in zip(data, packed, strict=True):
            path.write_bytes(content)

    def elements(self, case: str, place: int) -> str:
        """The elements of a case for a page, or an element with the reason why there are none.

        Args:
            case: Its name.
            place: Its index in the evaluation.
        """
        if case in self.problems:
            return json_script(f"case-{place}", {"problem": self.problems[case]})
        header, *data = self._files(case)
        parts = json.loads(header.read_text(encoding="utf-8"))
        return case_elements(place, parts, *(path.read_bytes() for path in data))

    def bands(self, cases: Sequence[str]) -> dict[str, Any] | None:
        """Median and band of the DVH curves of cases, as from :func:`cohort_bands`."""
        headers = (self._files(case)[0] for case in cases if case not in self.problems)
        curves = (json.loads(header.read_text(encoding="utf-8"))["curves"] for header in headers)
        return cohort_bands(curves, [roi.name for roi in self.template.rois])

    def _files(self, case: str) -> tuple[Path, Path, Path]:
        return self.folder / f"{case}.json", self.folder / f"{case}.gz", self.folder / f"{case}.doses.gz"


def case_elements(place: int, parts: dict[str, Any], volume: bytes, doses: bytes) -> str:
    """The elements of a case from :func:`report_parts`."""
    packed = packed_script(f"volume-{place}", volume) + packed_script(f"doses-{place}", doses)
    return json_script(f"case-{place}", parts) + packed


def case_bytes(n_cases: int) -> int:
    """Limit of a case's packed volume in bytes, so that a report file stays below 50 MB if possible."""
    if n_cases > MOST_CASES_IN_A_FILE:
        return LEAST_CASE_BYTES
    share = VOLUME_SHARE * MAX_REPORT_BYTES / n_cases * 3 / 4  # base64 encodes three bytes as four characters
    return int(min(max(share, LEAST_CASE_BYTES), MOST_CASE_BYTES))


def report_parts(scene: Scene, max_bytes: int) -> tuple[dict[str, Any], bytes, bytes]:
    """The DVH curves and headers of a scene, the packed volume, and the packed doses of ROIs."""
    parts, volume = scene_parts(scene, max_bytes)
    header, doses = sorted_doses(scene)
    return {**parts, "doses": header}, volume, doses


def scene_parts(scene: Scene, max_bytes: int) -> tuple[dict[str, Any], bytes]:
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
