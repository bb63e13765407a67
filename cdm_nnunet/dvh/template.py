"""Clinical templates: the ROIs and DVH goals by which a clinic judges a plan, as validated data.

The file format is described in ``docs/templates.md``. One template drives loss, checkpoint choice and evaluation.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from cdm_nnunet.counting import counted
from cdm_nnunet.documents import (
    Checked,
    Document,
    Fault,
    check,
    field_name,
    in_order,
    json_document,
    plain_document,
    read_text,
    refuse,
    summary,
)
from cdm_nnunet.documents import Path as JsonPath
from cdm_nnunet.dvh.goal import Frozen, Goal, Name, TemplateRoi, Use
from cdm_nnunet.dvh.metric import Metric
from cdm_nnunet.dvh.regime import Regime
from cdm_nnunet.errors import InputError


class Template(Frozen):
    """A clinical template.

    Attributes:
        format_version: Version of the file format.
        name: Short name.
        description: Its purpose.
        source: Source of the limits.
        regime: Courses of treatment for which the limits in Gy hold.
        rois: The ROIs; their order is the bit order of a catalogue made from the template.
        goals: The metrics that are compared and judged; each metric of an ROI appears once.
    """

    format_version: Literal[1]
    name: Name
    description: str = ""
    source: str = ""
    regime: Annotated[Regime | None, Field(exclude_if=operator.not_)] = None
    rois: Annotated[tuple[TemplateRoi, ...], Field(min_length=1)]
    goals: Annotated[tuple[Goal, ...], Field(min_length=1)]

    def __repr__(self) -> str:
        """Name and size."""
        return f"<Template {self.name}: {counted(len(self.rois), 'ROI')}, {counted(len(self.goals), 'goal')}>"

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Template:
        refuse(_misfits(tuple(roi.name for roi in self.rois), dict(enumerate(self.rois)), dict(enumerate(self.goals))))
        return self

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any], where: str) -> Template:
        """Check and build a template.

        Args:
            mapping: The parsed JSON.
            where: Its name in messages: a file, or a file and a key.

        Raises:
            InputError: If a key is missing or unknown or a value is wrong, naming ``where`` and the field.
        """
        checked = _check(plain_document(mapping))
        if checked.value is None:
            raise InputError(f"{where}: {summary(checked.faults)}")
        return checked.value

    def to_json(self) -> dict[str, Any]:
        """JSON form in a file: the inverse of :meth:`from_json`."""
        return self.model_dump(mode="json")

    @classmethod
    def load(cls, name_or_path: str) -> Template:
        """A shipped template by name, or one from a file.

        Args:
            name_or_path: A name of :func:`shipped_templates`, or the path of a JSON file. A text that ends in
                ``.json`` or contains a folder is a path.

        Raises:
            InputError: If there is no such template or file, or it is not valid.

        Example:
            >>> Template.load("openkbp").roi("PTV_7000").prescription_gy
            70.0
        """
        checked = check_template(name_or_path)
        if checked.value is None:
            where = f"template '{name_or_path}'" if name_or_path in shipped_templates() else name_or_path
            raise InputError(f"{where}: {summary(checked.faults, 'cdm-nnunet check')}")
        return checked.value

    def roi(self, name: str) -> TemplateRoi:
        """The ROI of this name.

        Raises:
            InputError: If there is none, with the known names.
        """
        for roi in self.rois:
            if roi.name == name:
                return roi
        raise InputError(f"template '{self.name}' has no ROI '{name}'; it has {', '.join(r.name for r in self.rois)}")

    def goals_for(self, use: Use) -> tuple[Goal, ...]:
        """The goals that count in the loss, or in the evaluation."""
        return tuple(goal for goal in self.goals if use in goal.use)


def check_template(name_or_path: str) -> Checked[Template]:
    """Check a shipped template or a file, and collect every fault with its line and column.

    Args:
        name_or_path: As :meth:`Template.load`.

    Raises:
        InputError: If there is no such template or file, or it is not text.
    """
    return _check(json_document(_text_of(name_or_path)))


def shipped_templates() -> tuple[str, ...]:
    """Names of the templates that come with the package."""
    entries = resources.files("cdm_nnunet.templates").iterdir()
    return tuple(sorted(entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json")))


def _text_of(name_or_path: str) -> str:
    path = Path(name_or_path)
    if path.suffix.lower() != ".json" and path.name == name_or_path:
        if name_or_path not in shipped_templates():
            known = ", ".join(shipped_templates())
            raise InputError(f"no template '{name_or_path}'; shipped are {known}, or give the path of a .json file")
        return resources.files("cdm_nnunet.templates").joinpath(f"{name_or_path}.json").read_text(encoding="utf-8")
    return read_text(path, f"shipped templates are {', '.join(shipped_templates())}")


def _check(document: Document) -> Checked[Template]:
    checked = check(document, Template)
    if not checked.faults or not document.is_sound:
        return checked
    known = {fault.field for fault in checked.faults}
    more = tuple(
        Fault(field_name(path), message, document.find_places().of(path))
        for path, message in _misfits_of_sound_parts(document.value)
        if field_name(path) not in known
    )
    return Checked(None, in_order(checked.faults + more))


def _misfits(
    roi_names: Sequence[str], rois: Mapping[int, TemplateRoi], goals: Mapping[int, Goal]
) -> Iterator[tuple[JsonPath, str]]:
    """Contradictions between the parts of a template.

    Args:
        roi_names: Names of all ROIs.
        rois: ROIs by position in the file, without invalid ones.
        goals: Likewise.
    """
    owners: dict[str, str] = {}
    for number, roi in rois.items():
        for name in dict.fromkeys(label.casefold() for label in (roi.name, *roi.aliases)):
            if name in owners:
                message = f"'{name}' names both ROI '{owners[name]}' and ROI '{roi.name}' (case is ignored)"
                yield ("rois", number), message
            owners.setdefault(name, roi.name)
    by_name = {roi.name: roi for roi in rois.values()}
    seen: set[tuple[str, Metric]] = set()
    for number, goal in goals.items():
        label = f"goal {goal.roi} {goal.metric}"
        if goal.roi not in roi_names:
            yield (
                ("goals", number, "roi"),
                f"{label}: the template has no such ROI; it has {', '.join(roi_names)}",
            )
        relative_key = (
            "metric" if goal.metric.needs_prescription else "unit" if goal.unit == "% of prescription" else ""
        )
        if relative_key and goal.roi in by_name and by_name[goal.roi].prescription_gy is None:
            message = f"{label}: it is relative to the prescription, and the ROI has none"
            yield ("goals", number, relative_key), message
        elif goal.metric.of_plan and goal.roi in by_name and by_name[goal.roi].kind != "target":
            message = f"{label}: it is about a target, and the ROI is of kind '{by_name[goal.roi].kind}'"
            yield ("goals", number, "metric"), message
        if (goal.roi, goal.metric) in seen:
            message = f"{label}: it appears twice; merge the two, a second limit is the 'variation'"
            yield ("goals", number, "metric"), message
        seen.add((goal.roi, goal.metric))


def _misfits_of_sound_parts(value: Any) -> Iterator[tuple[JsonPath, str]]:
    """Contradictions in a template with invalid parts, so that all faults are reported at once."""
    if not isinstance(value, dict):
        return
    rois, goals = (part if isinstance(part, list) else [] for part in (value.get("rois"), value.get("goals")))
    names = [roi["name"] for roi in rois if isinstance(roi, dict) and isinstance(roi.get("name"), str)]
    sound_rois: dict[int, TemplateRoi] = {}
    sound_goals: dict[int, Goal] = {}
    for number, roi in enumerate(rois):
        with suppress(ValidationError):
            sound_rois[number] = TemplateRoi.model_validate_json(json.dumps(roi))
    for number, goal in enumerate(goals):
        with suppress(ValidationError):
            sound_goals[number] = Goal.model_validate_json(json.dumps(goal))
    if rois:
        yield from _misfits(names, sound_rois, sound_goals)
