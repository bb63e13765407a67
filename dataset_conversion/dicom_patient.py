"""One patient's DICOM-RT files as a case: CT, contours, plans and doses on one grid."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.counting import counted
from cdm_nnunet.dataset import COLOURS, NOTES, POSITION, Split
from cdm_nnunet.dicom.ct import CtVolume, read_ct
from cdm_nnunet.dicom.dose import DoseVolume, read_dose, sum_doses
from cdm_nnunet.dicom.pairing import PatientFiles
from cdm_nnunet.dicom.plan import Plan, read_plan
from cdm_nnunet.dicom.prescriptions import GivenLevels, Prescribed, prescribe, stated_levels
from cdm_nnunet.dicom.pseudonyms import Pseudonyms
from cdm_nnunet.dicom.structures import StructureSet, read_structures
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.end_caps import DEFAULT_END_CAPS, EndCaps
from cdm_nnunet.geometry.extent import extent_notes
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.geometry.rasteriser import rasterise
from cdm_nnunet.geometry.resampling import covered_by, even_grid, resample, uniform_grid
from cdm_nnunet.geometry.slices import ct_slices
from cdm_nnunet.geometry.voxel_size import voxel_size_zyx_mm
from cdm_nnunet.ranges import FRACTION_DOSE_GY
from cdm_nnunet.roi import Catalogue, mask_of

from .case import Case, clip_hu, pack_masks
from .case_files import sha256
from .dicom_mapping import DicomMapping
from .raw_layout import template_catalogue
from .roi_mapping import prescriptions_gy

AIR_HU = -1000.0
GRID_OPTION = "--grid takes 'dose', 'ct' or"
_RIM = 0.01  # rim of a target beyond the dose grid: the uncertainty of contour ends


@dataclass(frozen=True)
class DicomPatient:
    """A patient's files.

    Attributes:
        files: The files, paired.
        mapping: Template ROI of each ROI in the files.
        template: Its ROIs form the catalogue.
        grid: ``dose``, ``ct``, or the voxel size in mm: ``3`` or ``2.5x2.5x2`` (x, y, z). Then the grid covers the dose
            grid; for a new patient, the CT.
        split: ``Tr`` with a dose; ``Ts`` is a new patient, whose dose is not read.
        prescriptions_gy: Prescriptions given for this patient, by name in the template; they override the mapping's.
        usual_gy: Prescriptions of a model's training data that no plan stated, by name in the template; the mapping's
            override them.
        pseudonyms: Replace the UIDs in the case's source.
    """

    files: PatientFiles
    mapping: DicomMapping
    template: Template
    grid: str
    split: Split = "Tr"
    prescriptions_gy: Mapping[str, float] = field(default_factory=dict)
    pseudonyms: Pseudonyms = field(default_factory=Pseudonyms)
    usual_gy: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the case."""
        return self.files.case_name

    def checksums(self) -> dict[str, str]:
        """SHA-256 of the files, and all settings that affect their conversion."""
        plans = {f"plan {k}": path for k, path in enumerate(self.files.plans, 1)}
        mapping, own_gy = self.mapping.of(self.files.patient_name, self.name)
        images = hashlib.sha256("".join(sha256(path) for path in sorted(self.files.ct)).encode()).hexdigest()
        return {
            "ct": images,
            **({} if self.files.structures is None else {"structures": sha256(self.files.structures)}),
            **{key: sha256(path) for key, path in plans.items()},
            **{f"dose {k}": sha256(path) for k, path in enumerate(self.files.doses, 1)},
            "grid": self.grid,
            **({} if mapping.ends == DEFAULT_END_CAPS else {"end caps": mapping.ends}),
            "mapping": repr(
                (sorted(mapping.rois.items()), sorted(mapping.prescriptions_gy.items()), sorted(own_gy.items()))
            ),
        }

    def load(self) -> Case:
        """Read and check the patient.

        Raises:
            InputError: If files are missing, ambiguous, damaged or do not belong together, an ROI is not in the
                mapping, a prescription contradicts the plan, or the patient is implausible.
        """
        if self.files.problems or self.files.structures is None:
            raise InputError("; ".join(self.files.problems) or "no structure set")
        ct, structures = read_ct(self.files.ct), read_structures(self.files.structures)
        images_note = "" if self.files.by_geometry else structures.refuse_other_images(ct.image_uids)
        plans = [[read_plan(path) for path in part.plans] for part in self.files.parts]
        dose = self._dose(plans) if self.split == "Tr" else None
        notes = [*self.files.notes, *ct.notes, *([images_note] if images_note else [])]
        notes += () if dose is None else dose.notes
        grid = self._grid(ct, dose, notes)
        catalogue = template_catalogue(self.template)
        mapping, _ = self.mapping.of(self.files.patient_name, self.name)
        names = mapping.names(structures.names, structures.path, structures.empty_names)
        self._refuse_other_frame(structures, names.values(), ct, dose)
        if helpers := mapping.helpers(structures.names):
            notes.append(f"left out as helper structures: {', '.join(helpers)}")
        notes += extent_notes(map(structures.roi, names.values()), ct.volume.grid, structures.path)
        colours = {roi: colour for roi, name in names.items() if (colour := structures.roi(name).colour)}
        lost: dict[str, float] = {}
        masks = _masks(structures, names, ct, grid, notes, mapping.ends, lost)
        roi_bits, empty = pack_masks(catalogue, masks, grid.shape)
        contoured = [roi for roi in names if roi not in empty]
        prescribed = self.prescribed([plan for part in plans for plan in part], structures, names, contoured)
        _refuse_fractions(plans, prescribed.levels_gy)
        ct_hu = resample(ct.volume, grid, AIR_HU, average=True)
        dose_gy = None if dose is None else resample(dose.volume, grid, 0.0)
        if dose is not None:
            beyond = {} if self.grid == "ct" else lost  # (voxels beyond the CT may have a dose)
            notes += _beyond_dose_notes(roi_bits, covered_by(dose.volume.grid, grid), catalogue, beyond)
        return Case(
            name=self.name,
            split=self.split,
            ct_hu=clip_hu(ct_hu),
            roi_bits=roi_bits,
            catalogue=catalogue,
            dose_gy=dose_gy,
            prescriptions_gy=prescribed.levels_gy,
            grid=grid,
            source={
                "patient": self.files.patient_name,
                "end caps": mapping.ends,
                **({COLOURS: json.dumps(colours)} if colours else {}),
                **({POSITION: ct.patient_position} if ct.patient_position else {}),
                **{f"{kind} (hashed UID)": self.pseudonyms.uid(uid) for kind, uid in self.files.uids.items()},
                NOTES: json.dumps([*notes, *prescribed.notes], ensure_ascii=False),
            },
            empty_rois=empty,
            fractions=_n_fractions(plans),
        )

    def roi_names(self) -> dict[str, str]:
        """Name in the structure set by name in the template, of the mapped ROIs.

        Raises:
            InputError: If there is no structure set, it is damaged, or an ROI is not in the mapping.
        """
        if self.files.structures is None:
            raise InputError("no structure set")
        structures = read_structures(self.files.structures)
        mapping, _ = self.mapping.of(self.files.patient_name, self.name)
        return mapping.names(structures.names, structures.path, structures.empty_names)

    def _refuse_other_frame(
        self, structures: StructureSet, names: Collection[str], ct: CtVolume, dose: DoseVolume | None
    ) -> None:
        """Check the frame of the contours: that of the CT, or of the dose if the CT was matched by its slices."""
        if not self.files.by_geometry:
            structures.refuse_other_frame(names, ct.frame_uid, "the CT")
        elif dose is not None:
            structures.refuse_other_frame(names, dose.frame_uid, "the dose")

    def _grid(self, ct: CtVolume, dose: DoseVolume | None, notes: list[str]) -> Grid:
        if self.grid == "dose" and dose is None:
            raise InputError("a new patient has no dose grid; use --grid ct or --grid SPACING")
        over = ct.volume.grid if dose is None or self.grid == "ct" else dose.volume.grid
        if self.grid in ("ct", "dose"):
            if over.is_uniform:
                return over
            if self.grid == "dose":
                raise InputError("the planes of the dose grid are unequally spaced; use --grid SPACING")
            even = even_grid(over)
            notes.append(f"the CT grid was given equally spaced planes, one every {even.spacing_zyx_mm[0]:.4g} mm")
            return even
        return uniform_grid(over, voxel_size_zyx_mm(self.grid, GRID_OPTION))

    def _dose(self, plans: Sequence[Sequence[Plan]]) -> DoseVolume:
        """The plan's dose, or the sum over the plans of a course."""
        parts = zip(self.files.parts, plans, strict=True)
        return sum_doses([read_dose(part.doses, of_part[0] if len(of_part) == 1 else None) for part, of_part in parts])

    def prescribed(
        self, plans: Sequence[Plan], structures: StructureSet, names: Mapping[str, str], contoured: Collection[str]
    ) -> Prescribed:
        """Prescriptions of the contoured targets, from the plans and from given levels.

        Args:
            plans: Plans of the patient.
            structures: The patient's structure set.
            names: Name in the structure set by name in the template.
            contoured: ROIs with a volume, by name in the template.

        Raises:
            InputError: As :func:`cdm_nnunet.dicom.prescriptions.prescribe`, or if a target has no prescription, or one
                is given for a target that is not contoured in this patient.
        """
        template = {roi.name: roi.prescription_gy for roi in self.template.rois if roi.kind == "target"}
        targets = {roi: structures.roi(name).number for roi, name in names.items() if roi in template}
        mapping, own_gy = self.mapping.of(self.files.patient_name, self.name)
        for roi in (*self.prescriptions_gy, *own_gy):
            if roi in template and roi not in contoured:
                raise InputError(f"a prescription is given for '{roi}', which is not contoured in this patient")
            if roi in own_gy and own_gy[roi] != self.prescriptions_gy.get(roi, own_gy[roi]):
                raise InputError(
                    f"{self.prescriptions_gy[roi]:g} Gy are given for '{roi}', and {own_gy[roi]:g} Gy for this patient "
                    "in the mapping; leave one out"
                )
        given = (
            GivenLevels("given for this patient", {**own_gy, **self.prescriptions_gy}),
            GivenLevels("mapping", mapping.prescriptions_gy),
            GivenLevels("training data", self.usual_gy, binding=False),
            GivenLevels("template", {roi: gy for roi, gy in template.items() if isinstance(gy, float)}, binding=False),
        )
        result = prescribe(
            stated_levels(plans, structures),
            {roi: number for roi, number in targets.items() if roi in contoured},
            given,
            needing=[roi for roi, level in template.items() if level is not None],
            left_out_gy=mapping.left_out_gy,
        )
        prescriptions_gy(self.template, result.levels_gy, contoured)  # (refuses a target without one)
        return result


def _n_fractions(plans: Sequence[Sequence[Plan]]) -> int | None:
    """Fractions of the whole course: of the plan, or the sum over the plans; None if one does not state it.

    Plans with a common dose may be treated in the same fractions, so the number is unknown.
    """
    counts = [of_part[0].n_fractions if len(of_part) == 1 else None for of_part in plans]
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _refuse_fractions(plans: Sequence[Sequence[Plan]], levels_gy: Mapping[str, float]) -> None:
    """Check by the plan's number of fractions that the prescriptions of a single plan are totals."""
    if len(plans) == 1 and len(plans[0]) == 1 and (n_fractions := plans[0][0].n_fractions):
        for roi, level_gy in levels_gy.items():
            FRACTION_DOSE_GY.refuse_impossible(
                level_gy / n_fractions, f"'{roi}' ({level_gy:g} Gy in {counted(n_fractions, 'fraction')})"
            )


def _beyond_dose_notes(
    roi_bits: NDArray[np.unsignedinteger],
    has_dose: NDArray[np.bool_],
    catalogue: Catalogue,
    lost: Mapping[str, float],
) -> list[str]:
    """Notes on ROIs beyond the dose grid, where the dose is unknown and stored as 0 Gy.

    Args:
        roi_bits: Masks; a rim of a target beyond the dose is removed from it.
        has_dose: Mask of known dose, on the same grid.
        catalogue: The ROIs.
        lost: Part of an ROI's volume outside the grid, by name.

    Raises:
        InputError: If more than a rim of a target lies beyond the dose.
    """
    notes, beyond = [], roi_bits[~has_dose]
    for roi in catalogue.rois:
        bit = catalogue.bit(roi.name)
        n_beyond = int(np.count_nonzero(mask_of(beyond, bit)))
        n_voxels = max(int(np.count_nonzero(mask_of(roi_bits, bit))), 1)
        outside = lost.get(roi.name, 0.0)
        part = outside + (1 - outside) * n_beyond / n_voxels
        if roi.kind == "target" and part > _RIM:
            raise InputError(
                f"{100 * part:.3g} % of target '{roi.name}' lie outside the dose grid, where no dose is known; export "
                "the dose on a larger grid"
            )
        if not n_beyond:
            continue
        words = "the dose there counts as 0 Gy"
        if roi.kind == "target":
            roi_bits[~has_dose] &= ~roi_bits.dtype.type(1 << bit)
            words = "that rim was removed from it"
        notes.append(f"{100 * n_beyond / n_voxels:.3g} % of '{roi.name}' lie outside the dose grid; {words}")
    return notes


def _masks(
    structures: StructureSet,
    names: dict[str, str],
    ct: CtVolume,
    grid: Grid,
    notes: list[str],
    end_caps: EndCaps,
    lost: dict[str, float],
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Masks of the mapped ROIs; empty, with a note, for ROIs without contours or outside the grid.

    The part of each ROI outside the grid is added to ``lost``.
    """
    axes = ct.volume.grid.axes
    slices = ct_slices(axes[2] @ ct.volume.grid.origin_xyz_mm + ct.volume.grid.offsets_xyz_mm[2], structures.rois, axes)
    for roi, name in names.items():
        contours = structures.roi(name)
        if contours.problem:
            notes.append(contours.problem)
            yield roi, np.zeros(grid.shape, bool)
            continue
        made = rasterise(contours, grid, slices, end_caps=end_caps, may_lie_outside=True)
        notes += made.notes
        if made.lost_cc:
            lost[roi] = made.lost_cc / made.volume_cc
            notes.append(f"ROI '{name}': {made.lost_cc:.3g} of {made.volume_cc:.3g} cc lie outside the grid")
        yield roi, made.mask
