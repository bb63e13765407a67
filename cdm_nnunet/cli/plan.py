"""``cdm-nnunet plan``: fingerprint, plans and preprocessed data."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

from cdm_nnunet.cli import _options
from cdm_nnunet.counting import counted
from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import configuration_in, find_dataset, folder
from cdm_nnunet.geometry.voxel_size import voxel_size_zyx_mm

SUMMARY = "configure patch size, batch size and network for a data set and a GPU budget, and preprocess"
EXAMPLE = "cdm-nnunet plan -d 501 --gpu-memory 8 -c 3d_fullres 3d_coarse"
WRITES = ("nnUNet_preprocessed",)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    _options.add_dataset_id(parser)
    parser.add_argument("--gpu-memory", type=float, metavar="GB", help="GPU memory that training may use (default: 8)")
    parser.add_argument(
        "-c",
        nargs="+",
        default=["3d_fullres"],
        metavar="CONFIGURATION",
        help="what to preprocess: 3d_fullres (median voxel size of the data; default), 3d_packed (the same, an eighth "
        "of the work), 3d_coarse (larger voxels)",
    )
    parser.add_argument(
        "--spacing",
        nargs="+",
        metavar="MM|MMxMMxMM",
        help="voxel size of 3d_fullres, in the order x, y, z: 3, or 2.5x2.5x2 (default: the median)",
    )
    parser.add_argument("--coarse-spacing", type=float, metavar="MM", help="voxel size of 3d_coarse in mm (default: 6)")
    parser.add_argument(
        "--base-features", type=int, metavar="N", help="features of the finest U-Net stage (default: 32)"
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="batch size at most (default: what memory and cases allow)"
    )
    _options.add_plans(parser, "name of the plans; a data set may have several, each with its own models")
    parser.add_argument(
        "--plans-from",
        metavar="ID_OR_NAME[:PLANS]",
        help="plans of another data set, whose models are to be fine-tuned here: its voxel sizes, patch sizes, "
        "networks, CT statistics and dose scale",
    )
    parser.add_argument(
        "--dose-scale",
        type=float,
        metavar="GY",
        help="dose that the network's output 1 stands for, at least the highest prescription (default); choose it "
        "higher if the model is to be fine-tuned on data of higher prescriptions",
    )
    _options.add_processes(parser, 2)


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Plan and preprocess."""
    _check(args)
    find_dataset(args.d)
    folder("nnUNet_preprocessed")

    from cdm_nnunet.nnunet.plan_choices import PlanChoices
    from cdm_nnunet.nnunet.planner import plan_and_preprocess

    choices = {
        "gpu_memory_gb": args.gpu_memory,
        "spacing_mm": None if args.spacing is None else _spacing_zyx_mm(args.spacing),
        "coarse_spacing_mm": args.coarse_spacing,
        "base_features": args.base_features,
        "batch_size": args.batch_size,
        "plans_from": args.plans_from,
        "dose_scale_gy": args.dose_scale,
    }
    made = PlanChoices(**{name: value for name, value in choices.items() if value is not None})
    plans = plan_and_preprocess(args.d, made, configurations=args.c, plans_name=args.p, n_processes=args.np)
    return _record(plans, [configuration_in(plans["configurations"], name) for name in args.c])


def _check(args: argparse.Namespace) -> None:
    ruled = {
        "--gpu-memory": args.gpu_memory,
        "--spacing": args.spacing,
        "--coarse-spacing": args.coarse_spacing,
        "--base-features": args.base_features,
    }
    for name, value in ruled.items():
        if args.plans_from is not None and value is not None:
            raise InputError(f"{name} and --plans-from exclude each other: the other plans fix it; leave {name} out")
    amounts = {
        "--gpu-memory": args.gpu_memory,
        "--coarse-spacing": args.coarse_spacing,
        "--dose-scale": args.dose_scale,
    }
    for name, value in amounts.items():
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} must be above zero, not {value}")
    if args.spacing is not None:
        _spacing_zyx_mm(args.spacing)
    counts = (("-np", args.np), ("--base-features", args.base_features), ("--batch-size", args.batch_size))
    for name, number in counts:
        if number is not None and number < 1:
            raise InputError(f"{name} must be at least 1, not {number}")


def _spacing_zyx_mm(words: Sequence[str]) -> tuple[float, float, float]:
    """The voxel size, in the format of ``--grid`` of ``convert dicom``.

    Earlier versions took three numbers, of which the first was along z.
    """
    if len(words) > 1:
        raise InputError(
            f"--spacing takes one word, as --grid of 'convert dicom' does, in the order x, y, z: for the z, y and x of "
            f"earlier versions write --spacing {'x'.join(reversed(words))}"
        )
    return voxel_size_zyx_mm(words[0], "--spacing takes", None)


def _record(plans: Mapping[str, Any], preprocessed: Sequence[str]) -> dict[str, Any]:
    section = plans["cdm"]
    first = next(iter(plans["configurations"].values()))
    fall_off = first["architecture"]["arch_kwargs"].get("fall_off")  # (plans of earlier versions have none)
    return {
        "dataset": plans["dataset_name"],
        "plans": plans["plans_name"],
        "plans_from": section.get("plans_from"),
        "gpu_memory_gb": section["gpu_memory_gb"],
        "n_rois": len(section["catalogue"]),
        "dose_scale_gy": section["dose_scale_gy"],
        "highest_prescription_gy": max(high for _, high in section["cohort"]["prescription_gy"].values()),
        "fall_off_mm": None if fall_off is None else round(first["spacing"][0] / fall_off[0], 3),
        "preprocessed": list(preprocessed),
        "configurations": {
            name: {
                "data": configuration["data_identifier"],
                "spacing_mm": configuration["spacing"],
                "patch_size": configuration["patch_size"],
                "median_shape": configuration["median_image_size_in_voxels"],
                "batch_size": configuration["batch_size"],
                "n_stages": configuration["architecture"]["arch_kwargs"]["n_stages"],
                "features_per_stage": configuration["architecture"]["arch_kwargs"]["features_per_stage"],
                "cell": configuration["architecture"]["arch_kwargs"].get("cell", [1, 1, 1]),
            }
            for name, configuration in plans["configurations"].items()
        },
    }


def render(record: Mapping[str, Any]) -> str:
    """The chosen configuration, with reasons."""
    source = record["plans_from"]
    limit = "as planned there" if source else "all that the budget allows"
    lines = [
        f"{record['dataset']}: {counted(record['n_rois'], 'ROI')}, dose scale {record['dose_scale_gy']:g} Gy (highest "
        f"prescription {record['highest_prescription_gy']:g} Gy), "
        + (f"plans of {source}" if source else f"budget {record['gpu_memory_gb']:g} GB")
    ]
    if record["fall_off_mm"] is not None:
        lines.append(
            "first guess of the dose in targets: the prescription; next to a higher one, a fall-off with a width of "
            f"{record['fall_off_mm']:g} mm"
        )
    preprocessed = {record["configurations"][name]["data"] for name in record["preprocessed"]}
    for name, chosen in record["configurations"].items():
        covered = math.prod(
            min(patch / size, 1) for patch, size in zip(chosen["patch_size"], chosen["median_shape"], strict=True)
        )
        why = "the whole patient" if covered > 0.99 else f"{100 * covered:.0f} % of the patient, {limit}"
        features = chosen["features_per_stage"]
        cells = f" on cells of {_by(chosen['cell'])} voxels" if max(chosen["cell"]) > 1 else ""
        done = "preprocessed" if chosen["data"] in preprocessed else "not preprocessed"
        lines += [
            f"{name} ({done}): voxels {_by(chosen['spacing_mm'], 2)} mm (all sizes: x, y, z); median "
            f"patient {_by(chosen['median_shape'])} voxels",
            f"  patch {_by(chosen['patch_size'])} holds {why}; batch size {chosen['batch_size']}; U-Net of "
            f"{chosen['n_stages']} stages{cells}, {features[0]} to {features[-1]} features",
        ]
    return "\n".join(lines)


def _by(numbers_zyx: list[float], digits: int = 0) -> str:
    return " x ".join(f"{number:.{digits}f}" for number in reversed(numbers_zyx))
