"""The file that a person reviews between inspection and conversion: which ROI of the files is which of the template."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from cdm_nnunet.dicom.end_caps import DEFAULT_END_CAPS, EndCaps
from cdm_nnunet.dicom.file_choice import FileChoice
from cdm_nnunet.dicom.plan_choice import DEFAULT, DOSE_TYPES, RULES, Choice
from cdm_nnunet.documents import read_yaml
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.roi.tg263 import propose

_KEYS = ("rois", "prescriptions_gy", "plans", "patients", "dose_type", "left_out_gy", "end_caps", "leave_out_helpers")
_OF_PATIENT = ("rois", "prescriptions_gy", "left_out_gy", "structures", "ct")


@dataclass(frozen=True)
class PatientMapping:
    """What differs in one patient, or in one case of a patient with several.

    Attributes:
        rois: As of :class:`DicomMapping`; they come before those of all patients.
        prescriptions_gy: Gy by name in the template; None leaves the target to the plan.
        left_out_gy: Levels of the plan that no target has, on purpose.
        files: Which of several structure sets and CT series counts; of a patient, not of one case of several.
    """

    rois: Mapping[str, str | None] = field(default_factory=dict)
    prescriptions_gy: Mapping[str, float | None] = field(default_factory=dict)
    left_out_gy: tuple[float, ...] = ()
    files: FileChoice = field(default_factory=FileChoice)


@dataclass(frozen=True)
class DicomMapping:
    """Which ROI is which.

    Attributes:
        rois: Name in the template by name in the files, None for an ROI that is left out.
        prescriptions_gy: By name in the template, for plans that do not prescribe to the target.
        plans: Which of several plans to take, by the patient's name and under ``default`` for all others; see
            :mod:`cdm_nnunet.dicom.plan_choice`.
        patients: What differs, by the name of a patient or case.
        left_out_gy: Levels of the plans that no target has, on purpose.
        end_caps: How ROIs end, as :func:`cdm_nnunet.dicom.contours.stack_of`; None for the default.
        leave_out_helpers: Leave out names that are not in ``rois`` and look like helper structures.
        dose_type: ``PHYSICAL`` or ``EFFECTIVE``, where patients have doses of both; empty where none was chosen.
        match_geometry: Take a CT by its slices where contours refer to none that is there.
    """

    rois: Mapping[str, str | None]
    prescriptions_gy: Mapping[str, float] = field(default_factory=dict)
    plans: Mapping[str, str] = field(default_factory=dict)
    patients: Mapping[str, PatientMapping] = field(default_factory=dict)
    left_out_gy: tuple[float, ...] = ()
    end_caps: EndCaps | None = None
    leave_out_helpers: bool = False
    dose_type: str = ""
    match_geometry: bool = False

    @property
    def ends(self) -> EndCaps:
        """How ROIs end."""
        return self.end_caps or DEFAULT_END_CAPS

    @property
    def choice(self) -> Choice:
        """Which of several plans, doses, structure sets and CT series of a patient counts."""
        return Choice(
            self.plans, self.dose_type, {name: own.files for name, own in self.patients.items()}, self.match_geometry
        )

    def to_json(self) -> dict[str, Any]:
        """As it stands in the ``cdm`` section of ``dataset.json``: without what is about single patients.

        A name that means something else in some patient is left out: for a new patient it must be said anew.
        """
        own = self.patients.values()
        varied = {name for one in own for name, roi in one.rois.items() if roi != self.rois.get(name)}
        levels = {
            roi for one in own for roi, gy in one.prescriptions_gy.items() if gy != self.prescriptions_gy.get(roi)
        }
        return {
            "rois": {name: roi for name, roi in self.rois.items() if name not in varied},
            "prescriptions_gy": {roi: gy for roi, gy in self.prescriptions_gy.items() if roi not in levels},
            "end_caps": self.ends,
            **({"leave_out_helpers": True} if self.leave_out_helpers else {}),
        }

    def updated(self, other: DicomMapping) -> DicomMapping:
        """This mapping, of a model, with the entries of another one in place of its own and added to them.

        Raises:
            InputError: If the other one ends ROIs in another way than the model has learnt.
        """
        if other.end_caps not in (None, self.ends):
            raise InputError(
                f"the mapping says 'end_caps: {other.end_caps}', and the model was trained on ROIs with the ends "
                f"'{self.ends}'; leave it out"
            )
        return DicomMapping(
            {**self.rois, **other.rois},
            {**self.prescriptions_gy, **other.prescriptions_gy},
            {**self.plans, **other.plans},
            {**self.patients, **other.patients},
            (*self.left_out_gy, *other.left_out_gy),
            self.end_caps,
            leave_out_helpers=self.leave_out_helpers or other.leave_out_helpers,
            dose_type=other.dose_type or self.dose_type,
        )

    def of(self, patient: str, case: str) -> tuple[DicomMapping, dict[str, float]]:
        """What holds for one case.

        Args:
            patient: Name of the patient.
            case: Name of the case; its entries come before the patient's.

        Returns:
            The mapping, with the patient's ROIs and without the prescriptions that the patient has an own entry for;
            and the patient's own prescriptions.
        """
        own = [self.patients[name] for name in dict.fromkeys((patient, case)) if name in self.patients]
        rois, levels = dict(self.rois), dict[str, float | None]()
        for entry in own:
            rois |= entry.rois
            levels |= entry.prescriptions_gy
        shared = {roi: gy for roi, gy in self.prescriptions_gy.items() if roi not in levels}
        left_out_gy = (*self.left_out_gy, *(gy for entry in own for gy in entry.left_out_gy))
        mapping = DicomMapping(
            rois, shared, self.plans, {}, left_out_gy, self.end_caps, leave_out_helpers=self.leave_out_helpers
        )
        return mapping, {roi: gy for roi, gy in levels.items() if gy is not None}

    def refuse_unknown_rois(self, template: Template) -> None:
        """Check that a template has all ROIs of the mapping.

        Raises:
            InputError: If not, naming them.
        """
        names = [roi.name for roi in template.rois]
        parts: list[DicomMapping | PatientMapping] = [self, *self.patients.values()]
        used = {roi for part in parts for roi in (*part.rois.values(), *part.prescriptions_gy) if roi}
        strays = sorted(used - set(names))
        if strays:
            raise InputError(
                f"the mapping has ROIs that template '{template.name}' has not: {', '.join(strays)}; map them to null "
                f"or to one of {', '.join(names)}"
            )
        targets = [roi.name for roi in template.rois if roi.kind == "target"]
        strays = sorted({roi for part in parts for roi in part.prescriptions_gy} - set(targets))
        if strays:
            raise InputError(
                f"the mapping has a prescription of '{strays[0]}', which is no target of the template; targets are "
                f"{', '.join(targets)}"
            )

    def helpers(self, in_file: Iterable[str]) -> tuple[str, ...]:
        """Names that are left out since they look like those of helper structures; none unless that was asked for."""
        if not self.leave_out_helpers:
            return ()
        return tuple(name for name in in_file if name not in self.rois and propose(name).is_helper)

    def names(self, in_file: Iterable[str], where: object, empty: Collection[str] = ()) -> dict[str, str]:
        """Name in the file by name in the template, for one patient.

        Args:
            in_file: Names in the file, each once.
            where: The file, for messages.
            empty: Those that were never drawn: another name for the same ROI comes before them.

        Raises:
            InputError: If a name is not in the mapping, or two stand for the same ROI.
        """
        found: dict[str, str] = {}
        in_file = tuple(in_file)
        helpers = self.helpers(in_file)
        unknown = [name for name in in_file if name not in self.rois and name not in helpers]
        if unknown:
            raise InputError(f"{where}: the mapping lacks {', '.join(unknown)}; add them, with null to leave them out")
        for name in in_file:
            roi = self.rois.get(name)
            if roi is None or (roi in found and name in empty):
                continue
            if roi in found and found[roi] not in empty:
                raise InputError(f"{where}: '{found[roi]}' and '{name}' both stand for ROI '{roi}'; map one to null")
            found[roi] = name
        return found


def read_mapping(path: Path) -> DicomMapping:
    """Read a mapping file.

    Raises:
        InputError: If it is missing, is not YAML or has other keys or values.
    """
    content = read_yaml(path, dict[str, object], "'cdm-nnunet inspect dicom' writes one to review")
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
        others = "', '".join(key for key in _KEYS[1:-1])
        raise InputError(f"{path}: expected the keys 'rois' and, where they are needed, '{others}' and '{_KEYS[-1]}'")
    plans = _given(content, "plans", {})
    if isinstance(plans, str):
        plans = {DEFAULT: plans}
    for name, choice in _names(plans, path, "plans").items():
        if not isinstance(choice, str):
            raise InputError(f"{path}: plans: '{name}: {choice}' is not a patient and a plan; put both in quotes")
        if name == DEFAULT and choice not in RULES:
            raise InputError(f"{path}: plans: '{choice}' is no rule for all patients; those are {', '.join(RULES)}")
    if not isinstance(content.get("leave_out_helpers", False), bool):
        raise InputError(f"{path}: 'leave_out_helpers' is {content['leave_out_helpers']!r}, expected true or false")
    shared = _entries(content, path)
    patients = {}
    for name, own in _names(_given(content, "patients", {}), path, "patients").items():
        where = f"{path}: patients: {name}"
        if not isinstance(own, dict) or not set(own) <= set(_OF_PATIENT):
            raise InputError(f"{where}: expected {', '.join(_OF_PATIENT)}, not {own!r}")
        patients[name] = replace(_entries(own, where), files=_file_choice(own, where))
    levels = {name: gy for name, gy in shared.prescriptions_gy.items() if gy is not None}
    if len(levels) < len(shared.prescriptions_gy):
        raise InputError(f"{path}: a prescription is null; that is for single patients, under 'patients'")
    end_caps = content.get("end_caps")
    if end_caps not in (None, *get_args(EndCaps)):
        raise InputError(f"{path}: end_caps: {end_caps!r} is none of {', '.join(get_args(EndCaps))}")
    dose_type = _given(content, "dose_type", "")
    if dose_type not in ("", *DOSE_TYPES):
        raise InputError(f"{path}: 'dose_type' is {dose_type!r}, expected one of {', '.join(DOSE_TYPES)}")
    return DicomMapping(
        shared.rois,
        levels,
        plans,
        patients,
        shared.left_out_gy,
        end_caps,
        leave_out_helpers=bool(content.get("leave_out_helpers")),
        dose_type=dose_type,
    )


def _file_choice(content: Mapping[str, object], where: object) -> FileChoice:
    chosen = {}
    for key in ("structures", "ct"):
        value = _given(content, key, "")
        if not isinstance(value, str):
            raise InputError(f"{where}: '{key}' is {value!r}, expected a label or a UID in quotes")
        chosen[key] = value
    return FileChoice(**chosen)


def _entries(content: Mapping[str, object], where: object) -> PatientMapping:
    """What can be said of all patients and of one."""
    rois, levels = (_names(_given(content, key, {}), where, key) for key in ("rois", "prescriptions_gy"))
    left_out_gy = _given(content, "left_out_gy", ())
    for name, roi in rois.items():
        if not (roi is None or isinstance(roi, str)):
            raise InputError(f"{where}: '{name}: {roi}' is not a name and a name or null")
    if not isinstance(left_out_gy, list | tuple):
        raise InputError(f"{where}: 'left_out_gy' is {left_out_gy!r}, expected a list of levels in Gy")
    for name, level_gy in [*levels.items(), *(("left_out_gy", gy) for gy in left_out_gy)]:
        number = isinstance(level_gy, int | float) and not isinstance(level_gy, bool) and math.isfinite(level_gy)
        if not number and (level_gy is not None or name == "left_out_gy"):
            raise InputError(f"{where}: the prescription of '{name}' is {level_gy!r}, expected a number in Gy")
    numbers = {name: None if gy is None else float(gy) for name, gy in levels.items()}
    return PatientMapping(rois, numbers, tuple(float(gy) for gy in left_out_gy))


def _given(content: Mapping[str, object], key: str, default: Any) -> Any:
    """A value that may be left out, or left empty as in ``plans:``."""
    value = content.get(key)
    return default if value is None else value


def _names(value: object, where: object, key: str) -> dict[str, Any]:
    """A YAML object whose keys are names."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: '{key}' is {value!r}, expected names with values")
    for name, entry in value.items():
        if not isinstance(name, str):
            raise InputError(f"{where}: {key}: '{name}: {entry}' has no name before the colon; put it in quotes")
    return value
