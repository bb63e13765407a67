"""Units, offsets and cut files that show only where the images of a case are compared."""

import dataclasses
import json

import numpy as np
import pytest

from cdm_nnunet import ranges
from cdm_nnunet.dataset_conversion.case import Case, pack_masks
from cdm_nnunet.dataset_conversion.raw_layout import template_catalogue
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Grid

SHAPE = (30, 32, 34)  # voxels of 3 mm
CATALOGUE = template_catalogue(Template.load("head_neck"))
_, TARGET_A, TARGET_B = [CATALOGUE.names[bit] for bit in CATALOGUE.bits_of_kind("target")][:3]
EXTERNAL = next(CATALOGUE.names[bit] for bit in CATALOGUE.bits_of_kind("external"))


@pytest.fixture
def fields() -> dict:
    """A body of soft tissue in air, with a 70 Gy target inside a 54 Gy target."""
    masks = {name: np.zeros(SHAPE, bool) for name in (EXTERNAL, TARGET_A, TARGET_B)}
    masks[EXTERNAL][2:28, 4:28, 4:30] = True
    masks[TARGET_B][8:22, 10:22, 10:24] = True
    masks[TARGET_A][10:16, 12:18, 12:20] = True
    rng = np.random.default_rng(0)
    dose_gy = np.where(masks[EXTERNAL], rng.uniform(2, 45, SHAPE), 0)
    dose_gy[masks[TARGET_B]] = rng.uniform(53, 57, masks[TARGET_B].sum())
    dose_gy[masks[TARGET_A]] = rng.uniform(68, 73, masks[TARGET_A].sum())
    return {
        "name": "case_1",
        "split": "Tr",
        "ct_hu": np.where(masks[EXTERNAL], rng.integers(-120, 90, SHAPE), -1000).astype(np.int16),
        "roi_bits": pack_masks(CATALOGUE, masks.items(), SHAPE)[0],
        "catalogue": CATALOGUE,
        "dose_gy": dose_gy.astype(np.float32),
        "prescriptions_gy": {TARGET_A: 70.0, TARGET_B: 54.0},
        "grid": Grid(SHAPE, (3.0, 3.0, 3.0)),
    }


def test_a_plausible_case_has_no_notes(fields):
    case = Case(**fields)
    assert case.notes == ()
    assert "notes" not in case.record().source


@pytest.mark.parametrize("prescribed_gy", [70.0, 66.0, 60.0, 54.0, 50.4, 78.0, 85.0])
def test_a_dose_in_percent_is_refused_whatever_was_prescribed(fields, prescribed_gy):
    percent = fields["dose_gy"] / 70 * 100
    fields |= {"prescriptions_gy": {TARGET_A: prescribed_gy}, "dose_gy": percent.astype(np.float32)}
    with pytest.raises(
        InputError, match=f"median dose of '{TARGET_A}' is .* looks like percent, or counted twice. Export"
    ):
        Case(**fields)


def test_percent_of_the_lower_level_is_refused_too(fields):
    fields["dose_gy"] = fields["dose_gy"] / 54 * 100  # (the median of the higher target is 130.7)
    with pytest.raises(InputError, match=f"median dose of '{TARGET_B}' is 10.* looks like percent"):
        Case(**fields)


def test_a_stereotactic_plan_is_no_dose_in_percent(fields):
    fields["dose_gy"] = fields["dose_gy"] / 70 * 81  # 60 Gy to the 70 % isodose
    case = Case(**{**fields, "prescriptions_gy": {TARGET_A: 60.0}})
    assert case.notes == (f"unusual: the median dose of '{TARGET_A}' is 81.56 Gy, and 60 Gy are prescribed",)
    assert json.loads(case.record().source["notes"]) == list(case.notes)


@pytest.mark.parametrize(
    ("levels_gy", "message"),
    [
        ({TARGET_A: 70.0, TARGET_B: 2.0}, f"the prescription of '{TARGET_B}' is 2 Gy, which is not plausible"),
        (
            {TARGET_A: 2.12},
            "is 2.12 Gy, which is not plausible .expected 4 to 150 Gy.; it is the total in Gy, not of a",
        ),
        ({TARGET_A: 70.0, TARGET_B: 12.0}, f"the median dose of '{TARGET_B}' is .* Gy, and 12 Gy are prescribed: not"),
        ({TARGET_A: 100.0}, f"the median dose of '{TARGET_A}' is 70.48 Gy, and 100 Gy are prescribed: not plausible"),
        ({TARGET_A: 5400.0}, "is 5400 Gy, which is not plausible"),
    ],
)
def test_a_prescription_in_another_unit_is_refused(fields, levels_gy, message):
    with pytest.raises(InputError, match=message):
        Case(**{**fields, "prescriptions_gy": levels_gy})


def test_a_dose_that_was_counted_twice_is_refused(fields):
    fields["dose_gy"] = fields["dose_gy"] * 2
    with pytest.raises(InputError, match=r"and 54 Gy are prescribed; the dose looks like percent, or counted twice"):
        Case(**fields)
    with pytest.raises(InputError, match=r"and 70 Gy are prescribed: not plausible .*, counted twice or of a part of"):
        Case(**{**fields, "prescriptions_gy": {TARGET_A: 70.0}})


def test_a_ct_without_real_air_is_told(fields):
    halved = (fields["ct_hu"] // 2).astype(np.int16)
    assert Case(**{**fields, "ct_hu": halved}).notes == (
        "unusual: the lowest CT value is -500 HU (usually -1024 to -800 HU)",
    )


def test_the_dose_of_a_first_phase_is_refused(fields):
    fields["dose_gy"] = fields["dose_gy"] * np.float32(50 / 70)
    with pytest.raises(
        InputError, match=r"is 50.34 Gy, and 70 Gy are prescribed: not plausible .* of a part of the cour"
    ):
        Case(**fields)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda ct: ct + np.int16(1024), "the lowest CT value is 24 HU: no air anywhere"),
        (lambda ct: np.where(ct > -900, ct + 1024, -1024).astype(np.int16), "no ROI lies in tissue: the median CT val"),
        (
            lambda ct: np.clip(ct.astype(int) - 1024, -1024, None).astype(np.int16),
            "'External' continues where the CT show",
        ),
        (lambda ct: np.zeros_like(ct), "the lowest CT value is 0 HU: no air anywhere"),
        (lambda ct: np.full_like(ct, -1000), "continues where the CT shows only air"),
    ],
)
def test_a_shifted_ct_is_refused(fields, spoil, message):
    with pytest.raises(InputError, match=message.replace("External", EXTERNAL)):
        Case(**{**fields, "ct_hu": spoil(fields["ct_hu"])})


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ((slice(20, None),), r"in 8 planes along z \(24 mm\)"),
        ((slice(None, 5),), r"in 3 planes along z \(9 mm\)"),
        ((slice(None), slice(25, None)), r"in 3 planes along y \(9 mm\)"),
        ((slice(None), slice(None), slice(None, 7)), r"in 3 planes along x \(9 mm\)"),
    ],
)
def test_a_ct_that_ends_before_the_external_is_refused(fields, cut, message):
    fields["ct_hu"][cut] = -1000
    with pytest.raises(InputError, match=f"'{EXTERNAL}' continues where the CT shows only air: {message}"):
        Case(**fields)


def test_air_within_the_external_is_told(fields):
    fields["ct_hu"][4:26, 6:20, 6:12] = -1000  # (a cavity; planes show tissue next to it)
    (note,) = Case(**fields).notes
    assert note == "unusual: the share of the external that is air in the CT is 11.39 % (usually 0 to 8 %)"
    fields["ct_hu"][3:27, 5:27, 5:20] = -1000
    with pytest.raises(
        InputError, match=r"air in the CT is 48.* %, which is not plausible .* does the CT end before it"
    ):
        Case(**fields)


def test_voxels_ten_times_too_large_or_small_are_refused(fields):
    with pytest.raises(InputError, match=r"is not plausible; expected three of 0.3 to 10.0 mm"):
        Case(**{**fields, "grid": Grid(SHAPE, (30.0, 30.0, 30.0))})
    fields["grid"] = Grid(SHAPE, (0.3, 0.3, 0.3))
    with pytest.raises(InputError, match=f"the volume of '{EXTERNAL}' is 0.4.* cc, which is not plausible"):
        Case(**fields)


@pytest.mark.parametrize("bounds", [value for value in vars(ranges).values() if isinstance(value, ranges.Range)])
def test_what_is_usual_is_possible(bounds):
    assert bounds.possible[0] <= bounds.usual[0] < bounds.usual[1] <= bounds.possible[1]
    assert not bounds.is_possible(float("nan"))
    assert dataclasses.replace(bounds, usual=(1, 2)).note(1.5) is None
