"""Accuracy of each interpretation of an ROI's ends on solids with closed forms.

    python benchmarks/contour_ends.py

Solids are drawn on slices of 3 mm at sixteen positions, in a dose that rises by 1 Gy/mm along the slices' normal. For
each interpretation, prints the mean (largest) error of volume, D98% and D2%; only of the volume without a closed form.
"""

from typing import get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from cdm_nnunet.dicom.phantom_shapes import Cylinder, Solid, Sphere
from cdm_nnunet.dvh import Metric
from cdm_nnunet.dvh.values import evaluate_weighted
from cdm_nnunet.geometry.contour_dvh import sample
from cdm_nnunet.geometry.contours import stack_of
from cdm_nnunet.geometry.end_caps import EndCaps
from cdm_nnunet.geometry.roi_contours import RoiContours

STEP_MM, POSITIONS = 3.0, 16
METRICS = (Metric.parse("D98%"), Metric.parse("D2%"))


class ConeAcross:
    """A cone whose axis lies in the slices: of 30 mm, base of 15 mm radius."""

    volume_cc = np.pi * 15**2 * 30 / 3000
    extent_z_mm = (-15.0, 15.0)

    def sections(self, z_mm: float) -> list[NDArray[np.float64]]:
        """One hyperbola."""
        if abs(z_mm) >= 15:
            return []
        y_mm = np.linspace(0, 30 - 2 * abs(z_mm), 400)
        x_mm = np.sqrt(np.maximum((15 - y_mm / 2) ** 2 - z_mm**2, 0))
        return [np.vstack([np.column_stack([x_mm, y_mm]), np.column_stack([-x_mm, y_mm])[::-1]])]


SOLIDS: dict[str, Solid | ConeAcross] = {
    "cylinder, radius 10, height 24": Cylinder((0, 0, 0), 10.0, 24.0),
    "cone along the normal, radius 15, height 30": Cylinder((0, 0, 0), 15.0, 30.0, 0.0),
    "cone across": ConeAcross(),
    "ball, radius 15": Sphere((0, 0, 0), 15.0),
    "ball, radius 6": Sphere((0, 0, 0), 6.0),
}


def drawn(solid: Solid | ConeAcross, shift_mm: float) -> RoiContours:
    """Its contours on all slices that cut it."""
    heights_mm = np.arange(-30, 31) * STEP_MM + shift_mm
    contours = [(section, z) for z in heights_mm for section in solid.sections(float(z))]
    return RoiContours(
        1,
        "ROI",
        "",
        tuple(np.column_stack([xy, np.full(len(xy), z)]) for xy, z in contours if np.ptp(xy) > 0.2),
        {},
        "",
    )


def closed_form_gy(solid: Solid, share_below: float) -> float:
    """Dose (z + 60) below which a share of the volume lies."""
    return 60 + brentq(lambda at: solid.fraction_below(2, at) - share_below, -60, 60)


def errors(solid: Solid | ConeAcross, end_caps: EndCaps) -> NDArray[np.float64]:
    """Errors of volume (%), D98% and D2% (Gy) at each position of the slices."""
    found = []
    for shift_mm in (np.arange(POSITIONS) + 0.5) * STEP_MM / POSITIONS:
        samples = sample(stack_of(drawn(solid, shift_mm), end_caps=end_caps))
        row = [100 * (samples.volume_cc / solid.volume_cc - 1)]
        if not isinstance(solid, ConeAcross):
            doses_gy = evaluate_weighted(METRICS, 60 + samples.points_mm[:, 2], samples.volumes_cc)
            row += [dose - closed_form_gy(solid, share) for dose, share in zip(doses_gy, (0.02, 0.98), strict=True)]
        found.append(row)
    return np.array(found)


def main() -> None:
    print("| solid | ends | volume (%) | D98% (Gy) | D2% (Gy) |")
    print("| --- " * 5 + "|")
    for name, solid in SOLIDS.items():
        for end_caps in get_args(EndCaps):
            columns = errors(solid, end_caps).T
            cells = [f"{column.mean():+.2f} ({np.abs(column).max():.2f})" for column in columns]
            print(f"| {name} | {end_caps} | " + " | ".join([*cells, *[""] * (3 - len(cells))]) + " |", flush=True)


if __name__ == "__main__":
    main()
