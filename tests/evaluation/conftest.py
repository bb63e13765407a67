"""Raw data sets for the evaluation tests: synthetic ones, and real OpenKBP patients if available."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from cdm_nnunet.dataset import CaseRecord, RawDataset
from cdm_nnunet.dvh import Template
from cdm_nnunet.roi import Catalogue, Roi, pack

OPENKBP_NAMES = (
    ("PTV_7000", "PTV70"),
    ("PTV_6300", "PTV63"),
    ("PTV_5600", "PTV56"),
    ("Brainstem", "Brainstem"),
    ("SpinalCord", "SpinalCord"),
    ("Parotid_R", "RightParotid"),
    ("Parotid_L", "LeftParotid"),
    ("Esophagus", "Esophagus"),
    ("Larynx", "Larynx"),
    ("Bone_Mandible", "Mandible"),
    ("DoseRegion", "possible_dose_mask"),
)
OPENKBP_CATALOGUE = Catalogue(tuple(Roi(r.name, r.kind) for r in Template.load("openkbp").rois))


@dataclass
class Case:
    """A case to write. Arrays are (z, y, x); masks by ROI name, an absent ROI has none."""

    dose_gy: np.ndarray
    masks: Mapping[str, np.ndarray]
    prescriptions_gy: Mapping[str, float] = field(default_factory=dict)
    ct_hu: np.ndarray | None = None
    split: str = "Tr"
    spacing_mm: tuple[float, float, float] = (2.5, 4.0, 3.0)
    source: Mapping[str, str] = field(default_factory=dict)
    fractions: int | None = None


def write_image(
    path: Path, array: np.ndarray, spacing_mm=(2.5, 4.0, 3.0), origin=(-30.0, 10.0, 5.0), direction=None
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(tuple(float(s) for s in reversed(spacing_mm)))
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path))
    return path


def write_dataset(
    folder: Path, cases: Mapping[str, Case], catalogue: Catalogue = OPENKBP_CATALOGUE, template: Any = None
) -> RawDataset:
    records = {}
    for name, case in cases.items():
        shape = case.dose_gy.shape
        masks = [np.asarray(case.masks.get(roi, np.zeros(shape, bool)), bool) for roi in catalogue.names]
        ct = np.full(shape, 20.0, np.float32) if case.ct_hu is None else case.ct_hu.astype(np.float32)
        images = folder / f"images{case.split}"
        write_image(images / f"{name}_0000.nii.gz", ct, case.spacing_mm)
        write_image(images / f"{name}_0002.nii.gz", pack(np.stack(masks)), case.spacing_mm)
        write_image(folder / f"labels{case.split}" / f"{name}.nii.gz", case.dose_gy.astype(np.float32), case.spacing_mm)
        records[name] = CaseRecord(
            prescriptions_gy=dict(case.prescriptions_gy),
            rois=tuple(roi for roi in catalogue.names if np.any(case.masks.get(roi, False))),
            spacing_mm=case.spacing_mm,
            split=case.split,
            source=case.source,
            fractions=case.fractions,
        )
    template = Template.load("openkbp") if template is None else template
    section = {
        "format_version": 1,
        "units": {"dose": "Gy", "ct": "HU"},
        "catalogue": catalogue.to_json(),
        "template": template.to_json(),
    }
    (folder / "dataset.json").write_text(json.dumps({"cdm": section}), encoding="utf-8")
    (folder / "cdm_cases.json").write_text(
        json.dumps({name: record.to_json() for name, record in records.items()}), encoding="utf-8"
    )
    return RawDataset(folder)


def synthetic_case(seed: int = 0, absent: tuple[str, ...] = (), shape=(14, 20, 18)) -> Case:
    """Random boxes as ROIs of all sizes, a smooth random dose from 0 to about 75 Gy in an ellipsoid."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j, -1 : 1 : shape[2] * 1j]
    region = z**2 + y**2 + x**2 < 1.2
    dose = (72 * np.exp(-2 * ((z - 0.1) ** 2 + y**2 + (x + 0.2) ** 2)) + rng.normal(0, 1, shape)).clip(0)
    masks = {"DoseRegion": region}
    for roi in OPENKBP_CATALOGUE.names[:-1]:
        low = [int(rng.integers(0, n - 3)) for n in shape]
        high = [int(rng.integers(start + 1, n)) for start, n in zip(low, shape, strict=True)]
        mask = np.zeros(shape, bool)
        mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
        if roi not in absent:
            masks[roi] = mask
    prescriptions = {
        roi: gy for roi, gy in (("PTV_7000", 70.0), ("PTV_6300", 63.0), ("PTV_5600", 56.0)) if roi in masks
    }
    return Case((dose * region).astype(np.float32), masks, prescriptions)


def read_openkbp(files: Mapping[str, Any]) -> Case:
    """A patient of OpenKBP as a case, from the published CSV files (open binary files by name)."""
    shape = (128, 128, 128)

    def dense(name: str) -> np.ndarray:
        rows = np.genfromtxt(files[name], delimiter=",", skip_header=1)
        array = np.zeros(shape)
        array.ravel()[rows[:, 0].astype(int)] = np.where(np.isnan(rows[:, 1]), 1.0, rows[:, 1])
        return array[:, :, ::-1].transpose(2, 0, 1)

    vd = np.loadtxt(files["voxel_dimensions"])
    masks = {ours: dense(theirs) > 0 for ours, theirs in OPENKBP_NAMES if theirs in files}
    prescriptions = {roi: float(roi[-4:]) / 100 for roi in masks if roi.startswith("PTV_")}
    spacing = (float(vd[2]), float(vd[0]), float(vd[1]))
    return Case(dense("dose"), masks, prescriptions, dense("ct") - 1024, spacing_mm=spacing)


@pytest.fixture(scope="session")
def openkbp_case(openkbp_patients: Path) -> Case:
    """A real validation patient, read without the project's own reader."""
    patient = openkbp_patients / "validation-pats" / "pt_201"
    return read_openkbp({path.stem: path for path in patient.glob("*.csv")})


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., RawDataset]:
    """``make_dataset(cases, ...)`` writes a raw data set below nnUNet_raw of a temporary folder."""

    def make(cases: Mapping[str, Case], *args: Any, **kwargs: Any) -> RawDataset:
        folder = tmp_path / "raw" / "Dataset501_Test"
        folder.mkdir(parents=True)
        return write_dataset(folder, cases, *args, **kwargs)

    return make


@pytest.fixture
def predict(tmp_path: Path) -> Callable[..., Path]:
    """``predict({case: dose}, ...)`` writes predictions and returns their folder."""

    def write(doses: Mapping[str, np.ndarray], **kwargs: Any) -> Path:
        folder = tmp_path / "predictions"
        folder.mkdir(exist_ok=True)
        for case, dose in doses.items():
            write_image(folder / f"{case}.nii.gz", dose, **kwargs)
        return folder

    return write
