"""DVH metrics of an ROI of a structure set in a dose of the same frame of reference."""

from __future__ import annotations

from collections.abc import Sequence

from cdm_nnunet.dicom.dose import DoseVolume
from cdm_nnunet.dicom.structures import StructureSet
from cdm_nnunet.dvh.metric import Metric
from cdm_nnunet.geometry.contour_dvh import RoiDvh, contour_dvh
from cdm_nnunet.geometry.end_caps import DEFAULT_END_CAPS, EndCaps
from cdm_nnunet.geometry.roi_contours import RoiContours


def roi_dvh(
    roi: RoiContours,
    structures: StructureSet,
    dose: DoseVolume,
    metrics: Sequence[Metric],
    *,
    prescription_gy: float | None = None,
    end_caps: EndCaps = DEFAULT_END_CAPS,
) -> RoiDvh:
    """DVH metrics of an ROI, as in :func:`cdm_nnunet.geometry.contour_dvh.contour_dvh`.

    Args:
        roi: The ROI.
        structures: Its structure set.
        dose: The dose.
        metrics: The metrics to compute.
        prescription_gy: Prescription of the ROI, for V<x>%.
        end_caps: As in :func:`cdm_nnunet.geometry.contours.stack_of`.

    Raises:
        InputError: If the frames of reference differ; or as there.
    """
    structures.refuse_other_frame((roi.name,), dose.frame_uid, dose.files[0])
    return contour_dvh(roi, structures.rois, dose.volume, metrics, prescription_gy=prescription_gy, end_caps=end_caps)
