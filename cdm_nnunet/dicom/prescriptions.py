"""Prescriptions of a patient's plans, and their assignment to the targets of a template.

A plan prescribes to ROIs, or states a level for a site, a point or coordinates (DoseReferenceStructureType). Levels
are never guessed: each is the prescription of a target, confirms one, or is reported in a note; a level that
contradicts a given prescription is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cdm_nnunet.dicom.plan import Plan, Prescription
from cdm_nnunet.dicom.structures import StructureSet
from cdm_nnunet.errors import InputError

TOLERANCE_GY = 0.01  # levels that differ by less are equal
ROUNDING_GY = 0.1  # 33 x 2.12 Gy = 69.96 Gy is written as 70 Gy: the plan's number is used, with a note


@dataclass(frozen=True)
class StatedLevels:
    """Levels of a plan, or the totals of a course of several plans, in Gy.

    Attributes:
        of_rois: Levels by ROINumber, ascending; several if the plan contradicts itself.
        without_roi: Levels for a site, a point, coordinates, or an unnamed volume; ascending.
        parts: Levels by ROINumber that only some plans of a course prescribe: the total is at least
            this.
        labels: Names of the ROIs.
        notes: Levels that are not used.
        unclear: Levels without an ROI because the plan names two ROIs for one of them.
    """

    of_rois: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    without_roi: tuple[float, ...] = ()
    parts: Mapping[int, float] = field(default_factory=dict)
    labels: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()

    @property
    def all_gy(self) -> tuple[float, ...]:
        """All levels, ascending."""
        return _distinct([*self.without_roi, *(gy for levels in self.of_rois.values() for gy in levels)])

    @property
    def doubts(self) -> tuple[str, ...]:
        """Contradictions within the plan."""
        return tuple(
            f"the plan prescribes {_in_gy(levels)} to ROI '{self.labels[number]}'"
            for number, levels in self.of_rois.items()
            if len(levels) > 1
        )

    def by_name(self) -> dict[str, float]:
        """The highest level of each ROI by its name in the file, and of the whole plan, for a table."""
        found = {self.labels[number]: levels[-1] for number, levels in self.of_rois.items()}
        return found | ({"(no ROI)": self.without_roi[-1]} if self.without_roi else {})


@dataclass(frozen=True)
class GivenLevels:
    """Prescriptions from another source than the plan.

    Attributes:
        source: The source, for messages.
        levels_gy: Levels in Gy by name of the target.
        binding: Whether the plan must agree; otherwise the plan takes precedence, with a note.
    """

    source: str
    levels_gy: Mapping[str, float]
    binding: bool = True


@dataclass(frozen=True)
class Prescribed:
    """Prescriptions of a patient's targets.

    Attributes:
        levels_gy: Levels in Gy by name of the target.
        notes: Decisions, and levels that are not used.
    """

    levels_gy: Mapping[str, float]
    notes: tuple[str, ...]


def stated_levels(plans: Sequence[Plan], structures: StructureSet | None) -> StatedLevels:
    """Levels that the plans of a patient prescribe: of one plan, or the totals of a course.

    A level without an ROI belongs to the ROI that its description names. In a course, totals are known if every plan
    has one level for the ROI, or if every plan has only one level and no ROI.

    Args:
        plans: The plans.
        structures: Structure set with the names of the ROIs.

    Raises:
        InputError: If a plan of a course prescribes different doses to one ROI.
    """
    labels = {} if structures is None else {roi.number: roi.name for roi in structures.rois}
    single = [_levels_of(plan, structures, labels) for plan in plans]
    if len(single) == 1:
        return single[0]
    of_rois: dict[int, tuple[float, ...]] = {}
    parts: dict[int, float] = {}
    notes = [note for levels in single for note in levels.notes]
    for number in dict.fromkeys(number for levels in single for number in levels.of_rois):
        doses = [levels.of_rois.get(number, ()) for levels in single]
        label = next(levels.labels[number] for levels in single if number in levels.of_rois)
        labels[number] = label
        for plan, of_plan in zip(plans, doses, strict=True):
            if len(of_plan) > 1:
                raise InputError(f"plan '{plan.label}' prescribes {_in_gy(of_plan)} to ROI '{label}'; summed are plans")
        total = sum(of_plan[0] for of_plan in doses if of_plan)
        if all(doses):
            of_rois[number] = (total,)
        else:
            parts[number] = total
            without = ", ".join(f"'{plan.label}'" for plan, of_plan in zip(plans, doses, strict=True) if not of_plan)
            notes.append(f"ROI '{label}' is prescribed {total:g} Gy, and not at all by {without}: its total is unknown")
    loose = [levels.without_roi for levels in single]
    unclear = tuple(text for levels in single for text in levels.unclear)
    whole = all(len(levels.without_roi) == 1 and not levels.of_rois for levels in single) and len(single) > 0
    if not whole and any(loose):
        stated = ", ".join(f"'{plan.label}' {_in_gy(of)}" for plan, of in zip(plans, loose, strict=True) if of)
        notes.append(f"dose levels without an ROI, not summed: {stated}")
    return StatedLevels(of_rois, (sum(of[0] for of in loose),) if whole else (), parts, labels, tuple(notes), unclear)


def prescribe(
    stated: StatedLevels,
    targets: Mapping[str, int],
    given: Sequence[GivenLevels],
    *,
    needing: Collection[str] | None = None,
    left_out_gy: Collection[float] = (),
) -> Prescribed:
    """Assign prescriptions to the contoured targets: the plan's take precedence over given ones.

    A level without an ROI belongs to the only target if it is the plan's only level. Otherwise it must equal a given
    level. ``docs/dicom.md`` lists the rules in a table.

    Args:
        stated: Levels that the plans state.
        targets: ROINumber by name of each contoured target.
        given: Given levels in order of precedence; targets that are not contoured are ignored.
        needing: Targets that need a prescription in the template; None means all.
        left_out_gy: Levels of the plan that are excluded on purpose.

    Raises:
        InputError: If the plan contradicts itself or a given level, or its highest level belongs to no target.
    """
    if not targets:
        return Prescribed({}, stated.notes)
    notes = list(stated.notes)
    chosen = {roi: (gy, one) for one in reversed(given) for roi, gy in one.levels_gy.items() if roi in targets}
    planned = {roi: gy for roi, number in targets.items() if (gy := _of_roi(stated, roi, number, chosen, notes))}
    wanted = [roi for roi in targets if needing is None or roi in needing] or list(targets)
    if not stated.of_rois and len(wanted) == len(stated.without_roi) == 1:
        planned[wanted[0]] = stated.without_roi[0]
        notes.append(
            f"'{wanted[0]}', the only target, has the plan's {_in_gy(stated.without_roi)}, stated without an ROI"
        )
    for roi, (gy, by) in chosen.items():
        _compare(roi, gy, by, planned, stated.parts.get(targets[roi]), notes)
    found = {roi: gy for roi, (gy, _) in chosen.items()} | planned
    open_levels = {roi: f"'{roi}' {gy:g} Gy ({by.source})" for roi, (gy, by) in chosen.items() if roi not in planned}
    _refuse_loose(stated, found, open_levels, left_out_gy, notes)
    _refuse_unused(stated, set(targets.values()), found, left_out_gy, notes)
    unstated = [text for roi, text in open_levels.items() if stated.all_gy and not _among(found[roi], stated.all_gy)]
    if unstated:
        notes.append(f"prescriptions that the plan does not state: {', '.join(unstated)}")
    return Prescribed(found, tuple(notes))


def _levels_of(plan: Plan, structures: StructureSet | None, labels: Mapping[int, str]) -> StatedLevels:
    of_rois: dict[int, list[float]] = {}
    loose: list[float] = []
    unclear: list[str] = []
    known = dict(labels)
    for level in plan.prescriptions:
        number, named = _roi_number(level, structures), _named_roi(level, structures)
        if number is not None and named not in (None, number):
            roi = f"'{labels[number]}'" if number in labels else "not in the structure set"
            unclear.append(f"{level.dose_gy:g} Gy are for ROI number {number}, {roi}, and called '{level.description}'")
            number = None
        if number is None:
            loose.append(level.dose_gy)
        else:
            of_rois.setdefault(number, []).append(level.dose_gy)
            known.setdefault(number, level.description or f"ROI number {number}, which is not in the structure set")
    levels = {number: _distinct(doses) for number, doses in of_rois.items()}
    notes = (*plan.notes, *(f"an ROI that the plan names in two ways is not resolved: {text}" for text in unclear))
    return StatedLevels(levels, _distinct(loose), {}, known, notes, tuple(unclear))


def _roi_number(level: Prescription, structures: StructureSet | None) -> int | None:
    """ROI of a level; None if it has none, or is for a point."""
    rois = () if structures is None else structures.rois
    if level.roi_number is not None and level.structure_type != "POINT":
        marker = any(roi.number == level.roi_number and not roi.contours and roi.unusable for roi in rois)
        if not marker:
            return level.roi_number
    return _named_roi(level, structures)


def _named_roi(level: Prescription, structures: StructureSet | None) -> int | None:
    """The only ROI whose name is the description of a level."""
    named = {
        roi.number
        for roi in (() if structures is None else structures.rois)
        if roi.name.strip().casefold() == level.description.strip().casefold() and (roi.contours or not roi.unusable)
    }
    return named.pop() if len(named) == 1 else None


def _of_roi(
    stated: StatedLevels, roi: str, number: int, chosen: Mapping[str, tuple[float, GivenLevels]], notes: list[str]
) -> float | None:
    """The plan's level for a target; among several, the given one."""
    levels = stated.of_rois.get(number, ())
    if len(levels) < 2:
        return levels[0] if levels else None
    label = f"'{roi}' (ROI '{stated.labels[number]}')"
    given = [gy for gy in levels if roi in chosen and chosen[roi][1].binding and _among(chosen[roi][0], (gy,))]
    if len(given) != 1:
        raise InputError(
            f"the plan prescribes {_in_gy(levels)} to {label}: ambiguous; say which, for this patient, under "
            "'patients' of the mapping"
        )
    notes.append(f"the plan prescribes {_in_gy(levels)} to {label}; {given[0]:g} Gy are used ({chosen[roi][1].source})")
    return given[0]


def _compare(
    roi: str, gy: float, by: GivenLevels, planned: Mapping[str, float], part_gy: float | None, notes: list[str]
) -> None:
    """Check that given levels agree with the plan."""
    if part_gy is not None and gy < part_gy - ROUNDING_GY:
        raise InputError(
            f"{gy:g} Gy are given for '{roi}' ({by.source}), and some of the summed plans alone "
            f"prescribe {part_gy:g} Gy"
        )
    difference_gy = abs(planned.get(roi, gy) - gy)
    if difference_gy > ROUNDING_GY and by.binding:
        mend = " (null for this patient, under 'patients')" if by.source == "mapping" else ""
        raise InputError(
            f"the plan prescribes {planned[roi]:g} Gy to '{roi}', and {gy:g} Gy are given ({by.source}); leave one "
            f"out{mend}"
        )
    if difference_gy > TOLERANCE_GY:
        notes.append(f"'{roi}': the plan's {planned[roi]:g} Gy are used, not {gy:g} Gy ({by.source})")


def _refuse_loose(
    stated: StatedLevels,
    found: Mapping[str, float],
    open_levels: Mapping[str, str],
    left_out_gy: Collection[float],
    notes: list[str],
) -> None:
    """Compare the levels without an ROI with those of the targets."""
    if not stated.without_roi:
        return
    states = f"the plan states {_in_gy(stated.without_roi)} without an ROI"
    states += f" ({'; '.join(stated.unclear)})" if stated.unclear else ""
    odd = {roi: text for roi, text in open_levels.items() if not _among(found[roi], stated.all_gy)}
    unused = [gy for gy in stated.without_roi if not _among(gy, (*found.values(), *left_out_gy))]
    above = {roi: text for roi, text in odd.items() if found[roi] > max(stated.all_gy)}
    if (unused and (odd or _is_highest(unused[-1], stated))) or above:
        others = ", ".join((above or odd).values()) or ", ".join(f"'{roi}' {gy:g} Gy" for roi, gy in found.items())
        raise InputError(
            f"{states}, and the targets are given {others or 'none'}: say under 'patients' of the mapping what each "
            "target of this patient is prescribed"
        )
    if unused:
        notes.append(f"stated without an ROI, and not the prescription of a target: {_in_gy(unused)}")


def _refuse_unused(
    stated: StatedLevels,
    used: Collection[int],
    found: Mapping[str, float],
    left_out_gy: Collection[float],
    notes: list[str],
) -> None:
    """Report levels of ROIs that are not targets of the case; the plan's highest level must belong to a target."""
    for number, levels in stated.of_rois.items():
        if number in used:
            continue
        says = f"the plan prescribes {_in_gy(levels)} to ROI '{stated.labels[number]}', which is not a contoured target"
        unused = [gy for gy in levels if not _among(gy, (*found.values(), *left_out_gy))]
        if unused and _is_highest(unused[-1], stated):
            raise InputError(
                f"{says}, and no target has that dose: map it to a target of the template, give the dose to the target "
                "that it stands for, or list it under 'left_out_gy' of the mapping"
            )
        notes.append(f"{says}" + ("" if unused else "; a target has the same dose"))


def _distinct(doses_gy: Iterable[float]) -> tuple[float, ...]:
    found: list[float] = []
    for gy in sorted(doses_gy):
        if not found or gy - found[-1] > TOLERANCE_GY:
            found.append(gy)
    return tuple(found)


def _is_highest(gy: float, stated: StatedLevels) -> bool:
    return gy > stated.all_gy[-1] - ROUNDING_GY


def _among(gy: float, levels_gy: Iterable[float]) -> bool:
    return any(abs(gy - level) <= ROUNDING_GY for level in levels_gy)


def _in_gy(levels_gy: Iterable[float]) -> str:
    return " and ".join(f"{gy:g}" for gy in levels_gy) + " Gy"
