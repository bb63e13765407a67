from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cdm_nnunet.challenges.openkbp import OPENKBP as CHALLENGE
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.challenge_case import challenge_terms
from cdm_nnunet.evaluation.pairing import DosePair
from cdm_nnunet.evaluation.pooling import pooled_scores
from cdm_nnunet.evaluation.reading import case_from_json
from cdm_nnunet.evaluation.record import Evaluation
from cdm_nnunet.evaluation.scores import score_case
from cdm_nnunet.evaluation.tables import metrics_csv
from cdm_nnunet.roi import Catalogue, Roi, pack

from .conftest import OPENKBP_CATALOGUE, Case, synthetic_case

OPENKBP = Template.load("openkbp")


def as_pair(case: Case, predicted_dose_gy, catalogue=OPENKBP_CATALOGUE, name="pt_1") -> DosePair:
    shape = case.dose_gy.shape
    bits = pack(np.stack([case.masks.get(roi, np.zeros(shape, bool)) for roi in catalogue.names]))
    return DosePair(
        name,
        case.dose_gy,
        predicted_dose_gy,
        bits,
        catalogue,
        case.spacing_mm,
        tuple(case.masks),
        case.prescriptions_gy,
    )


def evaluation_of(result, template) -> Evaluation:
    return Evaluation(
        dataset="set", template=template, dose_region=None, n_dataset_cases=1, cases=(result,),
        scores=pooled_scores([result]),
    )  # fmt: skip


def perturbed(case: Case, seed=0) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(0, 1, case.dose_gy.shape), 2)
    return ((0.97 * case.dose_gy + 3 * noise / noise.std()).clip(0) * case.masks["DoseRegion"]).astype(np.float32)


def official_openkbp(cases: list[tuple[Case, np.ndarray]]) -> tuple[float, float]:
    """Dose and DVH score, written from the published formulas and nothing of this package."""
    dose_errors, dvh_errors = [], []
    for case, predicted in cases:
        reference, predicted = case.dose_gy.astype(float), predicted.astype(float)
        dose_errors.append(np.sum(np.abs(reference - predicted)) / np.sum(case.masks["DoseRegion"]))
        voxel_mm3 = np.prod(case.spacing_mm)
        k = max(1, np.round(100 / voxel_mm3))
        for roi, mask in case.masks.items():
            if roi == "DoseRegion" or not mask.any():
                continue
            a, b = reference[mask], predicted[mask]
            if roi.startswith("PTV"):
                dvh_errors += [abs(np.percentile(a, q) - np.percentile(b, q)) for q in (1, 5, 99)]
            else:
                q = max(0, 100 - k / a.size * 100)  # (no ROI of the data set is under 0.1 cc)
                dvh_errors += [abs(a.mean() - b.mean()), abs(np.percentile(a, q) - np.percentile(b, q))]
    return float(np.mean(dose_errors)), float(np.mean(dvh_errors))


@pytest.mark.parametrize("spacing_mm", [(2.5, 4.0, 3.0), (2.5, 4.0, 4.0), (1.5, 1.95, 2.0), (3.3, 5.4, 6.0)])
def test_openkbp_scores_are_the_official_ones(spacing_mm):
    cases = [
        synthetic_case(1),
        synthetic_case(2, absent=("PTV_6300", "Larynx")),
        synthetic_case(3, absent=("Esophagus",)),
    ]
    for case in cases:
        case.spacing_mm = spacing_mm
    predictions = [perturbed(case, seed) for seed, case in enumerate(cases)]
    terms = [challenge_terms(as_pair(case, p))["openkbp"] for case, p in zip(cases, predictions, strict=True)]
    scores = CHALLENGE.over(terms)
    dose_score, dvh_score = official_openkbp(list(zip(cases, predictions, strict=True)))
    assert scores["dose_score"] == pytest.approx(dose_score, abs=1e-5)
    assert scores["dvh_score"] == pytest.approx(dvh_score, abs=1e-5)
    assert len(terms[1]["dvh_errors_gy"]) == 2 * 3 + 6 * 2  # absent ROIs have no term


def test_openkbp_scores_of_a_real_patient(openkbp_case):
    predicted = perturbed(openkbp_case)
    result = score_case(as_pair(openkbp_case, predicted), OPENKBP)
    scores = pooled_scores([result]).to_json()
    dose_score, dvh_score = official_openkbp([(openkbp_case, predicted)])
    assert scores["openkbp"]["dose_score"] == pytest.approx(dose_score, abs=1e-5)
    assert scores["openkbp"]["dvh_score"] == pytest.approx(dvh_score, abs=1e-5)
    assert dose_score > 1
    assert dvh_score > 0.5
    assert 60 < result.rois["PTV_7000"].metrics["D95%"].reference < 75


def test_dose_outside_the_region_counts_for_openkbp_only():
    case = synthetic_case(1)
    predicted = case.dose_gy + np.where(case.masks["DoseRegion"], 0, 2).astype(np.float32)
    result = score_case(as_pair(case, predicted), OPENKBP)
    assert result.dose_mae_gy == 0
    n_outside, n_inside = (~case.masks["DoseRegion"]).sum(), case.masks["DoseRegion"].sum()
    assert result.challenges["openkbp"]["dose_error_gy"] == pytest.approx(2 * n_outside / n_inside)


def test_a_perfect_prediction_scores_zero():
    case = synthetic_case(1)
    scores = pooled_scores([score_case(as_pair(case, case.dose_gy.copy()), OPENKBP)]).to_json()
    assert (scores["dose_mae_gy"], scores["ptv_score"], scores["oar_score"]) == (0, 0, 0)
    assert scores["openkbp"] == {"dose_score": 0, "dvh_score": 0}
    assert all(row["agree"] == row["n"] == 1 for row in scores["goals"].values())


def small_template(**ptv) -> Template:
    return Template.from_json(
        {
            "format_version": 1,
            "name": "small",
            "rois": [
                {"name": "PTV", "kind": "target", "prescription_gy": 50, "aliases": ["ptv_50"], **ptv},
                {"name": "Cord", "kind": "oar"},
                {"name": "Body", "kind": "external"},
            ],
            "goals": [
                {"roi": "PTV", "metric": "Dmean"},
                {"roi": "PTV", "metric": "V95%", "relation": ">=", "value": 95, "unit": "%"},
                {"roi": "Cord", "metric": "Dmax", "relation": "<=", "value": 20, "unit": "Gy", "variation": 23},
                {"roi": "Cord", "metric": "Dmin", "use": ["loss"]},
                {"roi": "Body", "metric": "Dmean"},
            ],
        },
        "test",
    )


SMALL_CATALOGUE = Catalogue((Roi("PTV_50", "target"), Roi("Cord", "oar"), Roi("Body", "external")))


def small_case(with_cord=True, prescription_gy=50.0) -> Case:
    """Four voxels of PTV at 40, 50, 50, 60 Gy, two of cord at 10 and 20 Gy, two of body at 0 Gy."""
    dose = np.array([40, 50, 50, 60, 10, 20, 0, 0], np.float32).reshape(2, 2, 2)
    number = np.arange(8).reshape(2, 2, 2)
    masks = {"PTV_50": number < 4, "Body": np.ones((2, 2, 2), bool)}
    if with_cord:
        masks["Cord"] = (number == 4) | (number == 5)
    return Case(dose, masks, {"PTV_50": prescription_gy}, spacing_mm=(10.0, 10.0, 10.0))


def test_a_case_by_hand():
    # 2 Gy more everywhere: PTV 42, 52, 52, 62; cord 12, 22; body 2, 2
    case = small_case()
    result = score_case(as_pair(case, case.dose_gy + 2, SMALL_CATALOGUE), small_template())
    ptv, cord, body = (result.rois[name] for name in ("PTV", "Cord", "Body"))
    assert (ptv.n_voxels, ptv.volume_cc, ptv.prescription_gy, ptv.kind) == (4, 4.0, 50.0, "target")
    assert (ptv.metrics["Dmean"].reference, ptv.metrics["Dmean"].predicted) == (50.0, 52.0)
    assert (ptv.metrics["V95%"].reference, ptv.metrics["V95%"].predicted, ptv.metrics["V95%"].unit) == (75, 75, "%")
    assert (cord.metrics["Dmax"].reference, cord.metrics["Dmax"].predicted) == (20.0, 22.0)
    assert [(roi.source, roi.matched_by) for roi in (ptv, cord)] == [("PTV_50", "alias"), ("Cord", "name")]
    assert list(cord.metrics) == ["Dmax"]  # (Dmin is for the loss)
    assert [(g.reference, g.predicted) for g in cord.goals] == [("pass", "acceptable")]
    assert [(g.reference, g.predicted, g.limit) for g in ptv.goals] == [("fail", "fail", 95.0)]
    assert body.metrics["Dmean"].difference == 2.0
    assert result.dose_mae_gy == 2.0
    assert result.challenges == {}


def test_a_metric_that_a_small_roi_cannot_have_is_listed_and_never_met():
    content = small_template().to_json()
    limit = {"relation": "<=", "value": 30, "unit": "Gy"}
    content["goals"] += [{"roi": "Cord", "metric": "D3cc", **limit}, {"roi": "Cord", "metric": "D2cc", **limit}]
    case = small_case()  # the cord has two voxels of 1 cc
    result = score_case(as_pair(case, case.dose_gy + 2, SMALL_CATALOGUE), Template.from_json(content, "test"))
    cord = result.rois["Cord"]
    assert result.undefined == {"Cord D3cc": "the ROI has 2 cc, less than 3 cc"}
    assert list(cord.metrics) == ["Dmax", "D2cc"]
    assert [goal.metric for goal in cord.goals] == ["Dmax", "D2cc"]
    assert (cord.metrics["D2cc"].reference, cord.metrics["D2cc"].predicted) == (10.0, 12.0)
    assert "Cord D3cc" not in pooled_scores([result]).goals
    assert case_from_json(result.case, result.to_json(), Template.from_json(content, "test"), "") == result
    evaluation = evaluation_of(result, Template.from_json(content, "test"))
    row = metrics_csv(evaluation).splitlines()[-1]
    assert row == "pt_1,Cord,Cord,oar,D3cc" + "," * 19 + ',"the ROI has 2 cc, less than 3 cc"'


def test_scores_pool_over_cases_and_leave_out_what_is_absent():
    plus, minus = small_case(), small_case(with_cord=False)
    template = small_template()
    results = [
        score_case(as_pair(plus, plus.dose_gy + 2, SMALL_CATALOGUE, "a"), template),
        score_case(as_pair(minus, minus.dose_gy - minus.dose_gy / 10, SMALL_CATALOGUE, "b"), template),
    ]
    # b: PTV 36, 45, 45, 54: mean 45, V47.5Gy 25 %
    scores = pooled_scores(results).to_json()
    assert scores["ptv_score"] == pytest.approx((2 + 0 + 5 + 50) / 4)
    assert scores["oar_score"] == pytest.approx(2.0)  # one cord, not half of one
    target = scores["parts"]["target"]
    assert target["dose_gy"] == pytest.approx({"mean_absolute": 3.5, "mean_signed": -1.5, "n": 2})
    assert target["volume_percent"] == pytest.approx({"mean_absolute": 25.0, "mean_signed": -25.0, "n": 2})
    assert target["pooled"]["n"] == 4
    assert target["by_metric"]["Dmean"]["unit"] == "Gy"
    assert target["by_metric"]["Dmean"]["mean_signed"] == pytest.approx(-1.5)
    assert target["by_roi"]["PTV"]["n"] == 4
    assert scores["parts"]["oar"]["by_metric"]["Dmax"]["n"] == 1
    assert results[1].missing == {"Cord": "not contoured"}
    assert scores["goals"]["Cord Dmax"] == {
        "n": 1,
        "not_evaluable": 0,
        "agree": 0,
        "reference": {"pass": 1, "acceptable": 0, "fail": 0},
        "predicted": {"pass": 0, "acceptable": 1, "fail": 0},
        "reference_fails": 0,
        "certainty": None,
    }
    assert scores["openkbp"] is None


def test_a_score_without_a_term_is_none_not_zero():
    case = small_case(with_cord=False)
    scores = pooled_scores([score_case(as_pair(case, case.dose_gy, SMALL_CATALOGUE), small_template())]).to_json()
    assert scores["oar_score"] is None
    assert scores["parts"]["oar"]["pooled"] == {"mean_absolute": None, "mean_signed": None, "n": 0}


def test_reasons_for_absence():
    case = small_case(with_cord=False)
    case.masks = {**case.masks, "Cord": np.zeros((2, 2, 2), bool)}
    assert score_case(as_pair(case, case.dose_gy, SMALL_CATALOGUE), small_template()).missing == {
        "Cord": "no voxel on the dose grid"
    }
    no_cord = Catalogue(tuple(roi for roi in SMALL_CATALOGUE.rois if roi.name != "Cord"))
    assert score_case(as_pair(case, case.dose_gy, no_cord), small_template()).missing == {"Cord": "not in the data set"}


def test_prescription_of_the_patient():
    case = small_case(prescription_gy=60.0)
    template = small_template(prescription_gy="patient")
    result = score_case(as_pair(case, case.dose_gy, SMALL_CATALOGUE), template)
    assert result.rois["PTV"].metrics["V95%"].reference == 25.0  # at 57 Gy
    with pytest.raises(InputError, match=r"case 'pt_1': target 'PTV_50' is prescribed 60 Gy, the template says 50 Gy"):
        score_case(as_pair(case, case.dose_gy, SMALL_CATALOGUE), small_template())
    case.prescriptions_gy = {}
    with pytest.raises(InputError, match="case 'pt_1': target 'PTV_50' is present, but its prescription is unknown"):
        score_case(as_pair(case, case.dose_gy, SMALL_CATALOGUE), template)


def test_dose_error_without_dose_region():
    case = small_case()
    case.masks = {**case.masks, "Body": case.masks["PTV_50"]}
    outside = case.dose_gy + np.where(case.masks["PTV_50"], 0, 1).astype(np.float32)
    in_external = score_case(as_pair(case, outside, SMALL_CATALOGUE), small_template())
    in_grid = score_case(as_pair(case, outside, Catalogue(SMALL_CATALOGUE.rois[:2])), small_template())
    assert (in_external.dose_mae_gy, in_grid.dose_mae_gy) == (0.0, 0.5)
    case.masks = {**case.masks, "Body": np.zeros((2, 2, 2), bool)}
    with pytest.raises(InputError, match="case 'pt_1': ROI 'Body', in which the dose error is averaged, has no voxel"):
        score_case(as_pair(case, outside, SMALL_CATALOGUE), small_template())


def test_no_name_becomes_a_formula_in_a_table():
    content = small_template().to_json()
    for roi in content["rois"]:
        roi["name"] = {"Cord": "=HYPERLINK(1)"}.get(roi["name"], roi["name"])
    for goal in content["goals"]:
        goal["roi"] = {"Cord": "=HYPERLINK(1)"}.get(goal["roi"], goal["roi"])
    content["rois"][1]["aliases"] = ["Cord"]
    case = small_case()
    template = Template.from_json(content, "test")
    result = score_case(as_pair(case, case.dose_gy + 2, SMALL_CATALOGUE), template)
    table = metrics_csv(evaluation_of(result, template))
    assert "pt_1,'=HYPERLINK(1),Cord,oar,Dmax,Gy,20.0,22.0,2.0," in table


@pytest.mark.parametrize("without_dose", ["reference", "prediction", "member"])
def test_a_homogeneity_that_divides_by_zero_is_listed_and_ends_nothing(without_dose):
    case = synthetic_case(1)
    cold = case.dose_gy * ~case.masks["PTV_6300"]
    doses = {"reference": case.dose_gy, "prediction": case.dose_gy, "member": case.dose_gy, without_dose: cold}
    mapping = Template.load("openkbp").to_json()
    mapping["goals"] = [{"roi": f"PTV_{gy}00", "metric": metric} for gy in (63, 70) for metric in ("HI", "Dmean")]
    mapping["goals"][0] |= {"relation": "<=", "value": 0.1, "unit": ""}
    pair = replace(
        as_pair(case, doses["prediction"]),
        reference_dose_gy=doses["reference"],
        member_doses_gy=(case.dose_gy, doses["member"]),
    )
    found = score_case(pair, Template.from_json(mapping, "test"))
    assert found.undefined == {"PTV_6300 HI": "HI divides by D50%, which is 0 Gy"}
    assert (list(found.rois["PTV_6300"].metrics), found.rois["PTV_6300"].goals) == (["Dmean"], ())
    assert list(found.rois["PTV_7000"].metrics) == ["HI", "Dmean"]
