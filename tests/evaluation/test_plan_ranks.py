"""Ranks of evaluated cases among the plans of the training cases."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation import plan_ranks
from cdm_nnunet.evaluation.pairing import load_pair
from cdm_nnunet.evaluation.plan_ranks import PLANS_FILE, PlanValues, ranks_of, with_plan_ranks
from cdm_nnunet.evaluation.reading import evaluation_from_json
from cdm_nnunet.evaluation.run import Work, evaluate_folder
from cdm_nnunet.fence import Refusals

from .conftest import Case, write_dataset

TERM = "SpinalCord D0.1cc"
SHAPE = (6, 8, 8)


def case(cord_gy, split="Tr", patient=None, prescription_gy=70.0):
    """A cord of one dose in a body with a target."""
    dose = np.full(SHAPE, 10.0, np.float32)
    cord, target = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    cord[:, :3], target[:, 4:] = True, True
    dose[cord], dose[target] = cord_gy, 70.0
    masks = {"SpinalCord": cord, "PTV_7000": target, "DoseRegion": np.ones(SHAPE, bool)}
    source = {} if patient is None else {"patient": patient}
    return Case(dose, masks, {"PTV_7000": prescription_gy}, split=split, source=source)


TRAINING = {f"t{k}": 20.0 + k for k in range(8)}  # 20 to 27 Gy


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> RawDataset:
    """Eight training plans; a new patient, another plan of a training patient, and a plan that is not evaluable."""
    cases = {name: case(cord_gy, patient=name) for name, cord_gy in TRAINING.items()}
    cases["new"] = case(24.0, split="Ts")
    cases["again"] = case(24.0, split="Ts", patient="t0")
    return write_dataset(tmp_path_factory.mktemp("raw"), cases)


@pytest.fixture(scope="module")
def evaluation(cohort, tmp_path_factory):
    """The predictions of both test cases are those of 26.5 Gy."""
    from .conftest import write_image

    folder = tmp_path_factory.mktemp("predictions")
    for name in ("new", "again"):
        write_image(folder / f"{name}.nii.gz", case(26.5).dose_gy)
    return evaluate_folder(cohort, folder)


def ranked(evaluation, dataset, kept, **work):
    return with_plan_ranks(evaluation, dataset, kept, Work(**work)).plan_ranks


def test_a_case_stands_among_the_training_plans_of_other_patients(evaluation, cohort, tmp_path):
    ranks = ranked(evaluation, cohort, tmp_path / PLANS_FILE)
    assert (ranks.cohort, ranks.n_plans, ranks.n_unread) == ("training", 8, 0)
    new, again = (ranks.cases[name][TERM] for name in ("new", "again"))
    assert (new.n, new.reference_percent) == (8, 100 * 4.5 / 8)  # (four below, and one as high, which counts half)
    assert new.predicted_percent == 100 * 7 / 8
    assert (again.n, again.reference_percent) == (7, pytest.approx(100 * 3.5 / 7))
    assert new.is_unusual is None


def test_plans_are_kept_and_read_again_when_they_change(evaluation, cohort, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(plan_ranks, "load_pair", lambda files: read.append(files.case) or load_pair(files))
    first = ranked(evaluation, cohort, tmp_path / PLANS_FILE)
    assert sorted(read) == sorted(TRAINING)
    assert ranked(evaluation, cohort, tmp_path / PLANS_FILE) == first
    assert sorted(read) == sorted(TRAINING)
    changed = {**{name: case(gy, patient=name) for name, gy in TRAINING.items()}, "t3": case(50.0, patient="t3")}
    tests = {"new": case(24.0, split="Ts"), "again": case(24.0, split="Ts", patient="t0")}
    other = write_dataset(tmp_path / "other", {**changed, **tests})
    assert ranked(evaluation, other, tmp_path / PLANS_FILE).cases["new"][TERM].reference_percent == 100 * 3.5 / 8
    assert read[len(TRAINING) :] == ["t3"]


def test_a_damaged_plan_is_left_out_and_counted(evaluation, cohort, tmp_path):
    cases = {name: case(gy, patient=name) for name, gy in TRAINING.items()} | {"new": case(24.0, split="Ts")}
    damaged = write_dataset(tmp_path / "damaged", cases)
    damaged.dose_path("t7").write_bytes(b"no dose")
    damaged.dose_path("t6").unlink()
    ranks = ranked(evaluation, damaged, tmp_path / PLANS_FILE, refusals=Refusals(tmp_path / "log"))
    assert (ranks.cohort, ranks.n_plans, ranks.n_unread) == ("training", 6, 1)
    assert ranks.cases["new"][TERM].n == 6


def test_without_training_plans_the_evaluated_ones_count(evaluation, cohort, tmp_path):
    one = evaluation.cases[0]
    cases = tuple(replace(one, case=f"c{k}", patient=f"c{k}") for k in range(7))
    empty = write_dataset(tmp_path / "empty", {"new": case(24.0, split="Ts")})
    ranks = ranked(replace(evaluation, cases=cases), empty, tmp_path / PLANS_FILE)
    assert (ranks.cohort, ranks.n_plans) == ("evaluated", 7)
    assert {(r[TERM].n, r[TERM].reference_percent) for r in ranks.cases.values()} == {(6, 50.0)}
    few = ranked(evaluation, empty, tmp_path / PLANS_FILE)
    assert (few.cohort, few.n_plans, few.cases) == ("evaluated", 2, {"again": {}, "new": {}})


def test_another_prescription_and_missing_dose_do_not_count(evaluation):
    def plans(prescription_gy):
        return [PlanValues(patient=str(k), prescription_gy=prescription_gy, values={TERM: k}) for k in range(6)]

    new = evaluation.cases[1]
    assert ranks_of([new], plans(70.0))["new"][TERM].n == 6
    assert ranks_of([new], plans(60.0)) == {"new": {}}
    cord = new.rois["SpinalCord"]
    for dose, left in (("reference", {}), ("predicted", {TERM})):
        goals = tuple(replace(goal, **{dose: "not evaluable"}, reason="dose is missing") for goal in cord.goals)
        missing = replace(new, rois={"SpinalCord": replace(cord, goals=goals)})
        ranks = ranks_of([missing], plans(70.0))["new"]
        assert set(ranks) == set(left)
        assert all(rank.predicted_percent is None for rank in ranks.values())


def test_an_unusual_plan_is_one_at_the_ends_of_many(evaluation):
    plans = [PlanValues(patient=str(k), prescription_gy=70.0, values={TERM: k}) for k in range(39)]
    found = {}
    for cord_gy in (-1.0, 0.5, 1.5, 24.0, 37.5, 38.5):
        roi = evaluation.cases[1].rois["SpinalCord"]
        metrics = {**roi.metrics, "D0.1cc": replace(roi.metrics["D0.1cc"], reference=cord_gy)}
        one = replace(evaluation.cases[1], rois={"SpinalCord": replace(roi, metrics=metrics)})
        found[cord_gy] = ranks_of([one], plans)["new"][TERM].is_unusual
    assert found == {-1.0: True, 0.5: False, 1.5: False, 24.0: False, 37.5: False, 38.5: True}
    assert ranks_of([evaluation.cases[1]], plans[1:])["new"][TERM].is_unusual is None


def test_the_record_holds_the_ranks_and_an_edited_one_is_refused(evaluation, cohort, tmp_path):
    found = with_plan_ranks(evaluation, cohort, tmp_path / PLANS_FILE, Work())
    content = json.loads(json.dumps(found.to_json()))
    assert evaluation_from_json(content, "result").plan_ranks == found.plan_ranks
    del content["plan_ranks"]["cases"]["new"]
    with pytest.raises(InputError, match="plan_ranks are not its cases"):
        evaluation_from_json(content, "result")
    older = {key: value for key, value in evaluation.to_json().items() if key != "plan_ranks"}
    assert evaluation_from_json(json.loads(json.dumps(older)), "result").plan_ranks is None
