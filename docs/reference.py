"""Write the JSON schemas of the records, and the tables of docs/evaluation.md that are made from them.

    python docs/reference.py

The descriptions stand in the docstrings of the classes. A test checks that schemas and tables are current.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cdm_nnunet.challenges import CHALLENGES
from cdm_nnunet.comparison.record import ComparisonFile
from cdm_nnunet.dataset import CaseRecord, DatasetSection
from cdm_nnunet.documents import schema_of
from cdm_nnunet.evaluation.record import ResultFile
from cdm_nnunet.nnunet.plans_entries import PlansSection
from cdm_nnunet.patient.objectives import ObjectiveFile
from cdm_nnunet.patient.record import PatientRecord
from cdm_nnunet.prediction_record import PredictionRecord

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "cdm_nnunet" / "schemas"
PAGE = ROOT / "docs" / "evaluation.md"
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_WITHOUT_TABLE = ("MeanOrigin", "Software")
_ADDED = ("model", "notes", "left_out", "plan_ranks")  # what the first results of their format lack


def result_schema() -> dict[str, Any]:
    """Of ``result.json``: what lies together in ``challenges`` has a key for each challenge there."""
    schema = schema_of(ResultFile, "result.json")
    _without_required(schema, *_ADDED)
    for name in ("CaseResult", "Scores"):
        entry = schema["$defs"][name]
        entry["properties"] = dict(_with_challenges(entry["properties"]))
        entry["required"] = list(entry["properties"])
    return schema


def _without_required(schema: dict[str, Any], *names: str) -> dict[str, Any]:
    schema["required"] = [name for name in schema["required"] if name not in names]
    return schema


def _with_challenges(properties: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, content in properties.items():
        if key != "challenges":
            yield key, content
            continue
        of_one = content["additionalProperties"]
        alternatives = [part for part in of_one.get("anyOf", [of_one]) if part != {"type": "null"}]
        for challenge in CHALLENGES:
            description = content["description"].replace("each public challenge", challenge.title)
            yield challenge.name, {"anyOf": [*alternatives, {"type": "null"}], "description": description}


SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "result": result_schema,
    "comparison": lambda: schema_of(ComparisonFile, "comparison.json"),
    "case": lambda: _without_required(schema_of(CaseRecord, "an entry of cdm_cases.json"), "fractions"),
    "dataset": lambda: schema_of(DatasetSection, "the section cdm of dataset.json"),
    "plans": lambda: schema_of(PlansSection, "the section cdm of plans"),
    "prediction": lambda: schema_of(PredictionRecord, "CASE.prediction.json"),
    "patient": lambda: schema_of(PatientRecord, "CASE.patient.json"),
    "objectives": lambda: schema_of(ObjectiveFile, "CASE.objectives.json"),
}


def schema_text(name: str) -> str:
    """The content of a schema's file."""
    return json.dumps(SCHEMAS[name](), indent=1, ensure_ascii=False) + "\n"


def page_text(text: str) -> str:
    """The page with its tables made anew."""
    schema = result_schema()
    return _TABLE.sub(lambda found: found[1] + "\n".join(_table(schema, found[2])) + "\n" + found[3], text)


def _table(schema: Mapping[str, Any], name: str) -> Iterator[str]:
    entry = schema if name == "ResultFile" else schema["$defs"][name]
    yield "| key | value | meaning |"
    yield "| --- | --- | --- |"
    for key, content in entry["properties"].items():
        yield f"| `{key}` | {_value(content)} | {content.get('description', '').replace('|', chr(92) + '|')} |"


def _value(content: Mapping[str, Any]) -> str:
    """The values that a key may have, in words."""
    if "$ref" in content:
        return _linked(content["$ref"])
    if "anyOf" in content or "oneOf" in content:
        parts = [_value(part) for part in content.get("anyOf") or content["oneOf"]]
        return ", ".join(parts[:-1]) + " or " + parts[-1]
    if "const" in content:
        return f"{content['const']}"
    if "enum" in content:
        texts = [f"`{text}`" if text else "empty" for text in content["enum"]]
        return ", ".join(texts[:-1]) + " or " + texts[-1]
    kind = content.get("type")
    if kind == "array":
        if "prefixItems" in content:
            return f"list of {len(content['prefixItems'])} numbers"
        return f"list of {_bracketed(_plural(content['items']))}"
    if kind == "object":
        inner = content.get("additionalProperties")
        return f"by name {_bracketed(_value(inner))}" if isinstance(inner, dict) else "object"
    return {"string": "text", "number": "number", "integer": "whole number", "boolean": "true or false"}.get(
        str(kind), str(kind)
    )


def _bracketed(text: str) -> str:
    return f"({text})" if " or " in text else text


def _plural(content: Mapping[str, Any]) -> str:
    return {"text": "texts", "number": "numbers"}.get(_value(content), _value(content))


def _linked(reference: str) -> str:
    name = reference.rpartition("/")[2]
    return name if name in _WITHOUT_TABLE else f"[{name}](#{name.lower()})"


def main() -> None:
    """Write all."""
    FOLDER.mkdir(exist_ok=True)
    for name in SCHEMAS:
        (FOLDER / f"{name}.schema.json").write_text(schema_text(name), encoding="utf-8")
    PAGE.write_text(page_text(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
