"""JSON schemas and the tables of docs/evaluation.md are those of the classes that write the records."""

import json
import re
import runpy
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from cdm_nnunet.documents import schema_of
from cdm_nnunet.evaluation.record import CaseResult

ROOT = Path(__file__).parent.parent
REFERENCE = runpy.run_path(str(ROOT / "docs" / "reference.py"), run_name="reference")
SHIPPED = resources.files("cdm_nnunet") / "schemas"
AGAIN = "run: python docs/reference.py"


@pytest.mark.parametrize("name", REFERENCE["SCHEMAS"])
def test_the_schemas_are_current(name):
    assert (SHIPPED / f"{name}.schema.json").read_text(encoding="utf-8") == REFERENCE["schema_text"](name), AGAIN


def test_the_page_is_current_and_has_every_table():
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert REFERENCE["page_text"](text) == text, AGAIN
    tables = set(re.findall(r"<!-- table: (\w+) -->", text))
    kinds = set(REFERENCE["result_schema"]()["$defs"]) - {"MeanOrigin", "Software"}
    assert tables == {"ResultFile", *kinds}
    headings = {heading.lower() for heading in re.findall(r"^### (\w+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#(\w+)\)", text)) <= headings


def test_every_key_has_a_meaning():
    schema = REFERENCE["result_schema"]()
    for name, entry in {"ResultFile": schema, **schema["$defs"]}.items():
        lacking = [key for key, content in entry["properties"].items() if not content.get("description")]
        assert lacking == [], name


def test_the_schema_says_what_a_record_is(tmp_path):
    schema = REFERENCE["result_schema"]()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["properties"]["format_version"]["const"] == 3
    assert {"model", "notes", "left_out", "plan_ranks"}.isdisjoint(schema["required"])
    case = schema["$defs"]["CaseResult"]
    assert {"openkbp", "gdphmm"} <= set(case["properties"])
    assert not {"challenges", "case"} & set(case["properties"])
    assert case["properties"]["dose_mae_gy"]["minimum"] == 0
    assert "few_voxels" in schema["$defs"]["RoiResult"]["required"]
    assert "case" not in schema_of(CaseResult, "case")["properties"]


def misfits(schema: Mapping[str, Any], root: Mapping[str, Any], value: Any, place: str = "") -> Iterator[str]:
    """Deviations of a value from a schema: types, keys and constants, which is sufficient for records."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if alternatives := schema.get("anyOf", schema.get("oneOf")):
        if all(any(misfits(part, root, value)) for part in alternatives):
            yield f"{place}: fits nothing of {len(alternatives)}"
        return
    types = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None)}
    kind = types.get(schema.get("type"), object)
    if not isinstance(value, kind) or value not in schema.get("enum", [value]) or schema.get("const", value) != value:
        yield f"{place}: {value!r}"
    elif isinstance(value, dict):
        yield from (f"{place}.{key} is missing" for key in schema.get("required", ()) if key not in value)
        for key, inner in value.items():
            of_key = schema.get("properties", {}).get(key, schema.get("additionalProperties", True))
            if of_key is False:
                yield f"{place}.{key} is unknown"
            elif isinstance(of_key, dict):
                yield from misfits(of_key, root, inner, f"{place}.{key}")
    elif isinstance(value, list) and "items" in schema:
        for k, inner in enumerate(value):
            yield from misfits(schema["items"], root, inner, f"{place}.{k}")


def test_a_record_fits_its_schema(written_result):
    schema = REFERENCE["result_schema"]()
    assert list(misfits(schema, schema, written_result)) == []
    case = next(iter(written_result["cases"].values()))
    for spoil, told in (
        (lambda: case.update(note=1), r"\.note is unknown"),
        (lambda: case.pop("rois"), r"\.rois is missing"),
        (lambda: written_result.update(n_cases="2"), r"^\.n_cases: '2'"),
    ):
        spoil()
        assert any(re.search(told, text) for text in misfits(schema, schema, written_result))


@pytest.fixture
def written_result(tmp_path) -> dict[str, Any]:
    """The record of two synthetic cases, with gamma."""
    from cdm_nnunet.dataset import RawDataset
    from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert
    from cdm_nnunet.dataset_conversion.synthetic import find_synthetic
    from cdm_nnunet.evaluation.gamma import GammaRule
    from cdm_nnunet.evaluation.run import Options, evaluate_folder

    convert(find_synthetic(n_training=2, n_test=0, coarseness=2.0), DatasetPlace(tmp_path, 501, "Synthetic"))
    dataset = RawDataset(tmp_path / "Dataset501_Synthetic")
    folder = dataset.folder / "labelsTr"
    return json.loads(json.dumps(evaluate_folder(dataset, folder, options=Options(gamma=(GammaRule(),))).to_json()))
