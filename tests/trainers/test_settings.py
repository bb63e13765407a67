"""Settings of a training from the environment."""

import os

import pytest

from cdm_nnunet.errors import InputError
from cdm_nnunet.trainers.settings import TrainingSettings, other_variables


def test_defaults_without_variables():
    assert TrainingSettings.from_environment({}) == TrainingSettings()
    assert TrainingSettings.from_environment({"HOME": "x", "nnUNet_raw": "y"}) == TrainingSettings()


def test_every_field_has_its_variable():
    settings = TrainingSettings.from_environment(
        {
            "CDM_NUM_EPOCHS": "20",
            "CDM_NUM_ITERATIONS": "7",
            "CDM_NUM_VAL_ITERATIONS": "3",
            "CDM_LEARNING_RATE": "5e-4",
            "CDM_LOSS_WEIGHT": "0.25",
            "CDM_LOSS_START": "0",
            "CDM_SEED": "11",
            "CDM_WINDOW_PERCENT": "2.5",
            "CDM_SIGMOID_WIDTH_GY": "0.5",
            "CDM_V_FORM": "both",
            "CDM_PARTIAL_ROIS": "whole",
            "CDM_DEEP_SUPERVISION": "all",
        }
    )
    assert settings == TrainingSettings(20, 7, 3, 5e-4, 0.25, 0.0, 11, 2.5, 0.5, "both", "whole", "all")


def test_the_environment_is_read_when_asked(monkeypatch):
    """Not when the module is imported."""
    monkeypatch.setenv("CDM_NUM_EPOCHS", "33")
    assert TrainingSettings.from_environment().num_epochs == 33
    monkeypatch.setitem(os.environ, "CDM_NUM_EPOCHS", "34")
    assert TrainingSettings.from_environment().num_epochs == 34


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("CDM_NUM_EPOCHS", "ten", "CDM_NUM_EPOCHS must be of type int, not 'ten'"),
        ("CDM_NUM_EPOCHS", "1.5", "CDM_NUM_EPOCHS must be of type int, not '1.5'"),
        ("CDM_NUM_EPOCHS", "", "CDM_NUM_EPOCHS must be of type int, not ''"),
        ("CDM_NUM_EPOCHS", "0", "CDM_NUM_EPOCHS must be at least 1, not 0"),
        ("CDM_NUM_ITERATIONS", "-1", "CDM_NUM_ITERATIONS must be at least 1, not -1"),
        ("CDM_NUM_VAL_ITERATIONS", "0", "CDM_NUM_VAL_ITERATIONS must be at least 1, not 0"),
        ("CDM_LEARNING_RATE", "fast", "CDM_LEARNING_RATE must be of type float, not 'fast'"),
        ("CDM_LEARNING_RATE", "0", "CDM_LEARNING_RATE must be above zero, not 0.0"),
        ("CDM_LEARNING_RATE", "nan", "CDM_LEARNING_RATE must be above zero, not nan"),
        ("CDM_LEARNING_RATE", "inf", "CDM_LEARNING_RATE must be above zero, not inf"),
        ("CDM_LOSS_WEIGHT", "-0.5", "CDM_LOSS_WEIGHT must not be negative, not -0.5"),
        ("CDM_LOSS_WEIGHT", "nan", "CDM_LOSS_WEIGHT must not be negative, not nan"),
        ("CDM_LOSS_START", "1.1", "CDM_LOSS_START is a share of the epochs from 0 to 1, not 1.1"),
        ("CDM_LOSS_START", "nan", "CDM_LOSS_START is a share of the epochs from 0 to 1, not nan"),
        ("CDM_WINDOW_PERCENT", "101", "CDM_WINDOW_PERCENT must be from 0 to 100, not 101.0"),
        ("CDM_SIGMOID_WIDTH_GY", "0", "CDM_SIGMOID_WIDTH_GY must be above zero, not 0.0"),
        ("CDM_V_FORM", "step", "CDM_V_FORM is one of sigmoid, dose, both, not 'step'"),
        ("CDM_PARTIAL_ROIS", "", "CDM_PARTIAL_ROIS is one of weighted, whole, all, not ''"),
        ("CDM_DEEP_SUPERVISION", "coarse", "CDM_DEEP_SUPERVISION is one of finest, all, not 'coarse'"),
        ("CDM_SEED", "4294967296", "CDM_SEED must be below 4294967296, not 4294967296"),
        ("CDM_NUM_EPOCH", "5", "unknown variable CDM_NUM_EPOCH: is CDM_NUM_EPOCHS meant? Known are CDM_NUM_EPOCHS, "),
        ("CDM_EPOCHS", "5", "unknown variable CDM_EPOCHS: is CDM_NUM_EPOCHS meant?"),
        ("CDM_WEIGHT", "5", "unknown variable CDM_WEIGHT: is CDM_LOSS_WEIGHT meant?"),
        ("cdm_seed", "5", "unknown variable cdm_seed: is CDM_SEED meant?"),
        ("CDM_LEARNINGRATE", "5", "unknown variable CDM_LEARNINGRATE: is CDM_LEARNING_RATE meant?"),
        ("CDM_CHANGE_SETTING", "1", "unknown variable CDM_CHANGE_SETTING: is CDM_CHANGE_SETTINGS meant?"),
    ],
)
def test_what_makes_no_sense_is_refused_by_the_name_of_its_variable(variable, value, message):
    with pytest.raises(InputError) as caught:
        TrainingSettings.from_environment({variable: value})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("n_epochs", [1, 2, 7, 100, 1000])
@pytest.mark.parametrize("start", [0.0, 0.5, 0.9])
def test_the_weight_rises_once_and_reaches_its_full_value(n_epochs, start):
    settings = TrainingSettings(num_epochs=n_epochs, loss_weight=0.4, loss_start=start)
    weights = [settings.dvh_weight(epoch, 9.9) for epoch in range(n_epochs)]
    assert weights == sorted(weights)
    assert all(0 <= weight <= 0.4 for weight in weights)
    before = [weight for epoch, weight in enumerate(weights) if epoch + 1 <= start * n_epochs]
    assert not any(before)
    assert all(weight > 0 for weight in weights[len(before) :])
    if start + 0.1 < 1 and n_epochs >= 10:
        assert weights[-1] == pytest.approx(0.4)


def test_the_loss_acts_from_the_first_step_unless_it_is_told_otherwise():
    assert TrainingSettings().dvh_weight(0, 0.5) == 0.5
    assert TrainingSettings(loss_start=0.1).dvh_weight(0, 0.5) == 0


def test_a_trainer_has_a_weight_of_its_own_until_one_is_set():
    assert TrainingSettings(loss_start=0.0).dvh_weight(3, 0.05) == 0.05
    assert TrainingSettings(loss_start=0.0, loss_weight=0.0).dvh_weight(3, 0.05) == 0.0


def test_from_the_first_step_or_never():
    assert TrainingSettings(loss_start=0.0, loss_weight=0.7, num_epochs=1).dvh_weight(0, 9.9) == 0.7
    assert TrainingSettings(loss_start=0.0, loss_weight=0.7).dvh_weight(0, 9.9) == 0.7
    assert TrainingSettings(loss_start=1.0, num_epochs=100).dvh_weight(99, 9.9) == 0.0
    assert TrainingSettings(loss_weight=0.0, num_epochs=100).dvh_weight(99, 9.9) == 0.0


def test_what_another_program_is_set_by_changes_nothing():
    others = {"CDM_HOME": "/opt/cdm", "CDM_PATH": "/bin", "CDM_VERSION": "5", "CDM_LICENSE_FILE": "27000@host"}
    assert TrainingSettings.from_environment(others) == TrainingSettings()
    assert other_variables({**others, "CDM_SEED": "1", "CDM_RESTART": "1", "HOME": "x"}) == sorted(others)


def test_a_training_goes_on_with_the_settings_it_began_with():
    began = TrainingSettings(num_epochs=20, loss_weight=0.25, seed=3)
    saved = began.to_json()
    assert TrainingSettings.resumed(saved, {}) == began
    assert TrainingSettings.resumed(saved, {"CDM_NUM_EPOCHS": "20", "CDM_LOSS_WEIGHT": "0.25"}) == began
    other = {"CDM_LOSS_WEIGHT": "5", "CDM_SEED": "4"}
    message = (
        "CDM_LOSS_WEIGHT was 0.25 and is 5.0; CDM_SEED was 3 and is 4. Unset the variables .*CDM_CHANGE_SETTINGS=1"
    )
    with pytest.raises(InputError, match=message):
        TrainingSettings.resumed(saved, other)
    changed = TrainingSettings.resumed(saved, {**other, "CDM_CHANGE_SETTINGS": "1"})
    assert changed == TrainingSettings(num_epochs=20, loss_weight=5.0, seed=4)
    with pytest.raises(InputError, match="CDM_CHANGE_SETTINGS is 0 or 1, not 'yes'"):
        TrainingSettings.resumed(saved, {**other, "CDM_CHANGE_SETTINGS": "yes"})


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"num_epoch": 3}, "unknown settings"),
        ({"num_epochs": "3"}, "settings are damaged"),
        ({"num_epochs": 0}, "must be at least 1"),
    ],
)
def test_saved_settings_that_are_none(saved, message):
    with pytest.raises(InputError, match=message):
        TrainingSettings.resumed(saved, {})
