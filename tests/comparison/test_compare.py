"""From evaluations to the record: pairing, refusals, corrections."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cdm_nnunet.comparison.models import load_models, read_patients, shared_cases
from cdm_nnunet.comparison.run import compare
from cdm_nnunet.comparison.statistics import sign_flip
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError

from .conftest import REFERENCES, TEMPLATE, case_result, model, uniform

ERRORS = st.lists(st.integers(-80, 80).map(lambda n: n / 16), min_size=6, max_size=8)


def find(comparison, name, level=None):
    (found,) = (r for r in comparison.quantities if r.quantity.name == name and level in (None, r.quantity.level))
    return found


def two_targets(name, high, low):
    """Two patients; the second lacks PTV_Low."""
    return model(
        name,
        [
            case_result("a", 1.0, {"PTV_High": {"D95%": high, "V95%": 2.0}, "PTV_Low": {"D95%": low}}),
            case_result("b", 2.0, {"PTV_High": {"D95%": -high, "V95%": -4.0}}),
        ],
    )


def test_what_is_compared(two_models):
    comparison = compare(two_models)
    names = {level: [r.quantity.name for r in comparison.at(level)] for level in ("score", "pooled", "roi")}
    assert names["score"] == ["Dose MAE", "PTV score", "OAR score", "Goal errors"]
    assert names["pooled"] == [
        "Targets D metrics",
        "Targets V metrics",
        "Targets D95%",
        "Targets V95%",
        "OARs D0.1cc",
    ]
    assert names["roi"] == ["PTV_High D95%", "PTV_High V95%", "PTV_Low D95%", "SpinalCord D0.1cc"]
    assert [find(comparison, name).quantity.unit for name in ("PTV score", "OAR score", "Goal errors")] == [
        "Gy and %",
        "Gy",
        "%",
    ]
    assert comparison.families == {"score": 4, "pooled": 5, "roi": 4, "goal": 2}
    assert (comparison.baseline, comparison.candidates) == ("MAE", ("CDM",))


def test_differences_by_hand(two_models):
    result = find(compare(two_models), "PTV_High D95%")
    # |errors| MAE: 2 1.5 2.5 3 1 2 0.5, CDM: 1 1 1 0.5 0.25 1.5 1.75; differences -1 -0.5 -1.5 -2.5 -0.75 -0.5 1.25
    paired = result.paired["CDM"]
    assert (result.models["MAE"].mean, result.models["CDM"].mean) == pytest.approx((12.5 / 7, 1.0))
    assert (result.models["MAE"].median, result.models["CDM"].median) == (2.0, 1.0)
    assert (result.models["MAE"].bias, result.models["CDM"].bias) == pytest.approx((3.5 / 7, 3.0 / 7))
    assert paired.mean_difference == pytest.approx(-5.5 / 7)
    assert paired.median_difference == -0.75
    assert paired.relative_percent == pytest.approx(100 * (7 / 12.5 - 1))
    assert (paired.n, paired.n_better, paired.n_equal, paired.n_worse) == (7, 6, 0, 1)
    # ranks 4, 1.5, 6, 7, 3, 1.5 negative and 5 positive
    assert paired.effect == pytest.approx((5 - 23) / 28)
    assert paired.interval[0] < -5.5 / 7 < paired.interval[1]
    assert paired.relative_interval[0] < paired.relative_percent < paired.relative_interval[1]
    assert paired.notes == ()


def test_pooled_means_are_those_of_the_evaluation():
    models = (two_targets("A", 1.0, 6.0), two_targets("B", 0.5, 2.0))
    comparison = compare(models)
    score = find(comparison, "PTV score")
    for one in models:  # (terms of a: 3, of b: 2, so the mean of patients would be another number)
        assert score.models[one.name].mean == pytest.approx(one.evaluation.scores.ptv_score, rel=1e-12)
    assert score.models["A"].mean == pytest.approx((1 + 2 + 6 + 1 + 4) / 5)
    assert score.paired["B"].mean_difference == pytest.approx((0.5 + 4 + 0.5) / -5)
    assert score.quantity.errors["A"] == (3.0, 2.5)
    assert score.quantity.signed["A"] == (3.0, -2.5)
    low = find(comparison, "PTV_Low D95%")
    assert (low.paired["B"].n, low.quantity.missing) == (1, {"b": "not contoured"})
    assert "SpinalCord D0.1cc" not in {r.quantity.name for r in comparison.quantities}


def test_holm_goes_over_quantities_and_candidates(two_models):
    third = uniform("DVH", [-1.5, -1.25, 1.0, 2.5, 0.25, 1.5, 0.25])
    comparison = compare((*two_models, third))
    assert comparison.families["roi"] == 8
    p = sorted(paired.p for r in comparison.at("roi") for paired in r.paired.values())
    smallest = min(comparison.at("roi"), key=lambda r: r.paired["DVH"].p).paired["DVH"]
    assert smallest.p == p[0] == 2 / 2**7
    assert smallest.p_holm == pytest.approx(8 * p[0])


def test_goals_that_flip():
    # D95% of PTV_High: reference 68 passes 66.5; a prediction that is 2 Gy lower misses it
    wrong, right = -2.0, 0.5
    models = (
        uniform("A", [wrong] * 5 + [right, wrong, right]),
        uniform("B", [right] * 5 + [wrong, wrong, right]),
    )
    comparison = compare(models)
    goal = next(g for g in comparison.goals if g.name == "PTV_High D95% >= 66.5 Gy")
    assert (goal.n, goal.n_met, goal.n_right) == (8, 8, {"A": 2, "B": 6})
    flips = goal.paired["B"]
    assert (flips.n_gained, flips.n_lost) == (5, 1)
    assert flips.p == pytest.approx(2 * (1 + 6) / 2**6)
    assert flips.p_holm == pytest.approx(2 * flips.p)  # two goals
    errors = find(comparison, "Goal errors")
    assert errors.models["A"].mean == pytest.approx(100 * 6 / 16)  # SpinalCord's goal is met by all
    assert errors.models["A"].bias is None


def test_all_differences_zero_is_no_evidence():
    cases = [case_result(f"{i}", 1.0, {"PTV_High": {"D95%": 1.0}, "SpinalCord": {"D0.1cc": 0.0}}) for i in range(7)]
    other = [replace(case, dose_mae_gy=2.0) for case in cases]
    comparison = compare((model("A", cases), model("B", other)))
    equal = find(comparison, "PTV_High D95%").paired["B"]
    assert (equal.p, equal.p_holm, equal.effect, equal.interval) == (1.0, 1.0, None, (0.0, 0.0))
    assert (equal.method, equal.notes) == ("no patient differs", ("no patient differs",))
    perfect = find(comparison, "SpinalCord D0.1cc").paired["B"]
    assert (perfect.relative_percent, perfect.relative_interval) == (None, None)
    assert "the baseline has no error: no relative change" in perfect.notes
    dose = find(comparison, "Dose MAE").paired["B"]
    assert (dose.relative_percent, dose.relative_interval, dose.interval) == (100.0, (100.0, 100.0), (1.0, 1.0))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_patients_are_told(n):
    models = (uniform("A", [2.0, 3.0, 1.0, 2.5, 4.0][:n]), uniform("B", [1.0, 1.5, 0.25, 0.5, 2.25][:n]))
    comparison = compare(models)
    paired = find(comparison, "Dose MAE").paired["B"]
    assert (paired.interval, paired.relative_interval) == (None, None)
    assert paired.p == 2.0 ** (1 - n)
    patients = f"{n} patient{'s' if n > 1 else ''}"
    assert paired.notes[0] == f"{patients}: fewer than 6, no interval"
    assert paired.notes[1].startswith(f"{n} of {patients} differ: p cannot be below {2.0 ** (1 - n):.3g}")
    json.dumps(comparison.to_json(), allow_nan=False)


@settings(max_examples=5, deadline=None)
@given(ERRORS, st.data())
def test_swapping_the_models_flips_the_signs(baseline, data):
    candidate = data.draw(
        st.lists(st.integers(-80, 80).map(lambda n: n / 16), min_size=len(baseline), max_size=len(baseline))
    )
    if list(map(abs, baseline)) == list(map(abs, candidate)):
        return  # (the same dose errors; whether they are refused is another test)
    forth = compare((uniform("A", baseline), uniform("B", candidate)))
    back = compare((uniform("B", candidate), uniform("A", baseline)))
    for one, two in zip(forth.quantities, back.quantities, strict=True):
        a, b = one.paired["B"], two.paired["A"]
        assert b.mean_difference == pytest.approx(-a.mean_difference, abs=1e-9)
        assert b.p == pytest.approx(a.p)
        assert (a.n_better, a.n_worse) == (b.n_worse, b.n_better)
        assert b.effect == (None if a.effect is None else -a.effect)
        pairs = zip(one.quantity.errors["B"], one.quantity.errors["A"], strict=True)
        weights = one.quantity.n_terms.values()
        sums = [n * (y - x) for n, (x, y) in zip(weights, pairs, strict=True)]
        assert b.p == pytest.approx(sign_flip(sums, seed=0, n_flips=999).p)


def test_the_record_is_json_without_nan_and_names_everything(two_models):
    record = json.loads(json.dumps(compare(two_models, seed=3).to_json(), allow_nan=False))
    assert record["models"] == {"MAE": "MAE", "CDM": "CDM"}
    assert (record["statistics"]["seed"], record["statistics"]["n_flips"]) == (3, 99_999)
    assert set(record["software"]) == {"cdm_nnunet", "python", "numpy", "scipy", "plotly"}
    entry = next(q for q in record["quantities"] if q["name"] == "PTV_High D95%")
    assert entry["patients"]["pt_00"] == {
        "n_terms": 1,
        "errors": {"MAE": 2.0, "CDM": 1.0},
        "signed": {"MAE": -2.0, "CDM": -1.0},
    }
    assert compare(two_models, seed=3).to_json() == record


def test_unequal_cases_are_refused_unless_told():
    one, two = uniform("A", [1.0, 2.0, 3.0]), uniform("B", [0.5, 1.5])
    with pytest.raises(InputError, match=r"different cases \('A' has 3, 'B' has 2, 2 are common; .*'pt_02' of 'A'\)"):
        compare((one, two))
    comparison = compare((one, two), common_cases=True)
    assert (comparison.cases, comparison.dropped) == ({"pt_00": "pt_00", "pt_01": "pt_01"}, {"A": ["pt_02"], "B": []})
    assert find(comparison, "Dose MAE").models["A"].mean == 1.5
    apart = model("C", [case_result("other", 1.0, {"SpinalCord": {"D0.1cc": 1.0}})])
    with pytest.raises(InputError, match="no case in common"):
        compare((one, apart), common_cases=True)


def test_what_was_scored_otherwise_is_refused(two_models):
    one, two = two_models
    with pytest.raises(InputError, match="'MAE' was evaluated on Dataset501_Test and 'X' on Dataset502_Other"):
        compare((one, uniform("X", [1.0] * 7, dataset="Dataset502_Other")))
    mapping = TEMPLATE.to_json()
    mapping["goals"][0]["value"] = 66.0
    edited = Template.from_json(mapping, "test")
    with pytest.raises(InputError, match="different templates, 'small' and 'small', which share their name"):
        compare((one, uniform("X", [1.0] * 7, template=edited)))
    region = replace(two, evaluation=replace(two.evaluation, dose_region=None))
    with pytest.raises(InputError, match="'MAE' is averaged in External, that of 'CDM' in the whole grid"):
        compare((one, region))
    copy = replace(one, name="copy")
    with pytest.raises(InputError, match=r"'MAE' \(MAE\) and 'copy' \(MAE\) are the same evaluation"):
        compare((one, copy))


def test_another_reference_is_refused():
    def one(name, error, **changes):
        return model(name, [case_result("pt", 1.0, {"SpinalCord": {"D0.1cc": error}}, REFERENCES | changes)])

    compare((one("A", 1.0), one("B", 2.0, **{"D0.1cc": 40.0 + 1e-8})))  # (rounding)
    with pytest.raises(
        InputError, match=r"case 'pt': the reference's D0\.1cc of SpinalCord is 40 Gy for 'A' and 40\.1"
    ):
        compare((one("A", 1.0), one("B", 2.0, **{"D0.1cc": 40.1})))
    fewer = model("B", [case_result("pt", 1.0, {"PTV_High": {"D95%": 1.0}})])
    with pytest.raises(
        InputError, match="the set of missing ROIs is PTV_High, PTV_Low for 'A' and PTV_Low, SpinalCord"
    ):
        compare((one("A", 1.0), fewer))


def test_a_metric_that_is_not_defined_in_one_model_is_left_out_of_that_case(two_models):
    """As the conformity of a dose that reaches the prescription nowhere."""
    mae, cdm = two_models
    first, *others = cdm.evaluation.cases
    high = first.rois["PTV_High"]
    cut = replace(high, metrics={"V95%": high.metrics["V95%"]}, goals=())
    reason = "a dose reaches the prescription nowhere"
    case = replace(first, rois={**first.rois, "PTV_High": cut}, undefined={"PTV_High D95%": reason})
    cdm = replace(cdm, evaluation=replace(cdm.evaluation, cases=(case, *others)))
    kept, dropped = shared_cases((mae, cdm), common_cases=False)
    assert not any(dropped.values())
    for one in kept:
        assert list(one.evaluation.cases[0].rois["PTV_High"].metrics) == ["V95%"]
        assert one.evaluation.cases[0].undefined == {"PTV_High D95%": reason}
        assert list(one.evaluation.cases[1].rois["PTV_High"].metrics) == ["D95%", "V95%"]


def test_a_value_that_is_no_number_is_refused(two_models):
    case = two_models[0].evaluation.cases[0]
    for dose_mae_gy in (float("inf"), float("nan"), -1.0, "2", None):
        with pytest.raises(ValidationError, match=r"(?s)validation error for CaseResult\ndose_mae_gy"):
            replace(case, dose_mae_gy=dose_mae_gy)


def test_options_out_of_range(two_models):
    with pytest.raises(InputError, match="a seed is at least 0, not -1"):
        compare(two_models, seed=-1)
    with pytest.raises(InputError, match="at least 999 random sign flips, not 10"):
        compare(two_models, n_flips=10)


def test_models_are_read_and_named(two_models, tmp_path):
    for one in two_models:
        (tmp_path / one.name).mkdir()
        (tmp_path / one.name / "result.json").write_text(json.dumps(one.evaluation.to_json()))
    mae, cdm = (str(tmp_path / name) for name in ("MAE", "CDM"))
    read = load_models([mae, f"our model={cdm}/result.json"])
    assert [one.name for one in read] == ["MAE", "our model"]
    assert [one.evaluation for one in read] == [one.evaluation for one in two_models]
    assert load_models([f"{mae}/result.json", cdm])[0].name == "MAE"
    with pytest.raises(InputError, match="at least two evaluations, the baseline first; 1 given"):
        load_models([mae])
    with pytest.raises(InputError, match="'MAE' and 'X' are the same evaluation"):
        load_models([mae, f"X={mae}/result.json"])
    with pytest.raises(InputError, match=r"both .* have the name 'A'; name them"):
        load_models([f"A={mae}", f"A={cdm}"])
    with pytest.raises(InputError, match=r"result\.json is missing"):
        load_models([mae, str(tmp_path)])
    with pytest.raises(InputError, match="'=x' is not NAME=PATH"):
        load_models([mae, "=x"])


def of_patients(name, errors, patients):
    """A model with an error for each case, and the patient of each."""
    cases = [
        replace(case, patient=patient)
        for case, patient in zip(uniform(name, errors).evaluation.cases, patients, strict=True)
    ]
    return model(name, cases)


def test_cases_of_one_patient_are_one_value():
    """Seven patients with three plans each, which are the same: nothing may be more certain than with one plan each."""
    before, after = [-2.0, -1.5, 2.5, 3.0, -1.0, 2.0, 0.5], [-1.0, -1.0, 1.0, 0.5, 0.25, 1.5, 1.75]
    patients = [f"p{k}" for k in range(7) for _ in range(3)]
    thrice = [[error for error in errors for _ in range(3)] for errors in (before, after)]
    once = compare((uniform("MAE", before), uniform("CDM", after)))
    grouped = compare((of_patients("MAE", thrice[0], patients), of_patients("CDM", thrice[1], patients)))
    assert (len(grouped.cases), grouped.n_patients) == (21, 7)
    for one, other in zip(once.quantities, grouped.quantities, strict=True):
        a, b = one.paired["CDM"], other.paired["CDM"]
        assert (b.n, b.p, b.effect) == (a.n, a.p, a.effect) == (7, a.p, a.effect)
        assert b.mean_difference == pytest.approx(a.mean_difference)
        assert b.interval == pytest.approx(a.interval)
    for one, other in zip(once.goals, grouped.goals, strict=True):
        assert (other.n, other.n_patients) == (21, 7)
        assert other.paired["CDM"].p == one.paired["CDM"].p
        assert other.paired["CDM"].n_gained == 3 * one.paired["CDM"].n_gained
    known = grouped.to_json()
    assert (known["n_cases"], known["n_patients"], known["cases"]["pt_03"]) == (21, 7, "p1")
    assert known["quantities"][0]["patients"]["p0"]["n_terms"] == 3


def test_a_table_of_patients(two_models, tmp_path):
    table = tmp_path / "patients.csv"
    names = [case.case for case in two_models[0].evaluation.cases]
    table.write_text(
        "case,patient\n" + "".join(f"{name},p{i // 2}\n" for i, name in enumerate(names)), encoding="utf-8"
    )
    comparison = compare(two_models, patients=read_patients(table))
    assert comparison.n_patients == 4
    assert find(comparison, "Dose MAE").paired["CDM"].notes[0] == "4 patients: fewer than 6, no interval"
    with pytest.raises(InputError, match=r"the table of patients lacks case 'pt_00' \(7 in all\)"):
        compare(two_models, patients={"x": "y"})
    for text, message in (
        ("case\nx\n", "line 2: each row needs a case and a patient"),
        ("case,patient\nx,\n", "line 2: each row needs a case and a patient"),
        ("case,patient\nx,a\nx,b\n", "line 3: case 'x' is repeated"),
    ):
        table.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            read_patients(table)


def test_another_patient_or_course_is_another_reference(two_models):
    one, two = two_models
    for change, message in (
        ({"patient": "q"}, "case 'pt_00': the patient is p for 'MAE' and q for 'CDM'"),
        (
            {"patient": "p", "fractions": 20},
            "case 'pt_00': the course is an unknown prescription in an unknown number of fractions for 'MAE'",
        ),
    ):
        first = model("MAE", [replace(case, patient="p") for case in one.evaluation.cases])
        second = model("CDM", [replace(case, **change) for case in two.evaluation.cases])
        with pytest.raises(InputError, match=message):
            compare((first, second))


def test_goals_that_one_model_cannot_be_judged_on_are_left_out(two_models):
    one, two = two_models

    def not_evaluable(case):
        cord = case.rois["SpinalCord"]
        goal = replace(cord.goals[0], predicted="not evaluable", reason="dose is missing")
        return replace(case, rois={**case.rois, "SpinalCord": replace(cord, goals=(goal,))})

    first, *others = two.evaluation.cases
    comparison = compare((one, model("CDM", [not_evaluable(first), *others])))
    assert [(goal.name, goal.n) for goal in comparison.goals] == [
        ("PTV_High D95% >= 66.5 Gy", 7),
        ("SpinalCord D0.1cc <= 45 Gy", 6),
    ]
    assert find(comparison, "Goal errors").quantity.n_terms["pt_00"] == 1
