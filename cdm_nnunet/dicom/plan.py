"""A treatment plan: what was prescribed, in how many fractions, with which beams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from cdm_nnunet.dicom.files import items_of, number_of, read_file, text_of
from cdm_nnunet.errors import InputError

PLAN_CLASSES = ("1.2.840.10008.5.1.4.1.1.481.5", "1.2.840.10008.5.1.4.1.1.481.8")  # photons and electrons, ions


@dataclass(frozen=True)
class Prescription:
    """A prescribed dose of a plan.

    Attributes:
        dose_gy: TargetPrescriptionDose, total, Gy.
        roi_number: ROINumber of the target in the structure set; None where the plan prescribes to a point or a site.
        description: DoseReferenceDescription; may be empty.
    """

    dose_gy: float
    roi_number: int | None
    description: str


@dataclass(frozen=True)
class Plan:
    """A treatment plan.

    Attributes:
        path: Its file.
        label: RTPlanLabel.
        prescriptions: As the plan gives them; may be empty.
        n_fractions: Planned fractions; None where the plan does not say.
        beam_numbers: Beams that deliver dose in the one fraction group; setup beams are left out.
        study_uid: StudyInstanceUID.
        sop_uid: SOPInstanceUID.
        frame_uid: FrameOfReferenceUID; empty where it is not given.
        structure_uid: SOPInstanceUID of the structure set; empty where the plan has none.
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


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        InputError: If it is no plan or has several fraction groups; or as :func:`cdm_nnunet.dicom.files.read_file`.
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
    return Plan(
        path,
        text_of(dataset, "RTPlanLabel", path, ""),
        tuple(_prescriptions(dataset, path)),
        int(n_fractions) or None,
        _beam_numbers(dataset, groups, path),
        text_of(dataset, "StudyInstanceUID", path),
        text_of(dataset, "SOPInstanceUID", path),
        text_of(dataset, "FrameOfReferenceUID", path, ""),
        text_of(structures[0], "ReferencedSOPInstanceUID", path) if structures else "",
    )


def prescriptions_gy(plans: Sequence[Plan], name_of: Callable[[Prescription], str | None]) -> dict[str, float]:
    """Prescribed doses of a plan, or of a course of several, by name.

    The highest, where a plan prescribes to a name more than once. Those of several plans add up where all of them
    prescribe to it; else the total is not known, and it is left out.

    Args:
        plans: The plans.
        name_of: What a prescription is called; None for one that does not count.
    """
    levels: list[dict[str, float]] = []
    for plan in plans:
        found: dict[str, float] = {}
        for level in plan.prescriptions:
            name = name_of(level)
            if name is not None:
                found[name] = max(level.dose_gy, found.get(name, 0.0))
        levels.append(found)
    shared = [name for name in (levels[0] if levels else ()) if all(name in found for found in levels)]
    return {name: sum(found[name] for found in levels) for name in shared}


def _prescriptions(dataset: Dataset, path: Path) -> list[Prescription]:
    found = []
    for item in items_of(dataset, "DoseReferenceSequence", path):
        dose_gy = number_of(item, "TargetPrescriptionDose", path, 0)
        if text_of(item, "DoseReferenceType", path, "") != "TARGET" or dose_gy == 0:
            continue
        roi_number = number_of(item, "ReferencedROINumber", path, -1)
        found.append(
            Prescription(
                dose_gy,
                None if roi_number < 0 else int(roi_number),
                text_of(item, "DoseReferenceDescription", path, ""),
            )
        )
    return found


def _beam_numbers(dataset: Dataset, groups: Sequence[Dataset], path: Path) -> tuple[int, ...]:
    """Numbers of the treatment beams of the fraction group."""
    setup = {
        int(number_of(beam, "BeamNumber", path))
        for keyword in ("BeamSequence", "IonBeamSequence")
        for beam in items_of(dataset, keyword, path)
        if text_of(beam, "TreatmentDeliveryType", path, "TREATMENT") != "TREATMENT"
    }
    numbers = [
        int(number_of(beam, "ReferencedBeamNumber", path))
        for group in groups
        for beam in items_of(group, "ReferencedBeamSequence", path)
    ]
    return tuple(number for number in numbers if number not in setup)
