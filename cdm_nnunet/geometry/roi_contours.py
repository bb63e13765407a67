"""The contours of one ROI."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.counting import counted
from cdm_nnunet.errors import InputError


@dataclass(frozen=True, eq=False)
class RoiContours:
    """One ROI of a structure set.

    Attributes:
        number: ROINumber.
        name: ROIName, as in the file.
        kind: RTROIInterpretedType (``PTV``, ``ORGAN``, ``EXTERNAL``, ...); empty if absent.
        contours: Closed contours, each of shape (points, 3), LPS mm.
        unusable: Contours that enclose no area, as text, with their number: ``{"POINT": 3}``.
        frame_uid: Its frame of reference; empty if absent.
        exclusive: Which of the contours are to be combined by exclusive or (``CLOSEDPLANAR_XOR``), by index.
        remarks: How some contours were interpreted, as text.
        colour: Colour in the file, ``#rrggbb``; empty if absent.
    """

    number: int
    name: str
    kind: str
    contours: tuple[NDArray[np.float64], ...]
    unusable: dict[str, int]
    frame_uid: str
    exclusive: frozenset[int] = frozenset()
    remarks: tuple[str, ...] = ()
    colour: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether the ROI has no contours."""
        return not self.contours and not self.unusable

    @property
    def problem(self) -> str:
        """Reason why the ROI has no volume; empty if it has one."""
        if self.is_empty:
            return f"ROI '{self.name}' has no contours"
        if not self.contours:
            return f"ROI '{self.name}' encloses no volume: all it has are {self._unusable_text()}"
        return ""

    @property
    def note(self) -> str:
        """Ignored contours of an ROI with a volume, and interpretation of others; may be empty."""
        parts = [*([f"left out {self._unusable_text()}"] if self.unusable else []), *self.remarks]
        return f"ROI '{self.name}': {'; '.join(parts)}" if self.contours and parts else ""

    def refuse_without_volume(self) -> None:
        """Check that there is a closed contour.

        Raises:
            InputError: If there is none.
        """
        if self.problem:
            raise InputError(self.problem)

    def _unusable_text(self) -> str:
        singular = {what: what.replace("contours", "contour", 1) for what in self.unusable}
        return ", ".join(counted(count, singular[what], what) for what, count in self.unusable.items())
