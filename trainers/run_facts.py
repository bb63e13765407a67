"""Software, data set and machine of a training, for the record of its curves."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch

import cdm_nnunet
from cdm_nnunet.nnunet.splits import SPLITS_FILE
from cdm_nnunet.parallel import usable_cores

_DATASET_FILES = ("dataset.json", "dataset_fingerprint.json", SPLITS_FILE)
_GIT_LIMIT_S = 10.0


def software_facts() -> Mapping[str, str]:
    """Versions, and the state of git if the package runs from a checkout."""
    names = ("nnunetv2", "torch", "numpy")
    return {"cdm_nnunet": cdm_nnunet.__version__, "git": git_state(), **{name: version(name) for name in names}}


def git_state(folder: Path = Path(cdm_nnunet.__file__).parent) -> str:
    """Commit of the checkout that contains a folder of sources, ``changed`` if files differ; empty without one."""
    if not _git(folder, "ls-files", "."):  # (an environment inside another project's checkout)
        return ""
    commit = _git(folder, "rev-parse", "HEAD")
    return f"{commit} changed" if _git(folder, "status", "--porcelain", "--untracked-files=no") else commit


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=_GIT_LIMIT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def dataset_digest(preprocessed: Path) -> str:
    """SHA-256 of the description of a data set and its folds: cases, ROIs, grids, values and splits.

    Args:
        preprocessed: The data set's folder of preprocessed data.
    """
    digest = hashlib.sha256()
    for name in _DATASET_FILES:
        path = preprocessed / name
        digest.update(f"{name}\0".encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()


def machine_facts(device: torch.device) -> Mapping[str, str | int]:
    """Host, system, processors and GPU."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    memory_gib = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": usable_cores(),
        "memory_gib": memory_gib,
        "gpu": gpu,
    }


def facts_text(facts: Mapping[str, Mapping[str, object]]) -> str:
    """Software, machine and data set in two lines for the log.

    Args:
        facts: With the groups ``software``, ``machine`` and ``training``.
    """
    groups = (
        ", ".join(f"{name} {value}" for name, value in facts[key].items() if value) for key in ("software", "machine")
    )
    return "\n".join((*groups, f"data set: SHA-256 {facts['training']['dataset_sha256']}"))
