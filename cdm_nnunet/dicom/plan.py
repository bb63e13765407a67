"""A treatment plan: prescriptions, fractions and beams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from cdm_nnunet.dicom.files import code_of, items_of, number_of, read_file, text_of
from cdm_nnunet.errors import InputError

ION_PLAN_CLASS = "1.2.840.10008.5.1.4.1.1.481.8"
PLAN_CLASSES = ("1.2.840.10008.5.1.4.1.1.481.5", ION_PLAN_CLASS)  # photons and electrons, ions


@dataclass(frozen=True)
class Prescription:
    """A prescribed dose of a plan.

    Attributes:
        dose_gy: TargetPrescriptionDose, total, Gy.
        roi_number: ROINumber of the target in the structure set; None if the plan prescribes to a point or a site.
        description: DoseReferenceDescription; may be empty.
        structure_type: DoseReferenceStructureType: ``POINT``, ``VOLUME``, ``COORDINATES`` or ``SITE``; may be empty.
    """

    dose_gy: float
    roi_number: int | None
    description: str
    structure_type: str = ""


@dataclass(frozen=True)
class Plan:
    """A treatment plan.

    Attributes:
        path: Its file.
        label: RTPlanLabel.
        prescriptions: Prescriptions in the plan; may be empty.
        n_fractions: Planned fractions; None if the plan does not say.
        beam_numbers: Beams that deliver dose in the only fraction group; setup beams are excluded.
        study_uid: StudyInstanceUID.
        sop_uid: SOPInstanceUID.
        frame_uid: FrameOfReferenceUID; empty if absent.
        structure_uid: SOPInstanceUID of the structure set; empty if the plan has none.
        patient_id: PatientID; may be empty.
        sop_class: SOPClassUID.
        approval: ApprovalStatus: ``APPROVED``, ``UNAPPROVED`` or ``REJECTED``; empty if absent.
        radiation: ``photons or electrons``, ``ions`` or ``brachytherapy``.
        notes: Dose references that are not used as a prescription.
    """

    path: Path
    label: str
    prescriptions: tuple[Prescription, ...]
    n_fractions: int | None
    beam_numbers: tuple[int, ...]
    study_uid: str
    sop_uid: str
    frame_uid: str
    structure_uid: str
    patient_id: str = ""
    sop_class: str = ""
    approval: str = ""
    radiation: str = "photons or electrons"
    notes: tuple[str, ...] = ()


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        InputError: If it is not a plan or has several fraction groups; or as :func:`cdm_nnunet.dicom.files.read_file`.
    """
    dataset = read_file(path, pixels=False)
    modality = text_of(dataset, "Modality", path)
    if modality != "RTPLAN":
        raise InputError(f"{path} is of modality {modality}, not RTPLAN")
    groups = items_of(dataset, "FractionGroupSequence", path)
    if len(groups) > 1:
        raise InputError(f"{path} has {len(groups)} fraction groups; plans with one are understood")
    n_fractions = number_of(groups[0], "NumberOfFractionsPlanned", path, 0) if groups else 0
    structures = items_of(dataset, "ReferencedStructureSetSequence", path)
    notes: list[str] = []
    return Plan(
        path,
        text_of(dataset, "RTPlanLabel", path, ""),
        tuple(_prescriptions(dataset, groups, path, notes)),
        int(n_fractions) or None,
        _beam_numbers(dataset, groups, path),
        text_of(dataset, "StudyInstanceUID", path),
        text_of(dataset, "SOPInstanceUID", path),
        text_of(dataset, "FrameOfReferenceUID", path, ""),
        text_of(structures[0], "ReferencedSOPInstanceUID", path) if structures else "",
        text_of(dataset, "PatientID", path, ""),
        text_of(dataset, "SOPClassUID", path),
        code_of(dataset, "ApprovalStatus", path, ""),
        _radiation(dataset, groups, path),
        tuple(notes),
    )


def _radiation(dataset: Dataset, groups: Sequence[Dataset], path: Path) -> str:
    if text_of(dataset, "SOPClassUID", path) == ION_PLAN_CLASS or items_of(dataset, "IonBeamSequence", path):
        return "ions"
    applications = items_of(dataset, "ApplicationSetupSequence", path)
    setups = sum(number_of(group, "NumberOfBrachyApplicationSetups", path, 0) for group in groups)
    return "brachytherapy" if applications or setups else "photons or electrons"


def _prescriptions(dataset: Dataset, groups: Sequence[Dataset], path: Path, notes: list[str]) -> Iterator[Prescription]:
    """Prescriptions from the dose references and the fraction group; other dose references are noted."""
    of_group: dict[int, list[float]] = {}
    for group in groups:
        for item in items_of(group, "ReferencedDoseReferenceSequence", path):
            number = int(number_of(item, "ReferencedDoseReferenceNumber", path, -1))
            of_group.setdefault(number, []).append(number_of(item, "TargetPrescriptionDose", path, 0))
    for item in items_of(dataset, "DoseReferenceSequence", path):
        own_gy = number_of(item, "TargetPrescriptionDose", path, 0)
        number = int(number_of(item, "DoseReferenceNumber", path, -2))
        doses_gy = [gy for gy in dict.fromkeys((own_gy, *of_group.get(number, ()))) if gy != 0]
        kind = code_of(item, "DoseReferenceType", path, "TARGET")
        roi_number = number_of(item, "ReferencedROINumber", path, -1)
        description = text_of(item, "DoseReferenceDescription", path, "")
        note = _no_level(item, kind, doses_gy, path)
        if min(doses_gy, default=0.0) < 0:
            raise InputError(
                f"{path}: dose reference '{description or number}' states a prescription of {min(doses_gy):g} Gy, "
                "not above zero; export the plan again, or correct it"
            )
        if note:
            notes.append(f"dose reference '{description or number}' of the plan is not a prescription: {note}")
            continue
        for dose_gy in doses_gy:
            structure_type = code_of(item, "DoseReferenceStructureType", path, "")
            yield Prescription(dose_gy, None if roi_number < 0 else int(roi_number), description, structure_type)


def _no_level(item: Dataset, kind: str, doses_gy: Sequence[float], path: Path) -> str:
    """Reason why a dose reference is not a prescription; empty if it is one, or gives no dose."""
    if doses_gy and kind != "TARGET":
        return f"{doses_gy[0]:g} Gy for type {kind}"
    if not doses_gy and kind == "TARGET":
        for keyword in ("TargetMinimumDose", "TargetMaximumDose"):
            bound_gy = number_of(item, keyword, path, 0)
            if bound_gy:
                return f"{keyword} {bound_gy:g} Gy alone"
    return ""


def _beam_numbers(dataset: Dataset, groups: Sequence[Dataset], path: Path) -> tuple[int, ...]:
    """Numbers of the treatment beams of the fraction group."""
    setup = {
        int(number_of(beam, "BeamNumber", path))
        for keyword in ("BeamSequence", "IonBeamSequence")
        for beam in items_of(dataset, keyword, path)
        if code_of(beam, "TreatmentDeliveryType", path, "TREATMENT") != "TREATMENT"
    }
    numbers = [
        int(number_of(beam, "ReferencedBeamNumber", path))
        for group in groups
        for beam in items_of(group, "ReferencedBeamSequence", path)
    ]
    return tuple(number for number in numbers if number not in setup)
