"""Protocols: the shipped one is sound, and one that is not is refused with its place."""

import pytest

from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.planning.protocol import Protocol, shipped_protocols

SMALL = """\
format_version: 1
name: mine
beams: {gantry_deg: [0, 90], bixel_mm: 8, dose_grid_mm: 5}
targets: {lower_percent: 100, upper_percent: 105, under_weight: 10, over_weight: 5}
fall_off: {percent_at_mm: [[0, 100], [20, 50]], weight: 1, beyond_weight: 1}
normalisation: {coverage_percent: 95, hottest_percent: 110}
optimiser: {iterations: 10, tolerance: 0.001, far_mm: 20}
"""


@pytest.mark.parametrize("name", shipped_protocols())
def test_a_shipped_protocol_is_sound(name):
    assert Protocol.load(name).name == name


def test_the_protocol_of_openkbp_limits_organs_of_its_template():
    organs = {roi.name for roi in Template.load("openkbp").rois if roi.kind == "oar"}
    assert {limit.roi for limit in Protocol.load("openkbp_hn").limits} == organs


def test_a_file_is_read(tmp_path):
    (tmp_path / "mine.yaml").write_text(SMALL)
    read = Protocol.load(tmp_path / "mine.yaml")
    assert read.beams.gantry_deg == [0, 90]
    assert read.limits == []


@pytest.mark.parametrize(
    ("written", "instead", "message"),
    [
        ("[0, 90]", "[0, 360]", "line 3.*360"),
        ("[0, 90]", "[90, 90.0]", "line 3.*is repeated"),
        ("upper_percent: 105", "upper_percent: 99", "line 4.*above 'lower_percent'"),
        ("[20, 50]", "[20, 101]", "line 5.*must ascend"),
        ("[20, 50]", "[0, 50]", "line 5.*must ascend"),
        ("over_weight: 5", "over_weight: 0", "line 4"),
        ("iterations: 10", "iteration: 10", "line 7"),
        ("format_version: 1", "format_version: 2", "line 1"),
    ],
    ids=["angle", "twice", "order", "rises", "distance", "weight", "key", "version"],
)
def test_a_mistake_is_told_with_its_line(tmp_path, written, instead, message):
    (tmp_path / "mine.yaml").write_text(SMALL.replace(written, instead))
    with pytest.raises(InputError, match=message):
        Protocol.load(tmp_path / "mine.yaml")


def test_a_name_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(InputError, match="no protocol 'prostate'; shipped are openkbp_hn"):
        Protocol.load("prostate")


def test_the_digest_is_of_what_rules_a_dose(tmp_path):
    for name, text in {
        "a": SMALL,
        "renamed": SMALL.replace("mine", "yours"),
        "other": SMALL.replace("bixel_mm: 8", "bixel_mm: 9"),
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    first, renamed, other = (Protocol.load(tmp_path / f"{name}.yaml").sha256 for name in ("a", "renamed", "other"))
    assert first == renamed
    assert first != other
