"""Nothing but the tables asks which kind a metric is."""

import ast
from pathlib import Path

import pytest

import cdm_nnunet
from cdm_nnunet.dvh import KINDS

PACKAGE = Path(cdm_nnunet.__file__).parent


@pytest.mark.parametrize("room", ["dvh", "losses", "evaluation", "comparison", "report", "geometry", "dicom", "cli"])
def test_no_code_names_a_kind(room):
    named = {name for name in KINDS if "_" in name}  # ("mean" and the like are words)
    tables = {PACKAGE / "dvh" / "kinds.py", PACKAGE / "losses" / "metrics.py"}
    modules = {path for path in (PACKAGE / room).rglob("*.py") if path.name != "__init__.py"}
    assert modules
    for path in modules - tables:
        texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not texts & named, path


def test_tables_by_kind_name_no_other():
    from cdm_nnunet.losses.metrics import DIFFERENTIABLE

    assert set(DIFFERENTIABLE) <= set(KINDS)
    assert all(name == kind.name for name, kind in KINDS.items())
