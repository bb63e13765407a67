"""The file that nnU-Net finds through ``nnUNet_extTrainer``: it offers the trainers, which live in the package.

nnU-Net forgets the modules of this folder after its search; classes defined here could not be pickled.
"""

from typing import Any

from cdm_nnunet import trainers

__all__ = sorted(trainers.find_trainers())


def __getattr__(name: str) -> Any:
    """A trainer of the package, ``NAME_250epochs`` and the like among them."""
    if not name.startswith("nnUNetTrainer"):
        raise AttributeError(f"there is no trainer '{name}'")
    return getattr(trainers, name)
