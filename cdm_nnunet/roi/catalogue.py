"""The ROI catalogue of a data set: the bit, kind and left-right partner of each ROI."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict

from cdm_nnunet.documents import typed
from cdm_nnunet.errors import InputError
from cdm_nnunet.roi.bits import bit_dtype, n_words

RoiKind = Literal["target", "oar", "external", "dose_region", "other"]
Side = Literal["L", "R"]
_SIDE = re.compile(r"(?<!^VB)_([LR])(?=$|-[A-Za-z]*TV$)")


def side_of(name: str) -> Side | None:
    """The side of the body that a TG-263 name ends with, before a subtracted target.

    Example:
        >>> side_of("OpticNrv_PRV03_L"), side_of("Parotid_R-PTV"), side_of("Brainstem")
        ('L', 'R', None)
        >>> side_of("VB_L")  # (the lumbar vertebrae)
    """
    match = _SIDE.search(name)
    return None if match is None else ("L" if match[1] == "L" else "R")


def mirror_name(name: str) -> str | None:
    """The name of the partner on the other side of the body, None for a name without a side.

    Example:
        >>> mirror_name("Parotid_L"), mirror_name("Parotid_R-PTV"), mirror_name("Larynx")
        ('Parotid_R', 'Parotid_L-PTV', None)
    """
    if side_of(name) is None:
        return None
    return _SIDE.sub(lambda match: "_R" if match[1] == "L" else "_L", name)


@dataclass(frozen=True)
class Roi:
    """One region of interest.

    Attributes:
        name: TG-263 name, unique in the catalogue.
        kind: ``target`` (PTV, CTV, GTV), ``oar``, ``external`` (body outline), ``dose_region`` (where dose can be;
            outside it dose is zero by definition; OpenKBP's ``possible_dose_mask``) or ``other``.
        mirror: Name of the ROI that this one becomes when left and right are swapped, or None if it maps to itself.
    """

    name: str
    kind: RoiKind
    mirror: str | None = None


class _Entry(BaseModel):
    """An ROI in JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    bit: int
    kind: RoiKind
    mirror: str | None


@dataclass(frozen=True)
class Catalogue:
    """The ROIs of a data set in bit order: ``rois[k]`` is bit ``k``.

    Raises:
        InputError: If it is empty or has over 64 ROIs, a name appears twice, a kind is unknown, there are several
            ``external`` or ``dose_region`` ROIs, or mirror partners do not point at each other.

    Example:
        >>> catalogue = Catalogue((Roi("Parotid_L", "oar", "Parotid_R"), Roi("Parotid_R", "oar", "Parotid_L")))
        >>> catalogue.bit("Parotid_R"), catalogue.mirror_permutation
        (1, (1, 0))
    """

    rois: tuple[Roi, ...]

    def __post_init__(self) -> None:
        bit_dtype(len(self.rois))  # refuses none and more than 64
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"ROI '{name}' is in the catalogue {names.count(name)} times")
        for roi in self.rois:
            if roi.kind not in get_args(RoiKind):
                raise InputError(f"ROI '{roi.name}' has kind '{roi.kind}'; known are {', '.join(get_args(RoiKind))}")
            if roi.mirror is not None and (
                roi.mirror not in names or self.rois[names.index(roi.mirror)].mirror != roi.name
            ):
                raise InputError(f"ROI '{roi.name}' has mirror partner '{roi.mirror}', which does not point back at it")
        kinds = [roi.kind for roi in self.rois]
        for kind in ("external", "dose_region"):
            if kinds.count(kind) > 1:
                raise InputError(f"a catalogue has at most one ROI of kind '{kind}', not {kinds.count(kind)}")

    def __len__(self) -> int:
        return len(self.rois)

    @property
    def names(self) -> tuple[str, ...]:
        """ROI names in bit order."""
        return tuple(roi.name for roi in self.rois)

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Type of the packed channel."""
        return bit_dtype(len(self.rois))

    @property
    def n_words(self) -> int:
        """Number of 16-bit words."""
        return n_words(len(self.rois))

    @property
    def one_sided(self) -> tuple[str, ...]:
        """ROIs that by their name belong to one side of the body and have no partner on the other side."""
        return tuple(roi.name for roi in self.rois if roi.mirror is None and side_of(roi.name) is not None)

    @cached_property
    def mirror_permutation(self) -> tuple[int, ...] | None:
        """After a left-right flip of the volume, bit ``k`` is what bit ``mirror_permutation[k]`` was.

        None if there is no such flip: a mirrored ``Breast_L`` is a right breast, which a catalogue without
        ``Breast_R`` can't name.
        """
        return None if self.one_sided else tuple(self.bit(roi.mirror or roi.name) for roi in self.rois)

    @property
    def dose_region_bit(self) -> int | None:
        """Bit of the ROI outside which dose is zero by definition, or None if the catalogue has none."""
        return next((k for k, roi in enumerate(self.rois) if roi.kind == "dose_region"), None)

    def bit(self, name: str) -> int:
        """Bit of the ROI called ``name``.

        Raises:
            InputError: If there is none, with the known names.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise InputError(f"no ROI '{name}' in the catalogue; it has {', '.join(self.names)}") from None

    def bits_of_kind(self, *kinds: RoiKind) -> tuple[int, ...]:
        """Bits of the ROIs of these kinds, ascending."""
        return tuple(k for k, roi in enumerate(self.rois) if roi.kind in kinds)

    def to_json(self) -> list[dict[str, Any]]:
        """JSON form in ``dataset.json``: one object per ROI, in bit order."""
        return [
            {"name": roi.name, "bit": bit, "kind": roi.kind, "mirror": roi.mirror} for bit, roi in enumerate(self.rois)
        ]

    @classmethod
    def from_json(cls, entries: Sequence[Mapping[str, Any]], where: str = "ROI catalogue") -> Catalogue:
        """The inverse of :meth:`to_json`.

        Args:
            entries: One object per ROI.
            where: Their name in messages.

        Raises:
            InputError: If bits are not 0, 1, 2, ... in order, a key is missing or unknown, or the catalogue is invalid.
        """
        rois = typed(entries, tuple[_Entry, ...], where)
        for position, entry in enumerate(rois):
            if entry.bit != position:
                raise InputError(f"{where}: entry {position} ('{entry.name}') claims bit {entry.bit}")
        return cls(tuple(Roi(entry.name, entry.kind, entry.mirror) for entry in rois))
