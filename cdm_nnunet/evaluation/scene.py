"""Contents of the pictures of a case, along the patient's axes: CT, doses, ROIs with their styles, gamma map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.dvh import Template, match_rois
from cdm_nnunet.evaluation.doses import gamma_failures, gamma_result
from cdm_nnunet.evaluation.gamma import GammaRule
from cdm_nnunet.evaluation.pairing import CaseFiles, CaseImages, read_case
from cdm_nnunet.evaluation.palette import SHOWN_KINDS, Style, roi_styles
from cdm_nnunet.evaluation.record import GammaResult
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.images import on_patient_axes, read_image
from cdm_nnunet.roi import mask_of


@dataclass(frozen=True, eq=False)
class GammaMap:
    """Map of gamma above 1.

    Attributes:
        result: The criterion and the pass rate.
        failed: Boolean, shape (Z, Y, X); also False where the reference is below the threshold.
    """

    result: GammaResult
    failed: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scene:
    """Contents of a picture, along the patient's axes: x to the left, y to posterior, z to the head.

    Attributes:
        case: Case name.
        ct_hu: Shape (Z, Y, X).
        doses_gy: ``reference`` and ``predicted``, same shape; only ``predicted`` for a new patient.
        masks: Boolean, by ROI name, targets first; present ROIs only.
        n_targets: Number of targets among them.
        styles: Colours and strokes by ROI name; set by the template, so that an ROI looks the same in all cases.
        grid: Grid of the voxels.
        prescription_gy: Highest prescription of the case; otherwise the highest reference dose.
        gamma: Map of gamma above 1; None if not requested.
    """

    case: str
    ct_hu: NDArray[Any]
    doses_gy: Mapping[str, NDArray[np.floating]]
    masks: Mapping[str, NDArray[np.bool_]]
    n_targets: int
    styles: Mapping[str, Style]
    grid: Grid
    prescription_gy: float
    gamma: GammaMap | None = None


def load_scene(files: CaseFiles, template: Template) -> Scene:
    """Read the contents of a picture; as :func:`scene_of`."""
    return scene_of(read_case(files), template)


def scene_of(images: CaseImages, template: Template, gamma: GammaRule | None = None) -> Scene:
    """Contents of a picture of a case, on the patient's axes; reads the CT.

    Args:
        images: The case.
        template: Template of the displayed ROIs.
        gamma: Gamma criteria to show.

    Raises:
        InputError: If the CT can't be read or has another grid.
    """
    ct = read_image(images.files.ct)
    images.reference.refuse_other_grid(ct)
    ct, reference, predicted, bits = (
        on_patient_axes(image) for image in (ct, images.reference, images.predicted, images.roi_bits)
    )
    masks, n_targets = _present_masks(images.files, bits.values, template)
    prescription_gy = max(images.files.prescriptions_gy.values(), default=float(reference.values.max()))
    return Scene(
        images.files.case,
        ct.values,
        {"reference": reference.values, "predicted": predicted.values},
        masks,
        n_targets,
        roi_styles(template),
        reference.grid,
        prescription_gy,
        None if gamma is None else _gamma_map(images, gamma),
    )


def _gamma_map(images: CaseImages, rule: GammaRule) -> GammaMap:
    failed = gamma_failures(images.pair, rule).astype(np.uint8)
    turned = on_patient_axes(replace(images.reference, values=failed))
    return GammaMap(gamma_result(images.pair, rule), turned.values == 1)


def central_slices(scene: Scene) -> tuple[int, int, int]:
    """Slice (z, y, x) with the largest cross-section of the first target; the hottest voxel if there is none."""
    if scene.n_targets == 0:
        first_gy = next(iter(scene.doses_gy.values()))
        z, y, x = (int(i) for i in np.unravel_index(int(np.argmax(first_gy)), first_gy.shape))
        return z, y, x
    mask = next(iter(scene.masks.values()))
    z, y, x = (int(np.argmax(mask.sum(axis=tuple({0, 1, 2} - {axis})))) for axis in range(3))
    return z, y, x


def _present_masks(
    files: CaseFiles, roi_bits: NDArray[np.unsignedinteger], template: Template
) -> tuple[dict[str, NDArray[np.bool_]], int]:
    matched = match_rois(template, files.catalogue)
    shown = [roi for roi in template.rois if roi.kind in SHOWN_KINDS and roi.name in matched]
    masks = {"target": dict[str, NDArray[np.bool_]](), "other": dict[str, NDArray[np.bool_]]()}
    for roi in shown:
        mask = mask_of(roi_bits, files.catalogue.bit(matched[roi.name].source))
        if mask.any():
            masks["target" if roi.kind == "target" else "other"][roi.name] = mask
    return masks["target"] | masks["other"], len(masks["target"])
