"""``cdm-nnunet train``: nnU-Net's training with the plugin loaded."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdm_nnunet.documents import read_json
from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import DEFAULT_PLANS, find_dataset, folder
from cdm_nnunet.parallel import usable_cores

SUMMARY = "train a configuration of a data set on one fold"
EXAMPLE = "cdm-nnunet train 501 3d_fullres 0 -tr nnUNetTrainerCDM"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments, spelled as nnUNetv2_train spells them."""
    parser.add_argument("dataset", nargs="?", type=int, help="dataset id")
    parser.add_argument("configuration", nargs="?", help="3d_fullres, 3d_folded or 3d_coarse")
    parser.add_argument("fold", nargs="?", help="0 to 4, or all")
    parser.add_argument(
        "-d", dest="dataset_option", type=int, metavar="ID", help="dataset id, as the other commands take it"
    )
    parser.add_argument(
        "-c", dest="configuration_option", metavar="CONFIGURATION", help="configuration, as the other commands take it"
    )
    parser.add_argument("-f", dest="fold_option", metavar="FOLD", help="fold, as the other commands take it")
    parser.add_argument(
        "-tr", default="nnUNetTrainerCDM", metavar="TRAINER", help="trainer (default: nnUNetTrainerCDM)"
    )
    parser.add_argument("-p", default=DEFAULT_PLANS, metavar="PLANS", help="plans (default: nnUNetPlans)")
    parser.add_argument("-device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    parser.add_argument("-num_gpus", type=int, default=1, metavar="N", help="GPUs to train on (default: 1)")
    parser.add_argument("-pretrained_weights", metavar="CHECKPOINT", help="start from the weights of another model")
    parser.add_argument("--c", action="store_true", help="continue from the newest whole checkpoint")
    parser.add_argument(
        "--change-settings",
        action="store_true",
        help="with --c: go on with other settings than the training began with",
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="begin where there is a training already; its checkpoints are moved to a folder replaced_DATE",
    )
    parser.add_argument("--val", action="store_true", help="only the final validation of a finished training")
    parser.add_argument("--val_best", action="store_true", help="validate the best checkpoint, not the last")
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="train nothing: measure some steps and say how long the training will take on this machine",
    )


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Train, or continue, or validate, or estimate."""
    _merge_options(args)
    _refuse_gpus(args)
    if args.fold != "all" and not args.fold.isdigit():
        raise InputError(f"the fold is a number or 'all', not '{args.fold}'")
    if args.c and args.val:
        raise InputError("--c continues a training and --val skips it: give one of them")
    if args.change_settings and not args.c:
        raise InputError("--change-settings goes with --c; a training that begins has the settings that are set")
    if args.restart and (args.c or args.val):
        raise InputError("--restart begins a training, --c and --val go on with one: give one of them")
    if args.c and args.pretrained_weights:
        raise InputError("--c continues a training and -pretrained_weights starts one: give one of them")
    if args.estimate and (args.c or args.val or args.num_gpus != 1):
        raise InputError(
            "--estimate measures the start of a training on one device: leave out --c, --val and -num_gpus"
        )
    if args.pretrained_weights and not Path(args.pretrained_weights).is_file():
        raise InputError(f"no file {args.pretrained_weights} (-pretrained_weights)")
    plans = find_dataset(args.dataset, "nnUNet_preprocessed") / f"{args.p}.json"
    named = "" if args.p == DEFAULT_PLANS else f" -p {args.p}"
    for path in (plans, plans.with_name("dataset.json")):
        read_json(path, dict[str, Any], f"run: cdm-nnunet plan -d {args.dataset}{named} -c {args.configuration}")
    folder("nnUNet_results")

    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device is available; train with -device cpu (and -c 3d_coarse plans) or on a GPU")
    if args.num_gpus > max(torch.cuda.device_count(), 1):
        raise InputError(f"-num_gpus {args.num_gpus}: this machine has {torch.cuda.device_count()}")
    torch.set_num_threads(usable_cores() if args.device == "cpu" else 1)

    if args.estimate:
        from cdm_nnunet.cli._estimate import estimate

        _refuse_other_trainers(args.tr)
        return estimate(args.dataset, args.configuration, args.fold, args.tr, args.p, torch.device(args.device))

    from nnunetv2.run.run_training import run_training
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    from cdm_nnunet.trainers.settings import CHANGE_SETTINGS, RESTART

    _refuse_other_trainers(args.tr)  # (imports ours, and with them registers our classes)
    _quiet_advice()
    for variable, asked in ((RESTART, args.restart), (CHANGE_SETTINGS, args.change_settings)):
        if asked:  # (by the environment, for the processes of several GPUs inherit no arguments)
            os.environ[variable] = "1"
    model = get_output_folder(args.dataset, args.tr, args.p, args.configuration, fold=args.fold)
    print(  # to stderr: the command line sends it there
        f"training {args.tr} on {Path(model).parents[1].name}, {args.configuration}, fold {args.fold}, into {model}"
    )
    if args.val and not Path(model, "checkpoint_final.pth").is_file():
        raise InputError(f"--val validates a finished training, and {model} has no checkpoint_final.pth")
    run_training(
        str(args.dataset),
        args.configuration,
        args.fold,
        args.tr,
        args.p,
        args.pretrained_weights,
        args.num_gpus,
        continue_training=args.c,
        only_run_validation=args.val,
        val_with_best=args.val_best,
        device=torch.device(args.device),
    )
    return {"model": model}


def _merge_options(args: argparse.Namespace) -> None:
    """Take dataset, configuration and fold from their places or from their options."""
    for name, option in (("dataset", "d"), ("configuration", "c"), ("fold", "f")):
        placed, given = getattr(args, name), getattr(args, f"{name}_option")
        if placed is not None and given is not None and placed != given:
            raise InputError(f"the {name} is given twice: {placed} and -{option} {given}")
        if placed is None and given is None:
            raise InputError(f"which {name}? give it as in: {EXAMPLE}; or by -d, -c and -f")
        setattr(args, name, given if placed is None else placed)


def _refuse_gpus(args: argparse.Namespace) -> None:
    if args.num_gpus < 1:
        raise InputError(f"-num_gpus must be at least 1, not {args.num_gpus}")
    if args.num_gpus > 1 and args.device != "cuda":
        raise InputError("-num_gpus: only GPUs can train together; leave it out with -device cpu")


def _quiet_advice() -> None:
    """Leave out nnU-Net's advice to use other plans, which are for segmentation."""
    from nnunetv2.run import run_training

    def quiet(*words: object, **options: Any) -> None:
        if "old nnU-Net default plans" not in " ".join(map(str, words)):
            print(*words, **options)  # it stands in for nnU-Net's own

    run_training.print = quiet  # (found before the built-in)


def render(record: Mapping[str, Any]) -> str:
    """Where the model is, or how long it would take."""
    if "days" in record:
        from cdm_nnunet.cli._estimate import render_estimate

        return render_estimate(record)
    return f"model, log, progress.png and validation doses: {record['model']}"


def _refuse_other_trainers(name: str) -> None:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    from cdm_nnunet import trainers
    from cdm_nnunet.trainers.base import DoseTrainer

    known = ", ".join(trainers.__all__)
    try:
        trainer = recursive_find_trainer_class_by_name(name)
    except RuntimeError:
        raise InputError(f"no trainer named '{name}'; there are {known}") from None
    if not issubclass(trainer, DoseTrainer):
        raise InputError(f"trainer '{name}' is for segmentation; for dose there are {known}")
