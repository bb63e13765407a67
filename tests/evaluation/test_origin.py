"""Predictions whose records say which model made them, and from which images."""

import json
from dataclasses import replace

import pytest

from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.reading import evaluation_from_json
from cdm_nnunet.evaluation.run import Options, evaluate_folder
from cdm_nnunet.prediction_record import Origin, PredictionRecord, digests_of, record_path

from .conftest import synthetic_case, write_image

ORIGIN = Origin(
    dataset="Dataset501_Test", trainer="nnUNetTrainerCDM", plans="nnUNetPlans", plans_sha256="ab" * 32,
    spacing_mm=[2.5, 4.0, 3.0], weights_sha256=["cd" * 32], tile_step_size=0.5, mirroring=True, gaussian=True,
    configuration="3d_fullres", folds=["0"], settings={"0": {"num_epochs": 160, "loss_weight": None, "seed": -1}},
)  # fmt: skip


class Predicted:
    def __init__(self, dataset, folder):
        self.dataset, self.folder = dataset, folder

    def dose(self, case):
        return self.folder / f"{case}.nii.gz"

    def record(self, case, origin=ORIGIN, name=None, **entries):
        """Write the dose's record, as a prediction from the data set's images does."""
        images = [str(self.dataset.image_path(case, channel)) for channel in range(3)]
        known = {"prescriptions_gy": None, "notes": [], "inputs_sha256": digests_of(images), **entries}
        with PredictionRecord(case=name or case, origin=origin, **known).beside(self.dose(case)):
            pass

    def evaluate(self, **options):
        return evaluate_folder(self.dataset, self.folder, options=Options(**options))


@pytest.fixture
def predicted(make_dataset, predict):
    cases = {"a": synthetic_case(1), "b": synthetic_case(2)}
    dataset = make_dataset(cases)
    for case, content in cases.items():
        write_image(dataset.image_path(case, 1), content.dose_gy * 0 + 70)
    return Predicted(dataset, predict({name: case.dose_gy + 1 for name, case in cases.items()}))


def test_the_result_says_which_model_made_the_predictions(predicted):
    for case in "ab":
        predicted.record(case)
    found = predicted.evaluate()
    assert (found.model, found.notes) == (ORIGIN, ())
    content = json.loads(json.dumps(found.to_json()))
    assert content["model"]["settings"]["0"] == {"num_epochs": 160, "loss_weight": None, "seed": -1}
    assert evaluation_from_json(content, "result").model == ORIGIN
    content["model"]["tile_step_size"] = "half"
    with pytest.raises(InputError, match=r"result: model\.tile_step_size"):
        evaluation_from_json(content, "result")


def test_doses_from_elsewhere_are_accepted_with_a_note(predicted):
    found = predicted.evaluate()
    assert found.model is None
    assert found.notes[0].startswith("the predictions have no record")
    content = found.to_json()
    assert evaluation_from_json(content, "result").notes == found.notes
    del content["model"], content["notes"]  # (as the first records of this format)
    assert evaluation_from_json(content, "result").model is None


def test_records_that_do_not_say_it_all_are_accepted_with_notes(predicted):
    for case in "ab":
        predicted.record(case, origin=None, inputs_sha256=None)
    found = predicted.evaluate()
    assert found.model is None
    assert [note.partition(" made")[0] for note in found.notes] == [
        "the records of the predictions do not say which model",
        "the records of the predictions do not say from which images they were",
    ]


def test_a_dose_that_is_not_the_one_of_its_record_is_refused(predicted):
    for case in "ab":
        predicted.record(case)
    predicted.dose("b").write_bytes(predicted.dose("a").read_bytes())
    with pytest.raises(InputError, match=r"b\.nii\.gz does not match its record b\.prediction\.json"):
        predicted.evaluate()
    assert predicted.evaluate(cases=("a",)).model == ORIGIN
    record_path(predicted.dose("b")).write_bytes(record_path(predicted.dose("a")).read_bytes())
    with pytest.raises(InputError, match=r"b\.prediction\.json belongs to case 'a'; predict the case again"):
        predicted.evaluate()
    record_path(predicted.dose("b")).write_text("{")
    with pytest.raises(InputError, match=r"b\.prediction\.json: .*; predict the case again"):
        predicted.evaluate()


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (replace(ORIGIN, weights_sha256=["ef" * 32]), r"weights_sha256\[0\] is"),
        (replace(ORIGIN, trainer="nnUNetTrainerDose"), "trainer is nnUNetTrainerCDM and nnUNetTrainerDose"),
        (replace(ORIGIN, mirroring=False), "mirroring is True and False"),
        (replace(ORIGIN, weights_sha256=ORIGIN.weights_sha256 * 2, folds=["0", "1"]), "folds is "),
        (None, "one record names its model, the other does not"),
    ],
)
def test_predictions_of_several_models_or_ways_are_refused(predicted, other, told):
    predicted.record("a")
    predicted.record("b", other)
    with pytest.raises(InputError, match=rf"predictions of several models.*of cases 'a' and 'b' .*{told}"):
        predicted.evaluate()


def test_a_dose_without_a_record_beside_doses_with_one_is_refused(predicted):
    predicted.record("a")
    with pytest.raises(InputError, match=r"b\.prediction\.json is missing, and case 'a' has its record \(1 of 2"):
        predicted.evaluate()


@pytest.mark.parametrize("channel", range(3))
def test_predictions_from_other_images_are_refused(predicted, channel):
    for case in "ab":
        predicted.record(case)
    image = predicted.dataset.image_path("b", channel)
    image.write_bytes(predicted.dataset.image_path("a", channel).read_bytes() + b" ")
    with pytest.raises(InputError, match=rf"case 'b' was predicted from other images.*\(b_000{channel}.nii.gz differs"):
        predicted.evaluate()


def test_images_may_have_had_another_name_but_none_may_lack(predicted):
    named = [str(predicted.dataset.image_path("a", channel)) for channel in range(3)]
    digests = list(digests_of(named).values())
    predicted.record("a", inputs_sha256={f"x_000{k}.nii.gz": digest for k, digest in enumerate(digests)})
    assert predicted.evaluate(cases=("a",)).model == ORIGIN
    predicted.record("a", inputs_sha256={"x_0000.nii.gz": digests[0]})
    with pytest.raises(InputError, match="case 'a' was predicted from other images"):
        predicted.evaluate(cases=("a",))


def test_members_are_checked_as_well(predicted, tmp_path):
    folders = []
    for number in range(2):
        member = Predicted(predicted.dataset, tmp_path / f"fold_{number}")
        member.folder.mkdir()
        for case in "ab":
            member.dose(case).write_bytes(predicted.dose(case).read_bytes())
            member.record(case, replace(ORIGIN, folds=[str(number)]))
        folders.append(member)
    assert predicted.evaluate(members=tuple(member.folder for member in folders)).n_members == 2
    folders[1].record("b", replace(ORIGIN, mirroring=False))
    with pytest.raises(InputError, match="fold_1 holds predictions of several models"):
        predicted.evaluate(members=tuple(member.folder for member in folders))
