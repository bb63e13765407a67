"""A trainer's step, epoch and validation, on phantoms."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import cdm_nnunet
from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import TRAINER_VARIABLE
from cdm_nnunet.losses.bits import roi_mask
from cdm_nnunet.losses.captured import CapturedCDMLoss
from cdm_nnunet.losses.cdm import CDMLoss
from cdm_nnunet.losses.rivals import DVHCurveLoss, MomentLoss, SortedDoseLoss
from cdm_nnunet.losses.terms import Smoothing
from cdm_nnunet.nnunet.facts import loss_arguments
from cdm_nnunet.nnunet.first_guess import falling_off
from cdm_nnunet.nnunet.predictor import DosePredictor


def raw_dose(trainer, case) -> str:
    raw = str(trainer.preprocessed_dataset_folder_base).replace("/preprocessed/", "/raw/")
    return f"{raw}/labelsTr/{case}.nii.gz"


class Oracle(torch.nn.Module):
    """Predicts the reference dose inside the region and nonsense outside; optionally some Gy too much."""

    def __init__(self, trainer, batch, offset_gy=0.0):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        region = trainer.dose_region(batch["data"][:, 2:])
        dose = (batch["target"] + offset_gy) / trainer.dose_plans.dose_scale_gy
        self.register_buffer("dose", torch.where(region > 0, dose, torch.full_like(dose, -3.0)))
        self.decoder = torch.nn.Module()
        self.n_outputs = len(trainer._get_deep_supervision_scales())

    def forward(self, x):
        return [self.dose * self.scale] * self.n_outputs


def test_a_step_lowers_the_loss_and_every_part_counts(started):
    trainer, batch = started(LOSS_START="0", LEARNING_RATE="0.003")
    losses = [float(trainer.train_step(batch)["loss"]) for _ in range(12)]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0]


def test_the_loss_is_mae_plus_weighted_cdm(started):
    trainer, batch = started(LOSS_START="0", LOSS_WEIGHT="0.4")
    with torch.no_grad():
        step = trainer._forward(batch)
        dose, reference, region, words = step.dose_gy, step.reference_gy, step.region, step.words
        mae, additional = step.voxel_error, step.dvh_loss
        cdm = trainer.dvh_loss(dose, reference, words, *loss_arguments(batch["facts"]))
    assert dose.dtype == reference.dtype == mae.dtype == additional.dtype == torch.float32
    assert float(additional) == pytest.approx(0.4 * float(cdm), rel=1e-6)
    assert float(additional) > 0
    assert torch.equal(region[:, 0], roi_mask(words, trainer.dose_plans.catalogue.dose_region_bit).float())
    assert not dose[region == 0].any()
    assert float(trainer.train_step(batch)["loss"]) == pytest.approx(float(mae + additional), rel=1e-2)


def test_cdm_sets_in_when_its_setting_says(started):
    trainer, batch = started(NUM_EPOCHS="10", LOSS_START="0.5")
    trainer.current_epoch = 4
    assert trainer._forward(batch).dvh_loss is None
    trainer.current_epoch = 5
    assert trainer._forward(batch).dvh_loss is not None


def test_the_baseline_has_no_other_loss(started):
    trainer, batch = started("nnUNetTrainerDoseMAE", LOSS_START="0")
    assert trainer._forward(batch).dvh_loss is None
    assert trainer.dvh_loss is None


def test_a_perfect_prediction_has_no_error_and_no_loss(started):
    """Whatever the network says outside the dose region."""
    trainer, batch = started(LOSS_START="0")
    trainer.loss.weights = tuple(1.0 if k == 0 else 0.0 for k in range(len(trainer.loss.weights)))
    trainer.network = Oracle(trainer, batch)
    with torch.no_grad():
        outcome = trainer.validation_step(batch)
    assert outcome["loss"] == pytest.approx(0.0, abs=1e-6)
    assert outcome["errors"].mae_gy == pytest.approx(0.0, abs=1e-4)
    assert outcome["errors"].ptv == pytest.approx(0.0, abs=1e-3)
    assert outcome["errors"].oar == pytest.approx(0.0, abs=1e-3)


def test_errors_are_in_gray(started):
    trainer, batch = started()
    trainer.network = Oracle(trainer, batch, offset_gy=2.0)
    with torch.no_grad():
        errors = trainer.validation_step(batch)["errors"]
    assert errors.mae_gy == pytest.approx(2.0, rel=1e-3)
    assert errors.oar == pytest.approx(2.0, rel=0.05)  # OpenKBP's OAR metrics are doses


def test_a_loss_that_is_not_finite_stops_the_training(started):
    trainer, batch = started()
    batch["target"] = batch["target"] * float("nan")
    with pytest.raises(RuntimeError, match="the loss is nan in epoch 0: the training has diverged"):
        trainer.train_step(batch)


def test_the_coarsest_output_has_no_weight_and_the_weights_add_up(started):
    trainer, _ = started()
    weights = trainer.loss.weights
    assert len(weights) == len(trainer._get_deep_supervision_scales())
    assert sum(weights) == pytest.approx(1.0)
    if len(weights) > 1:
        assert weights[-1] == 0
        assert list(weights[:-1]) == pytest.approx([2 * w for w in weights[1:-1]] + [weights[-2]])


def test_equal_seeds_give_equal_first_batches_and_weights(make_trainer):
    prints = []
    for seed in ("5", "5", "6"):
        trainer = make_trainer(SEED=seed)
        trainer.initialize()
        first = next(iter(trainer.network.parameters())).detach().clone()
        loader, _ = trainer.get_dataloaders()
        prints.append((first.numpy().tobytes(), next(loader)["data"].numpy().tobytes()))
    assert prints[0] == prints[1]
    assert prints[0][0] != prints[2][0]
    assert prints[0][1] != prints[2][1]


# batchgenerators' thread may still be reading from a worker that it has just stopped
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("n_processes", ["0", "1"])
def test_a_training_that_goes_on_and_another_rank_draw_other_patches(make_trainer, monkeypatch, n_processes):
    """They would otherwise train on the patches of the first epochs, or of the first GPU, over and over."""
    monkeypatch.setenv("nnUNet_n_proc_DA", n_processes)
    drawn = set()
    for epoch, rank in ((0, 0), (0, 0), (1, 0), (0, 1)):
        trainer = make_trainer(SEED="5")
        trainer.initialize()
        trainer.current_epoch, trainer.local_rank = epoch, rank
        loader, validation_loader = trainer.get_dataloaders()
        drawn.add(next(loader)["data"].numpy().tobytes())
        for one in (loader, validation_loader):
            getattr(one, "_finish", lambda: None)()
    assert len(drawn) == 3


def test_a_training_from_start_to_end_and_on(make_trainer, tmp_path):
    """Two epochs, then a third by --c: log, picture, checkpoints, validation doses on the patients' grid."""
    trainer = make_trainer(LOSS_START="0")
    trainer.run_training()
    trainer.perform_actual_validation()
    folder = Path(trainer.output_folder)
    assert folder.is_relative_to(tmp_path)
    logged = trainer.logger.local_logger.my_fantastic_logging
    assert all(len(values) == 2 for values in logged.values())
    assert logged["ema_score"][1] == pytest.approx(0.9 * logged["val_score"][0] + 0.1 * logged["val_score"][1])
    assert not any("dice" in key.lower() for key in logged)
    text = "".join(path.read_text() for path in folder.glob("training_log_*.txt"))
    assert "dice" not in text.lower()
    assert "validation patches: dose MAE" in text
    assert (folder / "progress.png").stat().st_size > 10_000
    final = torch.load(folder / "checkpoint_final.pth", weights_only=True)
    assert final["inference_allowed_mirroring_axes"] is None  # nnU-Net must not mirror without swapping bits
    assert final["_best_ema"] == min(logged["ema_score"])

    summary = json.loads((folder / "validation" / "summary.json").read_text())
    (case,) = summary["cases"]
    written = sitk.ReadImage(str(folder / "validation" / f"{case}.nii.gz"))
    raw = sitk.ReadImage(raw_dose(trainer, case))
    assert written.GetSize() == raw.GetSize()
    np.testing.assert_allclose(written.GetOrigin(), raw.GetOrigin(), atol=1e-4)

    further = make_trainer(continue_training=True, LOSS_START="0", NUM_EPOCHS="3", CHANGE_SETTINGS="1")
    further.resume()
    assert further.current_epoch == 2
    before = next(iter(further.network.parameters())).detach().clone()
    assert torch.equal(before, final["network_weights"][next(iter(dict(further.network.named_parameters())))])
    further.run_training()
    assert len(further.logger.local_logger.my_fantastic_logging["val_score"]) == 3
    assert not torch.equal(before, next(iter(further.network.parameters())).detach())


def test_a_folded_network_trains_and_predicts_at_full_resolution(make_trainer, started):
    trainer, batch = started(configuration="3d_packed", LOSS_START="0", LEARNING_RATE="0.003")
    assert max(trainer.network.cell) == 2
    patch = np.array(trainer.configuration_manager.patch_size)
    with torch.no_grad():
        outputs = trainer.network(batch["data"])
    for output, scale in zip(outputs, trainer._get_deep_supervision_scales(), strict=True):
        np.testing.assert_array_equal(output.shape[2:], patch * np.array(scale))
    losses = [float(trainer.train_step(batch)["loss"]) for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]
    trainer.perform_actual_validation()
    folder = Path(trainer.output_folder) / "validation"
    _, (case,) = trainer.do_split()
    written = sitk.ReadImage(str(folder / f"{case}.nii.gz"))
    assert written.GetSize() == sitk.ReadImage(raw_dose(trainer, case)).GetSize()
    assert sitk.GetArrayFromImage(written).max() > 0


def test_the_best_checkpoint_is_the_one_of_the_lowest_score(make_trainer, monkeypatch):
    trainer = make_trainer()
    trainer.initialize()
    saved = []
    monkeypatch.setattr(trainer, "save_checkpoint", lambda path: saved.append((trainer.current_epoch, Path(path).name)))
    monkeypatch.setattr(trainer.logger, "plot_progress_png", lambda _: None)
    for epoch, score in enumerate((5.0, 4.0, 4.5, 3.0)):
        for key in trainer.logger.local_logger.my_fantastic_logging:
            trainer.logger.log(key, score, epoch)
        trainer.on_epoch_end()
    assert saved == [(epoch, "checkpoint_best.pth") for epoch in (0, 1, 3)]


def test_all_cases_can_be_trained_on(make_trainer):
    trainer = make_trainer(fold="all")
    trainer.initialize()
    training, validation = trainer.do_split()
    assert sorted(training) == sorted(validation) == [f"phantom_{k:03d}" for k in range(1, 6)]


@pytest.mark.parametrize(
    ("fold", "message"),
    [
        (
            {"train": ["phantom_001", "ghost"], "val": ["phantom_002"]},
            "has 1 training case not in the data set, or not preprocessed: ghost",
        ),
        ({"train": ["phantom_001"], "val": []}, "has no validation case"),
        ({"train": [], "val": ["phantom_001"]}, "has no training case"),
        (
            {"train": ["phantom_001", "phantom_002"], "val": ["phantom_002"]},
            "fold 0 validates on what it trains on: case 'phantom_002' is on both sides",
        ),
        ({"train": ["phantom_001"]}, r"splits_final\.json: .*val"),
        ({"train": "phantom_001", "val": ["phantom_002"]}, r"splits_final\.json: .*train"),
    ],
)
def test_a_split_that_does_not_fit_is_refused(make_trainer, preprocessed, tmp_path, fold, message):
    trainer = make_trainer()
    trainer.initialize()
    (tmp_path / "splits_final.json").write_text(json.dumps([fold]))
    trainer.preprocessed_dataset_folder_base = str(tmp_path)
    with pytest.raises(InputError, match=message):
        trainer.do_split()


@pytest.mark.parametrize("fold", [5, 7])
def test_a_fold_beyond_the_list_is_refused_and_nothing_is_drawn(make_trainer, fold):
    with pytest.raises(InputError, match=rf"has 5 folds \(0 to 4\), and fold {fold} is requested"):
        make_trainer(fold=fold).initialize()


def test_patients_stay_on_one_side(make_trainer):
    trainer = make_trainer()
    training, (case,) = trainer.do_split()
    trainer.dataset_json["cdm"]["facts"]["patients"] = {case: "P", training[0]: "P"}
    with pytest.raises(InputError, match=rf"'{training[0]}' and '{case}' are the same patient, who is on both sides"):
        trainer.initialize()


def test_a_variable_out_of_range_is_refused_before_anything_is_written(make_trainer, tmp_path):
    with pytest.raises(InputError, match="CDM_NUM_EPOCHS must be at least 1"):
        make_trainer(NUM_EPOCHS="0")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("name", "loss", "weight"),
    [
        ("nnUNetTrainerCDM", CDMLoss, 0.5),
        ("nnUNetTrainerCDMVanilla", CDMLoss, 0.5),
        ("nnUNetTrainerDoseDVH", DVHCurveLoss, 10.0),
        ("nnUNetTrainerDoseMoment", MomentLoss, 0.05),
        ("nnUNetTrainerDoseSorted", SortedDoseLoss, 0.5),
    ],
)
def test_a_trainer_adds_its_loss_with_its_own_weight(started, name, loss, weight):
    trainer, batch = started(name, LOSS_START="0")
    assert type(trainer.dvh_loss) is loss
    facts = loss_arguments(batch["facts"])
    with torch.no_grad():
        step = trainer._forward(batch)
        value = trainer.dvh_loss(step.dose_gy, step.reference_gy, step.words, *facts)
    assert float(step.dvh_loss) == pytest.approx(weight * float(value), rel=1e-6)
    assert float(value) > 0
    assert np.isfinite(trainer.train_step(batch)["loss"])


def test_mse_is_the_square_of_what_mae_is_the_size_of(started):
    for name, expected in (("nnUNetTrainerDoseMAE", 3.5 / 70), ("nnUNetTrainerDoseMSE", (3.5 / 70) ** 2)):
        trainer, batch = started(name)
        trainer.loss.weights = tuple(1.0 if k == 0 else 0.0 for k in range(len(trainer.loss.weights)))
        trainer.network = Oracle(trainer, batch, offset_gy=3.5)
        with torch.no_grad():
            step = trainer._forward(batch)
        scale = trainer.dose_plans.dose_scale_gy / 70
        assert float(step.voxel_error) == pytest.approx(
            expected / scale ** (1 + (name[-1] == "E" and name[-2] == "S")), rel=1e-3
        )
        assert step.dvh_loss is None


def test_vanilla_nnunet_knows_no_prescription_in_training_and_in_prediction(started, monkeypatch):
    """Untrained, it gives no dose where the others give a first guess; a predictor builds the same networks."""
    monkeypatch.setenv(TRAINER_VARIABLE, str(Path(cdm_nnunet.__file__).parent / "ext_trainers"))
    trainers = {"nnUNetTrainerDoseMAE": True, "nnUNetTrainerDoseVanilla": False, "nnUNetTrainerCDMVanilla": False}
    for name, anchored in trainers.items():
        trainer, batch = started(name)
        trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
        for file, content in (("plans.json", trainer.plans_manager.plans), ("dataset.json", trainer.dataset_json)):
            (Path(trainer.output_folder_base) / file).write_text(json.dumps(content))
        predictor = DosePredictor(device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,), "checkpoint_final.pth")
        prescription = batch["data"][:, 1:2]
        assert prescription.max() == 1
        expected = torch.zeros_like(prescription)
        if anchored:
            expected = torch.where(prescription > 0, falling_off(prescription, trainer.network.fall_off), 0)
        with torch.no_grad():
            for dose in (trainer.network(batch["data"])[0], predictor.network(batch["data"])):
                assert torch.equal(dose, expected), name


def test_the_options_reach_the_loss(started):
    trainer, _ = started(WINDOW_PERCENT="3", SIGMOID_WIDTH_GY="2", V_FORM="dose", PARTIAL_ROIS="all")
    loss = trainer.dvh_loss
    assert (loss.smoothing, loss.v_form, loss.partial_rois) == (Smoothing(3.0, 2.0), "dose", "all")


def test_the_loss_in_fixed_shapes_is_the_same_loss(started):
    trainer, batch = started(LOSS_START="0", LOSS_SHAPES="fixed")
    assert type(trainer.dvh_loss) is CapturedCDMLoss
    with torch.no_grad():
        step = trainer._forward(batch)
        facts = loss_arguments(batch["facts"])
        value = trainer.dvh_loss.loss(step.dose_gy, step.reference_gy, step.words, *facts)
    assert float(step.dvh_loss) == pytest.approx(trainer.dvh_weight * float(value), rel=1e-6)
    assert np.isfinite(trainer.train_step(batch)["loss"])


def test_deep_supervision_of_the_dvh_loss(started):
    """On all scales it is the mean over enlarged outputs, with the weights of the voxel-wise error."""
    trainer, batch = started(LOSS_START="0", DEEP_SUPERVISION="all")
    assert len(trainer.loss.weights) > 2
    facts = loss_arguments(batch["facts"])
    with torch.no_grad():
        step = trainer._forward(batch)
        reference, region, words, additional = step.reference_gy, step.region, step.words, step.dvh_loss
        outputs = trainer.network(batch["data"])
        expected = 0.0
        for weight, output in zip(trainer.loss.weights, outputs, strict=True):
            factors = [n // m for n, m in zip(reference.shape[2:], output.shape[2:], strict=True)]
            dose = output.float()
            for axis, factor in enumerate(factors):
                dose = dose.repeat_interleave(factor, axis + 2)
            dose = dose * region * trainer.dose_plans.dose_scale_gy
            expected += weight * float(trainer.dvh_loss(dose, reference, words, *facts)) if weight else 0.0
    assert float(additional) == pytest.approx(0.5 * expected, rel=0.05)  # (the trainer's forward pass is in bfloat16)
