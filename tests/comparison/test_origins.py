"""A comparison shows the properties of each model, and marks differences."""

import argparse
import json
from dataclasses import replace

import pytest

from cdm_nnunet.cli import compare as verb
from cdm_nnunet.comparison.origins import rows
from cdm_nnunet.comparison.page import page
from cdm_nnunet.comparison.run import compare
from cdm_nnunet.comparison.tables import latex, markdown
from cdm_nnunet.prediction_record import MeanOrigin, Origin

MAE = Origin(
    dataset="Dataset501_Test", trainer="nnUNetTrainerDose", plans="nnUNetPlans", plans_sha256="ab" * 32,
    spacing_mm=[2.5, 4, 3], weights_sha256=["cd" * 32], tile_step_size=0.5, mirroring=True, gaussian=True,
    configuration="3d_fullres", folds=["0", "1"], settings={"0": {"num_epochs": 160, "loss_weight": None}, "1": None},
)  # fmt: skip
CDM = replace(
    MAE, trainer="nnUNetTrainerCDM", plans="Small", plans_sha256="ef" * 32, mirroring=False, folds=["0"],
    settings={"0": {"num_epochs": 160, "loss_weight": 0.5, "seed": 1}},
)  # fmt: skip


def compared(models, *origins):
    return compare(
        [
            replace(model, evaluation=replace(model.evaluation, model=origin))
            for model, origin in zip(models, origins, strict=True)
        ]
    )


def test_plans_options_and_settings_stand_side_by_side(two_models):
    comparison = compared(two_models, MAE, CDM)
    found = {name: rest for name, *rest in rows(comparison, "CDM")}
    assert found["trained on"] == ["Dataset501_Test", "Dataset501_Test", ""]
    assert found["trainer"] == ["nnUNetTrainerDose", "nnUNetTrainerCDM", "differs"]
    assert found["plans"] == ["nnUNetPlans", "Small", "differs"]
    assert found["digest of the plans"] == ["abababababab", "efefefefefef", "differs"]
    assert found["folds"] == ["0, 1", "0", "differs"]
    assert found["mean of mirrored predictions"] == ["yes", "no", "differs"]
    assert found["network grid (z, y, x), mm"] == ["2.5, 4, 3", "2.5, 4, 3", ""]
    assert found["setting num_epochs"] == ["fold 0: 160; fold 1: not known", "160", "differs"]
    assert found["setting loss_weight"] == ["fold 0: default; fold 1: not known", "0.5", "differs"]
    assert found["setting seed"] == ["not known", "1", "not known"]
    assert comparison.to_json()["origins"]["CDM"]["plans"] == "Small"
    assert "| plans | nnUNetPlans | Small | differs |" in markdown(comparison)
    assert r"plans & nnUNetPlans & Small & differs \\" in latex(comparison)
    data = page(comparison).partition('id="page"')[2].partition(">")[2].partition("</script>")[0]
    assert ["plans", "nnUNetPlans", "Small", "differs"] in json.loads(data)["models"]["rows"]["CDM"]


def test_a_model_that_nobody_knows_is_said_to_be_so(two_models):
    comparison = compared(two_models, None, CDM)
    assert ("plans", "not known", "Small", "not known") in rows(comparison, "CDM")
    assert "The evaluation of MAE does not say which model made its predictions." in markdown(comparison)
    nobody = compared(two_models, None, None)
    assert rows(nobody, "CDM") == []
    assert "### Models" not in markdown(nobody)


@pytest.mark.parametrize("origins", [(MAE, CDM), (None, None)])
def test_the_page_shows_them(two_models, origins, browser, tmp_path):
    file = tmp_path / "compare.html"
    file.write_text(page(compared(two_models, *origins)), encoding="utf-8")
    view = browser.new_page()
    view.goto(file.as_uri())
    view.wait_for_selector("#differences .main-svg")
    card = view.locator(".card", has=view.get_by_role("heading", name="Models", exact=True))
    assert view.locator("#problem").is_hidden()
    if origins[0] is None:
        assert card.locator("tr").count() == 0
        assert "does not say which model" in card.inner_text()
    else:
        assert card.locator("tr", has_text="digest of the plans").locator(".chip").inner_text() == "differs"
        assert card.locator("tr", has_text="network grid").locator(".chip").count() == 0
    view.close()


@pytest.mark.parametrize("origins", [(MAE, CDM), (None, CDM), (None, None)])
def test_the_terminal_shows_them(two_models, origins, tmp_path, monkeypatch):
    models = [
        replace(model, evaluation=replace(model.evaluation, model=origin))
        for model, origin in zip(two_models, origins, strict=True)
    ]
    monkeypatch.setattr("cdm_nnunet.comparison.models.load_models", lambda _: models)
    parser = argparse.ArgumentParser()
    verb.configure(parser)
    record = verb.run(parser.parse_args(["a", "b", "-o", str(tmp_path)]))
    assert json.loads(json.dumps(record))["not_compared"] == []
    text = verb.render(record)
    lines = [" ".join(line.split()) for line in text.split("\n")]
    assert ("plans nnUNetPlans Small differs" in lines) == (origins[0] is not None)
    assert ("plans not known Small not known" in lines) == (origins[0] is None and origins[1] is not None)
    assert ("The evaluation of MAE does not say which model made its predictions." in lines) == (origins[0] is None)
    assert all(line == line.rstrip() for line in text.split("\n"))


def test_the_models_of_a_mean_stand_in_one_column(two_models):
    comparison = compared(two_models, MAE, MeanOrigin(mean_of=[CDM, replace(CDM, folds=["1"], tile_step_size=0.25)]))
    found = {name: rest for name, *rest in rows(comparison, "CDM")}
    assert found["mean of"] == ["a single model", "2 models", "differs"]
    assert found["folds"] == ["0, 1", "model 1: 0; model 2: 1", "differs"]
    assert found["plans"] == ["nnUNetPlans", "Small", "differs"]
    assert found["setting num_epochs"][1] == "160"
    assert comparison.to_json()["origins"]["CDM"]["mean_of"][1]["folds"] == ["1"]
