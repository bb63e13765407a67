"""Doses of cases: from the channels of each as NIfTI files to doses as NIfTI files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.inputs import find_cases
from cdm_nnunet.nnunet.model import TrainedModel
from cdm_nnunet.nnunet.plans import DosePlans
from cdm_nnunet.parallel import active_engine
from cdm_nnunet.prediction.model import Model
from cdm_nnunet.prediction.models import Found, ModelChoice, PackageChoice, TrainedOn
from cdm_nnunet.prediction.spread import LoadedModel, SpreadPredictor


@dataclass(frozen=True)
class CasePredictor:
    """A trained model, and its prediction options.

    Attributes:
        model: The model.
        device: ``cuda``, ``mps`` or ``cpu``; None takes the first available one (on a cluster ``cuda``).
        step: Step between windows, in patch sizes.
        mirrors: Whether doses are averaged over left-right mirroring.
        keeps: Whether existing doses are kept.
        n_processes: Number of processes for preprocessing.
        allows_outside: Whether patients to whom the model does not apply are predicted.
    """

    model: ModelChoice | PackageChoice
    device: str | None = None
    step: float = 0.5
    mirrors: bool = True
    keeps: bool = False
    n_processes: int = 2
    allows_outside: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1:
            raise InputError(f"-step_size must be above 0 and at most 1, not {self.step}")
        if self.n_processes < 0:
            raise InputError(f"-np must not be negative, not {self.n_processes}")

    def predict(self, cases: Sequence[Sequence[str]], out: Path) -> None:
        """Write the dose of each case into a folder.

        Args:
            cases: Files of the channels of each case.
            out: The folder.

        Raises:
            InputError: If no GPU is available, the model is damaged, or a case is implausible; the others are
                predicted.
        """
        if active_engine() is None:
            self.loaded.predict_files(cases, out, keeps=self.keeps, n_processes=self.n_processes)
            return
        how = self._how
        predictor = how.predictor_of(self.trained, SpreadPredictor, "cpu")  # (it checks; there may be no GPU here)
        predictor.model = replace(how, device=how.device or "cuda")
        predictor.predict_from_files([list(files) for files in cases], str(out), overwrite=not self.keeps)

    @cached_property
    def found(self) -> Found:
        """Location of the model.

        Raises:
            InputError: If it is missing.
        """
        return self.model.found()

    @cached_property
    def trained(self) -> TrainedModel:
        """The model, read once.

        Raises:
            InputError: If it is damaged.
        """
        return self.found.read()

    @cached_property
    def loaded(self) -> Model:
        """The model on the device, loaded once.

        Raises:
            InputError: If the device is not available.
        """
        return Model.of(self.trained, self._how)

    @property
    def folds(self) -> tuple[str, ...]:
        """Folds of the model to average."""
        return tuple(checkpoint.fold for checkpoint in self.trained.checkpoints)

    @property
    def plans(self) -> DosePlans:
        """The plans of the model's training."""
        return DosePlans(self.trained.plans)

    @property
    def trained_on(self) -> TrainedOn:
        """The model's record of its training data."""
        return TrainedOn.of(self.trained)

    @property
    def _how(self) -> LoadedModel:
        return LoadedModel(self.found, self.device, self.step, self.mirrors, self.allows_outside)

    def predict_folder(self, folder: Path, out: Path, part: int = 0, n_parts: int = 1) -> int:
        """Predict the cases of a folder, or one part of them.

        Args:
            folder: Folder with three channels per case.
            out: Folder for the doses.
            part: Index of the part, from 0.
            n_parts: Number of parts.

        Returns:
            Number of cases; 0 if there are fewer cases than parts.

        Raises:
            InputError: As :meth:`predict`, or if there is no case or no such part.
        """
        cases = self.cases_in(folder, part, n_parts)
        if cases:
            self.predict(cases, out)
        return len(cases)

    @staticmethod
    def cases_in(folder: Path, part: int = 0, n_parts: int = 1) -> list[list[str]]:
        """The files of the cases of a folder, or of one part of them; arguments as in :meth:`predict_folder`.

        Raises:
            InputError: If there is no case or no such part.
        """
        if not 0 <= part < n_parts:
            raise InputError(f"-part_id is a number from 0 to -num_parts - 1 ({n_parts - 1}), not {part}")
        return find_cases(folder)[part::n_parts]
