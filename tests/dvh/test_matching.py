"""One matcher for conversion, check, evaluation and report."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from cdm_nnunet.dvh import RoiMatch, Template, match_rois
from cdm_nnunet.dvh.matching import refuse_without_goal
from cdm_nnunet.errors import InputError
from cdm_nnunet.roi import Catalogue, Roi


def matching(*rois):
    goals = [{"roi": roi["name"], "metric": "Dmean"} for roi in rois]
    rois = [{"kind": "oar", **roi} for roi in rois]
    return Template.from_json({"format_version": 1, "name": "clinic", "rois": rois, "goals": goals}, "here")


def sources(template, names):
    return {roi: match.source for roi, match in match_rois(template, names).items()}


def test_rois_are_matched_by_name_or_alias_else_by_expression():
    template = matching(
        {"name": "SpinalCord", "aliases": ["Myelon"], "regex": ["(spinal )?cord( v[0-9]+)?"]},
        {"name": "Larynx", "regex": ["glottis.*"]},
        {"name": "Lips"},
    )
    assert match_rois(template, ["lips", "CORD V2"]) == {
        "SpinalCord": RoiMatch("CORD V2", "regex"),
        "Lips": RoiMatch("lips", "name"),
    }
    assert match_rois(template, ["Cord", "MYELON"]) == {"SpinalCord": RoiMatch("MYELON", "alias")}
    assert match_rois(template, ["my Cord", "Cord PRV"]) == {}  # from end to end only
    assert match_rois(template, []) == {}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Medulla", "Myelon"], "'clinic' does not say which ROI is which: 'Cord' may be any of 'Medulla', 'Myelon'"),
        (["Cord", "Myelon"], "'Cord' may be any of 'Cord', 'Myelon'"),
        (["Cord", "CORD"], "'Cord' may be any of 'Cord', 'CORD'"),
        (["c1", "c2"], "'Cord' may be any of 'c1', 'c2'"),
        (["chi"], "'chi' may be any of 'Cord', 'Chiasm'"),
    ],
)
@pytest.mark.parametrize("as_catalogue", [False, True])
def test_ambiguous_names_are_refused(names, message, as_catalogue):
    template = matching(
        {"name": "Cord", "aliases": ["Myelon", "Medulla"], "regex": ["c.*"]}, {"name": "Chiasm", "regex": ["ch.*"]}
    )
    with pytest.raises(InputError, match=message):
        match_rois(template, Catalogue(tuple(Roi(name, "oar") for name in names)) if as_catalogue else names)
    assert sources(template, ["chi", "Cord"]) == {"Cord": "Cord", "Chiasm": "chi"}


def test_a_prv_is_not_the_cord():
    both = matching({"name": "SpinalCord", "regex": ["cord.*"]}, {"name": "SpinalCord_PRV05", "regex": ["cord_prv.*"]})
    with pytest.raises(InputError, match="'cord_prv5' may be any of 'SpinalCord', 'SpinalCord_PRV05'"):
        match_rois(both, ["cord_prv5"])
    cord = matching({"name": "SpinalCord", "regex": ["cord.*"]})
    assert sources(cord, ["cord v2"]) == {"SpinalCord": "cord v2"}
    with pytest.raises(
        InputError, match="'cord_prv5' fits the expression of 'SpinalCord', and its name says a planning"
    ):
        match_rois(cord, ["cord_prv5"])
    named = matching({"name": "SpinalCord", "aliases": ["cord_prv5"]})
    assert sources(named, ["cord_prv5"]) == {"SpinalCord": "cord_prv5"}  # (an alias is intended)


@pytest.mark.parametrize(
    ("roi", "regex", "name", "says"),
    [
        ("Parotid_L", ".*parot.*", "rt parotid", "the other side"),
        ("SpinalCord_PRV05", ".*cord.*", "Spinal Cord", "an organ, not its planning risk volume"),
        ("Brainstem", "brainstem.*", "Brainstem+3mm", "a planning risk volume"),
        ("Lungs", "lungs.*", "Lungs-GTV", "an organ without the target"),
        ("Rectum", ".*rectum.*", "z_rectum", "a structure that only helps planning"),
        ("Larynx", ".*lar.*", "CTV_larynx", "a CTV"),
    ],
)
def test_an_expression_does_not_take_another_thing(roi, regex, name, says):
    with pytest.raises(InputError, match=f"fits the expression of '{roi}', and its name says {says}"):
        match_rois(matching({"name": roi, "regex": [regex]}), [name])


def test_targets_of_another_type_are_not_taken():
    template = matching({"name": "PTV_High", "kind": "target", "regex": [".*70.*"]})
    assert sources(template, ["PTV70"]) == {"PTV_High": "PTV70"}
    with pytest.raises(InputError, match="'GTV 70 Gy' fits the expression of 'PTV_High', and its name says a GTV"):
        match_rois(template, ["GTV 70 Gy"])


def test_kinds_are_compared_where_the_data_have_them():
    template = matching({"name": "Heart"})
    assert sources(template, ["Heart"]) == {"Heart": "Heart"}
    with pytest.raises(InputError, match="'Heart' is of kind 'oar', and 'heart' in the data set is 'other'"):
        match_rois(template, Catalogue((Roi("heart", "other"),)))


def test_a_preference_settles_what_several_names_stand_for():
    template = matching({"name": "Chiasm", "aliases": ["Chiasim"]})
    names = ["Chiasm", "Chiasim", "Lips"]
    assert match_rois(template, names, prefer=lambda roi, fit: fit[1:]) == {"Chiasm": RoiMatch("Chiasim", "alias")}


def test_a_template_for_other_data_is_refused():
    template = matching({"name": "Heart"})
    with pytest.raises(InputError, match=r"template 'clinic' has no goal for the ROIs of this data set \(Lips\)"):
        refuse_without_goal(template, template.goals, match_rois(template, ["Lips"]), ["Lips"])


def test_an_expression_that_never_ends_is_refused_in_any_thread():
    template = matching({"name": "SpinalCord", "regex": ["(a|aa)+"]})
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(InputError, match=r"expression '\(a\|aa\)\+' of ROI 'SpinalCord' takes too long"),
    ):
        pool.submit(match_rois, template, ["a" * 60 + "!"]).result(60)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("((a{1000}){1000}){1000}", "repeats parts more than 10,000 times"),
        ("(" * 400 + "a" + ")" * 400, "nested"),
        ("a{,99999999999}", "repeats parts"),
        ("a" * 1001, "at most 1000 characters"),
    ],
)
def test_an_expression_that_is_too_large_is_refused(pattern, message):
    with pytest.raises(InputError, match=message):
        matching({"name": "SpinalCord", "regex": [pattern]})


@pytest.mark.parametrize("pattern", ["cord{}", "cord{2,x}", "cord.{0,10}", r"cord\{5}?", "(cord[_ ]?)+"])
def test_braces_that_count_little_are_taken(pattern):
    assert matching({"name": "SpinalCord", "regex": [pattern]}).rois[0].regex == (pattern,)
