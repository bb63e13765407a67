"""Colours of ROIs in a structure set: only for display, so a damaged one is ignored."""

import json

import pytest
from phantoms import change

from cdm_nnunet.dicom.phantom import write_phantom
from cdm_nnunet.dicom.structures import read_structures

from .test_damage import PHANTOM, load


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return write_phantom(PHANTOM, tmp_path_factory.mktemp("colours") / "patient")


def colour(*colours):
    """Give the ROIs of the phantom colours; None for none."""

    def edit(dataset):
        for item, levels in zip(dataset.ROIContourSequence, colours, strict=True):
            item.pop("ROIDisplayColor", None)
            if levels is not None:
                item.ROIDisplayColor = levels

    return edit


def test_colours_go_from_the_structure_set_into_the_case(patient):
    change(patient.structures, colour([0, 255, 16], [255, 0, 1]))
    structures = read_structures(patient.structures)
    assert [structures.roi(name).colour for name in ("BODY", "PTV60")] == ["#00ff10", "#ff0001"]
    colours = json.loads(load(patient).record().source["colours"])
    assert colours == {"External": "#00ff10", "PTV_6000": "#ff0001"}
    change(patient.structures, colour(None, None))
    assert "colours" not in load(patient).record().source


@pytest.mark.parametrize("levels", [None, [1, 2], [1, 2, 3, 4], [0, 256, 0], [-1, 0, 0]])
def test_a_colour_that_is_none_is_left_out(patient, levels):
    change(patient.structures, colour([10, 20, 30], levels))
    structures = read_structures(patient.structures)
    assert [structures.roi(name).colour for name in ("BODY", "PTV60")] == ["#0a141e", ""]
