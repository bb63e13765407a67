"""Ranges of a model's training patients, and the comparison of a new patient with them.

A network gives a dose for any input. So the plans contain ranges of the training patients, and each new case is
compared with them: a value far beyond all training patients counts as a mistake and is refused, a case outside the
training data is refused unless it is allowed, and unusual values are reported. The limits and their reasons:
``docs/training.md``, "New patients", and ``docs/new_patient.md``, "Does the model apply?".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from cdm_nnunet.documents import typed
from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.case_facts import HU_PERCENTILES, CaseFacts
from cdm_nnunet.nnunet.plans import DosePlans
from cdm_nnunet.nnunet.reference_cases import MIN_CASES, ReferenceCases
from cdm_nnunet.nnunet.unlike import Counts, unlike_reference
from cdm_nnunet.prediction_record import Applicability, Finding
from cdm_nnunet.roi import Catalogue

SECTION = "cohort"  # of the section ``cdm`` of plans
Bounds = tuple[float, float]
_Spread = Annotated[tuple[Bounds, Bounds, Bounds], Field()]

_PRESCRIPTION_FACTOR = 2.0  # beyond this: another unit, or the dose of one fraction
_SIZE_FACTOR = 8.0  # of a voxel's edge: mm and cm are 10 apart; of a body's volume: twice the length on every axis
_HU_SHIFT = 300.0  # tolerance of the median; soft tissue differs by 50 HU between scanners, an offset is 1024 HU
_MIN_CONTRAST = 0.1  # of the smallest HU range of a training patient
_PRESCRIPTION_MARGIN = 0.02  # less than a fraction, more than rounding and rescaling of plans
_SPACING_MARGIN = 0.1
_VOLUME_FACTOR = 2.0  # observers differ by this much in small organs
# if there is a distribution, which judges values in between: of a target, and twice every length of an organ
_KNOWN_TARGET_FACTOR, _KNOWN_VOLUME_FACTOR = 4.0, 8.0
_OUTSIDE_PRESCRIPTION_FACTOR = 1.2  # of a target's own range: beyond this, it is another treatment
_HU_MARGINS = (100.0, 50.0, 200.0)  # of the percentiles: air and metal vary with the scanned region


class Cohort(BaseModel):
    """Ranges (lowest, highest) over the training cases; a section of the plans.

    Attributes:
        n_cases: Number of training cases.
        spacing_mm: Voxel size along z, y and x.
        hu: The percentiles 0.5, 50 and 99.5 of the CT inside the ROIs.
        hu_contrast: Distance of the outer percentiles.
        prescription_gy: By target; only targets with a prescription.
        volume_cc: By ROI; only contoured ROIs.
        contoured: Number of cases in which each ROI was contoured.
        reference: Distributions; None for few cases and in plans of earlier versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    n_cases: int = Field(ge=1)
    spacing_mm: _Spread
    hu: _Spread
    hu_contrast: Bounds
    prescription_gy: Mapping[str, Bounds] = Field(min_length=1)
    volume_cc: Mapping[str, Bounds] = Field(min_length=1)
    contoured: Mapping[str, int]
    reference: ReferenceCases | None = None

    @classmethod
    def of(cls, cases: Sequence[CaseFacts]) -> Cohort:
        """Ranges of one or more cases."""
        volumes = [case.volumes_cc for case in cases]
        return cls(
            n_cases=len(cases),
            spacing_mm=_by_position([case.spacing_mm for case in cases]),
            hu=_by_position([case.hu for case in cases]),
            hu_contrast=_bounds([case.hu[-1] - case.hu[0] for case in cases]),
            prescription_gy=_by_name([case.prescriptions_gy for case in cases]),
            volume_cc=_by_name(volumes),
            contoured={name: sum(name in known for known in volumes) for name in _names(volumes)},
            reference=ReferenceCases.of(cases),
        )

    @classmethod
    def of_plans(cls, plans: DosePlans) -> Cohort | None:
        """Section of plans; None in plans of versions before it existed.

        Raises:
            InputError: If it is damaged.
        """
        section = plans.plans["cdm"].get(SECTION)
        where = f"plans '{plans.plans.get('plans_name')}', {SECTION}"
        return None if section is None else typed(section, cls, where, "plan and train again")

    def to_json(self) -> dict[str, Any]:
        """Content for the plans."""
        return self.model_dump(mode="json")

    def compare(self, case: CaseFacts, catalogue: Catalogue) -> Applicability:
        """Compare a new case with the training cases.

        Args:
            case: The new case.
            catalogue: Kinds of the ROIs.

        Returns:
            Whether the model applies, and the differences from the training cases.

        Raises:
            InputError: If a value is so far outside their range that it must be a mistake.
        """
        self._refuse_missing_body(case, catalogue)
        self._refuse_mistakes(case, catalogue)
        findings = [*self._unusual_values(case), *self._unusual_rois(case, catalogue)]
        if self.reference is None:
            return Applicability.of(findings, "ranges", self.n_cases)
        counts = Counts(self.n_cases, self.contoured)
        findings += unlike_reference(self.reference, case, catalogue, counts)
        if self.reference.is_earlier:
            return Applicability.of(findings, "earlier distributions", self.n_cases)
        return Applicability.of(findings, "distributions", self.n_cases)

    def _refuse_mistakes(self, case: CaseFacts, catalogue: Catalogue) -> None:
        low_gy, high_gy = _bounds([level for bounds in self.prescription_gy.values() for level in bounds])
        for name, level_gy in case.prescriptions_gy.items():
            if not _within((low_gy, high_gy), level_gy, _PRESCRIPTION_FACTOR):
                raise InputError(
                    f"{level_gy:g} Gy for '{name}': the model was trained on {_said((low_gy, high_gy), 'Gy')} and "
                    "can't predict a dose that far from it; is it the total dose in Gy?"
                )
        for axis, bounds, size_mm in zip("zyx", self.spacing_mm, case.spacing_mm, strict=True):
            if not _within(bounds, size_mm, _SIZE_FACTOR):
                raise InputError(
                    f"the voxel size along {axis} is {size_mm:g} mm; the model was trained on {_said(bounds, 'mm')}; "
                    "is the header right?"
                )
        low_hu, median_hu, high_hu = case.hu
        lowest, highest = self.hu[1]
        if not lowest - _HU_SHIFT <= median_hu <= highest + _HU_SHIFT:
            raise InputError(
                f"the CT inside the ROIs has a median of {median_hu:.0f} HU; the model was trained on "
                f"{_said(self.hu[1], 'HU')}; is the CT shifted or scaled?"
            )
        if high_hu - low_hu < _MIN_CONTRAST * self.hu_contrast[0]:
            raise InputError(
                f"the CT inside the ROIs lies between {low_hu:.0f} and {high_hu:.0f} HU; in training it spanned at "
                f"least {self.hu_contrast[0]:.0f} HU; is it a CT in HU?"
            )
        for bit in catalogue.bits_of_kind("external", "dose_region"):
            self._refuse_other_body(catalogue.names[bit], case)

    def _refuse_missing_body(self, case: CaseFacts, catalogue: Catalogue) -> None:
        for bit in catalogue.bits_of_kind("external", "dose_region"):
            roi = catalogue.rois[bit]
            if roi.name not in case.volumes_cc and self.contoured.get(roi.name) == self.n_cases:
                raise InputError(
                    f"'{roi.name}' ({roi.kind}) is not contoured, and was in all {self.n_cases} training cases"
                )

    def _refuse_other_body(self, name: str, case: CaseFacts) -> None:
        known, volume_cc = self.volume_cc.get(name), case.volumes_cc.get(name)
        if known is not None and volume_cc is not None and not _within(known, volume_cc, _SIZE_FACTOR):
            raise InputError(
                f"'{name}' has {volume_cc:.4g} cc; the model was trained on {_said(known, 'cc')}; is the voxel size "
                "right?"
            )

    def _unusual_values(self, case: CaseFacts) -> Iterator[Finding]:
        for name, level_gy in case.prescriptions_gy.items():
            known = self.prescription_gy.get(name)
            if known is None:
                yield Finding(
                    text=f"'{name}' has a prescription of {level_gy:g} Gy, and had none in training",
                    value=level_gy,
                    unit="Gy",
                )
            elif not _within(known, level_gy, 1 + _PRESCRIPTION_MARGIN):
                far = not _within(known, level_gy, _OUTSIDE_PRESCRIPTION_FACTOR)
                text = f"{level_gy:g} Gy for '{name}' (in training {_said(known, 'Gy')})"
                yield _beyond(text, level_gy, "Gy", known, is_outside=far)
        for axis, bounds, size_mm in zip("zyx", self.spacing_mm, case.spacing_mm, strict=True):
            if not _within(bounds, size_mm, 1 + _SPACING_MARGIN):
                text = f"a voxel size of {size_mm:.3g} mm along {axis} (in training {_said(bounds, 'mm')})"
                yield _beyond(text, size_mm, "mm", bounds)
        if self.reference is not None and not self.reference.is_earlier:
            return  # (the distributions judge the CT)
        for percent, bounds, margin, hu in zip(HU_PERCENTILES, self.hu, _HU_MARGINS, case.hu, strict=True):
            if not bounds[0] - margin <= hu <= bounds[1] + margin:
                text = (
                    f"{percent:g} % of the CT inside the ROIs lie below {hu:.0f} HU (in training {_said(bounds, 'HU')})"
                )
                yield _beyond(text, hu, "HU", bounds)

    def _unusual_rois(self, case: CaseFacts, catalogue: Catalogue) -> Iterator[Finding]:
        for name, volume_cc in case.volumes_cc.items():
            known = self.volume_cc.get(name)
            if known is None:
                yield Finding(text=f"'{name}' is contoured, but was in no training case: the model has not learnt it")
            elif not _within(known, volume_cc, self._volume_factor(name, catalogue)):
                text = f"'{name}' has {volume_cc:.3g} cc (in training {_said(known, 'cc')})"
                yield _beyond(text, volume_cc, "cc", known)
        for name, n in self.contoured.items():
            if n == self.n_cases and name not in case.volumes_cc:
                yield Finding(
                    text=f"'{name}' is not contoured, and was in all {n} training cases",
                    is_outside=_is_target(name, catalogue) and n >= MIN_CASES,
                )

    def _volume_factor(self, name: str, catalogue: Catalogue) -> float:
        if self.reference is None:
            return _VOLUME_FACTOR
        return _KNOWN_TARGET_FACTOR if _is_target(name, catalogue) else _KNOWN_VOLUME_FACTOR


def _is_target(name: str, catalogue: Catalogue) -> bool:
    return name in catalogue.names and catalogue.rois[catalogue.bit(name)].kind == "target"


def _beyond(text: str, value: float, unit: str, bounds: Bounds, *, is_outside: bool = False) -> Finding:
    """A value beyond a range."""
    percentile = 0.0 if value < bounds[0] else 100.0
    return Finding(
        text=text, value=value, unit=unit, percentile=percentile, training=list(bounds), is_outside=is_outside
    )


def _bounds(values: Sequence[float]) -> Bounds:
    return float(min(values)), float(max(values))


def _by_position(rows: Sequence[Sequence[float]]) -> tuple[Bounds, Bounds, Bounds]:
    first, second, third = (_bounds(column) for column in zip(*rows, strict=True))
    return first, second, third


def _names(rows: Sequence[Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _by_name(rows: Sequence[Mapping[str, float]]) -> dict[str, Bounds]:
    return {name: _bounds([row[name] for row in rows if name in row]) for name in _names(rows)}


def _within(bounds: Bounds, value: float, factor: float) -> bool:
    return bounds[0] / factor <= value <= bounds[1] * factor


def _said(bounds: Bounds, unit: str) -> str:
    low, high = (f"{value:.3g}" for value in bounds)
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"
