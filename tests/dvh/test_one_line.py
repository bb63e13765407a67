"""``dvh.metrics``: dose, mask, voxel size, keys."""

import numpy as np
import pytest

from cdm_nnunet import dvh
from cdm_nnunet.errors import InputError

rng = np.random.default_rng(3)
DOSE_GY = rng.uniform(10, 70, (6, 5, 4))
MASK = rng.random((6, 5, 4)) < 0.4
SPACING_MM = (3.0, 2.5, 2.0)


def test_it_gives_the_values_of_evaluate_under_the_keys_as_given():
    keys = ["D95%", "Mean[Gy]", "V20Gy[cc]", "D0.03 cc", "CV20Gy[cc]", "DC0.03cc[Gy]", "V95%", "HI"]
    found = dvh.metrics(DOSE_GY, MASK, SPACING_MM, keys, prescription_gy=60)
    assert list(found) == keys
    for key, value in found.items():
        wanted = dvh.evaluate(dvh.Metric.parse(key), DOSE_GY[MASK], voxel_volume_cc=0.015, prescription_gy=60)
        assert value == wanted
    assert found["V20Gy[cc]"] == pytest.approx(np.count_nonzero(DOSE_GY[MASK] >= 20) * 0.015)


def test_the_order_of_the_voxel_size_does_not_matter():
    keys = ["D95%", "V20Gy[cc]", "D0.1cc"]
    forth, back = (dvh.metrics(DOSE_GY, MASK, size, keys) for size in (SPACING_MM, SPACING_MM[::-1]))
    assert list(forth.values()) == pytest.approx(list(back.values()), rel=1e-12)


def test_a_volume_is_asked_for_only_where_it_matters():
    assert dvh.metrics(DOSE_GY, MASK, None, "Dmean") == {"Dmean": DOSE_GY[MASK].mean()}
    for key in ("V20Gy[cc]", "D0.03cc", "DC1cc", "Volume[cc]", "CV20Gy[cc]"):
        with pytest.raises(InputError, match=r"asks for a volume in cc: give the size of a voxel in mm"):
            dvh.metrics(DOSE_GY, MASK, None, [key])


@pytest.mark.parametrize(("dtype", "labels"), [(np.uint8, MASK), (np.float32, MASK), (bool, MASK)])
def test_a_mask_is_true_or_one(dtype, labels):
    assert dvh.metrics(DOSE_GY, labels.astype(dtype), None, ["D2%"]) == dvh.metrics(DOSE_GY, MASK, None, ["D2%"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": MASK[:-1]}, r"the dose has the shape \(6, 5, 4\), the mask \(5, 5, 4\)"),
        ({"mask": 3 * MASK.astype(int)}, "a mask holds booleans, or zeros and ones, not int64 with 2 values"),
        ({"mask": ~np.isfinite(DOSE_GY)}, "the ROI is empty"),
        ({"dose_gy": 100 * DOSE_GY}, r"the dose maximum is 6\d{3} Gy, .* is the dose in cGy\?"),
        ({"dose_gy": np.where(MASK, np.nan, DOSE_GY)}, "voxel doses are not finite"),
        ({"spacing_mm": (0.3, 0.25, 0.2)}, "voxel size of spacing_mm is 0.25 mm"),
        ({"spacing_mm": (3, 2)}, "one number for each axis: 3, not 2"),
        ({"keys": ["V95%"]}, "V95% is a percentage of the prescription"),
        ({"keys": ["V20"]}, "'V20' has no unit"),
        ({"keys": ["D2cm"]}, "D2cm needs the whole dose"),
    ],
)
def test_what_can_not_be_right_is_refused(change, message):
    given = {"dose_gy": DOSE_GY, "mask": MASK, "spacing_mm": SPACING_MM, "keys": ["D95%"], **change}
    with pytest.raises(InputError, match=message):
        dvh.metrics(**given)
