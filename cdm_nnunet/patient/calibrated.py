"""A calibration for new patients: from an evaluation with members, of the same model, template and folds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.evaluation.reading import load_evaluation
from cdm_nnunet.evaluation.record import Calibration, Evaluation
from cdm_nnunet.evaluation.uncertainty import fit_calibration
from cdm_nnunet.prediction_record import Made, Origin

UNKNOWN_MODEL = "the evaluation that intervals are calibrated on does not name its model, so it may be another one"
MEANS = (
    "intervals are calibrated on means of the folds' doses; here the folds are averaged before the dose is resampled"
)


@dataclass(frozen=True)
class Calibrated:
    """An evaluation to calibrate on, and its calibration.

    Attributes:
        path: Its file or folder.
        evaluation: The evaluation.
        calibration: Calibration fitted on its cases.
    """

    path: Path
    evaluation: Evaluation
    calibration: Calibration

    @classmethod
    def read(cls, path: Path, coverage_percent: float, template: Template, n_members: int) -> Calibrated:
        """Fit a calibration for new patients.

        Args:
            path: ``result.json`` of an evaluation with members, or its folder.
            coverage_percent: Nominal coverage of the intervals.
            template: Template that judges the patients.
            n_members: Number of folds that predict them.

        Raises:
            InputError: If the record can't be read, has no members or too few cases, or was made with another template
                or number of members.
        """
        evaluation = load_evaluation(path)
        calibration = fit_calibration(evaluation, coverage_percent)
        if evaluation.template != template:
            raise InputError(
                f"{path} was evaluated with another template ('{evaluation.template.name}') than the patients are "
                f"judged by ('{template.name}'); intervals need the same (--template)"
            )
        if evaluation.n_members != n_members:
            raise InputError(
                f"{path} was evaluated with {evaluation.n_members} members, and {n_members} "
                f"{'fold predicts' if n_members == 1 else 'folds predict'}; give the same folds (-f)"
            )
        return cls(path, evaluation, calibration)

    def fit_for(self, case: str, patient: str, dataset: str, made: Made | None) -> tuple[str, ...]:
        """Check that the calibration holds for a predicted dose.

        Args:
            case: Its case.
            patient: Its patient in the conversion; empty if unknown.
            dataset: Data set of the case; empty for none.
            made: Origin of the dose.

        Returns:
            Unknown facts, in sentences.

        Raises:
            InputError: If another model made the dose, or the case or its patient is in the calibration.
        """
        names = {case, patient or case} if dataset == self.evaluation.dataset else {patient} - {""}
        if not dataset or dataset == self.evaluation.dataset:  # (names of DICOM patients are hashes)
            calibrated_on = {name for one in self.evaluation.cases for name in (one.case, one.patient or one.case)}
            if names & calibrated_on:
                raise InputError(
                    f"it is among the cases of the calibration ({self.path}), or of a patient who is: its intervals "
                    "would be too narrow; calibrate on other patients"
                )
        known = self.evaluation.model
        if known is None or made is None:
            return (UNKNOWN_MODEL,)
        if unlike := known.unlike(made):
            if type(known) is not type(made) and _weights(known) == _weights(made):
                return (MEANS,)
            raise InputError(
                f"{self.path} was evaluated for another model than the one that predicts ({unlike}); its intervals do "
                "not hold here"
            )
        return ()


def _weights(made: Made) -> list[str]:
    """Digests of the weights of all folds."""
    models = [made] if isinstance(made, Origin) else made.models
    return sorted(digest for model in models for digest in model.weights_sha256)
