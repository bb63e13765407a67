"""``cdm-nnunet train``: nnU-Net's training with the plugin loaded."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from cdm_nnunet.cli import _options
from cdm_nnunet.counting import counted
from cdm_nnunet.errors import InputError

SUMMARY = "train a configuration of a data set on one fold"
EXAMPLE = "cdm-nnunet train 501 3d_fullres 0 -tr nnUNetTrainerCDM"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments, spelled as in nnUNetv2_train."""
    parser.add_argument("dataset", nargs="?", type=_options.dataset_id, help="data set: 501, or Dataset501_OpenKBP")
    parser.add_argument("configuration", nargs="?", help="3d_fullres, 3d_packed or 3d_coarse")
    parser.add_argument("fold", nargs="?", help="0 to 4, or all")
    parser.add_argument(
        "-d",
        dest="dataset_option",
        type=_options.dataset_id,
        metavar="ID",
        help="data set, as other commands take it",
    )
    parser.add_argument(
        "-c", dest="configuration_option", metavar="CONFIGURATION", help="configuration, as the other commands take it"
    )
    parser.add_argument("-f", dest="fold_option", metavar="FOLD", help="fold, as the other commands take it")
    _options.add_trainer(parser)
    _options.add_plans(parser)
    _options.add_device(parser)
    parser.add_argument("-num_gpus", type=int, default=1, metavar="N", help="GPUs to train on (default: 1)")
    parser.add_argument(
        "-pretrained_weights",
        metavar="CHECKPOINT|MODEL",
        help="start from the weights of another model: a checkpoint, a model of 'cdm-nnunet model export', or the name "
        "of one that ships; where the ROI catalogue is another, inputs are matched by ROI name",
    )
    parser.add_argument("--c", action="store_true", help="continue from the newest intact checkpoint")
    parser.add_argument(
        "--change-settings",
        action="store_true",
        help="with --c: continue with settings other than those the training began with",
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="start again over an existing training; its checkpoints are moved to a folder replaced_DATE",
    )
    parser.add_argument("--val", action="store_true", help="only the final validation of a finished training")
    parser.add_argument("--val_best", action="store_true", help="validate the best checkpoint, not the last")
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="train nothing: measure a few steps and estimate the duration of the training on this machine",
    )


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Train, or continue, or validate, or estimate."""
    _merge_options(args)
    _refuse_contradictions(args)

    from cdm_nnunet.trainers.run import Start, Training, train

    training = Training(args.dataset, args.configuration, args.fold, args.tr, args.p, args.device, args.num_gpus)
    if args.estimate:
        from cdm_nnunet.trainers.estimate import estimate

        return estimate(training)
    start = Start(args.pretrained_weights, args.c, args.change_settings, args.restart, args.val, args.val_best)
    return {"model": str(train(training, start))}


def render(record: Mapping[str, Any]) -> str:
    """Location of the model, or the estimated duration."""
    if "days" in record:
        return _estimated(record)
    return f"model, log, progress.png and validation doses: {record['model']}"


def _merge_options(args: argparse.Namespace) -> None:
    """Read dataset, configuration and fold from positional arguments or options."""
    for name, option in (("dataset", "d"), ("configuration", "c"), ("fold", "f")):
        placed, given = getattr(args, name), getattr(args, f"{name}_option")
        if placed is not None and given is not None and placed != given:
            raise InputError(f"the {name} is given twice: {placed} and -{option} {given}")
        if placed is None and given is None:
            raise InputError(f"which {name}? give it as in: {EXAMPLE}; or by -d, -c and -f")
        setattr(args, name, given if placed is None else placed)


def _refuse_contradictions(args: argparse.Namespace) -> None:
    if args.c and args.val:
        raise InputError("--c continues a training and --val skips it: give one of them")
    if args.change_settings and not args.c:
        raise InputError("--change-settings goes with --c; a new training uses the settings as they are set")
    if args.restart and (args.c or args.val):
        raise InputError("--restart starts a training, --c and --val continue one: give one of them")
    if args.c and args.pretrained_weights:
        raise InputError("--c continues a training and -pretrained_weights starts one: give one of them")
    if args.estimate and (args.c or args.val or args.num_gpus != 1):
        raise InputError(
            "--estimate measures the start of a training on one device: leave out --c, --val and -num_gpus"
        )


def _estimated(record: Mapping[str, Any]) -> str:
    """The estimate in a few lines, with advice for a device that waits."""
    from cdm_nnunet.nnunet.logger import loader_hint

    processes = counted(record["loader_processes"], "process", "processes")
    text = (
        f"loader: {record['patches_per_second']:.2f} patches per second ({processes})\n"
        f"step: {record['step_s']:.3f} s for a batch of {record['batch_size']} on {record['device']}\n"
        f"the device waits for the loader {100 * record['waiting_share']:.0f} % of the time\n"
        f"epoch: {record['epoch_s']:.0f} s; {counted(record['epochs'], 'epoch')}: {record['days']:.2g} days"
    )
    hint = loader_hint(record["waiting_share"], record["device"])
    return f"{text}\n{hint}" if hint else text
