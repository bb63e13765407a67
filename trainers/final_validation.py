"""The validation at the end of a training: whole cases of the fold, predicted, written and measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed as dist

from cdm_nnunet.dataset import FILE_ENDING
from cdm_nnunet.files import write_json
from cdm_nnunet.folders import dataset_number
from cdm_nnunet.nnunet.export import dose_on_patient_grid
from cdm_nnunet.nnunet.facts import PatchFacts
from cdm_nnunet.nnunet.plans import FIRST_WORD
from cdm_nnunet.nnunet.prediction_record import Training, origin_of
from cdm_nnunet.nnunet.predictor import DosePredictor
from cdm_nnunet.nnunet.reader import CDMReaderWriter
from cdm_nnunet.prediction_record import Origin, PredictionRecord
from cdm_nnunet.trainers.validation import PatchErrors, patch_errors

if TYPE_CHECKING:
    from cdm_nnunet.trainers.base import DoseTrainer


def validate_whole_cases(trainer: DoseTrainer) -> None:
    """Predict the validation cases of a trainer's fold, write their doses and a summary.

    Args:
        trainer: With its network trained, and deep supervision off.
    """
    predictor = DosePredictor(device=trainer.device, perform_everything_on_device=True, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager, None, trainer.dataset_json,
        trainer.__class__.__name__, None,
    )  # fmt: skip
    training = Training(trainer.configuration_name, {str(trainer.fold): dict(trainer.settings.to_json())})
    origin = origin_of(predictor, training)
    folder = Path(trainer.output_folder) / "validation"
    folder.mkdir(parents=True, exist_ok=True)
    _, cases = trainer.do_split()
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, sorted(cases))
    mine = cases[trainer.local_rank :: dist.get_world_size()] if trainer.is_ddp else cases
    errors = {case: _validate(case, trainer, dataset, predictor, folder, origin) for case in sorted(mine)}
    if trainer.is_ddp:
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, errors)
        errors = {case: error for part in gathered for case, error in part.items()}
    if trainer.local_rank != 0:
        return
    pooled = PatchErrors.pooled(list(errors.values()))
    summary = {
        "grid": "network",
        "n_cases": len(errors),
        "mean": pooled.to_json(),
        "cases": {case: error.to_json() for case, error in sorted(errors.items())},
    }
    write_json(folder / "summary.json", summary)
    trainer.print_to_log_file(
        f"validation of {len(errors)} cases on the network's grid: dose MAE {pooled.mae_gy:.3f} Gy; metric "
        f"errors (Gy or % of volume): PTV {pooled.ptv:.3f}, OAR {pooled.oar:.3f}"
    )
    dataset_id = dataset_number(trainer.plans_manager.dataset_name)
    trainer.print_to_log_file(f"scores on the patients' grid: cdm-nnunet evaluate -d {dataset_id} -i {folder} -o OUT")


@torch.inference_mode()
def _validate(
    case: str, trainer: DoseTrainer, dataset: Any, predictor: DosePredictor, folder: Path, origin: Origin
) -> PatchErrors:
    data, reference, _, properties = dataset.load_case(case)
    image = torch.from_numpy(np.array(data[:]))
    output = predictor.predict_sliding_window_return_logits(image).cpu()
    dose_gy = dose_on_patient_grid(output.numpy(), properties, trainer.dose_plans)
    facts = PatchFacts.of_case(properties)
    levels = zip(trainer.dose_plans.catalogue.names, facts.prescription_gy, strict=True)
    known = {name: level_gy for name, level_gy in levels if not math.isnan(level_gy)}
    dose = folder / f"{case}{FILE_ENDING}"
    with PredictionRecord(case=case, prescriptions_gy=known, notes=[], origin=origin).beside(dose):
        CDMReaderWriter().write_seg(dose_gy, str(dose), properties)
    words = image[None, FIRST_WORD:]
    region = trainer.dose_region(words)
    return patch_errors(
        (output[None] * trainer.dose_plans.dose_scale_gy).clamp(min=0) * region,
        torch.from_numpy(np.array(reference[:]))[None],
        region,
        words,
        trainer.evaluation_terms,
        [facts],
    )
