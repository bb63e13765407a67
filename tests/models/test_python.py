"""``cdm_nnunet.Model`` on arrays: the doses of files, and the same checks."""

import subprocess
import sys

import numpy as np
import pytest

from cdm_nnunet import Model
from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Grid, Volume
from cdm_nnunet.images import read_image
from cdm_nnunet.prediction_record import PredictionRecord
from cdm_nnunet.roi import mask_of


@pytest.fixture(scope="module")
def model(clinic_once):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed", "results", "extTrainer"):
            patch.delenv(f"nnUNet_{name}", raising=False)
        yield Model.load(clinic_once.package, device="cpu")


@pytest.fixture
def patient(clinic_once):
    """CT, masks and prescriptions of a converted patient."""
    dataset = RawDataset(clinic_once.root / "raw" / "Dataset561_Clinic")
    case = sorted(dataset.cases)[0]
    ct, bits = (read_image(dataset.image_path(case, channel)) for channel in (0, 2))
    masks = {name: mask_of(bits.values, bit) for bit, name in enumerate(dataset.catalogue.names)}
    return Volume(ct.values, ct.grid), masks, dict(dataset.cases[case].prescriptions_gy)


def test_a_dose_of_arrays_is_that_of_files(model, patient, clinic, tmp_path):
    images = clinic.root / "raw" / "Dataset561_Clinic" / "imagesTr"
    case = min(path.name for path in images.glob("*_0000.nii.gz")).removesuffix("_0000.nii.gz")
    model.predict_files([[str(images / f"{case}_000{k}.nii.gz") for k in range(3)]], tmp_path / "files", n_processes=0)
    made = model.predict(*patient, case=case)
    expected = tmp_path / "files" / f"{case}.nii.gz"
    np.testing.assert_array_equal(made.dose.values, read_image(expected).values)
    assert made.dose.grid is patient[0].grid
    record = PredictionRecord.of_dose(expected)
    assert (made.origin, made.model, made.prescriptions_gy) == (record.origin, "clinic_hn", {"PTV_High": 60.0})
    assert made.absent_rois == ("PTV_Low",)
    again = PredictionRecord.of_dose(made.write(tmp_path / "again"))
    assert (again.origin, again.model, again.dose_sha256) == (record.origin, record.model, record.dose_sha256)


def test_aliases_other_masks_and_masks_of_numbers(model, patient):
    ct, masks, prescriptions = patient
    expected = model.predict(ct, masks, prescriptions).dose.values
    others = {**masks, "Cord": masks["SpinalCord"].astype(np.uint8), "Ring": masks["PTV_High"]}
    del others["SpinalCord"]
    made = model.predict(ct, others, prescriptions)
    np.testing.assert_array_equal(made.dose.values, expected)
    assert "mask 'Ring' is not an ROI of the model and was not used" in made.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ct, m, p: (ct, {**m, "SpinalCord": m["SpinalCord"] * 2}, p), "other values than 0 and 1"),
        (lambda ct, m, p: (ct, {**m, "SpinalCord": m["SpinalCord"][1:]}, p), "the mask of 'SpinalCord' is bool"),
        (lambda ct, m, p: (ct, m, {}), "target 'PTV_High' is contoured and has no prescription"),
        (lambda ct, m, p: (ct, m, {"PTV_High": 6000.0}), "6000"),
        (lambda ct, m, p: (ct, m, {**p, "SpinalCord": 45.0}), "a prescription is given for 'SpinalCord'"),
        (lambda ct, m, p: (ct, {k: v for k, v in m.items() if k != "External"}, p), "External"),
        (lambda ct, m, p: (Volume(ct.values * np.nan, ct.grid), m, p), "NaN or infinite"),
        (lambda ct, m, p: (Volume(ct.values[1:], ct.grid), m, p), "the CT has shape"),
        (
            lambda ct, m, p: (Volume(ct.values, Grid(ct.grid.shape, (4.0, 4.0, 4.0), axes=-np.eye(3))), m, p),
            "not on an axial grid in LPS orientation",
        ),
        (lambda ct, m, p: (ct, m, {"PTV_High": 25.0}), "the model was trained on 60 Gy"),
    ],
)
def test_patients_that_cannot_be_right(model, patient, change, message):
    with pytest.raises(InputError, match=message):
        model.predict(*change(*patient))


def test_importing_the_package_stays_light_and_says_what_it_lacks():
    code = "import sys, cdm_nnunet; assert 'torch' not in sys.modules; cdm_nnunet.Nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "has no attribute 'Nothing'" in done.stderr


def test_a_step_or_device_that_is_none(clinic):
    for options, message in (({"step": 0.0}, "step between windows"), ({"device": "tpu"}, "one of cuda, mps, cpu")):
        with pytest.raises(InputError, match=message):
            Model.load(clinic.package, **options)
