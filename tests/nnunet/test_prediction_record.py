"""A dose records its model, and a continued prediction keeps only its own doses."""

import itertools
import json
import shutil
import threading

import pytest
import torch
from networks import Constant
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.checkpoint import weights_digest
from cdm_nnunet.nnunet.predictor import DosePredictor
from cdm_nnunet.nnunet.reader import CDMReaderWriter
from cdm_nnunet.prediction_record import PredictionRecord, record_path


@pytest.fixture
def folder(planned, tmp_path):
    """Two cases with the catalogue of their bits."""
    shutil.copytree(planned.raw.folder / "imagesTs", tmp_path / "images")
    shutil.copy(planned.raw.folder / "dataset.json", tmp_path / "images")
    for channel in range(3):
        name = f"{{}}_000{channel}.nii.gz"
        shutil.copy(tmp_path / "images" / name.format("test_0"), tmp_path / "images" / name.format("more"))
    return tmp_path / "images"


@pytest.fixture
def predict(planned, folder, tmp_path, monkeypatch):
    """Predict the folder with a model that gives a constant; which doses were written."""
    plans, dataset_json = (
        json.loads((planned.preprocessed / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json")
    )
    written = []
    stock = CDMReaderWriter.write_seg

    def write_seg(self, dose_gy, path, properties):
        written.append(path)
        if predict.stop_at == len(written):
            raise KeyboardInterrupt
        stock(self, dose_gy, path, properties)

    monkeypatch.setattr(CDMReaderWriter, "write_seg", write_seg)

    def predict(value=0.5, again=False, parts=(1, 0), **options):
        written.clear()
        made = DosePredictor(device=torch.device("cpu"), allow_tqdm=False, **options)
        manager = PlansManager(plans)
        made.manual_initialization(
            Constant(value), manager, manager.get_configuration("3d_fullres"), [Constant(value).state_dict()],
            dataset_json, "nnUNetTrainerCDM", None,
        )  # fmt: skip
        made.predict_from_files(
            str(folder), str(tmp_path / "out"), overwrite=not again, num_processes_preprocessing=0,
            num_parts=parts[0], part_id=parts[1],
        )  # fmt: skip
        return [path.rsplit("/", 1)[1].removesuffix(".nii.gz") for path in written]

    predict.stop_at = 0
    return predict


def test_a_dose_knows_its_model_and_input(predict, folder, tmp_path):
    assert predict(tile_step_size=0.75) == ["more", "test_0"]
    record = PredictionRecord.read(tmp_path / "out" / "test_0.nii.gz")
    assert record.origin.weights_sha256 == [weights_digest(Constant(0.5).state_dict())]
    assert (record.origin.trainer, record.origin.plans) == ("nnUNetTrainerCDM", "nnUNetPlans")
    assert (record.origin.tile_step_size, record.origin.mirroring) == (0.75, True)
    assert sorted(record.inputs_sha256) == [f"test_0_000{channel}.nii.gz" for channel in range(3)]


def test_what_is_there_is_kept_and_what_is_missing_or_unfinished_is_predicted(predict, tmp_path):
    predict()
    assert predict(again=True) == []
    (tmp_path / "out" / "more.nii.gz").unlink()
    assert predict(again=True) == ["more"]
    record_path(tmp_path / "out" / "test_0.nii.gz").unlink()
    assert predict(again=True) == ["test_0"]
    record_path(tmp_path / "out" / "test_0.nii.gz").write_text("{")
    assert predict(again=True) == ["test_0"]
    assert predict(again=True) == []


def test_a_prediction_that_is_stopped_over_other_doses_leaves_none_under_a_wrong_name(predict, tmp_path):
    """The dose to be replaced is left without its record, so that it is predicted again."""
    predict(0.5)
    predict.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        predict(0.7)
    predict.stop_at = 0
    assert [path.name for path in (tmp_path / "out").glob("*.prediction.json")] == ["more.prediction.json"]
    assert predict(0.7, again=True) == ["test_0"]
    record = PredictionRecord.read(tmp_path / "out" / "test_0.nii.gz")
    assert record.origin.weights_sha256 == [weights_digest(Constant(0.7).state_dict())]


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (0.6, {}, r"another model or in another way \(weights_sha256\[0\] is"),
        (0.5, {"use_mirroring": False}, r"in another way \(mirroring is True and False\)"),
        (0.5, {"tile_step_size": 0.25}, r"in another way \(tile_step_size is 0.5 and 0.25\)"),
    ],
)
def test_doses_of_another_model_are_not_kept_beside_its_own(predict, tmp_path, value, options, message):
    predict()
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(InputError, match=rf"{message}.*; choose another folder \(-o\), or leave out --continue_pred"):
        predict(value, again=True, **options)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert predict(value, **options) == ["more", "test_0"]


def test_a_dose_that_was_changed_is_not_kept_and_one_of_other_input_is_replaced(predict, folder, tmp_path):
    predict()
    dose = tmp_path / "out" / "more.nii.gz"
    whole = dose.read_bytes()
    dose.write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"more\.nii\.gz has changed since it was predicted"):
        predict(again=True)
    dose.write_bytes(whole)
    image, channels = folder / "more_0000.nii.gz", [str(folder / f"more_000{k}.nii.gz") for k in range(3)]
    data, properties = CDMReaderWriter().read_images(channels)
    data[0] += 10
    CDMReaderWriter.write_seg(CDMReaderWriter(), data[0], str(image), properties)
    assert predict(again=True) == ["more"]


def test_parts_of_a_prediction_share_the_cases(predict):
    parts = [predict(again=True, parts=(2, k)) for k in (0, 1)]
    assert sorted(itertools.chain(*parts)) == ["more", "test_0"]
    assert [len(part) for part in parts] == [1, 1]
    assert predict(again=True) == []


def test_dose_and_record_are_of_the_same_process_when_two_write_the_same_case(tmp_path):
    dose = tmp_path / "case.nii.gz"

    def write(name, meanwhile=lambda: None):
        record = PredictionRecord(case="case", prescriptions_gy=None, notes=[name])
        with record.beside(dose):
            dose.write_text(name)
            meanwhile()

    second = threading.Thread(target=write, args=("second",))

    def let_second_try():
        second.start()
        second.join(0.3)

    write("first", let_second_try)
    second.join()
    assert PredictionRecord.read(dose).notes == [dose.read_text()] == ["second"]
