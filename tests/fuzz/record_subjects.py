"""Small valid records of plans, trainings and evaluations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from subject import Subject

from cdm_nnunet.dataset_conversion.raw_layout import template_catalogue
from cdm_nnunet.documents import read_json
from cdm_nnunet.dvh import Template
from cdm_nnunet.evaluation.pooling import pooled_scores
from cdm_nnunet.evaluation.reading import load_evaluation
from cdm_nnunet.evaluation.record import CaseResult, Evaluation
from cdm_nnunet.evaluation.roi_record import GoalResult, MetricResult, RoiResult
from cdm_nnunet.nnunet.cohort import Cohort
from cdm_nnunet.nnunet.plans import DosePlans, plan_command
from cdm_nnunet.nnunet.splits import Folds

TEMPLATE = Template.from_json(
    {
        "format_version": 1,
        "name": "small",
        "rois": [
            {"name": "PTV_6000", "kind": "target", "prescription_gy": "patient"},
            {"name": "Parotid_L", "kind": "oar"},
            {"name": "Parotid_R", "kind": "oar"},
            {"name": "External", "kind": "external"},
        ],
        "goals": [
            {"roi": "PTV_6000", "metric": "D95%", "relation": ">=", "value": 57.0, "unit": "Gy"},
            {"roi": "Parotid_L", "metric": "Dmean"},
        ],
    },
    "fuzz",
)
CASES = [f"case_{k}" for k in range(5)]


def write_result(folder: Path) -> None:
    target = {"D95%": MetricResult(reference=58.5, predicted=56.25, unit="Gy", mask_error=0.5)}
    parotid = {"Dmean": MetricResult(reference=20.0, predicted=22.5, unit="Gy")}
    goal = GoalResult(
        metric="D95%", relation=">=", limit=57.0, variation=None, unit="Gy", priority=1, reference="pass",
        predicted="fail",
    )  # fmt: skip
    rois = {
        "PTV_6000": RoiResult(
            kind="target", n_voxels=1000, volume_cc=10.0, prescription_gy=60.0, metrics=target, goals=(goal,)
        ),
        "Parotid_L": RoiResult(kind="oar", n_voxels=500, volume_cc=5.0, prescription_gy=None, metrics=parotid),
    }
    known = {"dose_mae_gy": 2.5, "rois": rois, "prescription_gy": 60.0, "fractions": 30, "notes": ("a note",)}
    cases = [CaseResult(case=name, patient=name, **known) for name in CASES[:2]]
    found = Evaluation(
        dataset="Dataset501_Small", template=TEMPLATE, dose_region="External", n_dataset_cases=5, cases=tuple(cases),
        scores=pooled_scores(cases),
    )  # fmt: skip
    (folder / "result.json").write_text(json.dumps(found.to_json(), indent=1))


def write_plans(folder: Path) -> None:
    layers = {"conv_op": "torch.nn.modules.conv.Conv3d", "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d"}
    full = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DosePreprocessor",
        "batch_size": 2,
        "patch_size": [24, 24, 40],
        "median_image_size_in_voxels": [21.0, 24.0, 37.0],
        "spacing": [3.0, 2.5, 2.5],
        "architecture": {
            "network_class_name": "cdm_nnunet.nnunet.network.BitDecodeUNet",
            "arch_kwargs": {"n_stages": 3, **layers, "dropout_op": None, "nonlin": "torch.nn.LeakyReLU", "n_rois": 4},
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    bounds = {"PTV_6000": [60.0, 66.0]}
    cohort = {
        "n_cases": 5,
        "spacing_mm": [[2.9, 3.5], [2.5, 2.5], [2.5, 2.5]],
        "hu": [[-1006.0, -1005.0], [43.0, 44.0], [904.0, 906.0]],
        "hu_contrast": [1909.0, 1912.5],
        "prescription_gy": bounds,
        "volume_cc": bounds,
        "contoured": {"PTV_6000": 5, "External": 5},
    }
    plans = {
        "dataset_name": "Dataset501_Small",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [3.0, 2.5, 2.5],
        "original_median_shape_after_transp": [63.0, 54.0, 82.0],
        "image_reader_writer": "CDMReaderWriter",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": full, "small": {**full, "batch_size": 1}},
        "experiment_planner_used": "DosePlanner",
        "label_manager": "DoseLabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 53.0, "std": 257.0, "percentile_99_5": 905.0, "percentile_00_5": -1006.0}
        },
        "cdm": {
            "format_version": 1,
            "units": {"dose": "Gy", "ct": "HU"},
            "catalogue": template_catalogue(TEMPLATE).to_json(),
            "template": TEMPLATE.to_json(),
            "dose_scale_gy": 60.0,
            "cohort": cohort,
        },
    }
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans, indent=1))


def read_plans(folder: Path) -> Any:
    plans = DosePlans(read_json(folder / "nnUNetPlans.json", dict[str, Any]))
    manager = PlansManager(dict(plans.plans))
    configurations = {name: manager.get_configuration(name) for name in manager.available_configurations}
    return [
        plans.plans,
        plans.catalogue,
        plans.template,
        plans.dose_scale_gy,
        plans.n_channels,
        plans.padding,
        Cohort.of_plans(plans),
        plan_command(plans.plans),
        manager.image_reader_writer_class,
        [
            (plans.digest(name), one.patch_size, one.spacing, one.preprocessor_class)
            for name, one in configurations.items()
        ],
    ]


def write_folds(folder: Path) -> None:
    folds = [{"train": CASES[:k] + CASES[k + 1 :], "val": [CASES[k]]} for k in range(5)]
    (folder / "splits_final.json").write_text(json.dumps(folds, indent=1))


def read_folds(folder: Path) -> Any:
    folds = Folds.read(folder / "splits_final.json")
    return [folds.fold(number, CASES, {"case_0": "a", "case_1": "b"}) for number in range(len(folds.folds))]


RECORDS = (
    Subject("result", "json", "result.json", write_result, lambda folder: load_evaluation(folder).to_json()),
    Subject("plans", "json", "nnUNetPlans.json", write_plans, read_plans),
    Subject("folds", "json", "splits_final.json", write_folds, read_folds),
)
