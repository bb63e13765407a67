"""The mapping file ``rois.yaml``: the template's name for each ROI name in the files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cdm_nnunet.dicom.file_choice import FileChoice
from cdm_nnunet.dicom.plan_choice import DEFAULT, RULES, Choice
from cdm_nnunet.documents import read_yaml, refuse, typed
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.end_caps import DEFAULT_END_CAPS, EndCaps
from cdm_nnunet.roi.tg263 import propose

_Level = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class PatientMapping:
    """Entries for one patient, or for one case of a patient with several cases.

    Attributes:
        rois: As in :class:`DicomMapping`; they override those of all patients.
        prescriptions_gy: Gy by name in the template; None uses the plan's.
        left_out_gy: Levels of the plan that are excluded on purpose.
        files: Choice among several structure sets and CT series; for a patient, not for one of several cases.
    """

    rois: Mapping[str, str | None] = field(default_factory=dict)
    prescriptions_gy: Mapping[str, float | None] = field(default_factory=dict)
    left_out_gy: tuple[float, ...] = ()
    files: FileChoice = field(default_factory=FileChoice)


@dataclass(frozen=True)
class DicomMapping:
    """Mapping of ROI names, and choices for plans and prescriptions.

    Attributes:
        rois: Name in the template by name in the files, None for an excluded ROI.
        prescriptions_gy: Gy by name in the template, for plans that do not prescribe to the target.
        plans: Choice among several plans, by the patient's name and under ``default`` for all others; see
            :mod:`cdm_nnunet.dicom.plan_choice`.
        patients: Entries that differ, by the name of a patient or case.
        left_out_gy: Levels of the plans that are excluded on purpose.
        end_caps: End caps of ROIs, as in :func:`cdm_nnunet.geometry.contours.stack_of`; None for the default.
        leave_out_helpers: Exclude names that are not in ``rois`` and look like helper structures.
        dose_type: ``PHYSICAL`` or ``EFFECTIVE``, if patients have doses of both types; empty without a choice.
        match_geometry: Match the CT by its slices if the contours refer to no CT in the folder.
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
        """End caps of ROIs."""
        return self.end_caps or DEFAULT_END_CAPS

    @property
    def choice(self) -> Choice:
        """Choice among several plans, doses, structure sets and CT series of a patient."""
        return Choice(
            self.plans, self.dose_type, {name: own.files for name, own in self.patients.items()}, self.match_geometry
        )

    def to_json(self) -> dict[str, Any]:
        """JSON for the ``cdm`` section of ``dataset.json``, without entries for single patients.

        A name with another meaning in some patient is left out: it must be assigned again for a new patient.
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
        """This mapping of a model, updated with the entries of another one.

        Raises:
            InputError: If the other one has other end caps than the model's training data.
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
        """Entries that apply to one case.

        Args:
            patient: Name of the patient.
            case: Name of the case; its entries override the patient's.

        Returns:
            The mapping, with the patient's ROIs and without the prescriptions for which the patient has an entry;
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
            InputError: If some are missing; the message names them.
        """
        names = [roi.name for roi in template.rois]
        parts: list[DicomMapping | PatientMapping] = [self, *self.patients.values()]
        used = {roi for part in parts for roi in (*part.rois.values(), *part.prescriptions_gy) if roi}
        strays = sorted(used - set(names))
        if strays:
            raise InputError(
                f"the mapping has ROIs that are not in template '{template.name}': {', '.join(strays)}; map them to "
                f"null or to one of {', '.join(names)}"
            )
        targets = [roi.name for roi in template.rois if roi.kind == "target"]
        strays = sorted({roi for part in parts for roi in part.prescriptions_gy} - set(targets))
        if strays:
            raise InputError(
                f"the mapping has a prescription of '{strays[0]}', which is not a target of the template; targets are "
                f"{', '.join(targets)}"
            )

    def helpers(self, in_file: Iterable[str]) -> tuple[str, ...]:
        """Names excluded because they look like helper structures; empty unless requested."""
        if not self.leave_out_helpers:
            return ()
        return tuple(name for name in in_file if name not in self.rois and propose(name).is_helper)

    def names(self, in_file: Iterable[str], where: object, empty: Collection[str] = ()) -> dict[str, str]:
        """Name in the file by name in the template, for one patient.

        Args:
            in_file: Names in the file, without duplicates.
            where: The file, for messages.
            empty: Names of empty ROIs: another name for the same ROI takes precedence.

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
                raise InputError(f"{where}: '{found[roi]}' and '{name}' both mean ROI '{roi}'; map one to null")
            found[roi] = name
        return found


class _Entries(BaseModel):
    """Entries for all patients or for one; null and empty count as missing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rois: dict[str, str | None] | None = None
    left_out_gy: tuple[_Level, ...] | None = None


class _PatientEntry(_Entries):
    prescriptions_gy: dict[str, _Level | None] | None = None
    structures: str | None = None
    ct: str | None = None

    def mapping(self) -> PatientMapping:
        return PatientMapping(
            self.rois or {},
            self.prescriptions_gy or {},
            self.left_out_gy or (),
            FileChoice(self.structures or "", self.ct or ""),
        )


class _MappingFile(_Entries):
    rois: dict[str, str | None] | None  # (may be empty, must be present)
    prescriptions_gy: dict[str, _Level] | None = None
    plans: str | dict[str, str] | None = None
    patients: dict[str, _PatientEntry | None] | None = None
    dose_type: Literal["", "PHYSICAL", "EFFECTIVE"] | None = None
    end_caps: EndCaps | None = None
    leave_out_helpers: bool | None = None

    @model_validator(mode="after")
    def _a_rule_for_all(self) -> _MappingFile:
        rule = self.plans if isinstance(self.plans, str) else (self.plans or {}).get(DEFAULT, RULES[0])
        if rule not in RULES:
            message = f"'{rule}' is not a rule for all patients; those are {', '.join(RULES)}"
            refuse([(("plans",), message)])
        return self

    def mapping(self) -> DicomMapping:
        return DicomMapping(
            self.rois or {},
            self.prescriptions_gy or {},
            {DEFAULT: self.plans} if isinstance(self.plans, str) else self.plans or {},
            {name: (own or _PatientEntry()).mapping() for name, own in (self.patients or {}).items()},
            self.left_out_gy or (),
            self.end_caps,
            leave_out_helpers=bool(self.leave_out_helpers),
            dose_type=self.dose_type or "",
        )


def read_mapping(path: Path) -> DicomMapping:
    """Read a mapping file.

    Raises:
        InputError: If it is missing, is not YAML or has unknown keys or invalid values; with line and column.
    """
    return read_yaml(path, _MappingFile, "'cdm-nnunet inspect dicom' writes one to review").mapping()


def mapping_from(content: object, path: object) -> DicomMapping:
    """Mapping from its entry in ``dataset.json``.

    Args:
        content: Parsed YAML or JSON.
        path: Its file, for messages.

    Raises:
        InputError: If it has unknown keys or invalid values.
    """
    return typed(content, _MappingFile, path).mapping()
