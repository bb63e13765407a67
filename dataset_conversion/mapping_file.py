"""The text of ``rois.yaml``: written for review, and extended without changing the user's entries."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from cdm_nnunet.documents import check, yaml_document
from cdm_nnunet.dvh.matching import match_rois
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.roi.tg263 import propose

_HEAD = """\
# Name of each ROI in the files: its name in the template, or null to leave it out. Review every line.
"""
_TAIL = """\
# Prescriptions (Gy) of targets, for plans that state none: {"PTV_7000": 70}
prescriptions_gy: {}
# For patients with several plans that have a dose. As default: latest, sum (doses are added: a course with a boost) or
# each (every plan is a case). For one patient: a label or UID. {"default": "latest", "case_1a2b3c4d5e": "Boost"}
plans: {}
# Exceptions for single patients (or cases, if each plan is a case); a prescription of null means: as in the plan:
# {"case_1a2b3c4d5e": {"rois": {"PTV_60": "PTV_Mid"}, "prescriptions_gy": {"PTV_Mid": 60}}}
# Also which of several structure sets and CTs to use, by label or UID: {"structures": "Plan", "ct": "Native 3 mm"}
patients: {}
"""
_HELPERS = """\
# Leave out names that are not listed and look like helper structures (rings, optimisation volumes, couch, markers).
leave_out_helpers: true
"""
_ROIS = re.compile(r"^rois:[ \t]*(\{\})?[ \t]*(#.*)?$", re.MULTILINE)


def mapping_text(
    counts: Mapping[str, int], *, template: Template | None = None, leave_out_helpers: bool = False
) -> str:
    """A mapping file to review, with names proposed by the template or TG-263; uncertain names are null.

    Args:
        counts: Number of patients with each name.
        template: If given, only its ROIs are proposed.
        leave_out_helpers: Do not list helper structures; one line excludes all of them.
    """
    names = _listed(counts, leave_out_helpers)
    lines = ["rois:" if names else "rois: {}", *(_line(name, counts[name], template) for name in names)]
    return _HEAD + "\n".join(lines) + "\n" + _TAIL + (_HELPERS if leave_out_helpers else "")


def extended_text(
    text: str, counts: Mapping[str, int], *, template: Template | None = None, leave_out_helpers: bool = False
) -> tuple[str, tuple[str, ...]]:
    """Add missing names to a mapping file, at the top of its list; the rest is unchanged.

    Args:
        text: The file.
        counts: Number of patients with each name.
        template: As in :func:`mapping_text`.
        leave_out_helpers: As in that function; also if the file says so.

    Returns:
        The text, and the new names in it.

    Raises:
        InputError: If the file's list is not written one name per line, so that nothing can be added to it.
    """
    content = _content(text)
    if content is None:
        raise InputError("nothing can be added to it: it is not a mapping")
    known = content.get("rois") or {}
    switch = leave_out_helpers and not content.get("leave_out_helpers")
    new = [name for name in _listed(counts, switch or bool(content.get("leave_out_helpers"))) if name not in known]
    added = text.rstrip("\n") + "\n" + _HELPERS if switch and "leave_out_helpers" not in content else text
    if new:
        found = _ROIS.search(added)
        indent = re.match(r"\n((?:[ \t]*(?:#.*)?\n)*)([ ]*)", added[found.end() :]) if found else None
        spaces = indent[2] if indent and known else "  "
        lines = [_line(name, counts[name], template, spaces, "new; ") for name in new]
        if found:
            head = f"rois:  {found[2]}" if found[2] else "rois:"
            added = added[: found.start()] + "\n".join([head, *lines]) + added[found.end() :]
    if _content(added) != {**content, "rois": {**known, **_entries(new, template)}} | (
        {"leave_out_helpers": True} if switch else {}
    ):
        shown = "; ".join(_line(name, counts[name], template, "") for name in new)
        raise InputError(f"nothing can be added to its list, since it is not written one name per line; add: {shown}")
    return added, tuple(new)


def _content(text: str) -> dict[str, Any] | None:
    """Content of a mapping file; None if it can't be read."""
    return check(yaml_document(text), dict[str, Any]).value


def _listed(counts: Mapping[str, int], leave_out_helpers: bool) -> list[str]:
    names = sorted(counts, key=lambda key: (-counts[key], key))
    return [name for name in names if not (leave_out_helpers and propose(name).is_helper)]


def _entries(names: list[str], template: Template | None) -> dict[str, str | None]:
    return {name: _proposal(name, template) for name in names}


def _proposal(name: str, template: Template | None) -> str | None:
    """Most likely ROI of a name: by the template's names, aliases and expressions, else by TG-263."""
    found = propose(name)
    standard = None if found.decided is None else found.decided.name
    if template is None:
        return standard
    for label in dict.fromkeys((name, standard or name)):
        with contextlib.suppress(InputError):  # (several possible ROIs, or another meaning: no proposal)
            for roi in match_rois(template, [label]):
                return roi
    return None


def _line(name: str, count: int, template: Template | None, indent: str = "  ", mark: str = "") -> str:
    found = propose(name)
    chosen = _proposal(name, template)
    value = "null" if chosen is None else _quoted(chosen)
    hints = [f"{mark}{count} patient{'s' if count > 1 else ''}"]
    if chosen is None and found.proposals:
        hints.append("perhaps " + ", ".join(proposal.name for proposal in found.proposals))
    if found.is_helper:
        hints.append("a helper structure")
    return f"{indent}{_quoted(name)}: {value}  # {'; '.join(hints)}"


def _quoted(text: str) -> str:
    """Quote any text for YAML; JSON's quoting fails for some line separators."""
    escaped = {'"': '\\"', "\\": "\\\\"}
    return '"' + "".join(escaped.get(c, c if c.isprintable() else f"\\U{ord(c):08x}") for c in text) + '"'
