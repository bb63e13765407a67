"""A patient in a position that no training patient had."""

import pytest

from cdm_nnunet.prediction.position import position_finding, with_finding
from cdm_nnunet.prediction_record import NOT_COMPARED, Applicability, Finding

INSIDE = Applicability(status="inside", compared="distributions", n_training=30)


@pytest.mark.parametrize(
    ("position", "known", "outside"),
    [
        ("HFS", {"HFS": 30}, None),
        ("", {"HFS": 30}, None),
        ("FFS", {}, None),
        ("FFS", {"FFS": 1, "HFS": 29}, None),
        ("FFS", {"HFS": 30}, True),
        ("FFS", {"HFS": 10, "HFP": 10}, True),
        ("FFS", {"HFS": 5}, False),
    ],
)
def test_it_is_outside_where_many_lay_otherwise(position, known, outside):
    found = position_finding(position, known)
    assert outside is (None if found is None else found.is_outside)


def test_it_adds_to_what_was_found():
    few, many = position_finding("FFS", {"HFS": 5}), position_finding("FFS", {"HFS": 30})
    assert with_finding(INSIDE, None) is INSIDE
    assert with_finding(None, many) is None
    assert with_finding(INSIDE, few).status == "unusual"
    assert with_finding(NOT_COMPARED, few).status == "not compared"
    outside = with_finding(Applicability.of([Finding(text="old")], "ranges", 30), many)
    assert (outside.status, outside.allowed, len(outside.findings)) == ("outside", True, 2)
