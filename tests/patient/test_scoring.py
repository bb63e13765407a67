"""Metrics, verdicts and intervals of a new patient are those that the evaluation gives the same dose."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert
from cdm_nnunet.dataset_conversion.synthetic import find_synthetic
from cdm_nnunet.documents import plain
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.pairing import find_cases
from cdm_nnunet.evaluation.run import Options, evaluate_folder, write_outputs
from cdm_nnunet.images import read_image, write_image
from cdm_nnunet.patient.calibrated import MEANS, UNKNOWN_MODEL, Calibrated
from cdm_nnunet.patient.objectives import ObjectiveFile, objectives_of, write_objectives
from cdm_nnunet.patient.record import PatientRecord
from cdm_nnunet.patient.scoring import WITHOUT_INTERVALS, NewDose, describe_dose
from cdm_nnunet.prediction_record import MeanOrigin, Origin

ORIGIN = Origin(
    dataset="Dataset501_Synthetic", trainer="T", plans="P", plans_sha256="0", spacing_mm=[3.0, 3.0, 3.0],
    weights_sha256=["a", "b"], tile_step_size=0.5, mirroring=True, gaussian=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three synthetic patients, one of them new."""
    raw = tmp_path_factory.mktemp("raw")
    convert(find_synthetic(n_training=2, n_test=1, coarseness=2.0), DatasetPlace(raw, 501, "Synthetic"))
    return RawDataset(raw / "Dataset501_Synthetic")


@pytest.fixture(scope="module")
def folders(dataset, tmp_path_factory):
    """Doses of a model, and of its two folds."""
    root = tmp_path_factory.mktemp("doses")
    for name, factor in (("mean", 0.96), ("0", 0.95), ("1", 0.98)):
        (root / name).mkdir()
        for case in dataset.cases:
            dose = read_image(dataset.dose_path(case))
            values = (factor * gaussian_filter(dose.values, 0.6)).astype(np.float32)
            write_image(dataclasses.replace(dose, path=root / name / f"{case}.nii.gz", values=values))
    return root


@pytest.fixture(scope="module")
def new(dataset):
    return next(case for case, record in dataset.cases.items() if record.split == "Ts")


@pytest.fixture(scope="module")
def calibration(dataset, folders, new, tmp_path_factory):
    """Of the two other patients."""
    out = tmp_path_factory.mktemp("calibration")
    others = tuple(case for case in dataset.cases if case != new)
    options = Options(cases=others, members=(folders / "0", folders / "1"))
    evaluation = evaluate_folder(dataset, folders / "mean", None, options)
    write_outputs(evaluation, out)
    return out


def described(dataset, folders, new, template=None, calibration=None, model=None, names=(), **options):
    (files,) = find_cases(dataset, folders / "mean", only=[new], **options)
    dose = NewDose(files, (f"{new}.nii.gz", "0"), model, dict(names))
    return describe_dose(dose, template or dataset.template, calibration)


def test_the_numbers_are_those_of_the_evaluation(dataset, folders, new, calibration):
    """To the bit: metrics, units, verdicts, limits, intervals, certainty and indices."""
    members = (folders / "0", folders / "1")
    calibrated = Calibrated.read(calibration, 50.0, dataset.template, 2)
    options = Options(cases=(new,), members=members, calibrated_on=calibrated.evaluation, coverage_percent=50.0)
    (case,) = evaluate_folder(dataset, folders / "mean", None, options).cases
    record = described(dataset, folders, new, calibration=calibrated.calibration, members=members)
    assert list(record.rois) == list(case.rois)
    assert (record.missing, record.undefined, record.fractions) == (case.missing, case.undefined, case.fractions)
    assert record.intervals.n_cases == 2
    n_intervals = n_goals = 0
    for name, roi in case.rois.items():
        own = record.rois[name]
        assert (own.n_voxels, own.volume_cc, own.prescription_gy) == (roi.n_voxels, roi.volume_cc, roi.prescription_gy)
        assert dict(own.indices) == {key: index.predicted for key, index in roi.indices.items()}
        assert list(own.metrics) == list(roi.metrics)
        for key, metric in roi.metrics.items():
            mine = own.metrics[key]
            assert (mine.value, mine.unit) == (metric.predicted, metric.unit)
            assert (mine.spread, mine.interval) == (metric.spread, metric.interval)
            n_intervals += mine.interval is not None
        for goal, mine in zip(roi.goals, own.goals, strict=True):
            assert (mine.verdict, mine.limit, mine.variation) == (goal.predicted, goal.limit, goal.variation)
            assert (mine.certainty, mine.relation, mine.reason) == (goal.certainty, goal.relation, goal.reason)
            n_goals += 1
    assert n_intervals > 20
    assert n_goals >= 5


def test_without_a_calibration_there_are_no_intervals_and_the_record_says_so(dataset, folders, new):
    record = described(dataset, folders, new)
    assert WITHOUT_INTERVALS in record.notes
    metrics = [metric for roi in record.rois.values() for metric in roi.metrics.values()]
    assert {(metric.spread, metric.interval) for metric in metrics} == {(None, None)}
    assert {goal.certainty for roi in record.rois.values() for goal in roi.goals} == {None}


def test_a_record_is_read_as_it_was_written(dataset, folders, new, tmp_path):
    record = described(dataset, folders, new, model=ORIGIN)
    path = record.write(tmp_path)
    assert path.name == f"{new}.patient.json"
    assert PatientRecord.read(path) == record
    path.write_text(path.read_text().replace("NOT FOR TREATMENT", "FOR TREATMENT"))
    with pytest.raises(InputError, match="label"):
        PatientRecord.read(path)


def test_missing_dose_and_small_rois_are_judged_as_in_the_evaluation(dataset, folders, new):
    """An ROI that is smaller than the metric's volume has no value; the goal is neither met nor missed."""
    goals = [
        {"roi": "SpinalCord", "metric": "D5000cc", "relation": "<=", "value": 45, "unit": "Gy"},
        {"roi": "SpinalCord", "metric": "D0.1cc", "relation": "<=", "value": 45, "unit": "Gy"},
    ]
    template = Template.from_json({**dataset.template.to_json(), "goals": goals}, "here")
    record = described(dataset, folders, new, template)
    assert list(record.undefined) == ["SpinalCord D5000cc"]
    assert [goal.metric for goal in record.rois["SpinalCord"].goals] == ["D0.1cc"]
    (case,) = evaluate_folder(dataset, folders / "mean", template, Options(cases=(new,))).cases
    assert record.undefined == case.undefined


def test_objectives_have_the_names_of_the_structure_set(dataset, folders, new, tmp_path, calibration):
    calibrated = Calibrated.read(calibration, 50.0, dataset.template, 2)
    members = (folders / "0", folders / "1")
    record = described(
        dataset, folders, new, calibration=calibrated.calibration, members=members, names={"Parotid_L": "=lt parotid"}
    )
    file = objectives_of(record, dataset.template)
    assert len(file.objectives) == sum(len(roi.metrics) for roi in record.rois.values())
    assert [one.priority for one in file.objectives] == sorted(one.priority for one in file.objectives)
    parotid = next(one for one in file.objectives if one.template_roi == "Parotid_L" and one.metric == "Dmean")
    metric = record.rois["Parotid_L"].metrics["Dmean"]
    assert (parotid.roi, parotid.value, parotid.interval) == ("=lt parotid", metric.value, metric.interval)
    assert (parotid.relation, parotid.limit) == ("<=", 26.0)
    without = next(one for one in file.objectives if one.template_roi == "PTV_7000" and one.metric == "D2%")
    assert (without.relation, without.limit, without.verdict) == (None, None, None)

    rows = list(csv.DictReader(write_objectives(file, tmp_path, "csv").read_text().splitlines()))
    assert [float(row["value"]) for row in rows] == [one.value for one in file.objectives]
    assert "'=lt parotid" in {row["roi"] for row in rows}  # (no formula in a spreadsheet; JSON has the name as it is)
    (row,) = [row for row in rows if (row["template_roi"], row["metric"]) == ("Parotid_L", "Dmean")]
    assert (float(row["interval_low"]), float(row["interval_high"])) == metric.interval
    content = json.loads(write_objectives(file, tmp_path, "json").read_text())
    assert content == plain(file)
    assert {one["roi"] for one in content["objectives"]} >= {"=lt parotid"}
    assert isinstance(file, ObjectiveFile)


class TestCalibration:
    def test_it_must_be_of_the_template_and_the_folds(self, dataset, calibration):
        with pytest.raises(InputError, match=r"with 2 members, and 1 fold predicts; give the same folds \(-f\)"):
            Calibrated.read(calibration, 50.0, dataset.template, 1)
        with pytest.raises(InputError, match=r"another template \('openkbp'\) than the patients are judged by"):
            Calibrated.read(calibration, 50.0, Template.load("head_neck"), 2)
        with pytest.raises(InputError, match="intervals of 90 % need at least 9 cases to calibrate on"):
            Calibrated.read(calibration, 90.0, dataset.template, 2)

    @pytest.mark.parametrize(
        ("known", "made", "outcome"),
        [
            (None, ORIGIN, (UNKNOWN_MODEL,)),
            (ORIGIN, None, (UNKNOWN_MODEL,)),
            (ORIGIN, ORIGIN, ()),
            (
                ORIGIN,
                dataclasses.replace(ORIGIN, weights_sha256=["a", "c"]),
                "another model than the one that predicts",
            ),
            (
                MeanOrigin(mean_of=[dataclasses.replace(ORIGIN, weights_sha256=[one]) for one in "ba"]),
                ORIGIN,
                (MEANS,),
            ),
            (MeanOrigin(mean_of=[dataclasses.replace(ORIGIN, weights_sha256=["a"])]), ORIGIN, "of a single model"),
        ],
    )
    def test_it_must_be_of_the_model(self, dataset, calibration, known, made, outcome):
        read = Calibrated.read(calibration, 50.0, dataset.template, 2)
        calibrated = dataclasses.replace(read, evaluation=dataclasses.replace(read.evaluation, model=known))
        if isinstance(outcome, str):
            with pytest.raises(InputError, match=outcome):
                calibrated.fit_for("x", "x", "Dataset501_Synthetic", made)
        else:
            assert calibrated.fit_for("x", "x", "Dataset501_Synthetic", made) == outcome

    def test_its_own_patients_get_none(self, dataset, calibration, new):
        calibrated = Calibrated.read(calibration, 50.0, dataset.template, 2)
        other = next(case for case in dataset.cases if case != new)
        for case, patient, of in (
            (other, "", dataset.folder.name),
            ("x", other, dataset.folder.name),
            ("x", other, ""),
        ):
            with pytest.raises(InputError, match="among the cases of the calibration"):
                calibrated.fit_for(case, patient, of, None)
        assert calibrated.fit_for(other, "", "Dataset502_Other", None) == (UNKNOWN_MODEL,)
        assert calibrated.fit_for(new, "", dataset.folder.name, None) == (UNKNOWN_MODEL,)
