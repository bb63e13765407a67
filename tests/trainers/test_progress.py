"""Progress messages of a training: remaining time, parts of the loss, when the DVH loss is active."""

import math

import pytest

from cdm_nnunet import trainers
from cdm_nnunet.cli.main import main
from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.logger import DoseLogger
from cdm_nnunet.trainers.progress import first_estimate_text, loss_schedule_text, losses_text, remaining_text
from cdm_nnunet.trainers.settings import TrainingSettings


def test_the_time_to_go_follows_from_the_last_ten_epochs():
    starts = [0.0, *(1000.0 + 60 * k for k in range(10))]
    ends = [900.0, *(1060.0 + 60 * k for k in range(10))]
    assert remaining_text(starts, ends, 41) == "epoch 11 of 41 is done, about 30 min to go"
    assert remaining_text(starts, ends, 11) == "epoch 11 of 11 is done"


def test_the_first_estimate_leaves_out_the_steps_in_which_things_are_built():
    settings = TrainingSettings(num_epochs=10, num_iterations=100, num_val_iterations=60)
    text = first_estimate_text([50.0, 50.0, 1.0, 1.0, 1.0, 1.0], settings, 10)
    assert text.startswith("about 20 min for 10 epochs of 100 steps (from the first 6 steps")


@pytest.mark.parametrize(
    ("settings", "weight", "text"),
    [
        ({}, 0.5, "DVH loss: weight 0.5 from epoch 0 on"),
        ({"loss_weight": 0.2}, 0.5, "DVH loss: weight 0.2 from epoch 0 on"),
        ({"loss_weight": 0.0}, 0.5, "DVH loss: none (its weight is 0)"),
        ({"loss_start": 1.0}, 0.5, "DVH loss: none (its weight is 0)"),
        ({}, 0.0, ""),
        ({"loss_start": 0.5}, 0.5, "DVH loss: from epoch 50 on, its full weight of 0.5 from epoch 59 on"),
    ],
)
def test_when_the_dvh_loss_acts(settings, weight, text):
    assert loss_schedule_text(TrainingSettings(num_epochs=100, **settings), weight) == text


def test_the_parts_of_the_loss_are_told_apart():
    logged = {"train_losses": 0.3, "train_voxel_error": 0.1, "train_dvh_loss": 0.2, "val_losses": 0.4}
    assert losses_text(logged) == "loss: training 0.3000 (voxel-wise 0.1000, DVH 0.2000), validation 0.4000"
    assert losses_text(logged | {"train_dvh_loss": math.nan}) == "loss: training 0.3000, validation 0.4000"


def test_a_step_returns_the_parts_of_its_loss(started):
    trainer, batch = started()
    step = trainer.train_step(batch)
    assert step["loss"] == pytest.approx(step["voxel_error"] + step["dvh_loss"], rel=1e-5)
    assert step["dvh_loss"] > 0
    trainer, batch = started("nnUNetTrainerDoseMAE")
    step = trainer.train_step(batch)
    assert step["loss"] == pytest.approx(step["voxel_error"], rel=1e-6)
    assert math.isnan(step["dvh_loss"])


def test_the_log_of_an_older_checkpoint_goes_on():
    logger = DoseLogger()
    content = {key: [1.0, 2.0] for key in logger.get_checkpoint()}
    del content["train_dvh_loss"]
    logger.load_checkpoint(content)
    logger.log("train_dvh_loss", 0.5, 2)
    values = logger.get_value("train_dvh_loss", None)
    assert values[2] == 0.5
    assert all(map(math.isnan, values[:2]))


class TestEpochVariants:
    def test_a_name_with_a_number_is_a_trainer_of_so_many_epochs(self, make_trainer, monkeypatch):
        monkeypatch.delenv("CDM_NUM_EPOCHS")
        trainer = make_trainer("nnUNetTrainerDoseMAE_7epochs")
        assert isinstance(trainer, trainers.nnUNetTrainerDoseMAE)
        assert trainer.num_epochs == trainer.settings.num_epochs == 7
        assert "nnUNetTrainerDoseMAE_7epochs__" in trainer.output_folder

    def test_nnunet_finds_it(self):
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

        from cdm_nnunet.folders import set_environment

        set_environment()
        found = recursive_find_trainer_class_by_name("nnUNetTrainerCDM_12epochs")
        assert found is trainers.nnUNetTrainerCDM_12epochs

    def test_another_number_in_the_variable_is_refused(self, make_trainer):
        with pytest.raises(InputError, match="CDM_NUM_EPOCHS=2, and the trainer is one of 7 epochs: unset one"):
            make_trainer("nnUNetTrainerCDM_7epochs")

    @pytest.mark.parametrize("name", ["nnUNetTrainerCDM_0epochs", "nnUNetTrainer_5epochs", "nnUNetTrainerCDM_epochs"])
    def test_other_names_are_none(self, name):
        assert not hasattr(trainers, name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("532 3d_fullres 0 -num_gpus 2", "-num_gpus: only GPUs can train together; leave it out with -device cpu"),
        ("532 3d_fullres 0 -num_gpus 0", "-num_gpus must be at least 1, not 0"),
        ("532 3d_fullres", "which fold? give it as in: cdm-nnunet train 501 3d_fullres 0"),
        ("532 3d_fullres 0 -c 3d_coarse", "the configuration is given twice: 3d_fullres and -c 3d_coarse"),
        ("-d 532 -c 3d_lowres -f 0", "unknown configuration '3d_lowres'"),
    ],
)
def test_options_of_train(preprocessed, capfd, options, message):
    assert main(["train", *options.split(), "-device", "cpu"]) == 2
    assert message in capfd.readouterr().err


def test_a_training_says_what_it_trains_and_nothing_of_other_plans(preprocessed, capfd, monkeypatch):
    monkeypatch.setattr("cdm_nnunet.trainers.logged.STEPS_FOR_FIRST_ESTIMATE", 2)
    assert main(["train", "-d", "532", "-c", "3d_fullres", "-f", "0", "-device", "cpu"]) == 0
    said = capfd.readouterr().err
    assert "training nnUNetTrainerCDM on Dataset532_Phantoms, 3d_fullres, fold 0, into " in said
    assert "old nnU-Net default plans" not in said
    assert "DVH loss: weight 0.5 from epoch 0 on" in said
    assert "for 2 epochs of 2 steps (from the first 2 steps" in said
    assert "epoch 1 of 2 is done, about" in said
    assert "(voxel-wise 0." in said
