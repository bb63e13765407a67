"""Phantom patients as DICOM files: CT series, structure set, plan and dose, with solids of known volumes and DVHs.

    python -m cdm_nnunet.dicom.phantom FOLDER [N]

writes N of them (one without a number), to try the software without patient data. Phantoms with head-and-neck
anatomy: ``cdm-nnunet demo --dicom N -o FOLDER``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from cdm_nnunet.dicom.ct import CT_CLASS
from cdm_nnunet.dicom.dose import DOSE_CLASS
from cdm_nnunet.dicom.phantom_shapes import Cylinder, Solid, Sphere
from cdm_nnunet.dicom.plan import PLAN_CLASSES
from cdm_nnunet.dicom.structures import STRUCTURE_CLASS

DoseFunction = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # points (..., 3) in LPS mm -> Gy (...)
CtFunction = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # points (..., 3) in LPS mm -> HU (...)

# ImageOrientationPatient of axial slices as scanners write them.
ORIENTATIONS: Mapping[str, tuple[float, ...]] = {
    "HFS": (1, 0, 0, 0, 1, 0),
    "HFP": (-1, 0, 0, 0, -1, 0),
    "FFS": (-1, 0, 0, 0, 1, 0),
    "FFP": (1, 0, 0, 0, -1, 0),
    "HFDL": (0, -1, 0, 1, 0, 0),
    "HFDR": (0, 1, 0, -1, 0, 0),
}


@dataclass(frozen=True)
class LinearDose:
    """Dose that is linear along one axis: ``at_origin_gy + gradient * coordinate``."""

    axis: int
    gradient_gy_per_mm: float
    at_origin_gy: float

    def __call__(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Dose at points (..., 3), Gy."""
        return np.maximum(self.at_origin_gy + self.gradient_gy_per_mm * points_mm[..., self.axis], 0.0)


@dataclass(frozen=True)
class GaussianDose:
    """Dose around a centre: ``peak_gy * exp(-r^2 / (2 sigma^2))``; a very large sigma makes it uniform."""

    centre_mm: tuple[float, float, float]
    sigma_mm: float
    peak_gy: float

    def __call__(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Dose at points (..., 3), Gy."""
        square = ((points_mm - np.array(self.centre_mm)) ** 2).sum(-1)
        return np.asarray(self.peak_gy * np.exp(-square / (2 * self.sigma_mm**2)))


@dataclass(frozen=True)
class Phantom:
    """Parameters of a phantom patient.

    Attributes:
        solids: ROIs by name.
        dose: Dose in the patient.
        position: Patient position; a key of :data:`ORIENTATIONS`.
        slices_z_mm: Positions of the CT slices.
        pixels: Rows and columns of the CT.
        pixel_mm: Spacing of rows and columns.
        dose_spacing_mm: Voxel size of the dose grid (x, y, z).
        dose_margin_mm: Distance from the edge of the CT to that of the dose grid; negative if the grid is larger.
        prescriptions_gy: Prescribed dose by ROI name.
        kinds: RTROIInterpretedType by ROI name; ``ORGAN`` by default.
        beams: Number of beams in the plan.
        dose_per_beam: Write one dose file per beam instead of one per plan.
        absolute_offsets: Write GridFrameOffsetVector as z coordinates, not as offsets.
        tilt_degrees: Rotation of all images and contours about the x axis of the patient.
        seed: Determines the UIDs.
        ct_hu: CT; None gives 0 HU in the solids and -1000 HU around them.
    """

    solids: Mapping[str, Solid]
    dose: DoseFunction
    position: str = "HFS"
    slices_z_mm: tuple[float, ...] = tuple(float(z) for z in range(-40, 41, 2))
    pixels: tuple[int, int] = (64, 72)
    pixel_mm: tuple[float, float] = (2.0, 2.0)
    dose_spacing_mm: tuple[float, float, float] = (2.5, 2.5, 2.5)
    dose_margin_mm: float = 0.0
    prescriptions_gy: Mapping[str, float] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    beams: int = 1
    dose_per_beam: bool = False
    absolute_offsets: bool = False
    tilt_degrees: float = 0.0
    seed: int = 0
    ct_hu: CtFunction | None = None

    @property
    def rotation(self) -> NDArray[np.float64]:
        """Rotation matrix; its rows are the images of the axes x, y and z."""
        angle = np.deg2rad(self.tilt_degrees)
        c, s = np.cos(angle), np.sin(angle)
        return np.array([[1.0, 0.0, 0.0], [0.0, c, s], [0.0, -s, c]])


@dataclass(frozen=True)
class PhantomFiles:
    """Paths of a written phantom."""

    folder: Path
    ct: tuple[Path, ...]
    structures: Path
    plan: Path
    doses: tuple[Path, ...]


def write_phantom(phantom: Phantom, folder: Path) -> PhantomFiles:
    """Write a phantom patient.

    Args:
        phantom: Its parameters.
        folder: Output folder; it is made.

    Returns:
        The files: ``ct_NNN.dcm``, ``structures.dcm``, ``plan.dcm``, ``dose.dcm`` or ``dose_N.dcm``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writer = _Writer(phantom, folder)
    return PhantomFiles(folder, writer.ct(), writer.structures(), writer.plan(), writer.doses())


def demonstration_phantom(seed: int = 0) -> Phantom:
    """A patient with body, two target levels and organs, each a solid; positions depend on the seed."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-6, 6, 2)
    solids: dict[str, Solid] = {
        "BODY": Cylinder((0.0, 0.0, 0.0), 58.0, 76.0),
        "PTV_7000": Sphere((x, y, 0.0), 12.0 + rng.uniform(0, 3)),
        "PTV_5600": Sphere((x, y, 0.0), 20.0 + rng.uniform(0, 3)),
        "Lt Parotid": Sphere((40.0, 5.0, 5.0), 10.0),
        "Rt Parotid": Sphere((-40.0, 5.0, 5.0), 10.0),
        "Cord": Cylinder((0.0, 42.0, 0.0), 5.0, 72.0),
    }
    return Phantom(
        solids,
        GaussianDose((x, y, 0.0), 35.0, 76.0),
        prescriptions_gy={"PTV_7000": 70.0, "PTV_5600": 56.0},
        kinds={"BODY": "EXTERNAL", "PTV_7000": "PTV", "PTV_5600": "PTV"},
        seed=seed,
    )


class _Writer:
    """Writes the files of one phantom; they share study, frame of reference and references."""

    def __init__(self, phantom: Phantom, folder: Path) -> None:
        self.phantom, self.folder = phantom, folder
        names = ("study", "frame", "ct_series", "structures", "plan", "dose")
        self.uids = {name: self._uid(name) for name in names}
        self.orientation = np.array(ORIENTATIONS[phantom.position], np.float64)
        self.normal = np.cross(self.orientation[:3], self.orientation[3:])
        self.ct_uids = tuple(self._uid(f"ct {k}") for k in range(len(phantom.slices_z_mm)))
        self.numbers = {name: number for number, name in enumerate(phantom.solids, 1)}

    def ct(self) -> tuple[Path, ...]:
        rows, columns = self.phantom.pixels
        spacing = self.phantom.pixel_mm
        files = []
        for k, z_mm in enumerate(self.phantom.slices_z_mm):
            corner_mm = self._corner((rows, columns), spacing, z_mm)
            points_mm = self._plane(corner_mm, (rows, columns), spacing)
            dataset = self._dataset(CT_CLASS, "CT", self.ct_uids[k], self.uids["ct_series"], f"ct_{k:03d}.dcm")
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
            dataset.PatientPosition = self.phantom.position
            dataset.InstanceNumber = k + 1
            self._image(dataset, self._stored_ct(points_mm), corner_mm, spacing)
            dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, -1024, "HU"
            dataset.SliceThickness = f"{np.median(np.diff(self.phantom.slices_z_mm)):.6g}"
            files.append(self._save(dataset, f"ct_{k:03d}.dcm"))
        return tuple(files)

    def _stored_ct(self, points_mm: NDArray[np.float64]) -> NDArray[np.uint16]:
        """CT values + 1024, shape (rows, columns)."""
        if self.phantom.ct_hu is not None:
            return np.rint(self.phantom.ct_hu(points_mm) + 1024).clip(0, 4095).astype(np.uint16)
        inside = np.any([solid.contains(points_mm) for solid in self.phantom.solids.values()], 0)
        return np.where(inside, 1024, 24).astype(np.uint16)

    def structures(self) -> Path:
        dataset = self._dataset(STRUCTURE_CLASS, "RTSTRUCT", self.uids["structures"], None, "structures.dcm")
        dataset.StructureSetLabel = "phantom"
        dataset.StructureSetDate, dataset.StructureSetTime = "20260101", "120000"
        images = [_item(ReferencedSOPClassUID=CT_CLASS, ReferencedSOPInstanceUID=uid) for uid in self.ct_uids]
        series = _item(SeriesInstanceUID=self.uids["ct_series"], ContourImageSequence=images)
        study = _item(
            ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
            ReferencedSOPInstanceUID=self.uids["study"],
            RTReferencedSeriesSequence=[series],
        )
        dataset.ReferencedFrameOfReferenceSequence = [
            _item(FrameOfReferenceUID=self.uids["frame"], RTReferencedStudySequence=[study])
        ]
        dataset.StructureSetROISequence, dataset.ROIContourSequence, dataset.RTROIObservationsSequence = [], [], []
        for name, number in self.numbers.items():
            dataset.StructureSetROISequence.append(
                _item(
                    ROINumber=number,
                    ReferencedFrameOfReferenceUID=self.uids["frame"],
                    ROIName=name,
                    ROIGenerationAlgorithm="MANUAL",
                )
            )
            dataset.ROIContourSequence.append(
                _item(ReferencedROINumber=number, ContourSequence=self._contours(self.phantom.solids[name]))
            )
            dataset.RTROIObservationsSequence.append(
                _item(
                    ObservationNumber=number,
                    ReferencedROINumber=number,
                    RTROIInterpretedType=self.phantom.kinds.get(name, "ORGAN"),
                    ROIInterpreter="",
                )
            )
        return self._save(dataset, "structures.dcm")

    def plan(self) -> Path:
        dataset = self._dataset(PLAN_CLASSES[0], "RTPLAN", self.uids["plan"], None, "plan.dcm")
        dataset.RTPlanLabel = "phantom"
        dataset.RTPlanDate, dataset.RTPlanTime, dataset.RTPlanGeometry = "20260101", "120000", "PATIENT"
        dataset.DoseReferenceSequence = [
            _item(
                DoseReferenceNumber=k,
                DoseReferenceStructureType="VOLUME",
                ReferencedROINumber=self.numbers[name],
                DoseReferenceDescription=name,
                DoseReferenceType="TARGET",
                TargetPrescriptionDose=level_gy,
            )
            for k, (name, level_gy) in enumerate(self.phantom.prescriptions_gy.items(), 1)
        ]
        beams = range(1, self.phantom.beams + 1)
        dataset.BeamSequence = [
            _item(BeamNumber=k, BeamName=f"beam {k}", TreatmentDeliveryType="TREATMENT") for k in beams
        ]
        dataset.FractionGroupSequence = [
            _item(
                FractionGroupNumber=1,
                NumberOfFractionsPlanned=35,
                NumberOfBeams=self.phantom.beams,
                NumberOfBrachyApplicationSetups=0,
                ReferencedBeamSequence=[_item(ReferencedBeamNumber=k, BeamMeterset=100) for k in beams],
            )
        ]
        dataset.ReferencedStructureSetSequence = [
            _item(ReferencedSOPClassUID=STRUCTURE_CLASS, ReferencedSOPInstanceUID=self.uids["structures"])
        ]
        return self._save(dataset, "plan.dcm")

    def doses(self) -> tuple[Path, ...]:
        if not self.phantom.dose_per_beam:
            return (self._dose("dose.dcm", 1.0, None),)
        shares = np.arange(1, self.phantom.beams + 1) / np.arange(1, self.phantom.beams + 1).sum()
        return tuple(self._dose(f"dose_{k}.dcm", share, k) for k, share in enumerate(shares, 1))

    def _dose(self, name: str, share: float, beam: int | None) -> Path:
        phantom = self.phantom
        (rows, columns), spacing = phantom.pixels, phantom.pixel_mm
        x, y, z = phantom.dose_spacing_mm
        sizes = [n * step - 2 * phantom.dose_margin_mm for n, step in zip((rows, columns), spacing, strict=True)]
        turned = abs(self.orientation[1]) > 0.5  # (columns of a decubitus patient run along y)
        shape = int(sizes[0] // (x if turned else y)), int(sizes[1] // (y if turned else x))
        dose_spacing = (x, y) if turned else (y, x)
        low, high = min(phantom.slices_z_mm) + phantom.dose_margin_mm, max(phantom.slices_z_mm) - phantom.dose_margin_mm
        heights = np.arange(low, high + 1e-6, z)
        heights = heights if self.normal[2] > 0 else heights[::-1]
        corners = [self._corner(shape, dose_spacing, float(height)) for height in heights]
        frames_gy = np.stack([phantom.dose(self._plane(corner, shape, dose_spacing)) for corner in corners]) * share
        scaling = float(frames_gy.max()) / 65535 or 1.0
        uid = self.uids["dose"] if beam is None else self._uid(f"dose {beam}")
        dataset = self._dataset(DOSE_CLASS, "RTDOSE", uid, self._uid("dose series"), name)
        dataset.DoseUnits, dataset.DoseType = "GY", "PHYSICAL"
        dataset.DoseSummationType = "PLAN" if beam is None else "BEAM"
        dataset.DoseGridScaling = f"{scaling:.10e}"
        plan = _item(ReferencedSOPClassUID=PLAN_CLASSES[0], ReferencedSOPInstanceUID=self.uids["plan"])
        if beam is not None:
            group = _item(ReferencedFractionGroupNumber=1, ReferencedBeamSequence=[_item(ReferencedBeamNumber=beam)])
            plan.ReferencedFractionGroupSequence = [group]
        dataset.ReferencedRTPlanSequence = [plan]
        dataset.NumberOfFrames = len(frames_gy)
        dataset.FrameIncrementPointer = 0x3004000C
        offsets = heights - (0.0 if phantom.absolute_offsets else heights[0])
        if not phantom.absolute_offsets:
            offsets = np.abs(offsets)
        dataset.GridFrameOffsetVector = [_decimal(offset) for offset in offsets]
        stored = np.rint(frames_gy / float(dataset.DoseGridScaling)).clip(0, 65535).astype(np.uint16)
        self._image(dataset, stored, corners[0], dose_spacing)
        return self._save(dataset, name)

    def _contours(self, solid: Solid) -> list[Dataset]:
        items = []
        for uid, z_mm in zip(self.ct_uids, self.phantom.slices_z_mm, strict=True):
            for section in solid.sections(z_mm):
                points_mm = np.column_stack([section, np.full(len(section), z_mm)]) @ self.phantom.rotation
                items.append(
                    _item(
                        ContourImageSequence=[_item(ReferencedSOPClassUID=CT_CLASS, ReferencedSOPInstanceUID=uid)],
                        ContourGeometricType="CLOSED_PLANAR",
                        NumberOfContourPoints=len(points_mm),
                        ContourData=[_decimal(value) for value in points_mm.ravel()],
                    )
                )
        return items

    def _corner(self, shape: tuple[int, int], spacing: tuple[float, float], z_mm: float) -> NDArray[np.float64]:
        """Centre of the first pixel of a plane that is centred about the long axis, before the tilt."""
        along_columns, along_rows = self.orientation[:3], self.orientation[3:]
        middle = np.array([0.0, 0.0, z_mm])
        half_mm = [(n - 1) * step / 2 for n, step in zip(shape, spacing, strict=True)]
        corner: NDArray[np.float64] = middle - half_mm[1] * along_columns - half_mm[0] * along_rows
        return corner

    def _plane(
        self, corner_mm: NDArray[np.float64], shape: tuple[int, int], spacing: tuple[float, float]
    ) -> NDArray[np.float64]:
        """Pixel centres of a plane before the tilt, shape (rows, columns, 3)."""
        row, column = np.indices(shape)[..., None]
        points: NDArray[np.float64] = (
            corner_mm + column * spacing[1] * self.orientation[:3] + row * spacing[0] * self.orientation[3:]
        )
        return points

    def _dataset(self, sop_class: str, modality: str, uid: str, series: str | None, name: str) -> FileDataset:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID(uid)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset(str(self.folder / name), {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = sop_class, uid, modality
        dataset.PatientName, dataset.PatientID = f"Phantom^{self.phantom.seed}", f"phantom_{self.phantom.seed:03d}"
        dataset.PatientBirthDate = dataset.PatientSex = ""
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260101", "120000", "1"
        dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.PositionReferenceIndicator = ""
        dataset.Manufacturer = "cdm-nnunet phantom"
        dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = self.uids["study"], self.uids["frame"]
        dataset.SeriesInstanceUID, dataset.SeriesNumber = series or self._uid(f"{modality} series"), 1
        return dataset

    def _image(
        self, dataset: FileDataset, stored: NDArray[np.uint16], corner_mm: Any, spacing: tuple[float, float]
    ) -> None:
        dataset.Rows, dataset.Columns = stored.shape[-2:]
        dataset.PixelSpacing = [_decimal(step) for step in spacing]
        turned = self.orientation.reshape(2, 3) @ self.phantom.rotation
        dataset.ImageOrientationPatient = [_decimal(cosine) for cosine in turned.ravel()]
        dataset.ImagePositionPatient = [_decimal(value) for value in corner_mm @ self.phantom.rotation]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
        dataset.PixelData = stored.astype("<u2").tobytes()

    def _save(self, dataset: FileDataset, name: str) -> Path:
        path = self.folder / name
        dataset.save_as(path, enforce_file_format=True)
        return path

    def _uid(self, name: str) -> str:
        return str(generate_uid(entropy_srcs=["cdm-nnunet phantom", str(self.phantom.seed), name]))


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters."""
    return f"{round(float(value), 6) + 0.0:.10g}"


if __name__ == "__main__":
    for number in range(int(sys.argv[2]) if len(sys.argv) > 2 else 1):
        write_phantom(demonstration_phantom(number), Path(sys.argv[1]) / f"patient_{number:03d}")
