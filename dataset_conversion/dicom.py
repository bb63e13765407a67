"""DICOM-RT: from a folder of exports to a raw data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dataset import Split
from cdm_nnunet.dicom.ct import CtVolume, read_ct
from cdm_nnunet.dicom.dose import DoseVolume, read_dose
from cdm_nnunet.dicom.grid import VoxelGrid
from cdm_nnunet.dicom.index import PatientFiles, index_folder
from cdm_nnunet.dicom.plan import Plan, read_plan
from cdm_nnunet.dicom.rasteriser import rasterise
from cdm_nnunet.dicom.resampling import resample, uniform_grid
from cdm_nnunet.dicom.structures import StructureSet, read_structures
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_json

from .case import Case, Geometry, clip_hu, pack_masks
from .case_files import STATE_FOLDER, sha256
from .dicom_mapping import DicomMapping
from .raw_layout import Conversion, DatasetSpec, template_catalogue, write_dataset
from .roi_mapping import prescriptions_gy

AIR_HU = -1000.0
PRESCRIPTION_TOLERANCE_GY = 0.01
SOURCES_FILE = "dicom_sources.json"  # names patients and their files: it must stay on the machine


@dataclass(frozen=True)
class DicomPatient:
    """A patient's files.

    Attributes:
        files: The files, paired.
        mapping: Which ROI is which.
        template: Its ROIs make the catalogue.
        grid: ``dose``, ``ct``, or the size of the voxels in mm: ``3`` or ``2.5x2.5x2`` (x, y, z), which then lie over
            the dose grid; for a new patient over the CT.
        split: ``Tr`` with a dose; ``Ts`` is a new patient, whose dose is not read.
        prescriptions_gy: By name in the template, given for this patient: before the mapping's.
    """

    files: PatientFiles
    mapping: DicomMapping
    template: Template
    grid: str
    split: Split = "Tr"
    prescriptions_gy: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the case, from a hash of PatientID."""
        return self.files.case_name

    def checksums(self) -> dict[str, str]:
        """SHA-256 of the files, and all that decides what becomes of them."""
        parts = {"structures": self.files.structures, "plan": self.files.plan}
        images = hashlib.sha256("".join(sha256(path) for path in sorted(self.files.ct)).encode()).hexdigest()
        return {
            "ct": images,
            **{key: sha256(path) for key, path in parts.items() if path is not None},
            **{f"dose {k}": sha256(path) for k, path in enumerate(self.files.doses, 1)},
            "grid": self.grid,
            "mapping": repr((sorted(self.mapping.rois.items()), sorted(self.mapping.prescriptions_gy.items()))),
        }

    def load(self) -> Case:
        """Read and check the patient.

        Raises:
            InputError: If files are missing, ambiguous, damaged or do not belong together, an ROI is not in the
                mapping, a prescription contradicts the plan, or the patient is not plausible.
        """
        if self.files.problems or self.files.structures is None:
            raise InputError("; ".join(self.files.problems) or "no structure set")
        ct, structures = read_ct(self.files.ct), read_structures(self.files.structures)
        structures.refuse_other_images(frozenset(ct.sop_uids))
        plan = None if self.files.plan is None else read_plan(self.files.plan)
        dose = read_dose(self.files.doses, plan) if self.split == "Tr" else None
        grid = self._grid(ct, dose)
        catalogue = template_catalogue(self.template)
        names = self.mapping.names(structures.names, structures.path)
        notes = [] if dose is None else list(dose.notes)
        roi_bits, empty = pack_masks(catalogue, _masks(structures, names, ct, grid, notes), grid.shape)
        contoured = [roi for roi in names if roi not in empty]
        ct_hu = resample(ct.volume, grid, AIR_HU, average=True)
        dose_gy = None if dose is None else resample(dose.volume, grid, 0.0)
        return Case(
            name=self.name,
            split=self.split,
            ct_hu=clip_hu(ct_hu),
            roi_bits=roi_bits,
            catalogue=catalogue,
            dose_gy=dose_gy,
            prescriptions_gy=self._prescriptions_gy(plan, structures, names, contoured),
            geometry=Geometry(
                grid.spacing_mm,
                (float(grid.origin_mm[0]), float(grid.origin_mm[1]), float(grid.origin_mm[2])),
                tuple(float(cosine) for cosine in grid.axes.T.ravel()),
            ),
            source={"patient": self.name, "notes": json.dumps(notes, ensure_ascii=False)},
            empty_rois=empty,
        )

    def _grid(self, ct: CtVolume, dose: DoseVolume | None) -> VoxelGrid:
        if self.grid == "dose" and dose is None:
            raise InputError("a new patient has no dose grid; use --grid ct or --grid SPACING")
        over = ct.volume.grid if dose is None or self.grid == "ct" else dose.volume.grid
        if self.grid in ("ct", "dose"):
            if not over.is_uniform:
                raise InputError(f"the planes of the {self.grid} grid are at unequal distances; use --grid SPACING")
            return over
        return uniform_grid(over, spacing_mm(self.grid))

    def _prescriptions_gy(
        self, plan: Plan | None, structures: StructureSet, names: dict[str, str], contoured: list[str]
    ) -> dict[str, float]:
        """The plan's prescriptions to ROIs come first, then the patient's, the mapping's and the template's."""
        targets = {roi.name for roi in self.template.rois if roi.kind == "target"}
        numbers = {structures.roi(name).number: roi for roi, name in names.items()}
        planned: dict[str, float] = {}
        for level in () if plan is None else plan.prescriptions:
            roi = numbers.get(-1 if level.roi_number is None else level.roi_number, "")
            if roi in targets and roi in contoured:
                planned[roi] = max(level.dose_gy, planned.get(roi, 0.0))
        for roi, given_gy in self.prescriptions_gy.items():
            if roi in targets and roi not in contoured:
                raise InputError(f"a prescription is given for '{roi}', which the patient has not")
            if abs(planned.get(roi, given_gy) - given_gy) > PRESCRIPTION_TOLERANCE_GY:
                raise InputError(
                    f"the plan prescribes {planned[roi]:g} Gy to '{roi}', and {given_gy:g} Gy are given; leave one out"
                )
        mapped = {roi: gy for roi, gy in self.mapping.prescriptions_gy.items() if roi in contoured}
        return prescriptions_gy(self.template, {**mapped, **self.prescriptions_gy, **planned}, contoured)


def spacing_mm(grid: str) -> tuple[float, float, float]:
    """Voxel size (x, y, z) from ``3`` or ``2.5x2.5x2``.

    Raises:
        InputError: If it is neither, or a size is not from 0.5 to 10 mm.

    Example:
        >>> spacing_mm("3"), spacing_mm("2.5x2.5x2")
        ((3.0, 3.0, 3.0), (2.5, 2.5, 2.0))
    """
    try:
        sizes = [float(size) for size in grid.split("x")]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 3) or not all(0.5 <= size <= 10 for size in sizes):
        raise InputError(f"--grid takes 'dose', 'ct' or a voxel size of 0.5 to 10 mm, not '{grid}'")
    x, y, z = sizes if len(sizes) == 3 else sizes * 3
    return x, y, z


def convert_dicom(
    source: Path,
    raw_folder: Path,
    dataset_id: int,
    name: str,
    template: Template,
    mapping: DicomMapping,
    *,
    grid: str = "dose",
    exclude: Collection[str] = (),
    n_processes: int = 1,
) -> Conversion:
    """Convert a folder of DICOM-RT exports into a raw data set.

    Args:
        source: Any tree of DICOM files.
        raw_folder: nnU-Net's raw folder.
        dataset_id: Number of the data set.
        name: Name of the data set.
        template: Its ROIs make the catalogue.
        mapping: Which ROI of the files is which of the template.
        grid: As of :class:`DicomPatient`.
        exclude: Names of cases to leave out.
        n_processes: Worker processes.

    Raises:
        InputError: As :func:`write_dataset`, or if the grid is unknown or a case to leave out is not there.
    """
    if grid not in ("dose", "ct"):
        spacing_mm(grid)
    template_catalogue(template)  # (refuses more than 64 ROIs before anything is read)
    mapping.refuse_unknown_rois(template)
    found = [DicomPatient(files, mapping, template, grid) for files in index_folder(source).patients()]
    unknown = sorted(set(exclude) - {patient.name for patient in found})
    if unknown:
        raise InputError(f"to be excluded, but not in {source}: {', '.join(unknown)}")
    chosen = [patient for patient in found if patient.name not in exclude]
    spec = DatasetSpec(
        dataset_id,
        name,
        "Patients from DICOM-RT",
        template,
        "dicom",
        excluded=tuple(sorted(exclude)),
        mapping=mapping.to_json(),
    )
    conversion = write_dataset(raw_folder, spec, chosen, n_processes)
    write_json(conversion.folder / STATE_FOLDER / SOURCES_FILE, {p.name: _side_record(p.files) for p in chosen})
    return conversion


def _side_record(files: PatientFiles) -> dict[str, object]:
    """Where a case came from: what is needed to write its dose back."""
    return {
        "patient_id": files.patient,
        "ct": str(files.ct[0].parent) if files.ct else "",
        "structures": str(files.structures or ""),
        "plan": str(files.plan or ""),
        "doses": [str(path) for path in files.doses],
    }


def _masks(
    structures: StructureSet, names: dict[str, str], ct: CtVolume, grid: VoxelGrid, notes: list[str]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Masks of the mapped ROIs; one that was never drawn, or lies outside the grid, comes empty and is noted."""
    slices_mm = ct.volume.grid.axes[2] @ ct.volume.grid.origin_mm + ct.volume.grid.offsets_mm[2]
    for roi, name in names.items():
        contours = structures.roi(name)
        if contours.problem:
            notes.append(contours.problem)
            yield roi, np.zeros(grid.shape, bool)
            continue
        made = rasterise(contours, grid, slices_mm, may_lie_outside=True)
        notes += made.notes
        if made.lost_cc:
            notes.append(f"ROI '{name}': {made.lost_cc:.3g} of {made.volume_cc:.3g} cc lie outside the grid")
        yield roi, made.mask
