"""Trainers by name, with nothing set in the environment."""

import sys
import types
import warnings

import pytest

from cdm_nnunet import trainers
from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import OUR_TRAINERS, TRAINER_VARIABLE
from cdm_nnunet.nnunet import trainer_class as module
from cdm_nnunet.nnunet.trainer_class import trainer_class


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    monkeypatch.delenv(TRAINER_VARIABLE, raising=False)


def test_ours_and_nnunets_are_found_without_a_word(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trainer_class("nnUNetTrainerCDM") is trainers.nnUNetTrainerCDM
        assert trainer_class("nnUNetTrainer").__name__ == "nnUNetTrainer"
    assert capfd.readouterr() == ("", "")


def test_ours_are_taken_without_a_search_unless_the_user_has_trainers(tmp_path, monkeypatch):
    def no_search(name):
        raise AssertionError(name)

    monkeypatch.setattr(module, "recursive_find_trainer_class_by_name", no_search)
    assert trainer_class("nnUNetTrainerCDM_7epochs") is trainers.nnUNetTrainerCDM_7epochs
    monkeypatch.setenv(TRAINER_VARIABLE, OUR_TRAINERS)
    assert trainer_class("nnUNetTrainerDoseVanilla") is trainers.nnUNetTrainerDoseVanilla
    monkeypatch.undo()
    text = "from cdm_nnunet.trainers import nnUNetTrainerDoseMAE as Base\nclass nnUNetTrainerCDM(Base):\n    own = 1\n"
    (tmp_path / "own_trainer.py").write_text(text)
    monkeypatch.setenv(TRAINER_VARIABLE, str(tmp_path))
    assert trainer_class("nnUNetTrainerCDM").own == 1


class Lazy(types.ModuleType):
    """Loads another module when a missing attribute is read."""

    def __getattr__(self, name):
        sys.modules["what lazy needs"] = types.ModuleType("what lazy needs")
        raise AttributeError(name)


def test_a_module_that_loads_others_when_it_is_asked_does_not_end_the_search(monkeypatch):
    monkeypatch.setitem(sys.modules, "lazy", Lazy("lazy"))
    assert trainer_class("nnUNetTrainerAdam").__name__ == "nnUNetTrainerAdam"
    del sys.modules["what lazy needs"]


def test_others_are_refused():
    for name in ("nnUNetTrainerNone", "settings"):
        with pytest.raises(InputError, match=f"no trainer named '{name}' is installed"):
            trainer_class(name)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("import nobody_has_this", r"ModuleNotFoundError: No module named 'nobody_has_this' \(.*broken.py, line 1\)"),
        ("x = 1\nraise RuntimeError('no licence')", r"RuntimeError: no licence \(.*broken.py, line 2\)"),
        ("class nnUNetTrainerBroken:\n    pass", r"AssertionError: .*must inherit from 'nnUNetTrainer'"),
        ("def", r"SyntaxError: .*broken.py, line 1"),
    ],
    ids=["import", "raise", "base", "syntax"],
)
def test_the_error_of_a_users_file_is_told(content, told, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(content)
    monkeypatch.setenv(TRAINER_VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match=f"search for the trainer 'nnUNetTrainerBroken' ended in {told}"):
        trainer_class("nnUNetTrainerBroken")
