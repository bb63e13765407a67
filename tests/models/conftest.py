"""A model of five DICOM phantoms, hardly trained, exported once; and a new patient."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from phantoms import CLINIC

import cdm_nnunet
from cdm_nnunet.dicom.phantom import write_phantom
from cdm_nnunet.dvh import Template

ID, NAME = 561, "Dataset561_Clinic"
MODEL_FOLDER = "nnUNetTrainerDoseMAE__nnUNetPlans__3d_packed"
ROIS = [
    {"name": "PTV_High", "kind": "target", "prescription_gy": "patient"},
    {"name": "PTV_Low", "kind": "target", "prescription_gy": "patient"},
    {"name": "SpinalCord", "kind": "oar", "aliases": ["Cord"]},
    {"name": "External", "kind": "external"},
]
MAPPING = {"PTV60": "PTV_High", "Cord": "SpinalCord", "BODY": "External", "Ring": None}


def template(rois=ROIS, name="small") -> Template:
    goals = [{"roi": "PTV_High", "metric": "D95%"}, {"roi": "SpinalCord", "metric": "Dmax"}]
    return Template.from_json({"format_version": 1, "name": name, "rois": rois, "goals": goals}, "test")


def write_patient(seed: int, folder: Path) -> Path:
    """A phantom with CT noise: a constant image is refused as a patient."""
    files = write_phantom(dataclasses.replace(CLINIC, seed=seed), folder)
    rng = np.random.default_rng(seed)
    for path in files.ct:
        dataset = pydicom.dcmread(path)
        pixels = dataset.pixel_array.astype(np.int64)
        pixels = np.where(pixels > 500, pixels + rng.integers(-80, 80, pixels.shape), pixels)
        dataset.PixelData = pixels.astype(np.uint16).tobytes()
        dataset.save_as(path)
    return folder


def plan_clinic(root: Path, dataset_id: int, used: Template, mapping=MAPPING, **choices) -> Path:
    """Convert the phantoms below ``root/exports`` and plan them; returns the preprocessed data set."""
    from cdm_nnunet.dataset_conversion.conversion import DatasetPlace
    from cdm_nnunet.dataset_conversion.dicom import DicomRules, convert_dicom
    from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping
    from cdm_nnunet.nnunet.plan_choices import PlanChoices
    from cdm_nnunet.nnunet.planner import plan_and_preprocess

    place = DatasetPlace(root / "raw", dataset_id, "Clinic")
    convert_dicom(root / "exports", place, DicomRules(used, DicomMapping(mapping)), root / "local")
    choices = choices or {"base_features": 4}
    plan_and_preprocess(dataset_id, PlanChoices(**choices), configurations=("3d_packed",), n_processes=1)
    return root / "preprocessed" / f"Dataset{dataset_id}_Clinic"


def save_fold(preprocessed: Path, results: Path, fold: int, **own) -> Path:
    """A checkpoint of random weights, as a training writes it, and the copies in the model's folder."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from cdm_nnunet.nnunet.checkpoint import FINAL, write_checkpoint
    from cdm_nnunet.nnunet.model import mark
    from cdm_nnunet.nnunet.plans import DosePlans, model_plans
    from cdm_nnunet.trainers import nnUNetTrainerDoseMAE

    plans, dataset_json = (
        json.loads((preprocessed / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json")
    )
    manager = PlansManager(plans)
    torch.manual_seed(fold)
    network = nnUNetTrainerDoseMAE.build_network_architecture(
        manager, manager.get_configuration("3d_packed"), DosePlans(plans).n_channels, 1, False
    )
    for layer in (*network.decoder.seg_layers, network.details, network.guess_details):  # (they start at zero)
        torch.nn.init.normal_(layer.weight, std=0.1)
    weights = network.state_dict()
    content = {
        "network_weights": weights,
        "logging": {},
        "current_epoch": 7,
        "init_args": {"plans": plans, "dataset_json": dataset_json, "configuration": "3d_packed", "fold": fold},
        "trainer_name": "nnUNetTrainerDoseMAE",
        "inference_allowed_mirroring_axes": None,
        "cdm": {"settings": {"num_epochs": 7, "loss_start": 0.5}, **own},
    }
    folder = results / preprocessed.name / MODEL_FOLDER
    write_checkpoint(folder / f"fold_{fold}" / FINAL, content, mark(weights, plans, dataset_json))
    (folder / "plans.json").write_text(json.dumps(model_plans(plans)))
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    return folder


@dataclass(frozen=True)
class Clinic:
    """nnU-Net's folders with a model of two folds, its export, and a new patient.

    Attributes:
        root: Parent of nnU-Net's folders.
        model: The model's folder.
        package: The ZIP file of both folds, single precision.
        new: DICOM files of a new patient.
    """

    root: Path
    model: Path
    package: Path
    new: Path

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("raw", "preprocessed", "results"):
            (self.root / name).mkdir(exist_ok=True)
            monkeypatch.setenv(f"nnUNet_{name}", str(self.root / name))
        monkeypatch.setenv("nnUNet_extTrainer", os.path.join(os.path.dirname(cdm_nnunet.__file__), "ext_trainers"))
        monkeypatch.setenv("nnUNet_n_proc_DA", "0")


@pytest.fixture(scope="session")
def plan_clinic_once():
    return plan_clinic


@pytest.fixture(scope="session")
def small_template():
    return template


@pytest.fixture(scope="session")
def clinic_once(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    from cdm_nnunet.prediction.model_export import ModelExport, export_model
    from cdm_nnunet.prediction.models import ModelChoice

    root = tmp_path_factory.mktemp("clinic")
    clinic = Clinic(root, root / "results" / NAME / MODEL_FOLDER, root / "clinic_hn.zip", root / "new")
    with pytest.MonkeyPatch.context() as patch:
        clinic.use(patch)
        for seed in range(5):
            write_patient(seed, root / "exports" / str(seed))
        write_patient(7, clinic.new)
        for path in clinic.new.glob("*dose*"):
            path.unlink()
        preprocessed = plan_clinic(root, ID, template())
        for fold in (0, 1):
            save_fold(preprocessed, root / "results", fold)
        (clinic.model / "cohort.json").write_text('{"n": 5}')
        choice = ModelChoice(ID, "3d_packed", "nnUNetTrainerDoseMAE", folds=("0", "1"))
        export_model(choice.found(), ModelExport(out=clinic.package))
    return clinic


@pytest.fixture
def clinic(clinic_once: Clinic, monkeypatch: pytest.MonkeyPatch) -> Clinic:
    """The model, with nnU-Net's variables set; not to be changed."""
    clinic_once.use(monkeypatch)
    return clinic_once
