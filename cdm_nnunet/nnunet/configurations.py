"""The planned configurations by name, and their names in earlier plans and models."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from cdm_nnunet.documents import read_json
from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import configuration_in, folder

FULL, PACKED, COARSE = "3d_fullres", "3d_packed", "3d_coarse"
CONFIGURATIONS = (FULL, PACKED, COARSE)


def known_configurations(names: Sequence[str]) -> list[str]:
    """Current names of configurations.

    Raises:
        InputError: If a configuration is unknown.
    """
    found = [configuration_in(CONFIGURATIONS, name) for name in names]
    for name in found:
        if name not in CONFIGURATIONS:
            raise InputError(f"unknown configuration '{name}'; there are {', '.join(CONFIGURATIONS)}")
    return found


def planned_names(dataset: str, plans_name: str) -> set[str]:
    """Configurations of existing plans.

    Raises:
        InputError: If the plans are missing or can't be read.
    """
    path = folder("nnUNet_preprocessed") / dataset / f"{plans_name}.json"
    return set(read_json(path, dict[str, Any], "run 'cdm-nnunet plan' again").get("configurations", {}))


def earlier_names(dataset: str, plans_name: str) -> set[str]:
    """Configurations of plans of this name, if they exist, and of models trained with such plans."""
    names: set[str] = set()
    with contextlib.suppress(InputError):  # (the variable may not be set yet)
        models = (folder("nnUNet_results") / dataset).glob(f"*__{plans_name}__*")
        names |= {model.name.rsplit("__", 1)[1] for model in models}
    with contextlib.suppress(InputError):  # (missing or damaged plans have no names; they are written again)
        names |= planned_names(dataset, plans_name)
    return names
