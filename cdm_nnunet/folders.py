"""nnU-Net's three folders, named by environment variables, and data sets by number."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from cdm_nnunet.errors import InputError

FOLDER_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
TRAINER_VARIABLE = "nnUNet_extTrainer"
OUR_TRAINERS = str(Path(__file__).parent / "ext_trainers")
DEFAULT_ROOT = "nnunet_data"
DEFAULT_PLANS = "nnUNetPlans"
_RENAMED = {"3d_folded": "3d_packed"}  # earlier names of configurations: plans, models and commands keep them


def set_environment() -> dict[str, str]:
    """Set nnU-Net's environment variables that are not set yet.

    Folder variables get defaults below ``./nnunet_data``, and our trainers are added to those that nnU-Net finds.

    Returns:
        The four variables, with folders as absolute paths.
    """
    for variable in FOLDER_VARIABLES:
        if not os.environ.get(variable):
            os.environ[variable] = str(Path(DEFAULT_ROOT, variable).absolute())
    find_our_trainers()
    return {variable: os.environ[variable] for variable in (*FOLDER_VARIABLES, TRAINER_VARIABLE)}


def find_our_trainers() -> None:
    """Add our trainers to those that nnU-Net finds."""
    listed = [path for path in os.environ.get(TRAINER_VARIABLE, "").split(os.pathsep) if path]
    if OUR_TRAINERS not in listed:
        os.environ[TRAINER_VARIABLE] = os.pathsep.join([*listed, OUR_TRAINERS])


def folder(variable: str) -> Path:
    """Folder of one of nnU-Net's variables, which must be set.

    Raises:
        InputError: If the variable is not set.
    """
    value = os.environ.get(variable)
    if not value:
        raise InputError(f'{variable} is not set; run: eval "$(cdm-nnunet env)"')
    return Path(value)


def dataset_name(dataset_id: int, name: str) -> str:
    """nnU-Net's folder name of a data set.

    Raises:
        InputError: If the number is not 1 to 999 or the name has characters other than letters, digits, ``_``, ``-``.

    Example:
        >>> dataset_name(501, "OpenKBP")
        'Dataset501_OpenKBP'
    """
    if not 1 <= dataset_id <= 999:
        raise InputError(f"a dataset id is a number from 1 to 999, not {dataset_id}")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InputError(f"a dataset name has letters, digits, '_' and '-' only, not '{name}'")
    return f"Dataset{dataset_id:03d}_{name}"


def dataset_number(name: str) -> int | None:
    """The number in nnU-Net's folder name of a data set; None for other names.

    Example:
        >>> dataset_number("Dataset501_OpenKBP")
        501
    """
    found = re.match(r"Dataset(\d{3})_", name)
    return int(found[1]) if found else None


def dataset_names(number: int) -> set[str]:
    """Names in nnU-Net's folders with the number of a data set."""
    roots = [Path(os.environ[variable]) for variable in FOLDER_VARIABLES if os.environ.get(variable)]
    return {path.name for root in roots for path in root.glob(f"Dataset{number:03d}_*") if path.is_dir()}


def configuration_in(there: Collection[str], name: str) -> str:
    """The name of a configuration in plans or models; earlier and current names are equivalent.

    Args:
        there: Names of the existing configurations.
        name: The requested name.

    Returns:
        One of ``there``, or ``name`` if it is not among them.

    Example:
        >>> configuration_in(["3d_packed"], "3d_folded"), configuration_in(["3d_folded"], "3d_packed")
        ('3d_packed', '3d_folded')
    """
    same = {name, *(pair for earlier, now in _RENAMED.items() for pair in (earlier, now) if name in (earlier, now))}
    return name if name in there else next((other for other in same if other in there), name)


def find_dataset(dataset_id: int, variable: str = "nnUNet_raw") -> Path:
    """The folder of a data set in one of the nnU-Net folders.

    Raises:
        InputError: If there is none, or several share the number.
    """
    root = folder(variable)
    found = sorted(path for path in root.glob(f"Dataset{dataset_id:03d}_*") if path.is_dir())
    if not found:
        raise InputError(f"no dataset {dataset_id} in {root} ({variable}); is the variable right, was it converted?")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"dataset id {dataset_id} is used {len(found)} times in {root}: {names}; rename or remove one")
    return found[0]
