"""Scores of challenges, side by side where both evaluations have them."""

from dataclasses import replace
from pathlib import Path

import pytest

from cdm_nnunet.comparison.models import Model, shared_cases
from cdm_nnunet.comparison.quantities import paired_quantities
from cdm_nnunet.errors import InputError

from .conftest import evaluation

OPENKBP = {"dose_error_gy": 2.5, "dvh_errors_gy": {"PTV_7000 D95%[openkbp]": 1.0, "Larynx Dmean": 3.0}}
GDPHMM = {"example_mae_gy": 2.0, "leaderboard_mae_gy": 3.0}


def with_terms(model, challenges):
    cases = [replace(case, challenges=challenges) for case in model.evaluation.cases]
    return Model(model.name, Path(model.name), evaluation(cases))


def test_openkbps_scores_are_compared(two_models):
    models, _ = shared_cases([with_terms(model, {"openkbp": OPENKBP}) for model in two_models], common_cases=False)
    found = {quantity.name: quantity for quantity in paired_quantities(models)}
    assert set(found["OpenKBP dose score"].errors["CDM"]) == {2.5}
    assert set(found["OpenKBP DVH score"].errors["MAE"]) == {2.0}
    assert found["OpenKBP DVH score"].signed is None


def test_evaluations_that_differ_in_openkbps_metrics_are_refused(two_models):
    fewer = {"dose_error_gy": 2.5, "dvh_errors_gy": {"Larynx Dmean": 3.0}}
    for other, message in (
        ({"openkbp": fewer}, "the set of metrics of the OpenKBP DVH score is 2 for 'MAE' and 1 for 'CDM'"),
        ({}, "the presence of OpenKBP's scores is True for 'MAE' and False for 'CDM'"),
    ):
        models = [with_terms(two_models[0], {"openkbp": OPENKBP}), with_terms(two_models[1], other)]
        with pytest.raises(InputError, match=message):
            shared_cases(models, common_cases=False)


def test_errors_of_gdphmm_that_an_earlier_version_wrote_for_any_data_count_for_nothing(two_models):
    models, _ = shared_cases([with_terms(two_models[0], {"gdphmm": GDPHMM}), two_models[1]], common_cases=False)
    assert not [quantity.name for quantity in paired_quantities(models) if "GDP" in quantity.name]
