"""Matching of ROI names to a template: one rule for conversion, check, evaluation and report."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cdm_nnunet.dvh.goal import Goal, TemplateRoi
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.roi.catalogue import Catalogue, RoiKind, side_of
from cdm_nnunet.roi.tg263 import propose

By = Literal["name", "alias", "regex"]
Prefer = Callable[[TemplateRoi, Sequence[str]], Sequence[str]]
_PRV = re.compile(r"prv(?![a-z])", re.IGNORECASE)
_TARGET = re.compile(r"i?[gcp]tv|itv", re.IGNORECASE)
_WITHOUT = re.compile(r"-[A-Za-z]*TV$")


@dataclass(frozen=True)
class RoiMatch:
    """The ROI in the data that matches an ROI of a template.

    Attributes:
        source: Its name in the data.
        by: Whether the match is the template's name, an alias, or a regular expression.
    """

    source: str
    by: By


def match_rois(
    template: Template, catalogue: Catalogue | Iterable[str], *, prefer: Prefer | None = None
) -> dict[str, RoiMatch]:
    """Find the ROIs of a template in some data.

    A match has the ROI's name or one of its aliases; otherwise it fits a regular expression and is not the name or
    alias of another ROI. Case is ignored.

    Args:
        template: Template with names, aliases, expressions and kinds.
        catalogue: The ROIs of a data set, whose kinds are compared, or only names.
        prefer: Called with an ROI and several matching names; returns those to use, if the data specify them.

    Returns:
        By ROI of the template, in its order; without ROIs that the data lack.

    Raises:
        InputError: If several names match one ROI, or one matches several; a name that fits an expression has another
            meaning (a planning risk volume, the other side, another target); or a kind differs.

    Example:
        >>> match_rois(Template.load("openkbp"), ["PTV70", "larynx"])["Larynx"]
        RoiMatch(source='larynx', by='name')
    """
    names = catalogue.names if isinstance(catalogue, Catalogue) else tuple(catalogue)
    kinds = {roi.name: roi.kind for roi in catalogue.rois} if isinstance(catalogue, Catalogue) else {}
    labels = {label.casefold() for roi in template.rois for label in (roi.name, *roi.aliases)}
    unlabelled = [name for name in names if name.casefold() not in labels]
    found = {roi.name: _candidates(roi, names, unlabelled, prefer) for roi in template.rois}
    problems = [*_ambiguities(found), *_contradictions(template, found), *_other_kinds(template, found, kinds)]
    if problems:
        raise InputError(
            f"template '{template.name}' does not say which ROI is which: {'; '.join(problems)}; "
            "change its aliases, expressions or kinds, or the names in the data"
        )
    return {roi: fit[0] for roi, fit in found.items() if fit}


def refuse_without_goal(
    template: Template, goals: Iterable[Goal], matched: Mapping[str, RoiMatch], names: Iterable[str]
) -> None:
    """Check that a template applies to the data.

    Raises:
        InputError: If no goal is for an ROI that was found.
    """
    if not any(goal.roi in matched for goal in goals):
        raise InputError(
            f"template '{template.name}' has no goal for the ROIs of this data set ({', '.join(names)}); "
            "give another with --template, or add their names as aliases"
        )


def _candidates(
    roi: TemplateRoi, names: Sequence[str], unlabelled: Sequence[str], prefer: Prefer | None
) -> list[RoiMatch]:
    own, labels = roi.name.casefold(), {label.casefold() for label in (roi.name, *roi.aliases)}
    fit: Sequence[str] = [name for name in names if name.casefold() in labels]
    if len(fit) > 1 and prefer is not None:
        fit = prefer(roi, fit)
    if fit:
        return [RoiMatch(name, "name" if name.casefold() == own else "alias") for name in fit]
    return [RoiMatch(name, "regex") for name in unlabelled if roi.matches(name)]


def _ambiguities(found: Mapping[str, Sequence[RoiMatch]]) -> Iterator[str]:
    for roi, fit in found.items():
        if len(fit) > 1:
            yield f"'{roi}' may be any of {_quoted(match.source for match in fit)}"
    for name in dict.fromkeys(match.source for fit in found.values() for match in fit):
        rois = [roi for roi, fit in found.items() if name in [match.source for match in fit]]
        if len(rois) > 1:
            yield f"'{name}' may be any of {_quoted(rois)}"


def _contradictions(template: Template, found: Mapping[str, Sequence[RoiMatch]]) -> Iterator[str]:
    """Names that fit an expression but have another meaning by TG-263 or custom."""
    for roi in template.rois:
        for match in found[roi.name]:
            if match.by == "regex" and (other := _says_another(roi, match.source)):
                yield f"'{match.source}' fits the expression of '{roi.name}', and its name says {other}"


def _says_another(roi: TemplateRoi, name: str) -> str | None:
    proposals = propose(name)
    read = name if proposals.decided is None else proposals.decided.name
    ours, theirs = _target_type(roi.name), _target_type(read)
    if bool(_PRV.search(read)) != bool(_PRV.search(roi.name)):
        return "a planning risk volume" if _PRV.search(read) else "an organ, not its planning risk volume"
    if None not in (side_of(read), side_of(roi.name)) and side_of(read) != side_of(roi.name):
        return "the other side"
    if ours != theirs and (theirs is not None and (ours is not None or roi.kind == "oar")):
        return f"a {theirs}"
    if bool(_WITHOUT.search(read)) != bool(_WITHOUT.search(roi.name)) and roi.kind == "oar":
        return "an organ without the target" if _WITHOUT.search(read) else "the whole organ"
    if proposals.is_helper and roi.kind == "oar" and not propose(roi.name).is_helper:
        return "a structure that only helps planning"
    return None


def _target_type(name: str) -> str | None:
    match = _TARGET.match(name)
    return None if match is None else match[0].upper()


def _other_kinds(
    template: Template, found: Mapping[str, Sequence[RoiMatch]], kinds: Mapping[str, RoiKind]
) -> Iterator[str]:
    for roi in template.rois:
        for name in (match.source for match in found[roi.name]):
            if kinds.get(name, roi.kind) != roi.kind:
                yield f"'{roi.name}' is of kind '{roi.kind}', and '{name}' in the data set is '{kinds[name]}'"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
