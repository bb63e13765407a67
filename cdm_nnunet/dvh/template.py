"""Clinical templates: which ROIs and DVH goals a clinic judges a plan by, as validated data.

The file format is described in ``docs/templates.md``. One template drives loss, checkpoint choice and evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from cdm_nnunet.dvh.metrics import Metric
from cdm_nnunet.errors import InputError
from cdm_nnunet.roi.catalogue import RoiKind

Use = Literal["loss", "evaluation"]
Verdict = Literal["pass", "acceptable", "fail"]
LimitUnit = Literal["Gy", "%", "% of prescription", "cc", ""]
_LIMIT_UNITS = {"Gy": ("Gy", "% of prescription"), "%": ("%",), "cc": ("cc",), "": ("",)}  # by unit of the metric
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^\S(.*\S)?$")]


def _parse_metric(key: object) -> Metric:
    if isinstance(key, Metric):
        return key
    if not isinstance(key, str):
        raise ValueError(f"a metric is a text such as 'D95%', not {key!r}")
    return Metric.parse(key)


MetricField = Annotated[Metric, BeforeValidator(_parse_metric), PlainSerializer(str, return_type=str)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


class TemplateRoi(_Frozen):
    """An ROI that the template knows.

    Attributes:
        name: TG-263 name.
        kind: As in the ROI catalogue.
        aliases: Other names under which the ROI comes, compared without regard to case.
        prescription_gy: Prescribed dose in Gy, ``"patient"`` where every patient has an own one, None for no target.
    """

    name: Name
    kind: RoiKind
    aliases: tuple[Name, ...] = ()
    prescription_gy: Positive | Literal["patient"] | None = None

    @model_validator(mode="after")
    def _only_targets_are_prescribed(self) -> TemplateRoi:
        if self.prescription_gy is not None and self.kind != "target":
            raise ValueError(f"ROI '{self.name}' has a prescription but is of kind '{self.kind}', not 'target'")
        return self


class Goal(_Frozen):
    """A metric of an ROI, with or without a clinical limit.

    Attributes:
        roi: Name of an ROI of the template.
        metric: The DVH metric.
        relation: Side of the limit that is wanted; None for a metric that is compared but has no limit.
        value: The limit, in ``unit``.
        unit: Gy or percent of the prescription for D-metrics and gEUD, percent of the ROI's volume for V-metrics, cc
            for V-metrics in cc, an empty text for HI.
        variation: A looser limit, in ``unit``, up to which a violation is an acceptable variation.
        priority: 1 is the most important.
        weight: Weight of the metric in the loss.
        use: Where the metric counts.
        comment: Source of the limit, or why it is there.
    """

    roi: Name
    metric: MetricField
    relation: Literal["<=", ">="] | None = None
    value: Finite | None = None
    unit: LimitUnit | None = None
    variation: Finite | None = None
    priority: Annotated[int, Field(ge=1)] = 1
    weight: Positive = 1.0
    use: Annotated[tuple[Use, ...], Field(min_length=1)] = ("loss", "evaluation")
    comment: str = ""

    @model_validator(mode="after")
    def _limit_is_whole(self) -> Goal:
        label = f"goal {self.roi} {self.metric}"
        given = [part is not None for part in (self.relation, self.value, self.unit)]
        if any(given) != all(given):
            raise ValueError(f"{label}: 'relation', 'value' and 'unit' make a limit together; give all three or none")
        if len(set(self.use)) != len(self.use):
            raise ValueError(f"{label}: 'use' names something twice: {', '.join(self.use)}")
        if self.unit is not None and self.unit not in _LIMIT_UNITS[self.metric.unit]:
            allowed = " or ".join(f"'{unit}'" for unit in _LIMIT_UNITS[self.metric.unit])
            raise ValueError(f"{label}: the limit's unit is '{self.unit}'; a limit of {self.metric} is in {allowed}")
        if self.value is not None and not (0 <= self.value <= (100 if self.unit == "%" else float("inf"))):
            raise ValueError(f"{label}: a limit of {self.value:g} {self.unit} is out of range")
        if self.variation is not None:
            if self.value is None or self.relation is None:
                raise ValueError(f"{label}: 'variation' loosens a limit, and the goal has none")
            if (self.variation > self.value) != (self.relation == "<=") or self.variation == self.value:
                side = "above" if self.relation == "<=" else "below"
                raise ValueError(f"{label}: variation {self.variation:g} must lie {side} the value {self.value:g}")
        return self

    @property
    def has_limit(self) -> bool:
        """Whether the goal can be met or missed."""
        return self.value is not None

    def limit(self, prescription_gy: float | None = None) -> float:
        """The limit in the metric's unit.

        Raises:
            InputError: If the limit is relative to a prescription that is not given.
            ValueError: If the goal has no limit.
        """
        if self.value is None:
            raise ValueError(f"goal {self.roi} {self.metric} has no limit")
        return self._in_metric_unit(self.value, prescription_gy)

    def verdict(self, value: float, prescription_gy: float | None = None) -> Verdict:
        """Judge a value of the metric (``docs/conventions.md``, "Verdicts").

        Raises:
            InputError: If the value is not finite, or as :meth:`limit`.
            ValueError: If the goal has no limit.

        Example:
            >>> goal = Goal(roi="SpinalCord", metric="D0.1cc", relation="<=", value=45, unit="Gy", variation=48)
            >>> goal.verdict(45.0), goal.verdict(46.0), goal.verdict(48.5)
            ('pass', 'acceptable', 'fail')
        """
        if not abs(value) < float("inf"):
            raise InputError(f"goal {self.roi} {self.metric} cannot judge the value {value}")
        sign = 1.0 if self.relation == ">=" else -1.0
        if sign * value >= sign * self.limit(prescription_gy):
            return "pass"
        if self.variation is None:
            return "fail"
        return "acceptable" if sign * value >= sign * self._in_metric_unit(self.variation, prescription_gy) else "fail"

    def _in_metric_unit(self, number: float, prescription_gy: float | None) -> float:
        if self.unit != "% of prescription":
            return number
        if prescription_gy is None:
            raise InputError(f"goal {self.roi} {self.metric} is relative to a prescription, and none is known")
        return number * prescription_gy / 100.0


class Template(_Frozen):
    """A clinical template.

    Attributes:
        format_version: Version of the file format.
        name: Short name.
        description: What it is for.
        source: Where the limits come from.
        rois: The ROIs; their order is the bit order of a catalogue made from the template.
        goals: What is compared and judged; a metric of an ROI appears once.
    """

    format_version: Literal[1]
    name: Name
    description: str = ""
    source: str = ""
    rois: Annotated[tuple[TemplateRoi, ...], Field(min_length=1)]
    goals: Annotated[tuple[Goal, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_are_unique(self) -> Template:
        owners: dict[str, str] = {}
        for roi in self.rois:
            for name in dict.fromkeys(label.casefold() for label in (roi.name, *roi.aliases)):
                if name in owners:
                    raise ValueError(f"'{name}' names both ROI '{owners[name]}' and ROI '{roi.name}' (case is ignored)")
                owners[name] = roi.name
        return self

    @model_validator(mode="after")
    def _goals_fit_the_rois(self) -> Template:
        rois = {roi.name: roi for roi in self.rois}
        seen: set[tuple[str, Metric]] = set()
        for goal in self.goals:
            label = f"goal {goal.roi} {goal.metric}"
            if goal.roi not in rois:
                raise ValueError(f"{label}: the template has no such ROI; it has {', '.join(rois)}")
            relative = goal.metric.needs_prescription or goal.unit == "% of prescription"
            if relative and rois[goal.roi].prescription_gy is None:
                raise ValueError(f"{label}: it is relative to the prescription, and the ROI has none")
            if (goal.roi, goal.metric) in seen:
                raise ValueError(f"{label}: it is there twice; merge the two, a second limit is the 'variation'")
            seen.add((goal.roi, goal.metric))
        return self

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any], where: str) -> Template:
        """Check and build a template.

        Args:
            mapping: The parsed JSON.
            where: What to call it in messages: a file, or a file and a key.

        Raises:
            InputError: If a key is missing or unknown or a value is wrong, naming ``where`` and the field.
        """
        try:
            return cls.model_validate_json(json.dumps(mapping))
        except (TypeError, ValueError) as error:
            if isinstance(error, ValidationError):
                raise InputError(f"{where}: {_first_fault(error)}") from None
            raise InputError(f"{where}: not JSON data: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file: the inverse of :meth:`from_json`."""
        return self.model_dump(mode="json")

    @classmethod
    def load(cls, name_or_path: str) -> Template:
        """A shipped template by name, or one from a file.

        Args:
            name_or_path: A name of :func:`shipped_templates`, or the path of a JSON file. What ends in ``.json`` or
                has a folder in it is a path.

        Raises:
            InputError: If there is no such template or file, or it is not valid.

        Example:
            >>> Template.load("openkbp").roi("PTV_7000").prescription_gy
            70.0
        """
        path = Path(name_or_path)
        if path.suffix.lower() != ".json" and path.name == name_or_path:
            if name_or_path not in shipped_templates():
                known = ", ".join(shipped_templates())
                raise InputError(f"no template '{name_or_path}'; shipped are {known}, or give the path of a .json file")
            text = resources.files("cdm_nnunet.templates").joinpath(f"{name_or_path}.json").read_text(encoding="utf-8")
            return cls.from_json(_parse(text, name_or_path), f"template '{name_or_path}'")
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise InputError(f"no template file {path}; shipped are {', '.join(shipped_templates())}") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not text in UTF-8: {error}") from error
        return cls.from_json(_parse(text, str(path)), str(path))

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


def shipped_templates() -> tuple[str, ...]:
    """Names of the templates that come with the package."""
    entries = resources.files("cdm_nnunet.templates").iterdir()
    return tuple(sorted(entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json")))


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON: {error}") from error


def _first_fault(error: ValidationError) -> str:
    faults = error.errors(include_url=False)
    first = faults[0]
    # (a union adds the name of the type that it tried, such as 'constrained-float', to the place)
    field = ".".join(str(part) for part in first["loc"] if not {"-", "["} & set(str(part)))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "unknown key; remove it or correct its spelling"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{field}: {message}{more}" if field else f"{message}{more}"
