import copy
import json
import math
import pickle

import pytest

from cdm_nnunet.dvh import Goal, Metric, Template, shipped_templates
from cdm_nnunet.errors import InputError
from cdm_nnunet.roi import Catalogue, Roi

SMALL = {
    "format_version": 1,
    "name": "small",
    "rois": [
        {"name": "PTV", "kind": "target", "aliases": ["ptv 70"], "prescription_gy": 70},
        {"name": "Cord", "kind": "oar"},
    ],
    "goals": [
        {"roi": "PTV", "metric": "V95%", "relation": ">=", "value": 95, "unit": "%", "variation": 90},
        {"roi": "PTV", "metric": "D2%", "relation": "<=", "value": 107, "unit": "% of prescription", "weight": 2},
        {"roi": "Cord", "metric": "D0.1cc", "relation": "<=", "value": 45, "unit": "Gy", "use": ["evaluation"]},
        {"roi": "Cord", "metric": "Dmean", "use": ["loss"]},
    ],
}


def changed(path, value):
    """SMALL with one value replaced (or, with ..., removed)."""
    mapping = copy.deepcopy(SMALL)
    place = mapping
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return mapping


def test_small_template():
    template = Template.from_json(SMALL, "here")
    assert template.roi("PTV").prescription_gy == 70.0
    assert template.roi("Cord").prescription_gy is None
    assert [goal.metric for goal in template.goals_for("loss")] == [
        Metric.parse("V95%"),
        Metric.parse("D2%"),
        Metric.parse("Dmean"),
    ]
    assert [str(goal.metric) for goal in template.goals_for("evaluation")] == ["V95%", "D2%", "D0.1cc"]
    assert [goal.weight for goal in template.goals] == [1.0, 2.0, 1.0, 1.0]
    assert [goal.has_limit for goal in template.goals] == [True, True, True, False]
    with pytest.raises(InputError, match="template 'small' has no ROI 'Brain'; it has PTV, Cord"):
        template.roi("Brain")


def test_templates_survive_json_and_pickle():
    template = Template.from_json(SMALL, "here")
    text = json.dumps(template.to_json())
    assert Template.from_json(json.loads(text), "again") == template
    assert pickle.loads(pickle.dumps(template)) == template
    with pytest.raises(ValueError, match="frozen"):
        template.name = "other"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format_version",), 2, "format_version: Input should be 1"),
        (("name",), ..., "name: Field required"),
        (("author",), "me", "author: unknown key"),
        (("goals", 0, "wieght"), 2, r"goals\.0\.wieght: unknown key"),
        (("goals", 0, "metric"), "V95", r"goals\.0\.metric: 'V95' has no unit: write 'V95Gy'"),
        (("goals", 0, "metric"), 95, r"goals\.0\.metric: a metric is a text"),
        (("goals", 0, "roi"), "Heart", "goal Heart V95%: the template has no such ROI; it has PTV, Cord"),
        (("goals", 0, "value"), ..., "'relation', 'value' and 'unit' make a limit together"),
        (("goals", 0, "value"), math.nan, r"goals\.0\.value: .*finite"),
        (("goals", 0, "value"), "95", r"goals\.0\.value: Input should be a valid number"),
        (("goals", 0, "unit"), "Gy", "a limit of V95% is in '%'"),
        (("goals", 2, "unit"), "%", "a limit of D0.1cc is in 'Gy' or '% of prescription'"),
        (("goals", 0, "value"), 101, "out of range"),
        (("goals", 0, "variation"), 97, "variation 97 must lie below the value 95"),
        (("goals", 2, "variation"), 40, "variation 40 must lie above the value 45"),
        (("goals", 3, "variation"), 40, "'variation' loosens a limit"),
        (("goals", 0, "weight"), 0, r"goals\.0\.weight: Input should be greater than 0"),
        (("goals", 0, "priority"), 0, r"goals\.0\.priority"),
        (("goals", 0, "use"), [], r"goals\.0\.use"),
        (("goals", 0, "use"), ["loss", "loss"], "names something twice"),
        (("goals", 0, "use"), ["training"], r"goals\.0\.use\.0"),
        (("goals", 3, "metric"), "D0.1cc", "goal Cord D0.1cc: it is there twice"),
        (("goals", 2, "metric"), "V95%", "a limit of V95%"),
        (("goals", 3, "metric"), "V95%", "goal Cord V95%: it is relative to the prescription, and the ROI has none"),
        (("goals", 2, "unit"), "% of prescription", "relative to the prescription, and the ROI has none"),
        (("goals",), [], "goals: .*at least 1"),
        (("rois",), [], "rois: .*at least 1"),
        (("rois", 0, "kind"), "ptv", r"rois\.0\.kind"),
        (("rois", 0, "prescription_gy"), 0, r"rois\.0\.prescription_gy"),
        (("rois", 0, "prescription_gy"), "70", r"rois\.0\.prescription_gy"),
        (("rois", 1, "prescription_gy"), 45, "ROI 'Cord' has a prescription but is of kind 'oar'"),
        (("rois", 1, "aliases"), ["PTV 70"], "'ptv 70' names both ROI 'PTV' and ROI 'Cord'"),
        (("rois", 1, "name"), "PTV", "'ptv' names both"),
        (("rois", 1, "name"), " Cord", r"rois\.1\.name"),
    ],
)
def test_bad_templates_are_refused_by_place(path, value, message):
    with pytest.raises(InputError, match=f"^here: .*{message}"):
        Template.from_json(changed(path, value), "here")


def test_what_is_no_mapping_is_refused():
    with pytest.raises(InputError, match=r"^here: "):
        Template.from_json([1, 2], "here")
    with pytest.raises(InputError, match=r"^here: not JSON data"):
        Template.from_json({"name": object()}, "here")


def test_verdicts():
    at_least = Goal(roi="PTV", metric="D95%", relation=">=", value=95, unit="% of prescription", variation=93)
    assert at_least.limit(60.0) == 57.0
    assert [at_least.verdict(dose_gy, 60.0) for dose_gy in (57.0, 56.99, 55.8, 55.79)] == [
        "pass",
        "acceptable",
        "acceptable",
        "fail",
    ]
    at_most = Goal(roi="Cord", metric="D0.1cc", relation="<=", value=45, unit="Gy")
    assert [at_most.verdict(dose_gy) for dose_gy in (45.0, 45.01)] == ["pass", "fail"]
    with pytest.raises(InputError, match="relative to a prescription, and none is known"):
        at_least.verdict(57.0)
    with pytest.raises(InputError, match="cannot judge the value nan"):
        at_most.verdict(math.nan)
    with pytest.raises(ValueError, match="has no limit"):
        Goal(roi="Cord", metric="Dmean").verdict(3.0)


def test_load_from_a_file(tmp_path):
    path = tmp_path / "clinic.json"
    path.write_text(json.dumps(SMALL), encoding="utf-8")
    assert Template.load(str(path)).name == "small"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"clinic\.json is not JSON"):
        Template.load(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"clinic\.json is not text in UTF-8"):
        Template.load(str(path))
    with pytest.raises(InputError, match=r"no template file .*gone\.json; shipped are head_neck, openkbp"):
        Template.load(str(tmp_path / "gone.json"))


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(InputError, match="no template 'prostrate'; shipped are head_neck, openkbp, or give the path"):
        Template.load("prostrate")


@pytest.mark.parametrize("name", shipped_templates())
def test_shipped_templates(name):
    template = Template.load(name)
    assert template.name == name
    assert template.description
    assert template.source
    assert Template.from_json(template.to_json(), "again") == template
    catalogue = Catalogue(tuple(Roi(roi.name, roi.kind) for roi in template.rois))  # can be a data set's catalogue
    scored = {goal.roi for goal in template.goals_for("evaluation")}
    assert scored == {roi.name for roi in template.rois if roi.kind in ("target", "oar")}
    assert {goal.roi for goal in template.goals_for("loss")} == scored
    for goal in template.goals:
        assert goal.has_limit == bool(goal.comment), f"{goal.roi} {goal.metric}: a limit has a source"
    for bit in catalogue.bits_of_kind("target"):
        assert template.roi(catalogue.names[bit]).prescription_gy is not None


def test_openkbp_template_has_openkbps_rois_in_order():
    template = Template.load("openkbp")
    assert [(roi.name, roi.aliases[0] if roi.aliases else roi.name) for roi in template.rois] == [
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
    ]
    assert [roi.prescription_gy for roi in template.rois[:3]] == [70.0, 63.0, 56.0]
    assert template.rois[-1].kind == "dose_region"
    metrics = {roi.name: [str(g.metric) for g in template.goals if g.roi == roi.name] for roi in template.rois}
    assert metrics["PTV_6300"] == ["D99%", "D98%", "D95%", "D2%", "D1%", "V95%", "Dmean"]
    assert metrics["Parotid_L"] == ["Dmean", "D2%", "D0.1cc"]


def test_head_neck_template_prescribes_by_patient():
    template = Template.load("head_neck")
    targets = [roi for roi in template.rois if roi.kind == "target"]
    assert [(roi.name, roi.prescription_gy) for roi in targets] == [
        ("PTV_High", "patient"),
        ("PTV_Mid", "patient"),
        ("PTV_Low", "patient"),
    ]
    assert [roi.name for roi in template.rois if roi.kind in ("external", "dose_region")] == ["External"]
