"""A bad case is named and excluded, the others are scored, and no mean hides it."""

import json
import re
import shutil

import numpy as np
import pytest

from cdm_nnunet.cli.main import main
from cdm_nnunet.comparison import sentences
from cdm_nnunet.comparison.models import load_models
from cdm_nnunet.comparison.run import compare
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation import run as module
from cdm_nnunet.evaluation.reading import evaluation_from_json, load_evaluation
from cdm_nnunet.evaluation.run import Options, Work, evaluate_folder
from cdm_nnunet.fence import Refusals
from cdm_nnunet.folders import FOLDER_VARIABLES
from cdm_nnunet.prediction_record import PredictionRecord

from .conftest import synthetic_case, write_image

SHAPE = (6, 8, 7)


@pytest.fixture
def cohort(make_dataset, predict, monkeypatch):
    cases = {name: synthetic_case(seed, shape=SHAPE) for seed, name in enumerate("abc")}
    dataset = make_dataset(cases)
    for variable in FOLDER_VARIABLES:
        monkeypatch.setenv(variable, str(dataset.folder.parent))
    return dataset, predict({name: case.dose_gy * np.float32(0.95) for name, case in cases.items()})


@pytest.fixture
def evaluate(cohort, tmp_path, capfd):
    """Run the verb; return exit status, record and stderr."""

    def run(*arguments, out="out"):
        command = ["evaluate", "-d", "501", "-i", str(cohort[1]), "-o", str(tmp_path / out), "-np", "1", *arguments]
        status = main([*command, "--json"])
        said = capfd.readouterr()
        return status, json.loads(said.out) if said.out else None, said.err

    return run


def no_file(dataset, folder):
    (folder / "b.nii.gz").write_bytes(b"nothing")


def no_reference(dataset, folder):
    dataset.dose_path("b").unlink()


def no_voxel_in_the_region(dataset, folder):
    path = dataset.image_path("b", 2)
    write_image(path, np.zeros(SHAPE, np.uint16))


def other_grid(dataset, folder):
    write_image(folder / "b.nii.gz", np.ones((5, 8, 7), np.float32))


def a_folder_in_its_place(dataset, folder):
    (folder / "b.nii.gz").unlink()
    (folder / "b.nii.gz").mkdir()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (no_file, r"b\.nii\.gz is damaged or cut off"),
        (no_reference, "has a prediction but no reference dose"),
        (no_voxel_in_the_region, "ROI 'DoseRegion', in which the dose error is averaged, has no voxel"),
        (other_grid, r"has size \(z, y, x\) \(5, 8, 7\)"),
        (a_folder_in_its_place, r"b\.nii\.gz"),
    ],
)
def test_a_bad_case_is_named_and_the_others_are_scored(cohort, evaluate, tmp_path, spoil, reason):
    good = evaluate("--case", "a", "--case", "c", "--pictures", "0", out="good")[1]
    spoil(*cohort)
    status, record, said = evaluate("--pictures", "1")
    assert status == 2
    assert "Traceback" not in said
    assert "cdm-nnunet: error: 1 case left out of all means: [b] " in said
    result = load_evaluation(tmp_path / "out")
    assert [case.case for case in result.cases] == ["a", "c"]
    assert list(result.left_out) == ["b"]
    assert re.search(reason, result.left_out["b"])
    assert record["scores"] == good["scores"]
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert json.dumps(result.left_out["b"])[1:-1].replace("<", "\\u003c") in report


def test_what_nobody_foresaw_is_left_out_with_a_log(cohort, evaluate, tmp_path, monkeypatch):
    score_case = module.score_case

    def fails(pair, *args, **kwargs):
        if pair.case == "b":
            raise ZeroDivisionError("by nought")
        return score_case(pair, *args, **kwargs)

    monkeypatch.setattr(module, "score_case", fails)
    status, record, said = evaluate("--no-report", "--pictures", "0")
    assert (status, "Traceback" in said) == (2, False)
    log = tmp_path / "out" / "errors.log"
    assert record["left_out"] == {"b": f"internal error (ZeroDivisionError: by nought); left out, see {log}"}
    assert "in fails" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_a_full_disk_ends_the_run(cohort, evaluate, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "score_case", full)
    status, record, said = evaluate()
    assert (status, record) == (2, None)
    assert "the disk is full" in said


def test_where_no_case_is_left_there_is_no_result(cohort, evaluate, tmp_path):
    for case in "abc":
        (cohort[1] / f"{case}.nii.gz").write_bytes(b"nothing")
    status, record, said = evaluate()
    assert (status, record) == (2, None)
    assert "error: 3 of 3 cases are left out: [a] " in said
    assert not (tmp_path / "out" / "result.json").exists()


@pytest.mark.parametrize("arguments", [(), ("--pictures", "3")])
def test_a_case_that_cannot_be_drawn_is_scored(cohort, evaluate, tmp_path, arguments):
    cohort[0].image_path("b", 0).write_bytes(b"no CT")
    status, record, said = evaluate(*arguments)
    assert status == 2
    assert "cdm-nnunet: error: 1 case scored but not drawn: [b] " in said
    assert (record["n_cases"], record["left_out"], list(record["not_drawn"])) == (3, {}, ["b"])
    assert list(record["files"]["pictures"]) != ["b"]
    assert '{"problem":"' in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_records_of_predictions_are_the_case_s_own(cohort, tmp_path):
    dataset, folder = cohort
    for case in "ab":
        with PredictionRecord(case=case, prescriptions_gy=None, notes=[]).beside(folder / f"{case}.nii.gz"):
            pass
    write_image(folder / "b.nii.gz", np.ones(SHAPE, np.float32))
    refusals = Refusals(tmp_path / "errors.log")
    found = evaluate_folder(dataset, folder, work=Work(refusals=refusals))
    assert [case.case for case in found.cases] == ["a"]
    assert found.left_out == refusals.reasons
    assert found.left_out["b"].startswith(f"{folder / 'b.nii.gz'} does not match its record")
    assert found.left_out["c"].startswith(f"{folder / 'c.prediction.json'} is missing, and case 'a' has its record")


def test_a_member_that_lacks_a_case_leaves_it_out(cohort, tmp_path):
    dataset, folder = cohort
    members = [tmp_path / name for name in ("fold_0", "fold_1")]
    for member in members:
        shutil.copytree(folder, member)
    (members[1] / "c.nii.gz").unlink()
    options = Options(members=tuple(members))
    found = evaluate_folder(
        dataset, folder, options=options, work=Work(refusals=Refusals(tmp_path / "errors.log"), processes=2)
    )
    assert [case.case for case in found.cases] == ["a", "b"]
    assert "no dose of a member" in found.left_out["c"]


def test_python_is_strict_unless_it_takes_the_refusals(cohort):
    dataset, folder = cohort
    no_file(dataset, folder)
    with pytest.raises(InputError, match="case 'b'"):
        evaluate_folder(dataset, folder)


def test_an_edited_list_of_what_was_left_out_is_found(cohort):
    content = evaluate_folder(*cohort).to_json()
    assert evaluation_from_json({k: v for k, v in content.items() if k != "left_out"}, "result").left_out == {}
    for names in ("a", "x"):
        with pytest.raises(InputError, match="its cases and those that were left out contradict each other"):
            evaluation_from_json({**content, "left_out": {names: "bad"}}, "result")


def test_a_comparison_says_what_its_evaluations_left_out(cohort, evaluate, tmp_path):
    evaluate("--no-report", "--pictures", "0", out="whole")
    no_file(*cohort)
    write_image(cohort[1] / "a.nii.gz", np.full(SHAPE, 30.0, np.float32))
    evaluate("--no-report", "--pictures", "0", out="less")
    models = load_models([str(tmp_path / "whole"), str(tmp_path / "less")])
    with pytest.raises(InputError, match="the evaluations are of different cases"):
        compare(models)
    found = compare(models, common_cases=True)
    reason = load_evaluation(tmp_path / "less").left_out["b"]
    assert f"Not scored for less, and in no mean: b ({reason})." in sentences.dropped(found)
    assert found.to_json()["left_out"] == {"whole": {}, "less": {"b": reason}}
