import copy
import json
import math
import pickle

import numpy as np
import pytest

from cdm_nnunet.documents import Place
from cdm_nnunet.dvh import Goal, Metric, Template, check_template
from cdm_nnunet.errors import InputError

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
        (("goals", 3, "metric"), "D0.1cc", "goal Cord D0.1cc: it appears twice"),
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
        (("rois", 1, "regex"), ["cord("], r"rois\.1\.regex\.0: 'cord\(' is not a regular expression"),
        (("rois", 1, "regex"), "cord", r"rois\.1\.regex: Input should be a valid array"),
        (("goals", 0, "variation"), -1, r"goals\.0\.variation: .*-1 % is out of range"),
        (("goals", 0, "a-b"), 1, r"goals\.0\.a-b: unknown key"),
    ],
)
def test_bad_templates_are_refused_by_place(path, value, message):
    with pytest.raises(InputError, match=f"^here: .*{message}"):
        Template.from_json(changed(path, value), "here")


def test_what_is_no_mapping_is_refused():
    with pytest.raises(InputError, match=r"^here: "):
        Template.from_json([1, 2], "here")
    with pytest.raises(InputError, match=r"^here: name: object can't be written as JSON"):
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
    with pytest.raises(InputError, match=r"clinic\.json: line 1, column 2: not JSON: Expecting property name"):
        Template.load(str(path))
    path.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(InputError, match=r"clinic\.json: lists or objects are nested too deeply \(more than 32\)"):
        Template.load(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"clinic\.json is not text in UTF-8"):
        Template.load(str(path))
    with pytest.raises(InputError, match=r"gone\.json is missing; shipped templates are gdphmm, head_neck, openkbp"):
        Template.load(str(tmp_path / "gone.json"))


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(
        InputError,
        match="no template 'prostrate'; shipped are gdphmm, head_neck, openkbp, prostate, or give",
    ):
        Template.load("prostrate")


def test_every_kind_of_limit_has_its_unit():
    def goal(metric, unit, value):
        return Goal(roi="PTV", metric=metric, relation="<=", value=value, unit=unit)

    assert goal("D95%", "% of prescription", 50).limit(60.0) == 30.0
    assert goal("gEUD8", "Gy", 30).limit() == 30.0
    assert goal("V20Gy[cc]", "cc", 180).verdict(180.5) == "fail"
    assert goal("V20Gy[cc]", "cc", 180).verdict(180.0) == "pass"
    assert goal("HI", "", 0.12).verdict(0.1) == "pass"
    for metric, unit in (("HI", "Gy"), ("V20Gy[cc]", "%"), ("V20Gy", "cc"), ("Dmean", "")):
        with pytest.raises(ValueError, match=f"the limit's unit is '{unit}'"):
            goal(metric, unit, 10)


@pytest.mark.parametrize("prescription_gy", [63.0, 56.0, 70.0, 59.4])
def test_a_dose_of_exactly_the_limit_passes_as_it_is_stored(prescription_gy):
    goal = Goal(roi="PTV", metric="D95%", relation=">=", value=95, unit="% of prescription")
    stored_gy = float(np.float32(0.95 * prescription_gy))
    assert goal.verdict(stored_gy, prescription_gy) == "pass"
    assert goal.verdict(stored_gy - 1e-5, prescription_gy) == "fail"


BROKEN = """{
  "format_version": 1,
  "name": "broken",
  "rois": [
    {"name": "PTV", "kind": "target", "prescription_gy": "all"},
    {"name": "Cord", "kind": "oar"}, {"name": "CORD", "kind": "oar"}
  ],
  "goals": [
    {"roi": "PTV", "metric": "V95", "relation": ">=", "value": 95, "unit": "%"},
    {"roi": "Cord", "metric": "Dmean", "wieght": 2, "weight": 3, "weight": 4},
    {"roi": "Heart", "metric": "Dmean"},
    {"metric": "Dmean"},
    {"roi": "Cord", "metric": "D2%", "relation": "<=", "value": 45, "unit": "%", "variation": 40}
  ]
}
"""


def test_a_check_tells_every_fault_with_its_line_and_column(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text(BROKEN, encoding="utf-8")
    checked = check_template(str(path))
    assert checked.value is None
    found = [(fault.place.line, fault.place.column, fault.field, fault.message) for fault in checked.faults]
    assert found == sorted(found, key=lambda fault: fault[:2])
    lines = BROKEN.splitlines()
    for line, column, field, _ in found:
        key = field.split(".")[-1]
        here = lines[line - 1][column - 1 :]
        before = lines[line - 1][: column - 1]
        assert here.startswith((f'"{key}"', "{")) or before.endswith(f'"{key}": '), (line, column, field)
    assert [(line, field, message[:40]) for line, _, field, message in found] == [
        (5, "rois.0.prescription_gy", "Input should be a valid number, or: Inpu"),
        (6, "rois.2", "'cord' names both ROI 'Cord' and ROI 'CO"),
        (9, "goals.0.metric", "'V95' has no unit: write 'V95Gy' (volume"),
        (10, "goals.1.wieght", "unknown key; remove it or correct its sp"),
        (10, "goals.1.weight", "the key appears twice; only the last wou"),
        (11, "goals.2.roi", "goal Heart Dmean: the template has no su"),
        (12, "goals.3.roi", "Field required"),
        (13, "goals.4.unit", "goal Cord D2%: the limit's unit is '%'; "),
        (13, "goals.4.variation", "goal Cord D2%: variation 40 must lie abo"),
    ]
    with pytest.raises(
        InputError, match=r"broken\.json: line 5, column 58: rois\.0\.prescription_gy: .*and 8 more; 'cdm"
    ):
        Template.load(str(path))


def test_a_sound_template_has_no_fault():
    checked = check_template("openkbp")
    assert checked.faults == ()
    assert checked.value == Template.load("openkbp")


@pytest.mark.parametrize("text", ["[]", "3", '"template"', "null", "{}"])
def test_json_that_is_no_template_is_a_fault(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text, encoding="utf-8")
    faults = check_template(str(path)).faults
    assert faults
    assert {fault.place for fault in faults} == {Place(1, 1)}


def test_nan_is_no_json(tmp_path):
    path = tmp_path / "nan.json"
    path.write_text('{"name": "NaN",\n "x": NaN}', encoding="utf-8")
    (fault,) = check_template(str(path)).faults
    assert (fault.place, fault.message) == (Place(2, 7), "not JSON: NaN is not a JSON number")
