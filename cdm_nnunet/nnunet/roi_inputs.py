"""Transfer of weights between ROI catalogues: the inputs are matched by ROI name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.plans import FIRST_WORD
from cdm_nnunet.roi import Catalogue


@dataclass(frozen=True)
class MatchedRois:
    """ROI inputs that two catalogues share, by name and kind.

    Attributes:
        taken: ROIs in both.
        new: ROIs only in the new catalogue; their weights start at zero.
        dropped: ROIs only in the old catalogue; their weights are dropped.
    """

    taken: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    @classmethod
    def of(cls, theirs: Catalogue, ours: Catalogue) -> MatchedRois:
        """Compare two catalogues."""
        one, two = ({roi.name: roi.kind for roi in catalogue.rois} for catalogue in (theirs, ours))
        taken = tuple(name for name, kind in two.items() if one.get(name) == kind)
        return cls(
            taken, tuple(name for name in two if name not in taken), tuple(name for name in one if name not in taken)
        )

    def text(self) -> str:
        """A line for the log.

        Example:
            >>> MatchedRois(("Brainstem",), ("External",), ()).text()
            'inputs of ROIs, by name: taken over Brainstem; new, from zero External; dropped none'
        """
        taken, new, dropped = (", ".join(names) or "none" for names in (self.taken, self.new, self.dropped))
        return f"inputs of ROIs, by name: taken over {taken}; new, from zero {new}; dropped {dropped}"


def with_matched_rois(
    weights: Mapping[str, Tensor], network: nn.Module, theirs: Catalogue, ours: Catalogue
) -> dict[str, Tensor]:
    """Adapt the layers that read the inputs to another catalogue.

    Args:
        weights: Weights of a model with the catalogue ``theirs``.
        network: Network with the catalogue ``ours``, otherwise identical.
        theirs: The catalogue of the weights.
        ours: The catalogue of the network.

    Returns:
        The same weights except in these layers, (features, 2 + K, z, y, x): CT, prescription and known ROIs keep
        their weights, new ROIs have zero.

    Raises:
        InputError: If a layer does not fit ``theirs``.
    """
    taken = MatchedRois.of(theirs, ours).taken
    inputs = _inputs_of(network)
    changed = dict(weights)
    for name in inputs & {*weights}:
        old = weights[name]
        if old.ndim < 2 or old.shape[1] != FIRST_WORD + len(theirs):
            raise InputError(f"its weights are not of its ROI catalogue: {name} has the shape {tuple(old.shape)}")
        new = torch.zeros((old.shape[0], FIRST_WORD + len(ours), *old.shape[2:]), dtype=old.dtype)
        new[:, :FIRST_WORD] = old[:, :FIRST_WORD]
        for roi in taken:
            new[:, FIRST_WORD + ours.bit(roi)] = old[:, FIRST_WORD + theirs.bit(roi)]
        changed[name] = new
    return changed


def _inputs_of(network: nn.Module) -> set[str]:
    """Names of the weights of the layers that read the inputs; nnU-Net lists one under several names."""
    fold, details = (getattr(network, name, None) for name in ("fold", "details"))
    root = fold if isinstance(fold, nn.Conv3d) else getattr(network, "encoder", network)
    first = next((module.weight for module in root.modules() if isinstance(module, nn.Conv3d)), None)
    reading = [weight for weight in (first, getattr(details, "weight", None)) if weight is not None]
    kept = network.state_dict(keep_vars=True).items()
    return {name for name, value in kept if any(value is weight for weight in reading)}
