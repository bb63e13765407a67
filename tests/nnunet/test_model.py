"""A trained model is predicted by the plans that it was trained with, or refused."""

import copy
import json
import os

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from cdm_nnunet.cli.main import main
from cdm_nnunet.documents import differences
from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.checkpoint import FINAL
from cdm_nnunet.nnunet.model import facts_in, read_model, refuse_other_folds
from cdm_nnunet.nnunet.plan_choices import PlanChoices
from cdm_nnunet.nnunet.planner import plan_and_preprocess
from cdm_nnunet.nnunet.plans import DosePlans
from cdm_nnunet.nnunet.predictor import DosePredictor


def load(folder, folds=(0,), kind=DosePredictor):
    predictor = kind(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), folds, FINAL)
    return predictor


def image(seed=0):
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(0, 2**16, (2, 20, 24, 28), generator=generator).float()
    return torch.cat([torch.randn((2, 20, 24, 28), generator=generator), words])


def test_doses_tell_configuration_folds_and_settings_of_the_training(save):
    save(0, settings={"num_epochs": 160, "loss_weight": None}), save(1)
    predictor = load(save.folder, (1, 0))
    origin = predictor.origin
    assert (origin.configuration, origin.folds) == ("3d_fullres", ["1", "0"])
    assert origin.settings == {"1": None, "0": {"num_epochs": 160, "loss_weight": None}}
    assert len(origin.weights_sha256) == 2
    predictor.list_of_parameters = predictor.list_of_parameters[:1]  # (whoever replaces weights knows their training)
    assert (predictor.origin.configuration, predictor.origin.folds, predictor.origin.settings) == (None, None, None)
    save(0, settings={"num_epochs": float("inf")})
    with pytest.raises(InputError, match=r"checkpoint_final\.pth: settings: num_epochs: .*not finite"):
        load(save.folder)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_our_predictor_and_nnunets_load_the_same_model(save):
    save(0), save(1)
    ours, theirs = (load(save.folder, (0, 1), kind) for kind in (DosePredictor, nnUNetPredictor))
    doses = [predictor.predict_logits_from_preprocessed_data(image()) for predictor in (ours, theirs)]
    assert type(theirs) is DosePredictor
    assert doses[0].abs().max() > 0
    assert torch.equal(doses[0], doses[1])


CHANGES = {
    "a negative dose scale": (lambda p: p["cdm"].update(dose_scale_gy=-70.0), "cdm.dose_scale_gy is 70.0 and -70.0"),
    "other voxels": (
        lambda p: p["configurations"]["3d_fullres"].update(spacing=[4.5, 6.0, 6.0]),
        r"configurations.3d_fullres.spacing\[0\] is 3.0 and 4.5",
    ),
    "other HU": (
        lambda p: p["foreground_intensity_properties_per_channel"]["0"].update(mean=0.5),
        "foreground_intensity_properties_per_channel.0.mean is .* and 0.5",
    ),
    "another order of ROIs": (
        lambda p: p["cdm"]["catalogue"].reverse(),
        r"cdm.catalogue\[0\].bit is 0 and 19; .* and \d+ more",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_plans_that_were_changed_after_the_training(save, change, message):
    save()
    edit(save.folder / "plans.json", change)
    with pytest.raises(InputError, match=rf"plans\.json is not the one that the model was trained with \({message}"):
        load(save.folder)
    with pytest.raises(InputError, match="in the model's folder is not that of its training"):
        load(save.folder, kind=nnUNetPredictor).predict_logits_from_preprocessed_data(image())
    (save.folder / "plans.json").unlink()
    assert load(save.folder).dose_plans.dose_scale_gy == 70.0


def test_a_catalogue_that_was_changed_in_dataset_json_alone(save):
    save()
    edit(save.folder / "dataset.json", lambda d: d["cdm"]["catalogue"].reverse())
    with pytest.raises(InputError, match=r"dataset\.json is not the one that the model was trained with \(cdm\.catal"):
        load(save.folder)


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
@pytest.mark.parametrize("place", range(10))
def test_a_copy_that_was_cut(save, name, place):
    save()
    whole = (save.folder / name).read_text()
    (save.folder / name).write_text(whole[: place * len(whole) // 10])
    with pytest.raises(InputError, match=rf"{name}: .*; delete it: the checkpoint has its own copy"):
        load(save.folder)


def test_folds_that_were_not_trained_alike(save, known):
    plans = copy.deepcopy(known[0])
    plans["cdm"]["dose_scale_gy"] = 77.0
    save(0), save(1, plans)
    message = r"fold_0 and fold_1 of .* were not trained alike \(plans.cdm.dose_scale_gy is 70.0 and 77.0\)"
    with pytest.raises(InputError, match=message):
        load(save.folder, (0, 1))
    save(1, trainer="nnUNetTrainerCDM")
    with pytest.raises(InputError, match="not trained alike \\(another trainer or configuration\\)"):
        load(save.folder, (0, 1))


def test_a_fold_that_is_a_copy_of_another_or_missing(save):
    whole = save(0).read_bytes()
    other = save(1)
    other.write_bytes(whole)
    with pytest.raises(InputError, match=r"checkpoint_final\.pth is of fold 0; was it copied there by hand"):
        load(save.folder, (0, 1))
    with pytest.raises(InputError, match=r"fold_3/checkpoint_final\.pth is missing"):
        load(save.folder, (3,))
    with pytest.raises(InputError, match="no fold of"):
        read_model(save.folder, ())


def test_weights_and_trainers_that_do_not_fit(save):
    save(network=torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"does not fit its plans: \d+ of \d+ weights do not fit, such as bias"):
        load(save.folder)
    save(trainer="nnUNetTrainerNobody")
    with pytest.raises(InputError, match="was trained by 'nnUNetTrainerNobody', which is not installed"):
        load(save.folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network_class_name", "os.system"),
        ("network_class_name", "cdm_nnunet.nnunet.network.np.savetxt"),
        ("nonlin", "torch.nn.parallel.distributed.os.system"),
        ("nonlin", "os.system"),
        ("norm_op", "subprocess.Popen"),
        ("conv_op", "torch.nn.modules.module.sys.exit"),
        ("_kw_requires_import", ["n_rois"]),
    ],
)
def test_plans_that_name_foreign_code(save, known, tmp_path, key, value):
    """nnU-Net imports and calls names in plans, with arguments from the plans."""
    plans = copy.deepcopy(known[0])
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    (architecture if key in architecture else architecture["arch_kwargs"])[key] = value
    architecture["arch_kwargs"]["nonlin_kwargs"] = {"command": f"touch {tmp_path / 'mark'}"}
    save(0, plans)
    with pytest.raises(InputError, match=rf"configurations\.3d_fullres\.architecture\..*{key}"):
        load(save.folder)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", [FINAL, "other.pth"])
def test_predict_runs_nothing_that_a_checkpoint_names(save, planned, tmp_path, capfd, name):
    path = save()

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "mark"),)

    torch.save({**torch.load(path), "more": Evil()}, path.with_name(name))
    command = f"predict -i {planned.raw.folder / 'imagesTs'} -o {tmp_path / 'out'} -d 531 -device cpu -chk {name} -np 0"
    assert main([*command.split(), "-tr", "nnUNetTrainerDoseMAE"]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("cdm-nnunet: error:")
    assert "names 'posix.mkdir', which no checkpoint of this software needs" in error
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "out").exists()


def test_checkpoints_of_earlier_versions_are_predicted(save):
    path = save()
    old = torch.load(path, weights_only=True)
    expected = load(save.folder).predict_logits_from_preprocessed_data(image())
    del old["cdm"]
    old["network_weights"]._metadata = {}
    torch.save(old, path)
    edit(save.folder / "plans.json", lambda p: p.update(label_manager="DoseLabelManager"))
    assert torch.equal(load(save.folder).predict_logits_from_preprocessed_data(image()), expected)


def test_a_fold_with_other_plans_is_not_trained_beside_others(save, known):
    path = save()
    refuse_other_folds(save.folder, *known)
    other = copy.deepcopy(known[0])
    other["cdm"]["dose_scale_gy"] = 77.0
    for damage in (lambda: None, (save.folder / "plans.json").unlink, lambda: None):
        damage()
        with pytest.raises(InputError, match=r"trained with other plans \(plans.cdm.dose_scale_gy is 70.0 and 77.0\)"):
            refuse_other_folds(save.folder, other, known[1])
    path.unlink()
    assert facts_in(save.folder) is None
    refuse_other_folds(save.folder, other, known[1])


def test_plans_that_a_model_rests_on_are_not_replaced(fresh, save, monkeypatch):
    """The folders of a data set of our own; the model says that it is of the same name."""
    folders = fresh()
    monkeypatch.setenv("nnUNet_results", str(save.folder.parent.parent))
    options = {"n_processes": 1}
    plan_and_preprocess(531, PlanChoices(base_features=4), **options)
    save(0, json.loads((folders.preprocessed / "nnUNetPlans.json").read_text()))
    before = {path: path.read_bytes() for path in folders.preprocessed.glob("*s.json")}
    plan_and_preprocess(531, PlanChoices(base_features=4), **options)
    with pytest.raises(InputError, match=r"was trained with the plans 'nnUNetPlans', which would now .*\(-p NAME"):
        plan_and_preprocess(531, PlanChoices(base_features=8), **options)
    assert {path: path.read_bytes() for path in before} == before
    plans = plan_and_preprocess(531, PlanChoices(base_features=8), plans_name="Wide", **options)
    assert plans["plans_name"] == "Wide"
    assert plans["configurations"]["3d_fullres"]["data_identifier"] == "Wide_3d_fullres"
    assert (folders.preprocessed / "Wide_3d_fullres").is_dir()
    assert {path: path.read_bytes() for path in before} == before
    DosePlans(json.loads((folders.preprocessed / "Wide.json").read_text()))


@pytest.mark.parametrize("name", ["", "a__b", "a/b", "../x", "a b", "_a"])
def test_names_that_no_plans_can_have(planned, name):
    with pytest.raises(InputError, match="a name of plans has letters, digits"):
        plan_and_preprocess(531, plans_name=name)


def test_differences_are_named_by_place():
    assert differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == "a[1].b is 2 and 3"
    assert differences({"a": 1}, {"b": 1}) == "a is 1 and absent; b is absent and 1"
    assert differences({"a": [1, 2]}, {"a": [1]}) == "a is [1, 2] and [1]"
    assert differences({"a": {"b": 1.0}}, {"a": {"b": 1}}) == ""
