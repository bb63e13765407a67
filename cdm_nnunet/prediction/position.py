"""A new patient's position on the table, compared with the training patients'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cdm_nnunet.prediction_record import ENOUGH_CASES, Applicability, Finding


def position_finding(position: str, known: Mapping[str, int]) -> Finding | None:
    """What is to say of a position.

    Args:
        position: HFS, FFS, ...; empty if the CT does not say it.
        known: In how many training cases each was; empty if that is not known.

    Returns:
        None for a position that is known, or where one of both does not say it.

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
    """How a patient stands to the training patients, with one finding more."""
    if found is None or finding is None:
        return found
    if finding.is_outside:
        return replace(found, status="outside", allowed=True, findings=[*found.findings, finding])
    status = "unusual" if found.status == "inside" else found.status
    return replace(found, status=status, findings=[*found.findings, finding])
