"""Fine-tuning from a package, with the same ROIs and with others: inputs are matched by ROI name."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import find_our_trainers
from cdm_nnunet.losses.bits import pack_words
from cdm_nnunet.nnunet.packaged import read_package
from cdm_nnunet.nnunet.pretrained import find_pretrained, load_weights
from cdm_nnunet.nnunet.roi_inputs import MatchedRois
from cdm_nnunet.prediction.model_export import ModelExport, export_model
from cdm_nnunet.prediction.models import ModelChoice
from cdm_nnunet.roi import Catalogue

OTHERS = [  # without PTV_Low, in another order
    {"name": "SpinalCord", "kind": "oar"},
    {"name": "PTV_High", "kind": "target", "prescription_gy": "patient"},
    {"name": "Ring", "kind": "oar"},
    {"name": "External", "kind": "external"},
]


@pytest.fixture(scope="module")
def one_fold(clinic_once, tmp_path_factory):
    """A package of fold 0."""
    out = tmp_path_factory.mktemp("one") / "one.zip"
    with pytest.MonkeyPatch.context() as patch:
        clinic_once.use(patch)
        choice = ModelChoice(561, "3d_packed", "nnUNetTrainerDoseMAE")
        export_model(choice.found(), ModelExport(out=out))
    return out


@pytest.fixture(scope="module")
def other(clinic_once, one_fold, plan_clinic_once, small_template, tmp_path_factory):
    """A data set of the same patients with other ROIs, by the plans of the package; nnU-Net's folders."""
    root = tmp_path_factory.mktemp("other")
    shutil.copytree(clinic_once.root / "exports", root / "exports")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed", "results"):
            (root / name).mkdir()
            patch.setenv(f"nnUNet_{name}", str(root / name))
        mapping = {"PTV60": "PTV_High", "Cord": "SpinalCord", "BODY": "External", "Ring": "Ring"}
        plan_clinic_once(root, 562, small_template(OTHERS, "other"), mapping, plans_from=str(one_fold))
    return root


@pytest.fixture
def trainer(other, monkeypatch):
    from cdm_nnunet.trainers import nnUNetTrainerDoseMAE

    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(other / name))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    folder = other / "preprocessed" / "Dataset562_Clinic"
    plans, dataset_json = (json.loads((folder / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    plans["continue_training"] = False  # (as nnU-Net's command sets it)
    made = nnUNetTrainerDoseMAE(plans, "3d_packed", 0, dataset_json, torch.device("cpu"))
    made.initialize()
    return made


def trainer_logs(trainer):
    return sorted(Path(trainer.output_folder).glob("training_log_*.txt"))[-1:]


def words(masks, names):
    """ROI words of masks by name, in the order of a catalogue."""
    empty = torch.zeros_like(next(iter(masks.values())))
    return pack_words(torch.stack([masks.get(name, empty) for name in names])[None])


def test_the_network_predicts_as_before_where_the_rois_are_those_of_both(trainer, one_fold):
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    find_our_trainers()
    trainer.load_pretrained_weights(str(one_fold))
    model = read_package(one_fold)
    before = model.network(PlansManager(model.plans)).eval()
    after = trainer.network.eval()
    after.decoder.deep_supervision = False
    generator = torch.Generator().manual_seed(5)
    shape = tuple(trainer.configuration_manager.patch_size)
    masks = {name: torch.rand(shape, generator=generator) < 0.5 for name in ("PTV_High", "SpinalCord", "External")}
    images = torch.randn((1, 2, *shape), generator=generator)
    theirs, ours = (
        Catalogue.from_json(plans["cdm"]["catalogue"]) for plans in (model.plans, trainer.plans_manager.plans)
    )
    with torch.no_grad():
        expected = before(torch.cat([images, words(masks, theirs.names)], 1))
        made = after(torch.cat([images, words(masks, ours.names)], 1))
        masks["Ring"] = masks["PTV_High"]
        new = after(torch.cat([images, words(masks, ours.names)], 1))
    assert expected.std() > 0.01
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(new, expected, rtol=0, atol=1e-5)  # new weights start at zero
    for layer in (after.fold, after.details):
        assert torch.count_nonzero(layer.weight[:, 2 + ours.bit("Ring")]) == 0
        assert torch.count_nonzero(layer.weight[:, 2 + ours.bit("SpinalCord")]) > 0
    (log,) = trainer_logs(trainer)
    text = log.read_text()
    assert f"weights of {one_fold}" in text
    assert (
        "inputs of ROIs, by name: taken over SpinalCord, PTV_High, External; new, from zero Ring; dropped PTV_Low"
        in text
    )


def test_a_name_of_another_kind_is_another_roi():
    one = Catalogue.from_json([{"name": "A", "bit": 0, "kind": "target", "mirror": None}])
    two = Catalogue.from_json([{"name": "A", "bit": 0, "kind": "oar", "mirror": None}])
    assert MatchedRois.of(one, two) == MatchedRois((), ("A",), ("A",))


def test_several_folds_and_what_is_no_model(trainer, clinic, tmp_path):
    with pytest.raises(InputError, match="has 2 folds, and a training starts from one"):
        load_weights(trainer.network, clinic.package, trainer.dose_plans)
    with pytest.raises(InputError, match=r"no file nowhere\.pth \(-pretrained_weights\)"):
        find_pretrained("nowhere.pth")
    with pytest.raises(InputError, match="no model openkbp: give a folder, a ZIP file, or the name"):
        find_pretrained("openkbp")
