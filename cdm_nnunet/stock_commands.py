"""Refusal of nnU-Net's commands that treat a dose as a segmentation: one line that names the command to use.

They do not import this package: the names in ``dataset.json`` and plans are in nnU-Net's own package.
But they import torch, and torch calls the entry points of the group ``torch.backends`` when it is imported.
:func:`refuse_segmentation` is one of these. In every other process it returns at once.
(``nnUNetv2_move_plans_between_datasets`` imports no torch. What it writes is refused by training and prediction.)
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import FOLDER_VARIABLES

_RECORDS = "*.prediction.json"
T = TypeVar("T")


@dataclass(frozen=True)
class _Command:
    """A command of nnU-Net with its arguments.

    Attributes:
        use: The command to use instead.
        takes: Arguments with a value: name and number (``+`` for one or more, None for one).
        data_sets: Arguments that name a data set.
        places: Arguments that name a file or folder.
        trainer: The argument that names a trainer, if only segmentation trainers are refused.
        without: Options that make no sense for dose, with the reason.
    """

    use: str
    takes: Mapping[str, str | None]
    data_sets: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    trainer: str = ""
    without: Mapping[str, str] = field(default_factory=dict)


_PLAN = "use: cdm-nnunet plan -d {number}"
_PLANNING = {
    **dict.fromkeys(("-d", "-c", "-np", "-overwrite_target_spacing"), "+"),
    **dict.fromkeys(("-pl", "-fpe", "-npfp", "-gpu_memory_target", "-preprocessor_name"), None),
    **dict.fromkeys(("-overwrite_plans_name", "-plans_name"), None),
}
_FOLDERS = dict.fromkeys(("gt_folder", "pred_folder", "-o", "-np"), None)
_FILES = dict.fromkeys(("-plans_json", "-dataset_json", "-np"), None)
_NO_COMPONENTS = "a dose has no components to remove; use: cdm-nnunet evaluate"
_COMMANDS: Mapping[str, _Command] = MappingProxyType(
    {
        "nnUNetv2_extract_fingerprint": _Command(_PLAN, _PLANNING, ("d",)),
        "nnUNetv2_plan_experiment": _Command(_PLAN, _PLANNING, ("d",)),
        "nnUNetv2_plan_and_preprocess": _Command(_PLAN, _PLANNING, ("d",)),
        "nnUNetv2_preprocess": _Command("use: cdm-nnunet preprocess -d {number}", _PLANNING, ("d",)),
        "nnUNetv2_train": _Command(
            "name a trainer for dose: -tr nnUNetTrainerCDM",
            dict.fromkeys(
                ("data_set", "configuration", "fold", "-tr", "-p", "-pretrained_weights", "-num_gpus", "-device"), None
            ),
            ("data_set",),
            trainer="tr",
            without={"--npz": "a dose has no class probabilities"},
        ),
        "nnUNetv2_find_best_configuration": _Command(
            "use: cdm-nnunet find-best -d {number}",
            {"data_set": None, **dict.fromkeys(("-p", "-c", "-tr", "-f"), "+"), "-np": None},
            ("data_set",),
        ),
        "nnUNetv2_accumulate_crossval_results": _Command(
            "use: cdm-nnunet find-best -d {number}",
            {**dict.fromkeys(("data_set", "-c", "-o", "-p", "-tr"), None), "-f": "+"},
            ("data_set",),
        ),
        "nnUNetv2_plot_overlay_pngs": _Command(
            "use: cdm-nnunet evaluate, whose report shows dose and ROIs",
            dict.fromkeys(("-d", "-o", "-np", "-channel_idx", "-overlay_intensity", "-p", "-c"), None),
            ("d",),
        ),
        "nnUNetv2_ensemble": _Command("use: cdm-nnunet ensemble", {"-i": "+", "-o": None, "-np": None}, places=("i",)),
        "nnUNetv2_evaluate_folder": _Command(
            "use: cdm-nnunet evaluate",
            {**_FOLDERS, "-djfile": None, "-pfile": None},
            places=("gt_folder", "pred_folder", "djfile", "pfile"),
        ),
        "nnUNetv2_evaluate_simple": _Command(
            "use: cdm-nnunet evaluate", {**_FOLDERS, "-l": "+", "-il": None}, places=("gt_folder", "pred_folder")
        ),
        "nnUNetv2_determine_postprocessing": _Command(
            _NO_COMPONENTS,
            {**_FILES, "-i": None, "-ref": None},
            places=("i", "ref", "plans_json", "dataset_json"),
        ),
        "nnUNetv2_apply_postprocessing": _Command(
            _NO_COMPONENTS,
            {**_FILES, "-i": None, "-o": None, "-pp_pkl_file": None},
            places=("i", "plans_json", "dataset_json"),
        ),
    }
)


def refuse_segmentation() -> None:
    """End the process if it is a command of nnU-Net that treats a dose as a segmentation.

    Torch calls it in every process that imports torch, so it does nothing in others, and raises only
    :class:`SystemExit` with status 2, after one line on stderr.
    """
    program, *arguments = getattr(sys, "argv", None) or [""]
    name = Path(program).stem
    if name not in _COMMANDS or {"-h", "--help"} & set(arguments):
        return
    reason = _refusal(_COMMANDS[name], arguments)
    if reason:
        print(f"{name}: error: {reason}", file=sys.stderr)  # noqa: T201  # (there is no command line of ours here)
        raise SystemExit(2)


def _refusal(command: _Command, arguments: Sequence[str]) -> str | None:
    """Reason why a command must not run, and what to use instead."""
    given = _parsed(command, arguments)
    for key in command.data_sets:
        for data_set in _listed(given.get(key)):
            found = _dose_data_set(data_set)
            if found and command.trainer and _is_not_stock(given.get(command.trainer)):
                return _senseless(command, arguments)
            if found:
                use = command.use.format(number=int(found[7:10]))
                return f"{found} is for dose prediction, and this command is for segmentation; {use}"
    for key in command.places:
        for place in _listed(given.get(key)):
            if _is_of_dose(Path(place)):
                return f"{place} is of dose prediction, and this command is for segmentation; {command.use}"
    return None


def _senseless(command: _Command, arguments: Sequence[str]) -> str | None:
    """The first option that makes no sense for dose; it may be abbreviated."""
    for option, reason in command.without.items():
        if any(len(argument) > 2 and option.startswith(argument) for argument in arguments):
            return f"{option}: {reason}; leave the option out"
    return None


class _Incomplete(Exception):  # noqa: N818  # (not our error: nnU-Net's parser reports what is missing)
    pass


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _Incomplete(message)


def _parsed(command: _Command, arguments: Sequence[str]) -> Mapping[str, Any]:
    """The arguments as nnU-Net reads them; empty if it will report an error."""
    parser = _Parser(add_help=False)
    for name, count in command.takes.items():
        parser.add_argument(name, nargs=count)
    try:
        return vars(parser.parse_known_args(list(arguments))[0])
    except _Incomplete:
        return {}


def _listed(value: str | list[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else value


def _dose_data_set(id_or_name: str) -> str | None:
    """Name of a data set if it is for dose."""
    number = id_or_name.removeprefix("Dataset")[:3] if id_or_name.startswith("Dataset") else id_or_name
    if not number.isdecimal():
        return None
    for variable in FOLDER_VARIABLES:
        roots = [Path(root) for root in (os.environ.get(variable),) if root]
        for path in (path for root in roots for path in sorted(root.glob(f"Dataset{int(number):03d}_*"))):
            if id_or_name in (number, path.name) and _has_our_section(path / "dataset.json"):
                return path.name
    return None


def _is_of_dose(place: Path) -> bool:
    """Whether a file, or a folder of images or predictions, belongs to dose prediction."""
    beside = [folder / name for folder in (place, place.parent) for name in ("dataset.json", "plans.json")]
    records: Iterable[Path] = _quietly(lambda: list(place.glob(_RECORDS)), ())
    return any(_has_our_section(path) for path in (place, *beside)) or any(records)


def _has_our_section(path: Path) -> bool:
    from cdm_nnunet.documents import read_json  # (only nnU-Net's commands reach this point)

    parsed: Mapping[str, Any] = _quietly(lambda: read_json(path, dict[str, Any]), {})
    section = parsed.get("cdm")
    return isinstance(section, dict) and "catalogue" in section


def _is_not_stock(trainer: str | None) -> bool:
    """Whether a trainer is not one of nnU-Net's own, which are all for segmentation."""
    text = f"class {trainer or 'nnUNetTrainer'}("
    folders = [Path(path, "training", "nnUNetTrainer") for path in sys.modules["nnunetv2"].__path__]
    return not any(text in path.read_text(encoding="utf-8") for folder in folders for path in folder.rglob("*.py"))


def _quietly(read: Callable[[], T], otherwise: T) -> T:
    """Read what is possible; nnU-Net reports the rest."""
    try:
        return read()
    except (InputError, OSError, ValueError):
        return otherwise
