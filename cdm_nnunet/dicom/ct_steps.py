"""Checks that CT images form one scan without gaps, by positions, InstanceNumbers and acquisition times.

Two merged scans look like one with finer slices, and missing images like a change of spacing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.errors import InputError

EQUAL_MM = 0.101  # steps that differ by less, such as by rounding to a tenth, are equal, ...
EQUAL_PART = 0.02  # ... or by less than this part
WIDE = 1.5  # a step this many times a neighbouring one needs an explanation
WIDEST_MM = 10.0
_APART_MM = 0.4  # slices of a clinical CT are at least this far apart
_RUN = 3  # this many equal steps in a row prove a change of the spacing
_SCAN = 3  # minimum number of images in a pass of the scanner
_MOST_PASSES = 4  # more passes mean that the numbers are in no order, ...
_IN_PASSES = 0.8  # ... as does a smaller share of the images in one pass
_PAUSE_S = 30.0  # minimum pause between two scans of a session
_MIXED = 0.75  # share of the steps between images of different scans if two scans are interleaved
_TWICE = (1.8, 2.2)  # thickness over distance; the same for two merged scans half a slice apart
_MOST_NAMED = 4


@dataclass(frozen=True, eq=False)
class CtOrder:
    """The images of a CT, from feet to head.

    Attributes:
        heights_mm: Positions along z, ascending, shape (n,).
        labels: Texts that distinguish acquisitions, by name: one per image, empty if absent.
        numbers: InstanceNumber of the images, None if absent.
        times_s: Times of the images, by the name of the element; NaN if absent.
        thickness_mm: SliceThickness, NaN if absent.
    """

    heights_mm: NDArray[np.float64]
    labels: dict[str, Sequence[str]]
    numbers: Sequence[int | None]
    times_s: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    thickness_mm: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))


def step_notes(order: CtOrder) -> list[str]:
    """Check that the images belong to one scan, and that none is missing as far as the headers show.

    A wide step is a change of the spacing if InstanceNumber is consecutive across it. Without usable numbers, it takes
    three equal steps.

    Returns:
        Unusual properties of the series.

    Raises:
        InputError: If two scans are interleaved, or an image is missing.
    """
    for what, values in order.labels.items():
        _refuse_alternating(order, what, values)
    for what, times_s in order.times_s.items():
        _refuse_two_sessions(order, what, times_s)
    notes = _overlap_notes(order)
    steps_mm = np.diff(order.heights_mm)
    _refuse_one_place(order, steps_mm)
    numbers = _usable_numbers(order)
    runs = _runs(steps_mm)
    sizes_mm = [float(steps_mm[start:end].mean()) for start, end in runs]
    for k, (start, end) in enumerate(runs):
        neighbours_mm = [sizes_mm[j] for j in (k - 1, k + 1) if 0 <= j < len(runs)]
        if neighbours_mm and sizes_mm[k] > WIDE * min(neighbours_mm):
            _refuse_missing(order, (start, end), numbers, len(_distinct(sizes_mm)))
    if steps_mm.size > 1 and np.ptp(steps_mm) > EQUAL_MM:
        shown = " and ".join(f"{size:.4g}" for size in _distinct(sizes_mm))
        if len(_distinct(sizes_mm)) > 2:
            shown = f"{steps_mm.min():.4g} to {steps_mm.max():.4g}"
        notes.append(f"the slices of the CT are {shown} mm apart; in between, values are interpolated linearly")
        notes += _stretch_notes(order, runs, sizes_mm, numbers is not None)
    return notes


def _stretch_notes(
    order: CtOrder, runs: Sequence[tuple[int, int]], sizes_mm: Sequence[float], is_numbered: bool
) -> list[str]:
    """Stretches in which the slices are farther apart than elsewhere."""
    wide = [(run, size) for run, size in zip(runs, sizes_mm, strict=True) if size > WIDE * min(sizes_mm)]
    if not wide:
        return []
    places = [
        f"{size:.4g} mm from z = {order.heights_mm[start]:g} to {order.heights_mm[end]:g} mm"
        for (start, end), size in wide[:_MOST_NAMED]
    ]
    places += ["..."] if len(wide) > _MOST_NAMED else []
    text = f"wide steps of the CT: {', '.join(places)}"
    if is_numbered:
        return [text]
    return [f"unusual: {text}; without InstanceNumber nothing shows whether images are missing there"]


def _overlap_notes(order: CtOrder) -> list[str]:
    """Note images about twice as thick as their distance: they overlap, or two scans were merged."""
    thickness_mm = order.thickness_mm
    if order.heights_mm.size <= _SCAN or not np.isfinite(thickness_mm).any():
        return []
    step_mm, usual_mm = float(np.median(np.diff(order.heights_mm))), float(np.nanmedian(thickness_mm))
    if not _TWICE[0] <= usual_mm / step_mm <= _TWICE[1]:
        return []
    return [
        f"the images of the CT are {usual_mm:.4g} mm thick and {step_mm:.4g} mm apart: they overlap, or two scans were "
        "merged into one series"
    ]


def _refuse_two_sessions(order: CtOrder, what: str, times_s: NDArray[np.float64]) -> None:
    """Check by their times that the images do not come from two passes over one region with a pause in between."""
    if not np.isfinite(times_s).all():
        return
    by_time = np.argsort(times_s, kind="stable")
    pauses_s = np.diff(times_s[by_time])
    if pauses_s.size < 2 * _SCAN or pauses_s.max() < _PAUSE_S:
        return
    at = int(pauses_s.argmax()) + 1
    before, after = np.sort(by_time[:at]), np.sort(by_time[at:])
    low, high = max(before[0], after[0]), min(before[-1], after[-1])
    changes = np.count_nonzero(np.diff(np.isin(np.arange(by_time.size), after)))
    if high - low >= 2 * _SCAN and changes >= _MIXED * (high - low):
        raise InputError(
            f"images of two scans are interleaved ({what}, {pauses_s.max():.0f} s apart) from z = "
            f"{order.heights_mm[low]:g} to {order.heights_mm[high]:g} mm; keep the images of one"
        )


def _refuse_one_place(order: CtOrder, steps_mm: NDArray[np.float64]) -> None:
    """Check that no two images lie at the same position, up to rounding."""
    at = int(steps_mm.argmin()) if steps_mm.size else 0
    if steps_mm.size and steps_mm[at] <= EQUAL_MM and steps_mm.max() > _APART_MM:
        raise InputError(
            f"two images lie only {steps_mm[at]:.2g} mm apart, at z = {order.heights_mm[at]:g} mm: one of them is "
            "a duplicate or from another scan; keep the images of one"
        )


def _refuse_missing(order: CtOrder, run: tuple[int, int], numbers: NDArray[np.int64] | None, n_sizes: int) -> None:
    """Check a run of steps that are wider than their neighbours."""
    start, end = run
    steps_mm = np.diff(order.heights_mm)
    jumps = np.zeros(0, np.int64) if numbers is None else np.abs(np.diff(numbers))
    skipped = [k for k in range(start, end) if jumps.size and jumps[k] > np.median(jumps)]
    known = numbers is not None and n_sizes == 2
    if not skipped and (end - start >= _RUN or known) and steps_mm[start:end].max() <= WIDEST_MM:
        return
    at = skipped[0] if skipped else start
    text = f"{steps_mm[at]:.4g} mm lie between the slices at z = {order.heights_mm[at]:g} and "
    text += f"{order.heights_mm[at + 1]:g} mm, more than between others"
    if numbers is not None and skipped:
        text += f", and InstanceNumber goes from {numbers[at]} to {numbers[at + 1]}"
    raise InputError(f"{text}: a slice is missing; export the whole series again")


def _refuse_alternating(order: CtOrder, what: str, values: Sequence[str]) -> None:
    changes = [k for k in range(len(values) - 1) if values[k] != values[k + 1]]
    distinct = sorted(set(values))
    if len(changes) >= len(distinct):
        seen: set[str] = set()
        for k, value in enumerate(values):
            if value in seen and values[k - 1] != value:
                shown = ", ".join(distinct[:3]) + (", ..." if len(distinct) > 3 else "")
                raise InputError(
                    f"images of {len(distinct)} scans are interleaved ({what} {shown}), for example at z = "
                    f"{order.heights_mm[k - 1]:g} and {order.heights_mm[k]:g} mm; keep the images of one"
                )
            seen.add(value)


def _usable_numbers(order: CtOrder) -> NDArray[np.int64] | None:
    """InstanceNumbers, if each image has its own and their order follows the positions.

    Raises:
        InputError: If they show several scans.
    """
    given = [number for number in order.numbers if number is not None]
    if len(given) < len(order.numbers) or len(set(given)) == 1:
        return None
    numbers = np.array(given, np.int64)
    changes = np.diff(numbers)
    if (changes > 0).all() or (changes < 0).all():
        return numbers
    groups = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
    twice = sum(len(group) > 1 for group in groups)
    turns = np.count_nonzero(np.sign(changes[1:]) != np.sign(changes[:-1]))
    if twice >= _SCAN and turns > 2 * _MOST_PASSES:  # (blocks one after the other may each count from 1)
        first, second = next(group for group in groups if len(group) > 1)[:2]
        raise InputError(
            f"the images at z = {order.heights_mm[first]:g} and {order.heights_mm[second]:g} mm have the same "
            f"InstanceNumber, {numbers[first]}, as have others: two scans in one series? Keep the images of one"
        )
    _refuse_passes(order, np.argsort(numbers, kind="stable"))
    return None


def _refuse_passes(order: CtOrder, by_number: NDArray[np.int64]) -> None:
    """Check by the images' numbers that the scanner did not pass the same region twice."""
    changes = np.diff(by_number)
    turns = np.flatnonzero(np.sign(changes[1:]) != np.sign(changes[:-1])) + 2
    jumps = np.flatnonzero(np.abs(changes) > 2 * np.median(np.abs(changes))) + 1
    passes = [part for part in np.split(by_number, np.union1d(turns, jumps)) if part.size >= _SCAN]
    if len(passes) > _MOST_PASSES or sum(part.size for part in passes) < _IN_PASSES * by_number.size:
        return
    for a, b in itertools.combinations(passes, 2):
        low, high = max(a.min(), b.min()), min(a.max(), b.max())
        if high - low >= 2 * _SCAN:
            raise InputError(
                f"by InstanceNumber, two scans are interleaved from z = {order.heights_mm[low]:g} to "
                f"{order.heights_mm[high]:g} mm; keep the images of one"
            )


def _runs(steps_mm: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Start and end of each run of equal steps."""
    runs: list[tuple[int, int]] = []
    for k, step_mm in enumerate(steps_mm.tolist()):
        if runs and _equal(step_mm, float(steps_mm[runs[-1][0]])):
            runs[-1] = (runs[-1][0], k + 1)
        else:
            runs.append((k, k + 1))
    return runs


def _equal(a_mm: float, b_mm: float) -> bool:
    return abs(a_mm - b_mm) <= max(EQUAL_MM, EQUAL_PART * b_mm)


def _distinct(sizes_mm: Sequence[float]) -> list[float]:
    distinct: list[float] = []
    for size_mm in sorted(sizes_mm):
        if not distinct or not _equal(size_mm, distinct[-1]):
            distinct.append(size_mm)
    return distinct
