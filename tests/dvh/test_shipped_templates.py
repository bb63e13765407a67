import re

import pytest

from cdm_nnunet.dvh import Template, match_rois, shipped_templates
from cdm_nnunet.dvh.course_limits import limits_in_course
from cdm_nnunet.dvh.regime import Course
from cdm_nnunet.roi import Catalogue, Roi


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


def limits(template, roi):
    """Limit by metric key of the goals of an ROI that have one."""
    return {str(goal.metric): goal.value for goal in template.goals if goal.roi == roi and goal.has_limit}


@pytest.mark.parametrize("name", [name for name in shipped_templates() if name != "openkbp"])
def test_shipped_templates_say_that_they_are_no_advice(name):
    assert "not advice" in Template.load(name).description


def test_prostate_limits_are_quantecs():
    template = Template.load("prostate")
    assert template.roi("PTV").prescription_gy == "patient"
    assert limits(template, "Rectum") == {"V50Gy": 50, "V60Gy": 35, "V65Gy": 25, "V70Gy": 20, "V75Gy": 15}
    assert limits(template, "Bladder") == {"V65Gy": 50, "V70Gy": 35, "V75Gy": 25, "V80Gy": 15}
    assert limits(template, "Femur_Head_L") == limits(template, "Femur_Head_R") == {"V50Gy": 10}


GDPHMM_HEAD_NECK = [
    "Cochlea_L",
    "Cochlea_R",
    "Eyes",
    "Lens_L",
    "Lens_R",
    "OpticNerve_L",
    "OpticNerve_R",
    "Chiasm",
    "LacrimalGlands",
    "BrachialPlexus",
    "Brain",
    "BrainStem",
    "BrainStem_03",
    "Esophagus",
    "Lips",
    "Lungs",
    "Trachea",
    "Posterior_Neck",
    "Shoulders",
    "Larynx",
    "Larynx-PTV",
    "Mandible",
    "Mandible-PTV",
    "OralCavity",
    "OCavity-PTV",
    "Parotids",
    "ParotidCon-PTV",
    "ParotidIps-PTV",
    "Parotids-PTV",
    "PharynxConst",
    "PharConst-PTV",
    "Submandibular",
    "Submand-PTV",
    "SubmandL-PTV",
    "SubmandR-PTV",
    "Thyroid",
    "Thyroid-PTV",
    "SpinalCord",
    "SpinalCord_05",
    "Pituitary",
    "PTVHighOPT",
    "PTVMid",
    "PTVMidOPT",
    "PTVLow",
    "PTVLowOPT",
    "RingPTVHigh",
    "RingPTVMid",
    "RingPTVLow",
    "Body",
]
GDPHMM_LUNG = ["PTV", "PTV_Ring.3-2", "Total Lung-GTV", "Body_Ring0-3", "Body"]
GDPHMM_LUNG += ["SpinalCord", "Heart", "LAD", "Esophagus", "BrachialPlexus", "GreatVessels", "Trachea"]


@pytest.mark.parametrize("names", [GDPHMM_HEAD_NECK, GDPHMM_LUNG])
def test_gdphmm_template_knows_every_published_name(names):
    template = Template.load("gdphmm")
    matched = {match.source: roi for roi, match in match_rois(template, names).items()}
    assert set(matched) == set(names)
    assert matched["PTVHighOPT" if "PTVHighOPT" in names else "PTV"] == "PTV_High"
    assert template.roi(matched["Body"]).kind == "external"
    assert len(template.rois) <= 64


def test_gdphmm_plans_are_normalised_to_d97():
    (goal,) = (goal for goal in Template.load("gdphmm").goals if str(goal.metric) == "D97%")
    assert (goal.roi, goal.relation, goal.limit(70.0)) == ("PTV_High", ">=", 70.0)


@pytest.mark.parametrize("name", shipped_templates())
def test_every_limit_has_a_source_and_a_fractionation(name):
    template = Template.load(name)
    source = re.compile(r"\bcustomary\b|\b(et al\. \d{4}|RTOG \d{4}|ICRU Reports?|challenge scales)")
    for goal in template.goals:
        if goal.has_limit:
            assert source.search(goal.comment), f"{goal.roi} {goal.metric}: {goal.comment}"
    assert template.regime is not None
    assert template.regime.fractions or template.regime.dose_per_fraction_gy


def test_the_same_organ_has_one_limit_in_all_templates():
    limits = {}
    for name in shipped_templates():
        for goal in Template.load(name).goals:
            if goal.has_limit and str(goal.metric) == "Dmean":
                limits.setdefault(goal.roi, set()).add((goal.value, goal.unit))
    assert [roi for roi, found in limits.items() if len(found) > 1] == []
    assert limits["Larynx"] == {(44.0, "Gy")}


def test_limits_of_a_70_gy_plan_are_not_for_others():
    (goal,) = (g for g in Template.load("openkbp").goals if g.roi == "Bone_Mandible" and g.has_limit)
    limits = limits_in_course(goal, Template.load("openkbp").regime, Course(66.0, 35), None)
    assert limits.misfit == "made for a prescription of 70 Gy, and the case has 66 Gy"
    (rectum,) = (g for g in Template.load("prostate").goals if str(g.metric) == "V75Gy" and g.roi == "Rectum")
    regime = Template.load("prostate").regime
    assert limits_in_course(rectum, regime, Course(78.0, 39), None).misfit is None
    assert limits_in_course(rectum, regime, Course(60.0, 20), None).misfit.startswith("made for a prescription of 74")
