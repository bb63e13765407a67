"""Register our classes with nnU-Net, which looks classes up by name inside its own package.

nnU-Net 2.8 searches the modules of a folder of its package for an attribute with the class's name. Setting that
attribute on a searched module is sufficient. It also works in editable installs and spawned workers, because unpickling
any of our objects imports :mod:`cdm_nnunet.nnunet` first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
from nnunetv2.imageio import base_reader_writer
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors import default_preprocessor
from nnunetv2.utilities.label_handling import label_handling
from nnunetv2.utilities.plans_handling import plans_handler

from cdm_nnunet.dataset import CASES_FILE

# Every method of nnU-Net's predictor that returns or writes a prediction.
_PREDICTING_METHODS = (
    "predict_from_files",
    "predict_from_files_sequential",
    "predict_from_data_iterator",
    "predict_single_npy_array",
    "predict_from_list_of_npy_arrays",
    "get_data_iterator_from_raw_npy_data",
    "predict_logits_from_preprocessed_data",
    "predict_sliding_window_return_logits",
)
_MARK = "is_made_for_dose"


def register() -> None:
    """Register reader, preprocessor, label manager and predictor with nnU-Net; a second call changes nothing."""
    from cdm_nnunet.nnunet.labels import DoseLabelManager
    from cdm_nnunet.nnunet.preprocessor import DosePreprocessor
    from cdm_nnunet.nnunet.reader import CDMReaderWriter

    base_reader_writer.CDMReaderWriter = CDMReaderWriter
    default_preprocessor.DosePreprocessor = DosePreprocessor
    label_handling.DoseLabelManager = DoseLabelManager
    find = plans_handler.get_labelmanager_class_from_plans
    if not getattr(find, _MARK, False):
        plans_handler.get_labelmanager_class_from_plans = _for_dose_labels(find)
    if not getattr(default_experiment_planner._maybe_copy_splits_file, _MARK, False):
        default_experiment_planner._maybe_copy_splits_file = _unless_ours(
            default_experiment_planner._maybe_copy_splits_file
        )
    for name in _PREDICTING_METHODS:
        stock = getattr(nnUNetPredictor, name)
        if not getattr(stock, _MARK, False):  # (some stock methods are decorated, so __wrapped__ is no indication)
            setattr(nnUNetPredictor, name, _for_dose_plans(stock))


def _for_dose_labels(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Look-up that returns our label manager for all our plans; plans in a model's folder name nnU-Net's."""

    @functools.wraps(stock)
    def find(plans: dict[str, Any]) -> Any:
        return label_handling.DoseLabelManager if "cdm" in plans else stock(plans)

    setattr(find, _MARK, True)
    return find


def _unless_ours(copy_split: Callable[[str, str], None]) -> Callable[[str, str], None]:
    """nnU-Net's copying of a split, except for dose data sets: it fails if the user has edited the copy."""

    @functools.wraps(copy_split)
    def copy(splits_file: str, target_fname: str) -> None:
        if not (Path(splits_file).parent / CASES_FILE).is_file():
            copy_split(splits_file, target_fname)

    setattr(copy, _MARK, True)
    return copy


def _for_dose_plans(stock: Callable[..., Any]) -> Callable[..., Any]:
    """A predictor method that turns a stock predictor with dose plans into a :class:`DosePredictor`.

    ``nnUNetv2_predict`` creates its predictor before it imports the trainer, and with it this package. Without the
    change of class, it would sum windows in half precision and reduce the dose to an argmax.
    """

    @functools.wraps(stock)
    def method(self: nnUNetPredictor, *args: Any, **kwargs: Any) -> Any:
        if type(self) is nnUNetPredictor and self.plans_manager is not None and "cdm" in self.plans_manager.plans:
            from cdm_nnunet.nnunet.predictor import DosePredictor

            self.__class__ = DosePredictor
            return getattr(self, stock.__name__)(*args, **kwargs)
        return stock(self, *args, **kwargs)

    setattr(method, _MARK, True)
    return method
