"""Differences of a new patient from the training patients, by their distributions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cdm_nnunet.nnunet.case_facts import CaseFacts
from cdm_nnunet.nnunet.quantities import kind_of, lengths_of, words_of
from cdm_nnunet.nnunet.reference_cases import MIN_CASES, Distribution, ReferenceCases
from cdm_nnunet.prediction_record import Finding
from cdm_nnunet.roi import Catalogue

_OUTSIDE_SCORE = 3.0  # times the limit
_OUTSIDE_SIZE = 2.0  # times the limit
_OUTSIDE_CT = 4.0  # times the limit; another scanner does not make another patient
_MOST_NAMED = 5  # quantities; if a patient differs in all, more of them add nothing
_RARELY_CUT = 0.02  # of the training cases with an ROI
_SIDE_MM = 5.0  # on the wrong side by more than any contouring error


class Counts(NamedTuple):
    """Number of training cases, and of those in which each ROI was contoured."""

    n_cases: int
    contoured: Mapping[str, int]


def unlike_reference(
    reference: ReferenceCases, case: CaseFacts, catalogue: Catalogue, counts: Counts
) -> Iterator[Finding]:
    """Differences of a case from the training cases, the most important first.

    Args:
        reference: The training cases.
        case: The new case.
        catalogue: Kinds and sides of the ROIs.
        counts: Counts over the training cases.
    """
    yield from _another_site(reference, case, catalogue)
    yield from _missing_levels(reference, case)
    yield from _far_apart(reference, case)
    yield from _exchanged_sides(reference, case, catalogue)
    yield from _cut(reference, case, catalogue, counts)
    yield from _other_size(reference, case)
    yield from _other_ct(reference, case)
    yield from _other_values(reference, case)


def _another_site(reference: ReferenceCases, case: CaseFacts, catalogue: Catalogue) -> Iterator[Finding]:
    organs = reference.quantities.get("organs")
    if organs is None or case.geometry.organs or organs.quantiles[0] < 1:
        return
    names = ", ".join(roi.name for roi in catalogue.rois if roi.kind == "oar")
    yield Finding(
        text=f"no organ at risk is contoured, and every training patient had some ({names}): is it another site?",
        value=0.0,
        percentile=0.0,
        training=[organs.quantiles[0], organs.quantiles[-1]],
        is_outside=True,
    )


def _missing_levels(reference: ReferenceCases, case: CaseFacts) -> Iterator[Finding]:
    """Find a missing target that was present in every training case with the other targets."""
    own = set(case.prescriptions_gy)
    larger = [one for one in reference.target_sets if own <= set(one.targets)]
    n = sum(one.n for one in larger)
    if n < MIN_CASES:
        return
    missing = set.intersection(*(set(one.targets) for one in larger)) - own
    for name in sorted(missing):
        yield Finding(
            text=f"'{name}' has no prescription; it had one in all {n} training patients with {_listed(own)}: is a "
            "target missing?",
            is_outside=True,
        )


def _far_apart(reference: ReferenceCases, case: CaseFacts) -> Iterator[Finding]:
    """Find targets separated as if a target between them, which other training cases had, were missing."""
    own = set(case.prescriptions_gy)
    known = next((one for one in reference.target_sets if set(one.targets) == own), None)
    between = set().union(*(set(one.targets) - own for one in reference.target_sets if own < set(one.targets)))
    if known is None or known.apart is None or not between or known.apart.score(case.geometry) <= known.apart.limit:
        return
    parts, contact = case.geometry.parts, case.geometry.contact
    yield Finding(
        text=f"the targets lie in {parts} separate parts and touch at {100 * contact:.2g} % of their surfaces, unlike "
        f"those of the {known.n} training patients with {_listed(own)} alone (usually {known.apart.parts.median:.0f} "
        f"and {100 * known.apart.contact.median:.2g} %): is {_listed(between)} missing?",
        value=float(parts),
        percentile=known.apart.parts.percentile(parts),
        training=[known.apart.parts.quantiles[0], known.apart.parts.quantiles[-1]],
    )


def _exchanged_sides(reference: ReferenceCases, case: CaseFacts, catalogue: Catalogue) -> Iterator[Finding]:
    """Find paired ROIs with left and right exchanged relative to all training cases."""
    for roi in catalogue.rois:
        known, own = reference.quantities.get(f"offset {roi.name}"), case.geometry.offsets_mm.get(roi.name)
        if roi.mirror is None or known is None or own is None:
            continue
        low, high = known.quantiles[0], known.quantiles[-1]
        side = 1 if low > 0 else -1 if high < 0 else 0
        if side and own * side < -_SIDE_MM:
            yield Finding(
                text=f"'{roi.name}' lies {abs(own):.0f} mm to the {'left' if own > 0 else 'right'} of the body's "
                f"centre, in all training patients to the {'left' if side > 0 else 'right'}: are sides exchanged?",
                value=own,
                unit="mm",
                percentile=known.percentile(own),
                training=[low, high],
                is_outside=True,
            )


def _cut(reference: ReferenceCases, case: CaseFacts, catalogue: Catalogue, counts: Counts) -> Iterator[Finding]:
    for name in sorted(case.geometry.cut):
        n_with = counts.contoured.get(name, 0)
        n_cut = reference.cut.get(name, 0)
        is_target = catalogue.rois[catalogue.bit(name)].kind == "target"  # (organs are often only partly in the image)
        if not is_target or n_with < MIN_CASES or n_cut >= _RARELY_CUT * n_with:
            continue
        yield Finding(
            text=f"'{name}' reaches the first or last plane of the image (in {n_cut} of {n_with} training patients): "
            "is a part of the patient missing?",
            is_outside=True,
        )


def _other_size(reference: ReferenceCases, case: CaseFacts) -> Iterator[Finding]:
    away = reference.size.difference(lengths_of(case))
    if away is None or (beyond := reference.size.beyond(away)) <= 1:
        return
    ratio, (low, high) = math.exp(away), map(math.exp, reference.size.limits)
    known = reference.size.of_cases
    yield Finding(
        text=f"the organs are {ratio:.2f} times as large as those of the training patients (usual are {low:.2f} to "
        f"{high:.2f}): is the voxel size right?",
        value=ratio,
        percentile=known.percentile(away),
        training=[math.exp(known.quantiles[0]), math.exp(known.quantiles[-1])],
        is_outside=beyond > _OUTSIDE_SIZE,
    )


def _other_ct(reference: ReferenceCases, case: CaseFacts) -> Iterator[Finding]:
    away_hu = reference.ct.difference(case.geometry.hu)
    if away_hu is None or (beyond := reference.ct.beyond(away_hu)) <= 1:
        return
    low_hu, high_hu = reference.ct.limits
    known = reference.ct.of_cases
    yield Finding(
        text=f"the CT in the ROIs is {abs(away_hu):.0f} HU {'higher' if away_hu > 0 else 'lower'} than that of the "
        f"training patients (usual are {low_hu:.0f} to {high_hu:.0f} HU): is it shifted or scaled?",
        value=away_hu,
        unit="HU",
        percentile=known.percentile(away_hu),
        training=[known.quantiles[0], known.quantiles[-1]],
        is_outside=beyond > _OUTSIDE_CT,
    )


def _other_values(reference: ReferenceCases, case: CaseFacts) -> Iterator[Finding]:
    """The quantities farthest beyond the limit."""
    scores = reference.scores(case)
    far = [key for key, (_, score) in scores.items() if abs(score) > reference.score_limit]
    for key in sorted(far, key=lambda key: -abs(scores[key][1]))[:_MOST_NAMED]:
        value, score = scores[key]
        yield _of_value(key, value, reference.quantities[key], abs(score) > _OUTSIDE_SCORE * reference.score_limit)


def _of_value(key: str, value: float, known: Distribution, is_outside: bool) -> Finding:
    unit, low, high = kind_of(key).unit, known.quantiles[0], known.quantiles[-1]
    percentile = known.percentile(value)
    place = {0.0: "below all", 100.0: "above all"}.get(percentile, f"at the {percentile:.3g}th percentile of")
    return Finding(
        text=f"{words_of(key)} is {value:.3g} {unit}".rstrip()
        + f", {place} {known.n} training patients ({low:.3g} to {high:.3g} {unit}".rstrip()
        + ")",
        value=value,
        unit=unit,
        percentile=percentile,
        training=[low, high],
        is_outside=is_outside,
    )


def _listed(names: set[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))
