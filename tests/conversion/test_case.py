import contextlib

import numpy as np
import pytest

from cdm_nnunet.dataset_conversion.case import Case, clip_hu, pack_masks, refuse_grid
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.roi import unpack

IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_a_case_knows_its_masks(fields):
    case = Case(**fields())
    assert case.rois == ("PTV_7000", "PTV_5600", "SpinalCord", "DoseRegion")
    assert case.mask("PTV_7000").sum() == 8
    assert case.mask("Larynx").sum() == 0
    np.testing.assert_array_equal(case.mask("SpinalCord"), unpack(case.roi_bits, 11)[case.catalogue.bit("SpinalCord")])
    with pytest.raises(InputError, match="no ROI 'Tumour'"):
        case.mask("Tumour")


@pytest.mark.parametrize("order", [("PTV_7000", "PTV_5600"), ("PTV_5600", "PTV_7000")])
def test_the_prescription_map_holds_the_highest_level(fields, order):
    values = fields()
    values["prescriptions_gy"] = {name: values["prescriptions_gy"][name] for name in order}
    case = Case(**values)
    expected = np.where(case.mask("PTV_7000"), 70, np.where(case.mask("PTV_5600"), 56, 0))
    assert case.prescription_map_gy().dtype == np.float32
    np.testing.assert_array_equal(case.prescription_map_gy(), expected)


def test_the_record_is_in_catalogue_order_and_zyx(fields):
    values = fields()
    values["prescriptions_gy"] = {"PTV_5600": 56, "PTV_7000": 70}
    record = Case(**values).record()
    assert list(record.prescriptions_gy.items()) == [("PTV_7000", 70.0), ("PTV_5600", 56.0)]
    assert record.spacing_mm == (2.5, 4.0, 3.5)
    assert record.rois == ("PTV_7000", "PTV_5600", "SpinalCord", "DoseRegion")


def nan_dose(values):
    values["dose_gy"][2, 2, 2] = np.nan


def negative_dose(values):
    values["dose_gy"][2, 2, 2:4] = -0.1


def dose_outside(values):
    values["dose_gy"][0, 0, 0] = 3.5


def change(**changes):
    return lambda values: values.update(changes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (nan_dose, "the dose is NaN or infinite in 1 voxel$"),
        (negative_dose, "the dose is negative in 2 voxels"),
        (dose_outside, r"there is dose up to 3.5 Gy outside 'DoseRegion', in 1 voxel;"),
        (lambda v: v.update(dose_gy=v["dose_gy"] * 100), "is it in cGy or in percent"),
        (lambda v: v.update(dose_gy=v["dose_gy"] / 70), "expected 35 to 210 Gy"),
        (lambda v: v.update(dose_gy=v["dose_gy"].astype(np.float64)), "the dose must be float32, not float64"),
        (lambda v: v.update(dose_gy=v["dose_gy"][1:]), r"the dose has shape \(4, 6, 7\), the CT has \(5, 6, 7\)"),
        (change(dose_gy=None), "a training case needs a reference dose"),
        (lambda v: v.update(roi_bits=v["roi_bits"][..., 1:]), r"ROI masks have shape \(5, 6, 6\)"),
        (lambda v: v.update(roi_bits=v["roi_bits"].astype(np.uint32)), "11 ROIs are packed into uint16, not uint32"),
        (lambda v: v.update(roi_bits=v["roi_bits"] | np.uint16(1 << 12)), "bit 12 is set"),
        (lambda v: v.update(roi_bits=v["roi_bits"] & np.uint16(0x3FF)), "ROI 'DoseRegion'.* is empty or missing"),
        (change(prescriptions_gy={}), "no target with a prescription; contoured are PTV_7000, PTV_5600"),
        (change(prescriptions_gy={"PTV_6300": 63.0}), "'PTV_6300' has a prescription but is not a contoured target"),
        (
            change(prescriptions_gy={"SpinalCord": 45.0}),
            "'SpinalCord' has a prescription but is not a contoured target",
        ),
        (
            change(prescriptions_gy={"PTV_7000": 7000.0}),
            "the prescription of 'PTV_7000' is 7000 Gy, which is not",
        ),
        (
            change(prescriptions_gy={"PTV_7000": float("nan")}),
            "the prescription of 'PTV_7000' is nan Gy, which is not",
        ),
        (lambda v: v.update(ct_hu=v["ct_hu"].astype(np.int32)), "3D, int16 or float32, not 3D int32"),
        (lambda v: v.update(ct_hu=v["ct_hu"][0]), "not 2D int16"),
        (lambda v: v.update(ct_hu=np.clip(v["ct_hu"], -100, 900) + np.int16(1024)), "is it stored as HU \\+ 1024"),
        (lambda v: v.update(ct_hu=v["ct_hu"] - np.int16(1)), "outside -1024 to 3071"),
        (lambda v: v.update(ct_hu=np.full((5, 6, 7), np.nan, np.float32)), "CT values from nan"),
        (change(name="a/b"), "not 'a/b'"),
        (change(split="train"), "'Tr' or 'Ts', not 'train'"),
    ],
)
def test_what_is_wrong_is_refused(fields, spoil, message):
    values = fields()
    values["ct_hu"][0, 0, 0] = -1024
    spoil(values)
    with pytest.raises(InputError, match=message):
        Case(**values)


def test_a_test_case_may_lack_the_dose(fields):
    assert Case(**{**fields(), "split": "Ts", "dose_gy": None}).dose_gy is None


def grid(spacing_zyx_mm=(1, 1, 1), origin_xyz_mm=(0, 0, 0), direction=IDENTITY):
    return Grid.of_image((4, 5, 6), spacing_zyx_mm, origin_xyz_mm, direction)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0.1, 1, 1),), "voxel size .* is not plausible; expected three of 0.3 to 10.0 mm"),
        (((1, 1, float("nan")),), "is not plausible"),
        (((1, 1, 25.0),), "is not plausible"),
        (((1, 1, 1), (0, 0, float("inf"))), "origin must be three numbers"),
        (((1, 1, 1), (0, 0, 0), (-1, 0, 0, 0, 1, 0, 0, 0, 1)), "axes do not run to the patient's left, back and head"),
        (((1, 1, 1), (0, 0, 0), (1, 0, 0, 0, -1, 0, 0, 0, -1)), "axes do not run to the patient's left"),
        (((1, 1, 1), (0, 0, 0), (0, 1, 0, 1, 0, 0, 0, 0, 1)), "axes do not run to the patient's left"),
        (((1, 1, 1), (0, 0, 0), (2, 0, 0, 0, 1, 0, 0, 0, 1)), "axes of the image are not at right angles"),
        (((1, 1, 1), (0, 0, 0), (1, 0.0005, 0, 0, 1, 0, 0, 0, 1)), "orthonormal 3 x 3 matrix"),
        (((1, 1, 1), (0, 0, 0), (1, 0, 0, 1)), "direction cosines are nine numbers, not 4"),
    ],
)
def test_grids_that_are_not_anatomical_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        refuse_grid(grid(*arguments))


@pytest.mark.parametrize(("degrees", "accepted"), [(6, True), (24.9, True), (25.1, False)])
def test_one_rule_says_how_far_a_grid_may_be_tilted(degrees, accepted):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    tilted = grid(direction=(c, -s, 0, s, c, 0, 0, 0, 1))
    assert tilted.direction[1] == pytest.approx(-s)
    with contextlib.nullcontext() if accepted else pytest.raises(InputError, match="to within 25 degrees"):
        refuse_grid(tilted)


def test_a_grid_of_another_shape_than_the_ct_is_refused(fields):
    with pytest.raises(InputError, match=r"the CT has shape \(.*\), and its grid \(4, 5, 6\)"):
        Case(**{**fields(), "grid": grid()})


def test_masks_without_a_voxel_are_named(fields):
    catalogue = fields()["catalogue"]
    full, none = np.ones((2, 2, 2), bool), np.zeros((2, 2, 2), bool)
    roi_bits, empty = pack_masks(catalogue, [("PTV_7000", full), ("Larynx", none)], (2, 2, 2))
    assert empty == ("Larynx",)
    assert (roi_bits == 1).all()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([("GTV", np.ones((2, 2, 2), bool))], "no ROI 'GTV' in the catalogue; it has PTV_7000"),
        ([("Larynx", np.ones((2, 2, 2), bool))] * 2, "ROI 'Larynx' is repeated"),
        ([("Larynx", np.ones((2, 2, 2)))], "the mask of 'Larynx' is float64"),
        ([("Larynx", np.ones((2, 2, 3), bool))], r"\(2, 2, 3\), expected bool \(2, 2, 2\)"),
    ],
)
def test_masks_that_do_not_fit_are_refused(fields, masks, message):
    with pytest.raises(InputError, match=message):
        pack_masks(fields()["catalogue"], masks, (2, 2, 2))


def test_ct_values_are_clipped_to_twelve_bits():
    assert clip_hu(np.array([-3000.0, -0.6, 31719.0])).tolist() == [-1024, -1, 3071]
    assert clip_hu(np.array([1.0])).dtype == np.int16
    with pytest.raises(InputError, match=r"the CT is NaN or infinite in 1 voxel$"):
        clip_hu(np.array([0.0, np.nan]))
