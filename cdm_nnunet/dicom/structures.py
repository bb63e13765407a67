"""A structure set as contours in the patient."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dicom.drawn import DrawnContours, drawn_contours
from cdm_nnunet.dicom.files import items_of, named, number_of, read_file, text_of
from cdm_nnunet.errors import InputError

STRUCTURE_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"


@dataclass(frozen=True, eq=False)
class RoiContours:
    """One ROI of a structure set.

    Attributes:
        number: ROINumber.
        name: ROIName, as in the file.
        kind: RTROIInterpretedType (``PTV``, ``ORGAN``, ``EXTERNAL``, ...); empty where it is not given.
        contours: Closed contours, each of shape (points, 3), LPS mm.
        unusable: Contours that enclose nothing, in words, with their number: ``{"POINT": 3}``.
        frame_uid: ReferencedFrameOfReferenceUID; empty where it is not given.
        exclusive: Which of the contours are to be combined by exclusive or (``CLOSEDPLANAR_XOR``), by their place.
        remarks: How some contours were taken, in words.
    """

    number: int
    name: str
    kind: str
    contours: tuple[NDArray[np.float64], ...]
    unusable: dict[str, int]
    frame_uid: str
    exclusive: frozenset[int] = frozenset()
    remarks: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether the ROI was never drawn."""
        return not self.contours and not self.unusable

    @property
    def problem(self) -> str:
        """Why the ROI has no volume; empty where it has one."""
        if self.is_empty:
            return f"ROI '{self.name}' has no contours"
        if not self.contours:
            return f"ROI '{self.name}' encloses no volume: all it has are {self._unusable_words()}"
        return ""

    @property
    def note(self) -> str:
        """What was left out of an ROI that has a volume, and how contours were taken; empty where all is plain."""
        parts = [*([f"left out {self._unusable_words()}"] if self.unusable else []), *self.remarks]
        return f"ROI '{self.name}': {'; '.join(parts)}" if self.contours and parts else ""

    def refuse_without_volume(self) -> None:
        """Check that there is a closed contour.

        Raises:
            InputError: If not.
        """
        if self.problem:
            raise InputError(self.problem)

    def _unusable_words(self) -> str:
        return ", ".join(f"{count} {what}" for what, count in self.unusable.items())


@dataclass(frozen=True, eq=False)
class StructureSet:
    """A structure set.

    Attributes:
        path: Its file.
        rois: In the order of the file.
        study_uid: StudyInstanceUID.
        sop_uid: SOPInstanceUID.
        frame_uid: The frame of reference of its ROIs; empty where the file does not say.
        series_uids: SeriesInstanceUID of the images that it was drawn on.
        image_uids: SOPInstanceUID of the images that it refers to.
    """

    path: Path
    rois: tuple[RoiContours, ...]
    study_uid: str
    sop_uid: str
    frame_uid: str
    series_uids: tuple[str, ...]
    image_uids: frozenset[str]

    @property
    def names(self) -> tuple[str, ...]:
        """ROI names in the order of the file."""
        return tuple(roi.name for roi in self.rois)

    def roi(self, name: str) -> RoiContours:
        """The ROI of this name.

        Raises:
            InputError: If there is none, or several.
        """
        found = [roi for roi in self.rois if roi.name == name]
        if not found:
            raise InputError(f"{self.path} has no ROI '{name}'; it has {', '.join(self.names) or 'none'}")
        if len(found) > 1:
            numbers = ", ".join(str(roi.number) for roi in found)
            raise InputError(f"{self.path} has {len(found)} ROIs named '{name}' (numbers {numbers}): rename them")
        return found[0]

    def refuse_other_images(self, image_uids: frozenset[str]) -> None:
        """Check that the images that were drawn on are there.

        Args:
            image_uids: SOPInstanceUIDs of the images at hand.

        Raises:
            InputError: If some are not.
        """
        missing = self.image_uids - image_uids
        if missing:
            raise InputError(
                f"{self.path} refers to {len(self.image_uids)} images of which {len(missing)} are not in the folder, "
                f"for example {min(missing)}; export the CT that the contours were drawn on"
            )


def read_structures(path: Path) -> StructureSet:
    """Read a structure set.

    Raises:
        InputError: If it is no structure set, has no ROIs, its ROIs lie in several frames of reference, or a contour's
            data are damaged; or as :func:`cdm_nnunet.dicom.files.read_file`.
    """
    dataset = read_file(path, pixels=False)
    modality = text_of(dataset, "Modality", path)
    if modality != "RTSTRUCT":
        raise InputError(f"{path} is of modality {modality}, not RTSTRUCT")
    series_uids, image_uids, frames = [], set(), set()
    for frame in items_of(dataset, "ReferencedFrameOfReferenceSequence", path):
        frames.add(text_of(frame, "FrameOfReferenceUID", path, ""))
        for study in items_of(frame, "RTReferencedStudySequence", path):
            for series in items_of(study, "RTReferencedSeriesSequence", path):
                series_uids.append(text_of(series, "SeriesInstanceUID", path))
                images = items_of(series, "ContourImageSequence", path)
                image_uids |= {text_of(image, "ReferencedSOPInstanceUID", path) for image in images}
    kinds = {
        int(number_of(item, "ReferencedROINumber", path)): text_of(item, "RTROIInterpretedType", path, "")
        for item in items_of(dataset, "RTROIObservationsSequence", path)
    }
    drawn: dict[int, DrawnContours] = {}
    for item in items_of(dataset, "ROIContourSequence", path):
        number = int(number_of(item, "ReferencedROINumber", path))
        if number in drawn:
            raise InputError(f"{path} has contours of ROI number {number} in two places")
        drawn[number] = drawn_contours(items_of(item, "ContourSequence", path), f"{path}: ROI number {number}")
        image_uids |= drawn[number].image_uids
    rois = []
    for item in items_of(dataset, "StructureSetROISequence", path):
        number = int(number_of(item, "ROINumber", path))
        own = drawn.pop(number, DrawnContours())
        name = text_of(item, "ROIName", path, f"ROI {number} without a name")
        frame_uid = text_of(item, "ReferencedFrameOfReferenceUID", path, "")
        if own.closed and frame_uid:
            frames.add(frame_uid)
        rois.append(
            RoiContours(
                *(number, name, kinds.get(number, ""), own.closed, own.unusable, frame_uid),
                exclusive=own.exclusive,
                remarks=own.remarks,
            )
        )
    strays = sorted(number for number, own in drawn.items() if own.closed or own.unusable)
    if strays:
        raise InputError(f"{path} has contours of ROI numbers {strays}, which have no {named('ROIName')}")
    if not rois:
        raise InputError(f"{path} has no ROIs")
    frames.discard("")
    if len(frames) > 1:
        raise InputError(f"{path} has ROIs in {len(frames)} frames of reference ({', '.join(sorted(frames))})")
    return StructureSet(
        path,
        tuple(rois),
        text_of(dataset, "StudyInstanceUID", path),
        text_of(dataset, "SOPInstanceUID", path),
        next(iter(frames), ""),
        tuple(dict.fromkeys(series_uids)),
        frozenset(image_uids),
    )
