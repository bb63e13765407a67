"""The file that a person reviews between inspection and conversion: which ROI of the files is which of the template."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cdm_nnunet.dicom.plan_choice import DEFAULT, RULES
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.roi.tg263 import propose

_HEAD = """\
# Name of each ROI in the files: its name in the template, or null to leave it out. Review every line.
"""
_TAIL = """\
# Prescriptions (Gy) of targets, for plans that state none: {"PTV_7000": 70}
prescriptions_gy: {}
# Patients with several plans that have a dose. For all of them latest, sum (doses are added: a course with a boost) or
# each (every plan a case); or, by patient, one plan's label or UID: {"default": "latest", "case_1a2b3c4d5e": "Boost"}
plans: {}
"""
_KEYS = ("rois", "prescriptions_gy", "plans")


@dataclass(frozen=True)
class DicomMapping:
    """Which ROI is which.

    Attributes:
        rois: Name in the template by name in the files, None for an ROI that is left out.
        prescriptions_gy: By name in the template, for plans that do not prescribe to the target.
        plans: Which of several plans to take, by the patient's name and under ``default`` for all others; see
            :mod:`cdm_nnunet.dicom.plan_choice`.
    """

    rois: Mapping[str, str | None]
    prescriptions_gy: Mapping[str, float] = field(default_factory=dict)
    plans: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the ``cdm`` section of ``dataset.json``: without what is about single patients."""
        return {"rois": dict(self.rois), "prescriptions_gy": dict(self.prescriptions_gy)}

    def updated(self, other: DicomMapping) -> DicomMapping:
        """This mapping with the entries of another one in place of its own and added to them."""
        return DicomMapping(
            {**self.rois, **other.rois},
            {**self.prescriptions_gy, **other.prescriptions_gy},
            {**self.plans, **other.plans},
        )

    def refuse_unknown_rois(self, template: Template) -> None:
        """Check that a template has all ROIs of the mapping.

        Raises:
            InputError: If not, naming them.
        """
        names = [roi.name for roi in template.rois]
        strays = sorted({roi for roi in (*self.rois.values(), *self.prescriptions_gy) if roi} - set(names))
        if strays:
            raise InputError(
                f"the mapping has ROIs that template '{template.name}' has not: {', '.join(strays)}; map them to null "
                f"or to one of {', '.join(names)}"
            )

    def names(self, in_file: Iterable[str], where: object) -> dict[str, str]:
        """Name in the file by name in the template, for one patient.

        Raises:
            InputError: If a name is not in the mapping, or two stand for the same ROI.
        """
        found: dict[str, str] = {}
        unknown = [name for name in in_file if name not in self.rois]
        if unknown:
            raise InputError(f"{where}: the mapping lacks {', '.join(unknown)}; add them, with null to leave them out")
        for name in in_file:
            roi = self.rois[name]
            if roi is not None and roi in found:
                raise InputError(f"{where}: '{found[roi]}' and '{name}' both stand for ROI '{roi}'; map one to null")
            if roi is not None:
                found[roi] = name
        return found


def read_mapping(path: Path) -> DicomMapping:
    """Read a mapping file.

    Raises:
        InputError: If it is missing, is not YAML or has other keys or values.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; 'cdm-nnunet inspect dicom' writes one to review") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    return mapping_from(content, path)


def mapping_from(content: object, path: object) -> DicomMapping:
    """A mapping from the content of its file, or of ``dataset.json``.

    Args:
        content: Parsed YAML or JSON.
        path: Where it stands, for messages.

    Raises:
        InputError: If it has other keys or values than those of a mapping.
    """
    if not isinstance(content, dict) or not set(content) <= set(_KEYS) or "rois" not in content:
        raise InputError(f"{path}: expected the keys 'rois' and, where they are needed, 'prescriptions_gy' and 'plans'")
    rois, levels, plans = (content.get(key) or {} for key in _KEYS)
    if isinstance(plans, str):
        plans = {DEFAULT: plans}
    for key, value in zip(_KEYS, (rois, levels, plans), strict=True):
        if not isinstance(value, dict):
            raise InputError(f"{path}: '{key}' is {value!r}, expected names with values")
    for name, roi in rois.items():
        if not isinstance(name, str) or not (roi is None or isinstance(roi, str)):
            raise InputError(f"{path}: '{name}: {roi}' is not a name and a name or null")
    for name, level_gy in levels.items():
        if isinstance(level_gy, bool) or not isinstance(level_gy, int | float):
            raise InputError(f"{path}: the prescription of '{name}' is {level_gy!r}, expected a number in Gy")
    for name, choice in plans.items():
        if not isinstance(name, str) or not isinstance(choice, str):
            raise InputError(f"{path}: plans: '{name}: {choice}' is not a patient and a plan; put both in quotes")
        if name == DEFAULT and choice not in RULES:
            raise InputError(f"{path}: plans: '{choice}' is no rule for all patients; those are {', '.join(RULES)}")
    return DicomMapping(rois, {name: float(level_gy) for name, level_gy in levels.items()}, plans)


def mapping_text(counts: Mapping[str, int]) -> str:
    """A mapping file to review, with the names that TG-263 proposes; what needs a guess is null.

    Args:
        counts: In how many patients each name comes.
    """
    lines = ["rois:"] if counts else ["rois: {}"]
    for name in sorted(counts, key=lambda key: (-counts[key], key)):
        found = propose(name)
        value = "null" if found.decided is None else json.dumps(found.decided.name, ensure_ascii=False)
        hints = [f"{counts[name]} patients"]
        if found.decided is None and found.proposals:
            hints.append("perhaps " + ", ".join(proposal.name for proposal in found.proposals))
        if found.is_helper:
            hints.append("a helper structure")
        lines.append(f"  {json.dumps(name, ensure_ascii=False)}: {value}  # {'; '.join(hints)}")
    return _HEAD + "\n".join(lines) + "\n" + _TAIL
