"""The validation at the end of a training: whole cases of the fold, predicted, written and measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdm_nnunet.counting import counted
from cdm_nnunet.dataset import FILE_ENDING
from cdm_nnunet.files import write_json
from cdm_nnunet.folders import dataset_number
from cdm_nnunet.losses.terms import Terms
from cdm_nnunet.nnunet.export import dose_on_patient_grid
from cdm_nnunet.nnunet.facts import PatchFacts
from cdm_nnunet.nnunet.plans import FIRST_WORD
from cdm_nnunet.nnunet.predictor import DosePredictor
from cdm_nnunet.nnunet.reader import CDMReaderWriter
from cdm_nnunet.prediction_record import Origin, PredictionRecord
from cdm_nnunet.trainers.validation import PatchErrors, patch_errors


@dataclass(frozen=True)
class WholeCaseValidation:
    """Predicts whole cases, writes their doses and measures them.

    Attributes:
        predictor: A predictor with the trained network.
        dataset: The preprocessed cases.
        folder: Folder for doses and summary.
        origin: Model and options of the doses.
        dose_region: 1 inside the dose region by ROI words: (B, L, Z, Y, X) -> (B, 1, Z, Y, X).
        terms: Metrics to compare.
    """

    predictor: DosePredictor
    dataset: Any
    folder: Path
    origin: Origin
    dose_region: Callable[[Tensor], Tensor]
    terms: Terms

    @torch.inference_mode()
    def of(self, case: str) -> PatchErrors:
        """Predict a case, write its dose with a record, and measure it."""
        data, reference, _, properties = self.dataset.load_case(case)
        image = torch.from_numpy(np.array(data[:]))
        output = self.predictor.predict_sliding_window_return_logits(image).cpu()
        plans = self.predictor.dose_plans
        facts = PatchFacts.of_case(properties)
        self._write(case, dose_on_patient_grid(output.numpy(), properties, plans), facts, properties)
        words = image[None, FIRST_WORD:]
        region = self.dose_region(words)
        return patch_errors(
            (output[None] * plans.dose_scale_gy).clamp(min=0) * region,
            torch.from_numpy(np.array(reference[:]))[None],
            region,
            words,
            self.terms,
            [facts],
        )

    def _write(self, case: str, dose_gy: NDArray[np.float32], facts: PatchFacts, properties: dict[str, Any]) -> None:
        levels = zip(self.predictor.dose_plans.catalogue.names, facts.prescription_gy, strict=True)
        known = {name: level_gy for name, level_gy in levels if not math.isnan(level_gy)}
        self.folder.mkdir(parents=True, exist_ok=True)
        dose = self.folder / f"{case}{FILE_ENDING}"
        with PredictionRecord(case=case, prescriptions_gy=known, notes=[], origin=self.origin).beside(dose):
            CDMReaderWriter().write_seg(dose_gy, str(dose), properties)

    def write_summary(self, errors: Mapping[str, PatchErrors], dataset_name: str) -> tuple[str, str]:
        """Write the errors of all cases; returns lines for the log."""
        pooled = PatchErrors.pooled(list(errors.values()))
        summary = {
            "grid": "network",
            "n_cases": len(errors),
            "mean": pooled.to_json(),
            "cases": {case: error.to_json() for case, error in sorted(errors.items())},
        }
        write_json(self.folder / "summary.json", summary)
        command = f"cdm-nnunet evaluate -d {dataset_number(dataset_name)} -i {self.folder} -o OUT"
        return (
            f"validation of {counted(len(errors), 'case')} on the network's grid: "
            f"dose MAE {pooled.mae_gy:.3f} Gy; metric "
            f"errors (Gy or % of volume): PTV {pooled.ptv:.3f}, OAR {pooled.oar:.3f}",
            f"scores on the patients' grid: {command}",
        )
