"""Changes between conversion and record are found, and outputs belong together."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from cdm_nnunet.dataset import CaseRecord, RawDataset
from cdm_nnunet.documents import typed
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation import finished
from cdm_nnunet.evaluation import run as module
from cdm_nnunet.evaluation.publishing import publishing
from cdm_nnunet.evaluation.reading import load_evaluation
from cdm_nnunet.evaluation.run import Options, evaluate_folder, write_outputs

from .conftest import synthetic_case, write_image

SHAPE = (6, 8, 7)


@pytest.fixture
def cohort(make_dataset, predict):
    cases = {name: synthetic_case(seed, absent=("Larynx",), shape=SHAPE) for seed, name in enumerate("ab")}
    cases["b"].source, cases["b"].fractions = {"patient": "p"}, 35
    return make_dataset(cases), predict({name: case.dose_gy * np.float32(0.95) for name, case in cases.items()})


def swap(dataset, one, two):
    """Swap two names in dataset.json alone, as an editor would."""
    path = dataset.folder / "dataset.json"
    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    for entry in content["cdm"]["catalogue"]:
        entry["name"] = {one: two, two: one}.get(entry["name"], entry["name"])
    path.write_text(json.dumps(content), encoding="utf-8")
    return RawDataset(dataset.folder)


def test_swapped_names_in_the_catalogue_are_found(cohort):
    dataset, folder = cohort
    with pytest.raises(InputError, match=r"case 'a': its ROIs in cdm_cases\.json .* do not follow the catalogue"):
        evaluate_folder(swap(dataset, "Brainstem", "Esophagus"), folder)


def test_swapped_names_of_which_one_was_not_contoured_are_found(cohort):
    dataset, folder = cohort
    swapped = swap(dataset, "Esophagus", "Larynx")  # (neighbours in the catalogue: the order stays)
    with pytest.raises(InputError, match=r"has voxels of 'Larynx', which cdm_cases\.json does not list for the case"):
        evaluate_folder(swapped, folder)


def test_patient_and_fractions_reach_the_record(cohort):
    dataset, folder = cohort
    found = [(case.patient, case.fractions) for case in evaluate_folder(dataset, folder).cases]
    assert found == [("a", None), ("p", 35)]
    record = CaseRecord(prescriptions_gy={}, rois=(), spacing_mm=(1.0, 1.0, 1.0), split="Tr", fractions=35)
    assert typed(record.to_json(), CaseRecord, "test") == record
    assert "fractions" not in replace(record, fractions=None).to_json()  # (as it was written before)


def test_leftovers_of_a_killed_prediction_are_passed_over(cohort):
    dataset, folder = cohort
    write_image(folder / f".partial_{os.getpid()}_a.nii.gz", np.ones(SHAPE, np.float32))
    (folder / ".partial_1_b.nii.gz").write_bytes(b"half")
    assert [case.case for case in evaluate_folder(dataset, folder).cases] == ["a", "b"]


def test_what_is_kept_is_what_was_scored(cohort, tmp_path, monkeypatch):
    """A prediction that is replaced after it was hashed for the look-up, or while it is scored."""
    dataset, folder = cohort
    kept, path = tmp_path / "cases", folder / "a.nii.gz"
    old, read = path.read_bytes(), module.read_case
    write_image(path, np.full(SHAPE, 30.0, np.float32))
    new = path.read_bytes()
    path.write_bytes(old)

    def replaced_before_reading(files):
        path.write_bytes(new)
        return read(files)

    only = Options(cases=("a",))
    wanted = {"old": evaluate_folder(dataset, folder, options=only).cases[0]}
    monkeypatch.setattr(module, "read_case", replaced_before_reading)
    assert evaluate_folder(dataset, folder, options=only, finished=kept).cases[0] == wanted["old"]
    monkeypatch.undo()
    again = evaluate_folder(dataset, folder, options=only, finished=kept).cases[0]
    assert again == evaluate_folder(dataset, folder, options=only).cases[0] != wanted["old"]


def test_messages_name_the_file_and_not_its_copy(cohort, tmp_path):
    dataset, folder = cohort
    (folder / "a.nii.gz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="case 'a': ") as caught:
        evaluate_folder(dataset, folder, finished=tmp_path / "cases")
    assert str(folder / "a.nii.gz") in str(caught.value)
    assert "cdm_nnunet_" not in str(caught.value)


def test_a_patient_of_the_calibration_is_not_evaluated_with_it(make_dataset, predict, tmp_path):
    cases = {f"p{k:02d}": synthetic_case(k, shape=SHAPE) for k in range(10)}
    for name in ("p00", "p09"):
        cases[name].source = {"patient": "twice"}
    dataset = make_dataset(cases)
    folder = predict({name: case.dose_gy for name, case in cases.items()})
    members = (tmp_path / "fold_0", tmp_path / "fold_1")
    for member in members:
        for name, case in cases.items():
            write_image(member / f"{name}.nii.gz", case.dose_gy)
    names = tuple(cases)
    validation = evaluate_folder(dataset, folder, options=Options(cases=names[:9], members=members))
    options = Options(cases=names[9:], members=members, calibrated_on=validation)
    with pytest.raises(InputError, match=r"case 'p09' \(1 in all\) is among the cases of the calibration, or of a pat"):
        evaluate_folder(dataset, folder, options=options)


OUTPUTS = ("metrics.csv", "cases.csv", "scores.csv", "pictures", "report.html")


def publish(evaluation, out, report=True):
    with publishing(out, OUTPUTS) as aside:
        write_outputs(evaluation, aside)
        if report:
            (aside / "report.html").write_text("new", encoding="utf-8")


@pytest.mark.parametrize("moves", range(5))
def test_a_kill_while_outputs_are_replaced_leaves_no_record_beside_others(cohort, tmp_path, monkeypatch, moves):
    dataset, folder = cohort
    out = tmp_path / "out"
    evaluation = evaluate_folder(dataset, folder)
    publish(evaluation, out)
    (out / "report.html").write_text("old", encoding="utf-8")
    move, left = os.replace, [moves]

    def killed(source, target):
        if str(target).startswith(str(out)) and ".updating_" not in str(target):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr("cdm_nnunet.evaluation.publishing.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        publish(evaluation, out)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"result\.json is missing; 'cdm-nnunet evaluate' writes it"):
        load_evaluation(out)
    assert not (out / "report.html").exists() or (out / "report.html").read_text() == "new"
    publish(evaluation, out)
    assert load_evaluation(out).to_json() == evaluation.to_json()
    assert sorted(path.name for path in out.iterdir()) == sorted({".lock", "result.json", *OUTPUTS} - {"pictures"})


def test_an_error_leaves_the_earlier_outputs(cohort, tmp_path):
    dataset, folder = cohort
    evaluation = evaluate_folder(dataset, folder)
    out = tmp_path / "out"
    publish(evaluation, out)

    def fail():
        with publishing(out, OUTPUTS) as aside:
            (aside / "metrics.csv").write_text("x", encoding="utf-8")
            raise OSError("disk is full")

    with pytest.raises(OSError, match="disk is full"):
        fail()
    assert load_evaluation(out).to_json() == evaluation.to_json()
    assert (out / "metrics.csv").read_text(encoding="utf-8") != "x"
    assert (out / "report.html").read_text() == "new"


def test_outputs_that_a_run_does_not_write_are_removed(cohort, tmp_path):
    dataset, folder = cohort
    publish(evaluate_folder(dataset, folder), tmp_path / "out")
    publish(evaluate_folder(dataset, folder, options=Options(cases=("a",))), tmp_path / "out", report=False)
    assert not (tmp_path / "out" / "report.html").exists()
    assert len(load_evaluation(tmp_path / "out").cases) == 1


def test_a_second_run_into_the_folder_is_refused(tmp_path):
    with (
        publishing(tmp_path / "out", OUTPUTS),
        pytest.raises(InputError, match="another evaluation is writing to"),
        publishing(tmp_path / "out", OUTPUTS),
    ):
        pass


def test_the_digest_is_of_the_copies(cohort):
    dataset, folder = cohort
    (files, _) = module.find_cases(dataset, folder)
    before = finished.case_digest(files, dataset.template, gamma=())
    with finished.snapshot(files) as copies:
        assert finished.case_digest(copies, dataset.template, gamma=()) == before
        assert copies.predicted != files.predicted
