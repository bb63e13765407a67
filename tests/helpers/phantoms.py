"""Small DICOM phantoms for several folders of tests, and changes of their files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom

from cdm_nnunet.dicom.phantom import LinearDose, Phantom
from cdm_nnunet.dicom.phantom_shapes import Cylinder, Sphere

CLINIC = Phantom(
    {
        "BODY": Cylinder((0.0, 0.0, 0.0), 40.0, 76.0),
        "PTV60": Sphere((3.0, 0.0, 0.0), 12.0),
        "Cord": Cylinder((0.0, 24.0, 0.0), 6.0, 76.0),
        "Ring": Sphere((3.0, 0.0, 0.0), 18.0, 13.0),
    },
    LinearDose(0, 0.5, 55.0),
    slices_z_mm=tuple(np.arange(-40.0, 41.0, 4.0)),
    pixels=(28, 28),
    pixel_mm=(4.0, 4.0),
    dose_spacing_mm=(5.0, 5.0, 4.0),
    prescriptions_gy={"PTV60": 60.0},
    kinds={"BODY": "EXTERNAL", "PTV60": "PTV"},
)
"""Large enough to be planned and trained on."""

TINY = Phantom(
    {"BODY": Cylinder((0.0, 0.0, 0.0), 18.0, 16.0), "PTV": Sphere((0.0, 0.0, 0.0), 6.0)},
    LinearDose(0, 0.2, 50.0),
    slices_z_mm=tuple(np.arange(-8.0, 9.0, 2.0)),
    pixels=(22, 22),
    prescriptions_gy={"PTV": 50.0},
    kinds={"BODY": "EXTERNAL", "PTV": "PTV"},
)
"""Nine slices; with structure set, plan and dose twelve files."""


def change(path: Path, edit: Callable[[pydicom.Dataset], None]) -> None:
    """Change a DICOM file."""
    dataset = pydicom.dcmread(path)
    edit(dataset)
    dataset.save_as(path)
