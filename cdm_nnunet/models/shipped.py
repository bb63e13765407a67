"""Models shipped with this software, and lookup of a model by name, folder or ZIP file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from cdm_nnunet.errors import InputError
from cdm_nnunet.models.members import MANIFEST


def shipped_models() -> dict[str, Path]:
    """Folders of the shipped models by name: each folder next to this file that contains a model."""
    here = Path(str(resources.files("cdm_nnunet.models")))
    return {path.name: path for path in sorted(here.iterdir()) if (path / MANIFEST).is_file()}


def find_model(name: str | Path) -> Path:
    """The folder or ZIP file of a model.

    Args:
        name: Name of a shipped model, or a path. A name without ``/`` means a shipped model if there is one.

    Raises:
        InputError: If there is no such model, or the name is that of a shipped model and of one in the current folder.
    """
    shipped = shipped_models()
    path = Path(name)
    if str(name) in shipped:
        if path.is_file() or (path / MANIFEST).is_file():
            raise InputError(f"'{name}' is a model that ships and one in this folder; for the latter write ./{name}")
        return shipped[str(name)]
    if path.exists():
        return path
    ships = f"these ship: {', '.join(shipped)}" if shipped else "no model ships with this version"
    raise InputError(f"no model {name}: give a folder, a ZIP file, or the name of a shipped model; {ships}")
