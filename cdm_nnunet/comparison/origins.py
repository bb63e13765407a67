"""Origins of compared models: plans, options and training settings side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cdm_nnunet.comparison.record import Comparison
from cdm_nnunet.prediction_record import Made, MeanOrigin, Setting

TITLE = "Models"
DIFFERS, UNKNOWN = "differs", "not known"
MEAN, SINGLE = "mean of", "a single model"
_DIGITS = 12  # of a digest
_LABELS = {
    "dataset": "trained on",
    "trainer": "trainer",
    "configuration": "configuration",
    "plans": "plans",
    "plans_sha256": "digest of the plans",
    "folds": "folds",
    "spacing_mm": "network grid (z, y, x), mm",
    "tile_step_size": "step between windows, patch sizes",
    "mirroring": "mean of mirrored predictions",
    "gaussian": "weighted windows",
}


def columns(baseline: str, candidate: str) -> tuple[str, ...]:
    """Column headings of the table of models."""
    return ("", baseline, candidate, "")


def rows(comparison: Comparison, candidate: str) -> list[tuple[str, ...]]:
    """Properties of two models, one row each, in the order of :func:`columns`.

    Returns:
        Property, both values, and ``differs`` if they differ, or ``not known`` if one is unknown. Empty if nothing is
        known about both.
    """
    one, two = (_facts(comparison.origins.get(name)) for name in (comparison.baseline, candidate))
    if MEAN in {**one, **two}:
        one, two = ({MEAN: SINGLE, **facts} if facts else {} for facts in (one, two))
    return [
        (name, one.get(name, UNKNOWN), two.get(name, UNKNOWN), _mark(one.get(name), two.get(name)))
        for name in dict.fromkeys([*one, *two])
    ]


def table(comparison: Comparison, candidate: str) -> list[tuple[str, ...]]:
    """The rows with column headings; empty if there are none."""
    body = rows(comparison, candidate)
    return [columns(comparison.baseline, candidate), *body] if body else []


def unknown(comparison: Comparison) -> list[str]:
    """Models without known properties, in sentences."""
    return [
        f"The evaluation of {name} does not say which model made its predictions."
        for name in comparison.models
        if comparison.origins.get(name) is None
    ]


def _mark(one: str | None, two: str | None) -> str:
    return UNKNOWN if one is None or two is None else DIFFERS if one != two else ""


def _facts(origin: Made | None) -> dict[str, str]:
    if origin is None:
        return {}
    if isinstance(origin, MeanOrigin):
        parts = [_facts(one) for one in origin.models]
        names = dict.fromkeys(name for part in parts for name in part)
        of_models = {f"model {number}": part for number, part in enumerate(parts, 1)}
        together = {name: _alike({key: part.get(name, UNKNOWN) for key, part in of_models.items()}) for name in names}
        return {MEAN: f"{len(parts)} models", **together}
    values: dict[str, Any] = {name: getattr(origin, name) for name in _LABELS}
    values["plans_sha256"] = origin.plans_sha256[:_DIGITS]
    known = {label: _text(values[name]) for name, label in _LABELS.items() if values[name] is not None}
    return {**known, **dict(_settings(origin.settings or {}))}


def _settings(by_fold: Mapping[str, Mapping[str, Setting] | None]) -> Iterator[tuple[str, str]]:
    """Each setting with its value, or with that of each fold if they differ."""
    for name in dict.fromkeys(name for settings in by_fold.values() for name in settings or {}):
        values = {
            f"fold {fold}": UNKNOWN if settings is None or name not in settings else _text(settings[name])
            for fold, settings in by_fold.items()
        }
        yield f"setting {name}", _alike(values)


def _alike(values: Mapping[str, str]) -> str:
    """The common value, or each value with its owner's name."""
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return "; ".join(f"{of}: {text}" for of, text in values.items())


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "default" if value is None else str(value)
