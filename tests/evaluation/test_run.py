import csv
import json

import numpy as np
import pytest

from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation import pictures
from cdm_nnunet.evaluation.palette import difference_span_gy
from cdm_nnunet.evaluation.record import CaseResult
from cdm_nnunet.evaluation.run import Work, cases_to_draw, draw_pictures, evaluate_folder, write_outputs

from .conftest import synthetic_case


@pytest.fixture
def evaluated(make_dataset, predict):
    """Three cases, two predicted: ``a`` is 1 Gy too hot in voxels with dose, ``b`` lacks its larynx."""
    cases = {"a": synthetic_case(1), "b": synthetic_case(2, absent=("Larynx",)), "c": synthetic_case(3)}
    dataset = make_dataset(cases)
    doses = {"a": cases["a"].dose_gy + cases["a"].masks["DoseRegion"].astype(np.float32), "b": cases["b"].dose_gy}
    folder = predict(doses)
    return dataset, folder, evaluate_folder(dataset, folder)


def test_result_json(evaluated, tmp_path):
    files = write_outputs(evaluated[2], tmp_path / "out" / "deep")
    result = json.loads((tmp_path / "out" / "deep" / "result.json").read_text())
    assert files["result"] == str(tmp_path / "out" / "deep" / "result.json")
    assert (result["format_version"], result["dataset"], result["template"]) == (3, "Dataset501_Test", "openkbp")
    assert (result["n_cases"], result["n_dataset_cases"], result["dose_region"]) == (2, 3, "DoseRegion")
    assert list(result["cases"]) == ["a", "b"]
    a = result["cases"]["a"]
    assert a["dose_mae_gy"] == pytest.approx(1.0, abs=1e-5)
    assert set(a["rois"]["PTV_7000"]["metrics"]) == {"D99%", "D98%", "D95%", "D2%", "D1%", "V95%", "Dmean"}
    d95 = a["rois"]["PTV_7000"]["metrics"]["D95%"]
    assert d95["unit"] == "Gy"
    assert 0 <= d95["predicted"] - d95["reference"] <= 1 + 1e-5
    assert (a["missing"], result["cases"]["b"]["missing"]) == ({}, {"Larynx": "not contoured"})
    assert "Larynx" not in result["cases"]["b"]["rois"]
    assert result["scores"]["dose_mae_gy"] == pytest.approx(0.5, abs=1e-5)
    assert set(result["scores"]["openkbp"]) == {"dose_score", "dvh_score"}
    assert isinstance(result["scores"]["ptv_score"], float)
    assert isinstance(result["scores"]["oar_score"], float)
    assert Template.from_json(result["template_definition"], "result") == Template.load("openkbp")
    assert not list((tmp_path / "out" / "deep").glob(".*"))  # no partial files


def test_tables_say_what_the_record_says(evaluated, tmp_path):
    evaluation = evaluated[2]
    files = write_outputs(evaluation, tmp_path)
    with open(files["metrics"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (3 * 7 + 7 * 3) - 3
    row = next(r for r in rows if (r["case"], r["roi"], r["metric"]) == ("a", "SpinalCord", "D0.1cc"))
    metric = evaluation.cases[0].rois["SpinalCord"].metrics["D0.1cc"]
    assert float(row["reference"]) == metric.reference
    assert float(row["predicted"]) == metric.predicted
    assert float(row["difference"]) == metric.predicted - metric.reference
    assert (row["unit"], row["relation"], float(row["limit"])) == ("Gy", "<=", 45.0)
    assert row["reference_verdict"] == ("pass" if metric.reference <= 45 else "fail")
    with open(files["scores"], newline="") as file:
        scores = {(r["score"], r["group"], r["part"]): r for r in csv.DictReader(file)}
    assert float(scores["ptv_score", "pooled", ""]["value"]) == evaluation.scores.ptv_score
    assert float(scores["openkbp_dvh_score", "", ""]["value"]) == evaluation.scores.challenges["openkbp"]["dvh_score"]
    assert scores["ptv_score", "unit", "volume"]["unit"] == "%"
    assert int(scores["oar_score", "metric", "Dmean"]["n"]) == 13


def test_processes_do_not_change_the_result(evaluated):
    dataset, folder, one = evaluated
    calls = []
    two = evaluate_folder(dataset, folder, work=Work(processes=2, progress=lambda *call: calls.append(call)))
    assert two.to_json() == one.to_json()
    assert calls == [("scoring", 1, 2), ("scoring", 2, 2)]


def test_a_mistake_in_a_worker_is_told(evaluated):
    dataset, folder, _ = evaluated
    (folder / "b.nii.gz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"case 'b': .*b\.nii\.gz is damaged or cut off"):
        evaluate_folder(dataset, folder, work=Work(processes=2))
    with pytest.raises(InputError, match="number of processes must be at least 1, not 0"):
        evaluate_folder(dataset, folder, work=Work(processes=0))


def test_another_template_and_one_of_another_region(evaluated):
    dataset, folder, _ = evaluated
    mapping = Template.load("openkbp").to_json()
    mapping["name"] = "cords only"
    mapping["goals"] = [{"roi": "SpinalCord", "metric": "Dmax"}]
    result = evaluate_folder(dataset, folder, Template.from_json(mapping, "test")).to_json()
    assert result["template"] == "cords only"
    assert list(result["cases"]["a"]["rois"]) == ["SpinalCord"]
    assert result["scores"]["ptv_score"] is None
    mapping["rois"] = [{"name": "Prostate", "kind": "oar"}]
    mapping["goals"] = [{"roi": "Prostate", "metric": "Dmax"}]
    with pytest.raises(InputError, match="no goal for the ROIs of this data set"):
        evaluate_folder(dataset, folder, Template.from_json(mapping, "test"))


def test_cases_to_draw_span_the_ranking():
    cases = [
        CaseResult(case=name, dose_mae_gy=error_gy, rois={})
        for name, error_gy in zip("abcde", (3.0, 1.0, 5.0, 2.0, 4.0), strict=True)
    ]
    assert cases_to_draw(cases, 0) == ()
    assert cases_to_draw(cases, 1) == ("a",)  # the median
    assert cases_to_draw(cases, 3) == ("b", "a", "c")
    assert cases_to_draw(cases, 9) == ("b", "d", "a", "e", "c")


def test_pictures_are_written_for_the_chosen_cases(evaluated, tmp_path):
    dataset, folder, evaluation = evaluated
    drawn = draw_pictures(evaluation, dataset, folder, tmp_path / "out", n_cases=1)
    assert list(drawn) == ["a"]
    names = sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir())
    assert names == ["a_dvh.png", "a_slices.png"]
    for path in drawn["a"]:
        with open(path, "rb") as file:
            assert file.read(8) == b"\x89PNG\r\n\x1a\n"


def test_pictures_get_the_colours_and_the_missing_dose(evaluated, tmp_path, monkeypatch):
    dataset, folder, evaluation = evaluated
    looks = {}
    monkeypatch.setattr(pictures, "draw_case", lambda files, *others: looks.update({files.case: others[-1]}) or ())
    draw_pictures(evaluation, dataset, folder, tmp_path, n_cases=2, dose_map="viridis")
    for case in evaluation.cases:
        outside = {name: roi.outside_region_percent for name, roi in case.rois.items() if roi.outside_region_percent}
        assert outside
        assert looks[case.case] == pictures.Look(difference_span_gy(0.5), "viridis", outside)
