"""A new patient's position on the table, compared with the training patients'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cdm_nnunet.prediction_record import ENOUGH_CASES, Applicability, Finding


def position_finding(position: str, known: Mapping[str, int]) -> Finding | None:
    """Finding on a position.

    Args:
        position: HFS, FFS, ...; empty if the CT does not state it.
        known: Number of training cases in each position; empty if unknown.

    Returns:
        None for a known position, or if one of them is unknown.

    Example:
        >>> position_finding("FFS", {"HFS": 40}).is_outside
        True
    """
    if not position or not known or position in known:
        return None
    counts = ", ".join(f"{name} {n}" for name, n in known.items())
    return Finding(
        text=f"the patient position is {position}, which no training patient had ({counts})",
        is_outside=sum(known.values()) >= ENOUGH_CASES,
    )


def with_finding(found: Applicability | None, finding: Finding | None) -> Applicability | None:
    """Applicability with an added finding."""
    if found is None or finding is None:
        return found
    if finding.is_outside:
        return replace(found, status="outside", allowed=True, findings=[*found.findings, finding])
    status = "unusual" if found.status == "inside" else found.status
    return replace(found, status=status, findings=[*found.findings, finding])
