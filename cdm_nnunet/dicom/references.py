"""The structure set of a course, and the CT that it was drawn on: by its images, otherwise by their series."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from cdm_nnunet.counting import counted
from cdm_nnunet.dicom.ct import read_ct
from cdm_nnunet.dicom.entry import FileEntry
from cdm_nnunet.dicom.file_choice import AMBIGUOUS, described
from cdm_nnunet.dicom.same_geometry import why_other_geometry
from cdm_nnunet.dicom.structures import StructureSet, read_structures
from cdm_nnunet.errors import InputError


def find_structures(
    found: Sequence[FileEntry],
    images: Sequence[FileEntry],
    plans: Sequence[FileEntry],
    doses: Sequence[FileEntry],
    needed: Collection[str],
    problems: list[str],
    notes: list[str],
) -> FileEntry | None:
    """The structure set of a course: the one of the plans; otherwise the only one on a CT and in the doses' frame.

    Args:
        found: Structure sets of the patient.
        images: CT images of the patient.
        plans: Plans of the course.
        doses: Doses of the course.
        needed: Modalities that the patient must have; without RTSTRUCT, several are not a problem.
        problems: Missing or ambiguous files are appended.
        notes: Remarks about ignored files are appended.
    """
    wanted = {uid for plan in plans for uid in plan.refers_to}
    if len(wanted) > 1:
        problems.append(f"the {len(plans)} plans to be summed were made on {len(wanted)} structure sets")
        return None
    named = [entry for entry in found if entry.sop_uid in wanted]
    if not named and wanted and found:
        problems.append("the structure set that the plan refers to is not in the folder, or was not chosen")
        return None
    candidates = named or _same_frame(found, doses)
    on_ct = [entry for entry in candidates if series_of(entry, images)]
    if 0 < len(on_ct) < len(candidates):
        notes.append(f"structure sets of other images than the CT ignored: {len(candidates) - len(on_ct)}")
        candidates = on_ct
    if len(candidates) == 1:
        return candidates[0]
    if "RTSTRUCT" in needed:
        known = described(candidates, lambda entry: entry.sop_uid)
        many = f"{len(candidates)} structure sets: {AMBIGUOUS.format('structures')}: there are {known}"
        problems.append(many if candidates else "no structure set (RTSTRUCT)")
    return None


def find_ct(
    found: Sequence[FileEntry], structures: FileEntry | None, problems: list[str], notes: list[str]
) -> list[FileEntry]:
    """Images of the CT that a structure set was drawn on: one series, or several that form one CT.

    Args:
        found: CT images of the patient.
        structures: The structure set; None takes the patient's only series.
        problems: Missing or ambiguous files are appended.
        notes: Remarks about ignored files are appended.
    """
    listed = structures is not None and bool(structures.refers_to or structures.images)
    candidates = _same_frame(found, [structures] if structures else [])
    if structures is not None and listed:
        series = series_of(structures, found) or _series_drawn_on(structures, found)
        candidates = [entry for entry in found if entry.series_uid in series]
    if listed and found and not candidates:
        problems.append(
            "the CT that the structure set was drawn on is not in the folder, or was not chosen; if it was exported "
            "again with other UIDs, --match-geometry takes it by its slices"
        )
        return []
    series = frozenset(entry.series_uid for entry in candidates)
    if len(series) > 1 and structures is not None and not (listed and _is_one_ct(candidates)):
        series = _series_drawn_on(structures, candidates) or series
        candidates = [entry for entry in candidates if entry.series_uid in series]
    if not series or (len(series) > 1 and not (listed and _is_one_ct(candidates))):
        known = described(candidates, lambda entry: entry.series_uid)
        many = f"{len(series)} CT series: {AMBIGUOUS.format('ct')}: there are {known}"
        problems.append(many if series else "no CT")
        return []
    _note_others(found, series, notes)
    return candidates


def refers_to_any(structures: FileEntry, images: Sequence[FileEntry]) -> bool:
    """Whether a structure set, or one of its contours, refers to any of the images by its UID."""
    uids = {entry.sop_uid for entry in images}
    return bool(uids & set(structures.images)) or bool(_series_drawn_on(structures, images))


def find_ct_by_geometry(
    found: Sequence[FileEntry], structures: FileEntry, problems: list[str], notes: list[str]
) -> list[FileEntry]:
    """Images of the only CT series whose slices match the contours, ignoring UIDs.

    Args:
        found: CT images of the patient.
        structures: The structure set.
        problems: The reason is appended if no series or several match.
        notes: A remark about the match is appended.
    """
    by_series: dict[str, list[FileEntry]] = {}
    for entry in found:
        by_series.setdefault(entry.series_uid, []).append(entry)
    fitting: list[list[FileEntry]] = []
    reasons: list[str] = []
    try:
        contours = read_structures(Path(structures.path))
        if len(contours.frames) > 1:
            raise InputError(
                f"the contours lie in {len(contours.frames)} frames of reference, and slices can't tell which of them "
                "is the CT's"
            )
        for images in by_series.values():
            reason = _why_not(contours, images)
            reasons.append(reason)
            if not reason:
                fitting.append(images)
    except InputError as error:
        reasons.append(str(error))
    if len(fitting) != 1:
        none = f"no CT has the slices of the contours: {'; '.join(reasons) or 'there is no CT'}"
        known = described([entry for images in fitting for entry in images], lambda entry: entry.series_uid)
        several = (
            f"{len(fitting)} CT series have the slices of the contours: {AMBIGUOUS.format('ct')}: there are {known}"
        )
        problems.append(several if fitting else none)
        return []
    slices = counted(len(fitting[0]), "slice")
    notes.append(f"the CT, of other UIDs than the contours', was taken by its {slices} (match geometry)")
    _note_others(found, frozenset({fitting[0][0].series_uid}), notes)
    return fitting[0]


def _why_not(contours: StructureSet, images: Sequence[FileEntry]) -> str:
    try:
        return why_other_geometry(contours, read_ct([Path(entry.path) for entry in images], pixels=False))
    except InputError as error:
        return str(error)


def _note_others(found: Sequence[FileEntry], taken: frozenset[str], notes: list[str]) -> None:
    others = len({entry.series_uid for entry in found} - taken)
    if others:
        notes.append(f"{others} other CT series ignored")


def _is_one_ct(images: Sequence[FileEntry]) -> bool:
    """Whether the images of several series form one CT, as consecutive blocks."""
    try:
        read_ct([Path(entry.path) for entry in images], pixels=False)
    except InputError:
        return False
    return True


def series_of(structures: FileEntry, images: Sequence[FileEntry]) -> frozenset[str]:
    """CT series that a structure set was drawn on, by the images that it lists, otherwise by the series."""
    listed = frozenset(structures.images)
    by_image = frozenset(entry.series_uid for entry in images if entry.sop_uid in listed)
    return by_image or frozenset(entry.series_uid for entry in images if entry.series_uid in structures.refers_to)


def _series_drawn_on(structures: FileEntry, images: Sequence[FileEntry]) -> frozenset[str]:
    """CT series with images that the contours themselves refer to; may be empty."""
    try:
        drawn_on = read_structures(Path(structures.path)).drawn_on
    except InputError:
        return frozenset()  # (reading it later reports the reason)
    return frozenset(entry.series_uid for entry in images if entry.sop_uid in drawn_on)


def _same_frame(found: Sequence[FileEntry], anchors: Iterable[FileEntry]) -> list[FileEntry]:
    frames = {entry.frame_uid for entry in anchors if entry.frame_uid}
    return [entry for entry in found if not frames or not entry.frame_uid or entry.frame_uid in frames]
