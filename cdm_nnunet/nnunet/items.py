"""Preprocessed cases for a predictor, from files or from memory; in worker processes too."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from numpy.typing import NDArray

from cdm_nnunet.dataset import case_of_image
from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.inputs import unlike_training
from cdm_nnunet.nnunet.plans import DosePlans
from cdm_nnunet.prediction_record import digests_of

Item = dict[str, Any]
FilesJob = tuple[list[str], str | None, PlansManager, ConfigurationManager]
ArrayJob = tuple[str, NDArray[np.float32], dict[str, Any], str | None, PlansManager, ConfigurationManager]


def preprocess_files(job: FilesJob) -> Item:
    """Preprocess a case in files, or return the reason for refusing it."""
    files, output, plans_manager, configuration_manager = job
    case = case_of_image(files[0])
    try:
        data, properties = plans_manager.image_reader_writer_class().read_images(files)
    except InputError as error:
        return {"case": case, "ofile": output, "refusal": str(error)}
    item = preprocess_array((case, data, properties, output, plans_manager, configuration_manager))
    return {**item, "inputs_sha256": digests_of(files)}


def preprocess_array(job: ArrayJob) -> Item:
    """Preprocess a case in memory, or return the reason for refusing it."""
    case, data, properties, output, plans_manager, configuration_manager = job
    try:
        facts, applicability = unlike_training(data, properties["spacing"], DosePlans(plans_manager.plans))
    except InputError as error:
        return {"case": case, "ofile": output, "refusal": str(error)}
    preprocessor = configuration_manager.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case_npy(data, None, properties, plans_manager, configuration_manager, {})
    return {
        "case": case,
        "data": torch.from_numpy(data),
        "data_properties": properties,
        "ofile": output,
        "notes": applicability.notes,
        "applicability": applicability,
        "prescriptions_gy": dict(facts.prescriptions_gy),
    }
