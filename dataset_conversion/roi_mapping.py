"""Assignment of a patient's ROI names and prescriptions to a template."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cdm_nnunet.documents import parse_json
from cdm_nnunet.dvh import Template, match_rois
from cdm_nnunet.errors import InputError

from .case_files import CompletedCase

_UNUSED = "unused masks"


@dataclass(frozen=True)
class RoiMapping:
    """ROIs of a patient by the names of a template.

    Attributes:
        names: Name in the data by ROI of the template; only for ROIs in the data.
        unused: Names in the data that match no ROI of the template.
    """

    names: Mapping[str, str]
    unused: tuple[str, ...]


def map_rois(template: Template, names: Iterable[str]) -> RoiMapping:
    """Find the ROIs of a template among the names of a patient's contours.

    Args:
        template: Template with names, aliases and expressions; case is ignored.
        names: Names in the data.

    Raises:
        InputError: As :func:`cdm_nnunet.dvh.match_rois`.
    """
    names = tuple(names)
    found = {roi: match.source for roi, match in match_rois(template, names).items()}
    return RoiMapping(found, tuple(name for name in names if name not in found.values()))


def prescriptions_gy(template: Template, given: Mapping[str, object], contoured: Iterable[str]) -> dict[str, float]:
    """Prescribed dose of each contoured target.

    Args:
        template: Template with prescriptions that apply to all patients.
        given: Gy by name of the target, or by an alias; these override the template's.
        contoured: ROIs of the patient, by the template's names.

    Raises:
        InputError: If a name is not a target of the template, a value is not a number, or a contoured target
            without a common prescription is missing.
    """
    mapped = map_rois(template, given)
    targets = {roi.name: roi.prescription_gy for roi in template.rois if roi.kind == "target"}
    strays = [*mapped.unused, *(name for roi, name in mapped.names.items() if roi not in targets)]
    if strays:
        raise InputError(f"a prescription is given for '{strays[0]}'; targets of the template are {', '.join(targets)}")
    found: dict[str, float] = {}
    for roi, name in mapped.names.items():
        value = given[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"the prescription of '{name}' is {value!r}, expected a number in Gy")
        found[roi] = float(value)
    for roi in contoured:
        default = targets.get(roi)
        if roi not in found and default == "patient":
            raise InputError(f"target '{roi}' is contoured and has no prescription; give it in Gy")
        if roi not in found and isinstance(default, float):
            found[roi] = default
    return found


def unused_text(names: Iterable[str]) -> dict[str, str]:
    """The entry of a case's source that lists its unused masks."""
    names = tuple(names)
    return {_UNUSED: json.dumps(names, ensure_ascii=False)} if names else {}


def unused_masks(cases: Iterable[CompletedCase]) -> dict[str, int]:
    """Masks that match no ROI of the template, with their numbers of cases."""
    counts: Counter[str] = Counter()
    for case in cases:
        counts.update(parse_json(case.record.source.get(_UNUSED, "[]"), list[str], _UNUSED, "convert the data again"))
    return dict(sorted(counts.items()))
