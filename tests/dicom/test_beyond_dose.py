"""ROIs on a grid that reaches beyond the dose grid: no dose is known there, and zero is not a dose."""

import dataclasses
import json
import re

import numpy as np
import pytest

from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping
from cdm_nnunet.dataset_conversion.dicom_patient import DicomPatient
from cdm_nnunet.dicom.index import index_folder
from cdm_nnunet.dicom.phantom import LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Box, Cylinder, Sphere
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError

ROIS = (("PTV", "target"), ("Cord", "oar"), ("External", "external"))
TEMPLATE = Template.from_json(
    {
        "format_version": 1,
        "name": "small",
        "rois": [{"name": name, "kind": kind} for name, kind in ROIS],
        "goals": [{"roi": "PTV", "metric": "D95%"}],
    },
    "test",
)
PHANTOM = Phantom(
    {
        "External": Cylinder((0.0, 0.0, 0.0), 18.0, 17.0),
        "PTV": Sphere((0.0, 0.0, 0.0), 3.0),
        "Cord": Box((9.0, 0.0, 0.0), (4.0, 4.0, 14.0)),
    },
    LinearDose(0, 0.2, 50.0),
    slices_z_mm=tuple(np.arange(-8.0, 9.0, 2.0)),
    pixels=(22, 22),
    dose_spacing_mm=(2.0, 2.0, 2.0),
    dose_margin_mm=4.0,
    prescriptions_gy={"PTV": 50.0},
    kinds={"External": "EXTERNAL", "PTV": "PTV"},
)


def load(phantom, folder, grid):
    write_phantom(phantom, folder)
    (found,) = index_folder(folder).patients()
    return DicomPatient(found, DicomMapping({name: name for name, _ in ROIS}), TEMPLATE, grid).load()


def test_an_oar_beyond_the_dose_grid_is_told(tmp_path):
    case = load(PHANTOM, tmp_path / "ct", "ct")
    slices = np.flatnonzero(case.mask("Cord").any((1, 2)))
    known = np.flatnonzero(case.dose_gy.any((1, 2)))
    part = 100 * np.setdiff1d(slices, known).size / slices.size
    assert (slices.size, known.size) == (7, 5)
    (note,) = [text for text in json.loads(case.source["notes"]) if "'Cord'" in text]
    assert note == f"{part:.3g} % of 'Cord' lie outside the dose grid; the dose there counts as 0 Gy"
    assert "outside the dose grid" not in load(PHANTOM, tmp_path / "dose", "dose").source["notes"]


@pytest.mark.parametrize("grid", ["ct", "dose", "2"])
def test_a_target_beyond_the_dose_grid_is_refused(tmp_path, grid):
    larger = dataclasses.replace(PHANTOM, solids={**PHANTOM.solids, "PTV": Sphere((0.0, 0.0, 0.0), 7.0)})
    with pytest.raises(
        InputError, match=r"% of target 'PTV' lie outside the dose grid, where no dose is known; export"
    ):
        load(larger, tmp_path, grid)


@pytest.mark.parametrize(
    ("grid", "note"),
    [
        ("ct", r"0\.\d+ % of 'PTV' lie outside the dose grid; that rim was removed from it"),
        ("dose", r"ROI 'PTV': 0\.0\d+ of 17.\d cc lie outside the grid"),
    ],
)
def test_a_rim_of_a_target_beyond_the_dose_grid_is_left_out_with_a_note(tmp_path, grid, note):
    phantom = dataclasses.replace(
        PHANTOM,
        solids={**PHANTOM.solids, "PTV": Sphere((0.0, 0.0, 2.5), 16.0), "External": Cylinder((0.0, 0.0, 0.0), 30, 44)},
        slices_z_mm=tuple(np.arange(-24.0, 25.0, 2.0)),
        pixels=(40, 40),
        dose_margin_mm=8.0,
    )
    case = load(phantom, tmp_path, grid)
    assert any(re.search(note, text) for text in json.loads(case.source["notes"]))
    assert (case.dose_gy[case.mask("PTV")] > 40).all()
