"""Header fields that identify a DICOM file and its references."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FileEntry:
    """Header of a file.

    Attributes:
        path: The file.
        modality: CT, RTSTRUCT, RTPLAN, RTDOSE or another.
        patient: PatientID.
        sop_uid: SOPInstanceUID.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        frame_uid: FrameOfReferenceUID; empty if absent.
        refers_to: UIDs: series of a structure set, structure set of a plan, plans of a dose.
        is_relative: Whether a dose is in percent or parts (DoseUnits RELATIVE).
        images: SOPInstanceUIDs of the CT images that a structure set lists.
        label: StructureSetLabel, RTPlanLabel, DoseSummationType of a dose, SeriesDescription of an image; may be empty.
        made: Date and time of a plan, digits; may be empty.
        sop_class: SOPClassUID; may be empty.
        approval: ApprovalStatus of a plan; may be empty.
        dose_type: DoseType of a dose; may be empty.
        has_grid: Whether a dose has a grid of voxels; some contain only DVHs.
        is_prediction: Whether a dose was predicted by this software.
    """

    path: str
    modality: str
    patient: str
    sop_uid: str
    study_uid: str
    series_uid: str
    frame_uid: str
    refers_to: tuple[str, ...]
    label: str = ""
    made: str = ""
    sop_class: str = ""
    approval: str = ""
    dose_type: str = ""
    has_grid: bool = True
    is_prediction: bool = False
    images: tuple[str, ...] = ()
    is_relative: bool = False
