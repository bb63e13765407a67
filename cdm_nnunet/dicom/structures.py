"""A structure set as contours in the patient."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.dataset import Dataset

from cdm_nnunet.counting import counted
from cdm_nnunet.dicom.drawn import DrawnContours, ImageLists, drawn_contours, images_of
from cdm_nnunet.dicom.files import items_of, named, number_of, numbers_of, read_file, text_of
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.roi_contours import RoiContours

STRUCTURE_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"


@dataclass(frozen=True, eq=False)
class StructureSet:
    """A structure set.

    Attributes:
        path: Its file.
        rois: In the order of the file.
        study_uid: StudyInstanceUID.
        sop_uid: SOPInstanceUID.
        listed: SOPInstanceUIDs of the CT images that it lists, by SeriesInstanceUID.
        drawn_on: SOPInstanceUIDs of the CT images that the contours refer to.
        drawn_elsewhere: SOPInstanceUIDs of images of other modalities that they refer to.
    """

    path: Path
    rois: tuple[RoiContours, ...]
    study_uid: str
    sop_uid: str
    listed: Mapping[str, frozenset[str]]
    drawn_on: frozenset[str]
    drawn_elsewhere: frozenset[str] = frozenset()

    @property
    def frame_uid(self) -> str:
        """Frame of reference of the contoured ROIs; empty if absent, or if there are several."""
        return next(iter(self.frames)) if len(self.frames) == 1 else ""

    @property
    def frames(self) -> frozenset[str]:
        """Frames of reference of the contoured ROIs; an empty text stands for an absent one."""
        return frozenset(roi.frame_uid for roi in self.rois if roi.contours)

    @property
    def names(self) -> tuple[str, ...]:
        """ROI names in the order of the file, without duplicates."""
        return tuple(dict.fromkeys(roi.name for roi in self.rois))

    @property
    def empty_names(self) -> frozenset[str]:
        """Names of ROIs that enclose no volume."""
        return frozenset(self.names) - {roi.name for roi in self.rois if not roi.problem}

    def roi(self, name: str) -> RoiContours:
        """The ROI of this name; empty ROIs of the same name are ignored.

        Raises:
            InputError: If there is none, or several have contours.
        """
        named_so = [roi for roi in self.rois if roi.name == name]
        if not named_so:
            raise InputError(f"{self.path} has no ROI '{name}'; it has {', '.join(self.names) or 'none'}")
        drawn = [roi for roi in named_so if not roi.problem]
        if len(drawn) > 1:
            numbers = ", ".join(str(roi.number) for roi in drawn)
            raise InputError(f"{self.path} has {len(drawn)} ROIs named '{name}' (numbers {numbers}): rename them")
        chosen = drawn[0] if drawn else named_so[0]
        if drawn and len(named_so) > 1:
            remark = f"{len(named_so) - 1} more of that name without contours ignored"
            chosen = replace(chosen, remarks=(*chosen.remarks, remark))
        return chosen

    def refuse_other_frame(self, names: Collection[str], frame_uid: str, what: object) -> None:
        """Check the frame of reference of ROIs.

        Args:
            names: Names of the ROIs.
            frame_uid: The frame of reference; empty if it is not known.
            what: The object in that frame, for messages.

        Raises:
            InputError: If an ROI names another one.
        """
        for roi in map(self.roi, names):
            if roi.contours and roi.frame_uid and frame_uid and roi.frame_uid != frame_uid:
                raise InputError(
                    f"{self.path} and {what} lie in different frames of reference (ROI '{roi.name}' in "
                    f"{roi.frame_uid}, not in {frame_uid}); their coordinates can't be compared"
                )

    def refuse_other_images(self, image_uids: frozenset[str]) -> str:
        """Check that all images with contours are present.

        Other series that the file lists may be absent, as may images of other modalities (MR, PET).

        Args:
            image_uids: SOPInstanceUIDs of the present images.

        Returns:
            A note if contours were drawn on images of other modalities; otherwise empty.

        Raises:
            InputError: If CT images are missing.
        """
        own = frozenset().union(*(images for images in self.listed.values() if images & image_uids))
        everything = frozenset().union(*self.listed.values())
        needed = self.drawn_on | own or everything
        if missing := needed - image_uids:
            raise InputError(
                f"{self.path} refers to {counted(len(needed), 'image')}, {len(missing)} missing in the folder, for "
                f"example {min(missing)}; export the CT that the contours were drawn on"
            )
        if not self.drawn_elsewhere:
            return ""
        images = counted(len(self.drawn_elsewhere), "image")
        return f"contours were drawn on {images} other than CT, in its frame of reference"


def read_structures(path: Path) -> StructureSet:
    """Read a structure set.

    Raises:
        InputError: If it is not a structure set, has no ROIs, or a contour's data are damaged; or as
            :func:`cdm_nnunet.dicom.files.read_file`.
    """
    dataset = read_file(path, pixels=False)
    modality = text_of(dataset, "Modality", path)
    if modality != "RTSTRUCT":
        raise InputError(f"{path} is of modality {modality}, not RTSTRUCT")
    listed, only_frame = _referenced(dataset, path)
    kinds = {
        int(number_of(item, "ReferencedROINumber", path)): text_of(item, "RTROIInterpretedType", path, "")
        for item in items_of(dataset, "RTROIObservationsSequence", path)
    }
    drawn, colours = _drawn(dataset, path), _colours(dataset, path)
    rois = []
    drawn_on, elsewhere = (
        (frozenset().union(*uids) for uids in zip(*(own.image_uids for own in drawn.values()), strict=True))
        if drawn
        else (frozenset(), frozenset())
    )
    for item in items_of(dataset, "StructureSetROISequence", path):
        number = int(number_of(item, "ROINumber", path))
        own = drawn.pop(number, DrawnContours())
        name = text_of(item, "ROIName", path, f"ROI {number} without a name")
        frame_uid = text_of(item, "ReferencedFrameOfReferenceUID", path, only_frame)
        rois.append(
            RoiContours(
                *(number, name, kinds.get(number, ""), own.closed, own.unusable, frame_uid),
                exclusive=own.exclusive,
                remarks=own.remarks,
                colour=colours.get(number, ""),
            )
        )
    strays = sorted(number for number, own in drawn.items() if own.closed or own.unusable)
    if strays:
        raise InputError(f"{path} has contours of ROI numbers {strays}, which have no {named('ROIName')}")
    if not rois:
        raise InputError(f"{path} has no ROIs")
    return StructureSet(
        path,
        tuple(rois),
        text_of(dataset, "StudyInstanceUID", path),
        text_of(dataset, "SOPInstanceUID", path),
        listed,
        drawn_on,
        elsewhere,
    )


def _referenced(dataset: Dataset, path: Path) -> tuple[dict[str, frozenset[str]], str]:
    """Listed images by series, and the frame of reference if there is only one."""
    listed: dict[str, frozenset[str]] = {}
    frames: set[str] = set()
    for frame in items_of(dataset, "ReferencedFrameOfReferenceSequence", path):
        frames.add(text_of(frame, "FrameOfReferenceUID", path, ""))
        for study in items_of(frame, "RTReferencedStudySequence", path):
            for series in items_of(study, "RTReferencedSeriesSequence", path):
                uid = text_of(series, "SeriesInstanceUID", path, "")
                images = items_of(series, "ContourImageSequence", path)
                listed[uid] = listed.get(uid, frozenset()) | images_of(images, path)[0]
    frames.discard("")
    return listed, next(iter(frames)) if len(frames) == 1 else ""


def _colours(dataset: Dataset, path: Path) -> dict[int, str]:
    """Colours by ROI number; missing or damaged ones are left out, because they do not matter clinically."""
    colours = {}
    for item in items_of(dataset, "ROIContourSequence", path):
        try:
            levels = numbers_of(item, "ROIDisplayColor", path, 3).tolist()
        except InputError:
            continue
        if all(level in range(256) for level in levels):
            colours[int(number_of(item, "ReferencedROINumber", path))] = "#" + bytes(map(int, levels)).hex()
    return colours


def _drawn(dataset: Dataset, path: Path) -> dict[int, DrawnContours]:
    """Contours by ROI number."""
    drawn: dict[int, DrawnContours] = {}
    lists = ImageLists()
    for item in items_of(dataset, "ROIContourSequence", path):
        number = int(number_of(item, "ReferencedROINumber", path))
        if number in drawn:
            raise InputError(f"{path} has contours of ROI number {number} in two places")
        contours = items_of(item, "ContourSequence", path)
        drawn[number] = drawn_contours(contours, f"{path}: ROI number {number}", lists)
    return drawn
