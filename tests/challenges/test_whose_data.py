"""Scores of a challenge are given only for its own data."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from cdm_nnunet.challenges import CHALLENGES
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.pairing import DosePair
from cdm_nnunet.evaluation.pooling import pooled_scores
from cdm_nnunet.evaluation.reading import case_from_json
from cdm_nnunet.evaluation.record import CaseResult, Evaluation
from cdm_nnunet.evaluation.scores import score_case
from cdm_nnunet.evaluation.tables import cases_csv, scores_csv
from cdm_nnunet.roi import Catalogue, Roi, pack

CATALOGUE = Catalogue((Roi("PTV_High", "target"), Roi("Body", "external")))
TEMPLATE = Template.from_json(
    {
        "format_version": 1,
        "name": "test",
        "rois": [{"name": "PTV_High", "kind": "target", "prescription_gy": "patient"}],
        "goals": [{"roi": "PTV_High", "metric": "Dmean"}],
    },
    "test",
)


def scored(converted_from: str) -> CaseResult:
    """Ten voxels of a body at 60, 10, 0, ... Gy, of which the first is the target; the prediction is off by 3 and 6."""
    reference_gy, predicted_gy = np.zeros((2, 1, 1, 10), np.float32)
    reference_gy[0, 0, :2], predicted_gy[0, 0, :3] = (60, 10), (57, 10, 6)
    masks = np.stack([reference_gy > 50, np.ones_like(reference_gy, bool)])
    pair = DosePair(
        "case", reference_gy, predicted_gy, pack(masks), CATALOGUE, (2.0, 2.0, 2.0), CATALOGUE.names, {"PTV_High": 60.0}
    )
    return score_case(replace(pair, converted_from=converted_from), TEMPLATE)


def evaluation(case: CaseResult) -> Evaluation:
    return Evaluation(
        dataset="Dataset504_Test", template=TEMPLATE, dose_region="Body", n_dataset_cases=1, cases=(case,),
        scores=pooled_scores([case]),
    )  # fmt: skip


def test_errors_of_gdphmm_are_those_of_its_notebook():
    case = scored("gdphmm")
    assert case.challenges == {"gdphmm": {"example_mae_gy": 3.0, "leaderboard_mae_gy": 4.5}}
    assert pooled_scores([case, case]).challenges["gdphmm"] == {"example_mae_gy": 3.0, "leaderboard_mae_gy": 4.5}
    assert case_from_json("case", case.to_json(), TEMPLATE, "") == case
    rows = [row for row in csv.DictReader(scores_csv(evaluation(case)).splitlines()) if "gdphmm" in row["score"]]
    assert [(row["score"], row["unit"], float(row["value"])) for row in rows] == [
        ("gdphmm_example_mae_gy", "Gy", 3.0),
        ("gdphmm_leaderboard_mae_gy", "Gy", 4.5),
    ]
    rows = [row for row in csv.DictReader(cases_csv(evaluation(case)).splitlines()) if row["measure"] == "gdphmm"]
    assert [(row["part"], float(row["value"])) for row in rows] == [
        ("example_mae_gy", 3.0),
        ("leaderboard_mae_gy", 4.5),
    ]


@pytest.mark.parametrize("converted_from", ["dicom", "nifti", "openkbp", "synthetic", ""])
def test_other_data_have_no_errors_of_gdphmm(converted_from):
    case = scored(converted_from)
    assert case.challenges == {}
    assert case.to_json()["gdphmm"] is None
    assert pooled_scores([case]).challenges["gdphmm"] is None
    assert "gdphmm" not in scores_csv(evaluation(case)) + cases_csv(evaluation(case))


def test_a_record_whose_terms_are_not_those_of_the_challenge_is_refused():
    entry = scored("gdphmm").to_json()
    del entry["gdphmm"]["example_mae_gy"]
    with pytest.raises(InputError, match="what it adds to GDP-HMM's scores is not what they are made of"):
        case_from_json("case", entry, TEMPLATE, "")


def test_titles_of_scores_are_unique_and_have_units():
    scores = [score for challenge in CHALLENGES for score in challenge.scores]
    assert len({score.title for score in scores}) == len(scores)
    assert all(score.unit == "Gy" and len(score.title) < 20 for score in scores)  # (they are a column of the summary)
