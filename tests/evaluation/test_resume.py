import json
import shutil

import numpy as np
import pytest

from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation import finished
from cdm_nnunet.evaluation import run as module
from cdm_nnunet.evaluation.gamma import GammaRule
from cdm_nnunet.evaluation.reading import evaluation_from_json, load_evaluation
from cdm_nnunet.evaluation.run import Options, evaluate_folder, write_outputs

from .conftest import synthetic_case, write_image

SHAPE = (6, 8, 7)


@pytest.fixture
def cohort(make_dataset, predict, tmp_path):
    cases = {name: synthetic_case(seed, shape=SHAPE) for seed, name in enumerate("abc")}
    dataset = make_dataset(cases)
    folder = predict({name: case.dose_gy * np.float32(0.95) for name, case in cases.items()})
    return dataset, folder, tmp_path / "scored"


@pytest.fixture
def scored(monkeypatch):
    """Names of the cases that are really scored."""
    names = []
    score_case = module.score_case

    def spy(pair, *args, **kwargs):
        names.append(pair.case)
        return score_case(pair, *args, **kwargs)

    monkeypatch.setattr(module, "score_case", spy)
    return names


def test_only_what_changed_is_scored_again(cohort, scored):
    dataset, folder, kept = cohort
    first = evaluate_folder(dataset, folder, finished=kept)
    assert scored == ["a", "b", "c"]
    again = evaluate_folder(dataset, folder, finished=kept)
    assert scored == ["a", "b", "c"]
    assert again.to_json() == first.to_json() == evaluate_folder(dataset, folder).to_json()
    scored.clear()
    write_image(folder / "b.nii.gz", np.full(SHAPE, 30.0, np.float32))
    changed = evaluate_folder(dataset, folder, finished=kept)
    assert scored == ["b"]
    assert changed.cases[1] != first.cases[1]
    scored.clear()
    head, a, b, c = kept.read_text(encoding="utf-8").splitlines()
    a = a.replace('"n_voxels": ', '"n_voxels": 1')
    kept.write_text("\n".join([head, a, b, c[:-10]]), encoding="utf-8")
    assert evaluate_folder(dataset, folder, finished=kept).to_json() == changed.to_json()
    assert scored == ["a", "c"]


def test_another_template_options_or_code_are_scored_again(cohort, scored, monkeypatch):
    dataset, folder, kept = cohort
    only = Options(cases=("a",))
    evaluate_folder(dataset, folder, options=only, finished=kept)
    evaluate_folder(dataset, folder, options=Options(cases=("a",), gamma=(GammaRule(),)), finished=kept)
    evaluate_folder(dataset, folder, options=only, finished=kept)  # (a case is kept once)
    mapping = dataset.template.to_json()
    mapping["goals"] = mapping["goals"][1:]
    evaluate_folder(dataset, folder, Template.from_json(mapping, "test"), only, finished=kept)
    monkeypatch.setattr("cdm_nnunet.evaluation.finished.code_digest", lambda: "other code")
    evaluate_folder(dataset, folder, options=only, finished=kept)
    assert scored == ["a"] * 5


def test_a_change_anywhere_in_the_source_counts(tmp_path, monkeypatch):
    (tmp_path / "part").mkdir()
    monkeypatch.setattr(finished.resources, "files", lambda package: tmp_path)
    digests = set()
    for path, text in (("part/a.py", "1"), ("part/a.py", "2"), ("b.py", ""), ("part/b.py", ""), ("part/c.txt", "")):
        (tmp_path / path).write_text(text)
        digests.add(finished.code_digest.__wrapped__())
    assert len(digests) == 4


def test_a_run_that_stopped_goes_on(cohort, scored):
    dataset, folder, kept = cohort
    good = (folder / "c.nii.gz").read_bytes()
    (folder / "c.nii.gz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="case 'c'"):
        evaluate_folder(dataset, folder, finished=kept)
    (folder / "c.nii.gz").write_bytes(good)
    assert len(evaluate_folder(dataset, folder, finished=kept).cases) == 3
    assert scored == ["a", "b", "c"]


def test_single_cases_and_required_ones(cohort):
    dataset, folder, _ = cohort
    assert [c.case for c in evaluate_folder(dataset, folder, options=Options(cases=("c", "a"))).cases] == ["a", "c"]
    (folder / "b.nii.gz").unlink()
    with pytest.raises(InputError, match=r"case 'b' has no prediction in .*, and it was named \(1 of 1 lack one\)"):
        evaluate_folder(dataset, folder, options=Options(cases=("b",)))
    for required in ("all", "Tr"):
        with pytest.raises(InputError, match=rf"case 'b' has no prediction.*'{required}' cases are required \(1 of 3"):
            evaluate_folder(dataset, folder, options=Options(required=required))
    assert len(evaluate_folder(dataset, folder, options=Options(required="Ts")).cases) == 2


def roi_of(case):
    return case["rois"]["SpinalCord"]


def goal_of(case):
    return roi_of(case)["goals"][0]


def metric_of(case, key="Dmean"):
    return roi_of(case)["metrics"][key]


# (a change of the record and of its case 'a', and the message)
SPOILT = (
    (lambda r, c: r.update(format_version=1), r"result\.json is not a result of format version 3 \(it says 1\)"),
    (lambda r, c: c.update(note="x"), "case 'a' was edited: its keys"),
    (lambda r, c: r.update(note="x"), "result.json was edited: its keys"),
    (lambda r, c: roi_of(c).update(few_voxels="x"), "case 'a' was edited: its keys"),
    (lambda r, c: c.pop("rois"), "cases.a.rois: Field required"),
    (lambda r, c: c.update(dose_mae_gy=-1.0), "dose_mae_gy: Input should be greater than or equal to 0"),
    (lambda r, c: c.update(dose_mae_gy="3"), "dose_mae_gy: Input should be a valid number"),
    (lambda r, c: c.update(dose_mae_gy=c["dose_mae_gy"] / 2), "scores.dose_mae_gy is not that of its cases"),
    (lambda r, c: r["scores"].update(oar_score=0.1), "scores.oar_score is not that of its cases"),
    (lambda r, c: r["scores"]["parts"]["oar"]["pooled"].update(n=1), "scores.parts.oar.pooled.n is not that"),
    (lambda r, c: r["scores"].pop("goals"), "scores.goals: Field required"),
    (lambda r, c: goal_of(c).update(predicted="foo"), "goals.0.predicted: Input should be 'pass', 'acceptable'"),
    (lambda r, c: goal_of(c).update(agree=None), "case 'a' was edited: its keys"),
    (lambda r, c: goal_of(c).update(limit=99.0), "the limit of D0.1cc is not that of the template"),
    (lambda r, c: goal_of(c).update(relation=">="), "the limit of D0.1cc is not that of the template"),
    (lambda r, c: goal_of(c).update(reference="not evaluable"), "the reason why there is none contradict each other"),
    (lambda r, c: goal_of(c).update(certainty="pass"), "the certainty of D0.1cc is not that of its interval"),
    (lambda r, c: roi_of(c)["goals"].pop(), "its goals are not those of the template"),
    (lambda r, c: goal_of(c).update(predicted="acceptable", agree=False), "Gy is not 'acceptable'"),
    (lambda r, c: metric_of(c).update(unit="%"), "Dmean is in 'Gy', not in '%'"),
    (lambda r, c: metric_of(c).update(reference=float("inf")), "not finite|finite number"),
    (lambda r, c: roi_of(c)["metrics"].pop("Dmean"), "its metrics are not those of the template's goals"),
    (lambda r, c: roi_of(c).update(kind="target"), "'SpinalCord' is of kind 'oar', not 'target'"),
    (lambda r, c: roi_of(c).update(n_voxels=0), "n_voxels: Input should be greater than or equal to 1"),
    (lambda r, c: roi_of(c).update(matched_by="guess"), "matched_by: Input should be 'name', 'alias' or 'regex'"),
    (lambda r, c: c["rois"].pop("SpinalCord"), "are not those of the template's goals"),
    (lambda r, c: c["rois"].update({"=cmd": roi_of(c)}), "are not those of the template's goals"),
    (lambda r, c: r.update(cases={}), "has no case"),
    (lambda r, c: c["dose"]["bands"].pop(), "bands, isodoses or gamma criteria of its cases differ"),
    (lambda r, c: c["dose"]["isodose_dice"].pop("20"), "bands, isodoses or gamma criteria of its cases differ"),
    (lambda r, c: c["dose"]["gamma"][0].update(local=True), "bands, isodoses or gamma criteria of its cases differ"),
    (lambda r, c: c.update(challenges={}), "case 'a' was edited: its keys"),
    (lambda r, c: r.update(cases=[]), "cases: Input should be"),
    (lambda r, c: r.update(template_definition=3), "template_definition: Input should be"),
    (lambda r, c: r.update(calibration={"n": 1}), "calibration.nominal_percent: Field required"),
)


def test_the_result_is_read_back_and_an_edited_one_refused(cohort, tmp_path):
    dataset, folder, _ = cohort
    evaluation = evaluate_folder(
        dataset,
        folder,
        options=Options(gamma=(GammaRule(), GammaRule(2, 2, local=True, threshold_percent=5, normalisation="maximum"))),
    )
    write_outputs(evaluation, tmp_path / "out")
    read = load_evaluation(tmp_path / "out")
    assert read.to_json() == evaluation.to_json()
    assert read.cases == evaluation.cases
    content = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert [g["distance_mm"] for g in content["scores"]["dose"]["gamma"]] == [2.0, 2.0]
    for spoil, message in SPOILT:
        spoilt = json.loads(json.dumps(content))
        spoil(spoilt, spoilt["cases"]["a"])
        with pytest.raises(InputError, match=message):
            evaluation_from_json(spoilt, "result.json")
    with pytest.raises(InputError, match=r"result\.json is missing; 'cdm-nnunet evaluate' writes it"):
        load_evaluation(folder / "result.json")


def test_members_give_a_spread_and_intervals(make_dataset, predict, tmp_path):
    cases = {f"p{k:02d}": synthetic_case(k, shape=SHAPE) for k in range(10)}
    dataset = make_dataset(cases)
    factors = (0.90, 0.96, 1.02)
    folder = predict({name: case.dose_gy * np.float32(0.96) for name, case in cases.items()})
    members = tuple(tmp_path / f"fold_{k}" for k in range(3))
    for member, factor in zip(members, factors, strict=True):
        for name, case in cases.items():
            write_image(member / f"{name}.nii.gz", case.dose_gy * np.float32(factor))
    names = tuple(cases)
    validation = evaluate_folder(dataset, folder, options=Options(cases=names[:9], members=members))
    metric = validation.cases[0].rois["Brainstem"].metrics["Dmean"]
    assert metric.spread == pytest.approx(0.06 * metric.reference, rel=1e-4)  # of 0.90, 0.96 and 1.02: 0.06
    options = Options(cases=names[9:], members=members, calibrated_on=validation)
    found = evaluate_folder(dataset, folder, options=options)
    assert found.n_members == 3
    assert found.calibration.n_cases == 9
    low, high = found.cases[0].rois["Brainstem"].metrics["Dmean"].interval
    assert low < found.cases[0].rois["Brainstem"].metrics["Dmean"].predicted < high
    assert found.scores.coverage.n > 0
    write_outputs(found, tmp_path / "out")
    assert load_evaluation(tmp_path / "out").to_json() == found.to_json()
    shutil.rmtree(members[1])
    with pytest.raises(InputError, match=r"case 'p09' has a prediction but no dose of a member: .*fold_1"):
        evaluate_folder(dataset, folder, options=options)
    with pytest.raises(InputError, match="a spread needs at least two members"):
        Options(members=(folder,))
    with pytest.raises(InputError, match="a calibration turns the spread of members into intervals"):
        Options(calibrated_on=validation)
