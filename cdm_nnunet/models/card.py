"""The model card ``MODEL_CARD.md``: facts from the records, and gaps that a person has to fill."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cdm_nnunet.counting import counted
from cdm_nnunet.models.manifest import Manifest

TO_COMPLETE = "*To be completed:*"
_WIDTH = 100
_HU = ("0.5th percentile", "median", "99.5th percentile")


def model_card(
    manifest: Manifest, plans: Mapping[str, Any], dataset_json: Mapping[str, Any], scores: Mapping[str, Any] | None
) -> str:
    """The card of a model.

    Args:
        manifest: Manifest of the package.
        plans: Plans of the training.
        dataset_json: ``dataset.json`` of the training.
        scores: Scores of an evaluation; None if there is none.

    Returns:
        Markdown. Gaps are marked with :data:`TO_COMPLETE`.
    """
    section = plans["cdm"]
    parts = [
        f"# Model card: {manifest.name}\n",
        "A network that predicts a radiotherapy dose from CT, contours and prescriptions.\n",
        "**PREDICTED, NOT FOR TREATMENT**\n",
        _facts(manifest, plans, dataset_json),
        _use(),
        "## Training data\n",
        f"{dataset_json.get('description') or f'{TO_COMPLETE} source, dates and selection of the patients.'}\n",
        _cohort(section),
        f"{TO_COMPLETE} site, technique, fractionation, planning system, licence of the data, approval of their use.\n",
        "## Training\n",
        _settings(manifest),
        "## Scores\n",
        _scores(scores),
        "## Limits\n",
        "The network gives a dose for any input. New patients are compared with the training patients by the ranges "
        "above: values far outside are refused, values outside are reported. A patient inside the ranges can still "
        "get a wrong dose.\n",
        f"{TO_COMPLETE} known failures, patients for whom it must not be used, who is responsible for the model.\n",
    ]
    return "\n".join(_wrapped(part) for part in parts)


def _wrapped(part: str) -> str:
    """Wrap paragraphs; tables and headings are unchanged."""
    whole = ("|", "#", "-")
    return "\n".join(line if line.startswith(whole) else textwrap.fill(line, _WIDTH) for line in part.split("\n"))


def _facts(manifest: Manifest, plans: Mapping[str, Any], dataset_json: Mapping[str, Any]) -> str:
    configuration = plans["configurations"].get(manifest.configuration, {})
    rows = {
        "data set": f"{manifest.dataset}, {dataset_json.get('numTraining', '?')} cases (a fold trains on a part)",
        "trainer, plans, configuration": f"`{manifest.trainer}`, `{manifest.plans}`, `{manifest.configuration}`",
        "folds": ", ".join(_fold(one) for one in manifest.folds),
        "weights": f"{manifest.precision} precision",
        "voxel size of the network (z, y, x)": _sizes(configuration.get("spacing", ())),
        "clinical template": str(plans["cdm"]["template"].get("name")),
        "exported": f"{manifest.made}, by {', '.join(' '.join(one) for one in manifest.versions.items())}",
    }
    return _table(("", ""), rows.items())


def _fold(record: Any) -> str:
    given = ", weights from a file" if record.weights_from == "file" else ""
    return f"{record.fold} ({counted(record.epochs, 'epoch')}{given})"


def _use() -> str:
    return (
        "## Intended use\n\n"
        "Research, and checks of plans in addition to a clinic's own. It is not a medical device, and no dose of it "
        "may be delivered or replace a plan.\n\n"
        f"{TO_COMPLETE} intended patients and purpose; validation before use.\n"
    )


def _cohort(section: Mapping[str, Any]) -> str:
    cohort = section.get("cohort")
    kinds = {roi["name"]: roi["kind"] for roi in section["catalogue"]}
    if not isinstance(cohort, Mapping):
        return _table(("ROI", "kind"), kinds.items())
    levels, volumes, contoured = (cohort.get(key, {}) for key in ("prescription_gy", "volume_cc", "contoured"))
    rows = [
        (name, kind, contoured.get(name, 0), _range(levels.get(name)), _range(volumes.get(name)))
        for name, kind in kinds.items()
    ]
    table = _table(
        ("ROI", "kind", f"contoured in (of {cohort.get('n_cases')})", "prescription (Gy)", "volume (cc)"), rows
    )
    sizes = " x ".join(_range(bounds) for bounds in cohort.get("spacing_mm", ()))
    hu = ", ".join(f"{name} {_range(bounds)}" for name, bounds in zip(_HU, cohort.get("hu", ()), strict=False))
    return f"{table}\nVoxel size (z, y, x): {sizes} mm. HU inside the ROIs: {hu}.\n"


def _settings(manifest: Manifest) -> str:
    lines: list[str] = []
    for one in manifest.folds:
        known = "settings not known" if one.settings is None else ", ".join(f"{k} {v}" for k, v in one.settings.items())
        lines.append(f"- Fold {one.fold}: {known}.")
    return "\n".join(lines) + "\n"


def _scores(scores: Mapping[str, Any] | None) -> str:
    if scores is None:
        return f"{TO_COMPLETE} no evaluation was given to the export (`--result`).\n"
    rows = [(name, _number(value)) for name, value in _named_scores(scores["scores"])]
    notes = "".join(f"- {note}\n" for note in scores.get("notes", ()))
    head = f"On {counted(scores['n_cases'], 'case')} of {scores['dataset']} (`cdm-nnunet evaluate`):\n\n"
    return head + _table(("score", "value"), rows) + (f"\n{notes}" if notes else "")


def _named_scores(scores: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in scores.items():
        if isinstance(value, int | float):
            yield name, value
        elif isinstance(value, Mapping) and value and all(isinstance(one, int | float) for one in value.values()):
            yield from ((f"{name} {key}", one) for key, one in value.items())


def _table(heads: Sequence[str], rows: Any) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    lines += [f"| {' | '.join(_cell(one) for one in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return str(value).replace("|", "/").replace("\n", " ")


def _range(bounds: Any) -> str:
    return "" if not bounds else f"{_number(bounds[0])} to {_number(bounds[1])}"


def _sizes(sizes: Sequence[float]) -> str:
    return f"{' x '.join(_number(size) for size in sizes)} mm"


def _number(value: float) -> str:
    return f"{value:.4g}"
