import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdm_nnunet.dvh import Metric
from cdm_nnunet.errors import InputError


@pytest.mark.parametrize(
    ("key", "kind", "value", "unit"),
    [
        ("D95%", "dose_at_percent", 95.0, "Gy"),
        ("D2%", "dose_at_percent", 2.0, "Gy"),
        ("D0.03cc", "dose_at_cc", 0.03, "Gy"),
        ("Dmean", "mean", None, "Gy"),
        ("Dmin", "min", None, "Gy"),
        ("Dmax", "max", None, "Gy"),
        ("V20Gy", "volume_at_gy", 20.0, "%"),
        ("V95%", "volume_at_percent", 95.0, "%"),
        ("V107.5%", "volume_at_percent", 107.5, "%"),
        ("V20Gy[cc]", "cc_at_gy", 20.0, "cc"),
        ("V95%[cc]", "cc_at_percent", 95.0, "cc"),
        ("gEUD8", "geud", 8.0, "Gy"),
        ("gEUD-10", "geud", -10.0, "Gy"),
        ("gEUD0.5", "geud", 0.5, "Gy"),
        ("HI", "homogeneity", None, ""),
        ("DC700cc", "cold_dose_at_cc", 700.0, "Gy"),
        ("DC5%", "cold_dose_at_percent", 5.0, "Gy"),
        ("CV15Gy", "cold_volume_at_gy", 15.0, "%"),
        ("CV15Gy[cc]", "cold_cc_at_gy", 15.0, "cc"),
        ("CV95%", "cold_volume_at_percent", 95.0, "%"),
        ("CV95%[cc]", "cold_cc_at_percent", 95.0, "cc"),
        ("Volume[cc]", "volume", None, "cc"),
        ("D2cm", "dose_beyond", 2.0, "Gy"),
        ("PaddickCI", "paddick_conformity", None, ""),
        ("RTOGCI", "rtog_conformity", None, ""),
        ("GI", "gradient_index", None, ""),
        ("R50%", "r50", None, ""),
    ],
)
def test_parse(key, kind, value, unit):
    metric = Metric.parse(key)
    assert (metric.kind, metric.value, metric.unit, metric.counting) == (kind, value, unit, "exact")
    assert str(metric) == key


def test_openkbp_rounding_is_part_of_the_key():
    metric = Metric.parse("D0.1cc[openkbp]")
    assert metric == Metric("dose_at_cc", 0.1, "openkbp")
    assert str(metric) == "D0.1cc[openkbp]"
    assert metric != Metric.parse("D0.1cc")


@pytest.mark.parametrize(
    ("spelling", "key"),
    [
        ("D95%[Gy]", "D95%"),
        ("D0.03cc[Gy]", "D0.03cc"),
        ("DC700cc[Gy]", "DC700cc"),
        ("V20Gy[%]", "V20Gy"),
        ("V95%[%]", "V95%"),
        ("CV15Gy[%]", "CV15Gy"),
        ("Mean[Gy]", "Dmean"),
        ("Mean", "Dmean"),
        ("Min[Gy]", "Dmin"),
        ("Max[Gy]", "Dmax"),
        ("Dmax[Gy]", "Dmax"),
        ("Median[Gy]", "D50%"),
        ("Volume", "Volume[cc]"),
        ("V2000cGy", "V20Gy"),
        ("D2cm[Gy]", "D2cm"),
        ("R50", "R50%"),
        ("V4550cGy[cc]", "V45.5Gy[cc]"),
    ],
)
def test_other_spellings_are_the_same_metric(spelling, key):
    """Those of TG-263, and cGy."""
    assert Metric.parse(spelling) == Metric.parse(key)
    assert str(Metric.parse(spelling)) == key


@pytest.mark.parametrize("key", ["D95%[%]", "Mean[%]", "Max[cGy]", "DC700cc[cGy]", "D0.03cc[%]"])
def test_a_dose_in_another_unit_is_refused_with_the_way_out(key):
    body = key.split("[")[0]
    with pytest.raises(InputError, match=rf"doses are in Gy here; write '{body}', give a limit in 'Gy' or in '% of"):
        Metric.parse(key)


def test_a_volume_in_mm3_is_the_same_metric_as_in_cc():
    """ICRU 91's D35mm3: one metric has one key."""
    assert Metric.parse("D35mm3") == Metric.parse("D0.035cc") == Metric("dose_at_cc", 0.035)
    assert str(Metric.parse("D35mm3")) == "D0.035cc"
    assert Metric.parse("D100mm3[openkbp]") == Metric.parse("D0.1cc[openkbp]")


NUMBERED_KINDS = (
    "dose_at_cc",
    "volume_at_gy",
    "volume_at_percent",
    "cc_at_gy",
    "cc_at_percent",
    "cold_dose_at_cc",
    "cold_cc_at_gy",
    "cold_volume_at_percent",
)


@given(
    st.one_of(
        st.builds(lambda v: Metric("dose_at_percent", v), st.floats(0, 100)),
        st.builds(
            lambda kind, v: Metric(kind, v),
            st.sampled_from(NUMBERED_KINDS),
            st.floats(1e-300, 1e300),
        ),
        st.builds(lambda v: Metric("dose_at_cc", v, "openkbp"), st.floats(1e-6, 1e6)),
        st.builds(lambda v: Metric("dose_at_percent", v, "openkbp"), st.floats(0, 100)),
        st.builds(lambda v: Metric("cold_dose_at_percent", v), st.floats(0, 100)),
        st.builds(lambda v: Metric("geud", v), st.floats(-1e3, 1e3).filter(bool)),
        st.sampled_from([Metric("mean"), Metric("min"), Metric("max"), Metric("homogeneity"), Metric("volume")]),
    )
)
def test_the_key_tells_everything(metric):
    assert Metric.parse(str(metric)) == metric


@pytest.mark.parametrize(
    ("key", "readings"),
    [
        ("V20", ("V20Gy", "V20%")),
        ("D95", ("D95%", "D95cc")),
        ("D0.1", ("D0.1%", "D0.1cc")),
        ("CV15", ("CV15Gy", "CV15%")),
        ("DC700", ("DC700%", "DC700cc")),
        ("V20[cc]", ("V20Gy", "V20%")),
    ],
)
def test_a_number_without_unit_is_refused_with_both_readings(key, readings):
    with pytest.raises(InputError, match="has no unit") as caught:
        Metric.parse(key)
    for reading in readings:
        assert f"'{reading}'" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("D101%", "outside 0 to 100"),
        ("D-1%", "outside 0 to 100"),
        ("V-5Gy", "not above zero"),
        ("V0%", "not above zero"),
        ("D0cc", "not above zero"),
        ("D95Gy", "is not a DVH metric; expected D<x>%"),
        ("V20cc", "is not a DVH metric; expected D<x>%"),
        ("d95%", "is not a DVH metric; expected D<x>%"),
        ("D95%x", "is not a DVH metric; expected D<x>%"),
        ("D95%%", "is not a DVH metric; expected D<x>%"),
        ("", "is not a DVH metric; expected D<x>%"),
        ("D0.1cc[foo]", "unknown way to count 'foo'; known are exact, openkbp"),
        ("DC5%[openkbp]", "it has no other use"),
        ("Dmean[openkbp]", "it has no other use"),
        ("Volume[%]", "is not a DVH metric; expected D<x>%"),
        ("HI[]", "is not a DVH metric; expected D<x>%"),
        ("CV15cc", "is not a DVH metric; expected D<x>%"),
        ("DC15Gy", "is not a DVH metric; expected D<x>%"),
        ("V20Gy[Gy]", "is not a DVH metric; expected D<x>%"),
        ("Dmax[cc]", "is not a DVH metric; expected D<x>%"),
        ("V20Gy[cc][cc]", "is not a DVH metric; expected D<x>%"),
        ("V20Gy[openkbp]", "it has no other use"),
        ("D0.1cc[cc]", "is not a DVH metric; expected D<x>%"),
        ("gEUD0", "'gEUD0' has the exponent 0"),
        ("gEUD", "is not a DVH metric; expected D<x>%"),
        ("gEUD8Gy", "is not a DVH metric; expected D<x>%"),
        ("V20mm3", "is not a DVH metric; expected D<x>%"),
        ("V20[cc]", "has no unit"),
        ("HI95", "is not a DVH metric; expected D<x>%"),
        ("D0mm3", "not above zero"),
        ("D0cm", "asks for a distance that is not above zero"),
        ("CI", "'CI' can be read in two ways: write 'PaddickCI'"),
        ("V2cm", "is not a DVH metric"),
    ],
)
def test_what_is_no_metric_is_refused(key, message):
    with pytest.raises(InputError, match=message):
        Metric.parse(key)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mean", 3.0), "cannot have the value 3.0"),
        (("dose_at_percent", None), "cannot have the value None"),
        (("volume_at_gy", math.inf), "must be finite"),
        (("median", None), "unknown kind"),
    ],
)
def test_a_metric_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Metric(*arguments)


@pytest.mark.parametrize(
    ("key", "n_voxels", "voxel_volume_cc", "expected"),
    [
        ("Dmin", 7, 0.03, 0),
        ("Dmax", 7, 0.03, 6),
        ("D100%", 7, 0.03, 0),
        ("D0%", 7, 0.03, 6),
        ("D50%", 8, 0.03, 4),  # the hottest four reach it
        ("D50%", 7, 0.03, 3),  # the median
        ("D95%", 7, 0.03, 0),  # six of seven are less than 95 %
        ("D7%", 100, 0.03, 93),  # (0.07 x 100 is above 7 in floating point)
        ("D2%", 1000, 0.03, 980),
        ("D0.3cc", 100, 0.03, 90),  # the tenth
        ("D0.27cc", 100, 0.027, 90),
        ("D0.081cc", 100, 0.027, 97),  # (three times 0.027 is below 0.081 in floating point)
        ("D0.03cc", 100, 0.02999999999, 99),  # a spacing of 32 bits
        ("D0.03cc", 100, 0.0299, 98),
        ("D0.1cc", 100, 0.04, 97),  # two and a half voxels: three hold as much
        ("D0.03cc", 100, 0.06, 99),  # half a voxel: the hottest holds as much
        ("D4cc", 100, 0.04, 0),
        ("DC0.3cc", 100, 0.03, 9),
        ("DC0.1cc", 100, 0.04, 2),
        ("DC2%", 1000, 0.03, 19),
        ("D95%[openkbp]", 7, 0.03, 0.3),
        ("D0.1cc[openkbp]", 100, 0.04, 0.98 * 99),  # 2.5 voxels, rounded to even as Python and NumPy do
        ("D0.1cc[openkbp]", 100, 0.03, 0.97 * 99),  # 3.33 voxels, rounded to 3
        ("D0.03cc[openkbp]", 100, 0.25, 0.99 * 99),
        ("D5cc[openkbp]", 100, 0.04, 0),  # more than the ROI has: its minimum
    ],
)
def test_rank(key, n_voxels, voxel_volume_cc, expected):
    assert Metric.parse(key).rank(n_voxels, voxel_volume_cc) == pytest.approx(expected, abs=1e-12)


def test_rank_refuses_what_has_no_rank():
    with pytest.raises(InputError, match="at least one voxel, not 0"):
        Metric.parse("D95%").rank(0, 0.03)
    with pytest.raises(InputError, match="voxel volume above zero, not 0"):
        Metric.parse("D0.1cc").rank(10, 0.0)
    for key in ("Dmean", "V20Gy", "V95%", "V20Gy[cc]", "CV20Gy", "Volume[cc]", "gEUD8", "HI"):
        with pytest.raises(ValueError, match="not an order statistic"):
            Metric.parse(key).rank(10, 0.03)


@pytest.mark.parametrize("key", ["D5cc", "DC5cc", "D5000mm3"])
def test_an_roi_that_is_smaller_than_x_has_no_dose_at_x(key):
    metric = Metric.parse(key)
    assert metric.why_undefined(4.0) == "the ROI has 4 cc, less than 5 cc"
    assert metric.why_undefined(5.0 - 1e-9) is metric.why_undefined(6.0) is None
    with pytest.raises(InputError, match=f"{metric} is not defined: the ROI has 4 cc, less than 5 cc"):
        metric.rank(100, 0.04)
    for other in ("D5cc[openkbp]", "D5%", "Dmax", "V5Gy[cc]", "CV5Gy[cc]"):
        assert Metric.parse(other).why_undefined(4.0) is None


def test_threshold():
    assert Metric.parse("V20Gy").threshold_gy() == 20.0
    assert Metric.parse("V95%").threshold_gy(63.0) == 59.85
    assert Metric.parse("V95%[cc]").threshold_gy(63.0) == 59.85
    assert Metric.parse("V20Gy[cc]").threshold_gy() == 20.0
    with pytest.raises(InputError, match="the ROI has none; use V<x>Gy"):
        Metric.parse("V95%").threshold_gy()
    for prescription_gy in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="needs a prescription above zero"):
            Metric.parse("V95%").threshold_gy(prescription_gy)
    with pytest.raises(ValueError, match="no dose threshold"):
        Metric.parse("D95%").threshold_gy(70.0)


def test_what_metrics_are_made_of():
    assert Metric.parse("D95%").order_statistics == (Metric.parse("D95%"),)
    assert [str(part) for part in Metric.parse("HI").order_statistics] == ["D2%", "D98%", "D50%"]
    for key in ("Dmean", "V20Gy", "V20Gy[cc]", "CV20Gy[cc]", "gEUD8", "Volume[cc]"):
        assert Metric.parse(key).order_statistics == ()
