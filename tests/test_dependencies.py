"""pyproject.toml declares what is imported, and only that."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHIPPED = ("cdm_nnunet", "trainers", "dataset_conversion")
# Distributions whose modules have another name.
MODULES = {"PyYAML": "yaml", "scikit-image": "skimage"}
# What the tests run as a program: distribution, and the name under which it is run.
PROGRAMS = {"ruff": "ruff", "mypy": "mypy", "import-linter": "lint-imports", "dicom3tools": "dciodvfy"}
# What benchmarks compare with. Each of them runs in an environment of its own, for it needs other versions than we do.
PEERS = {"dicompylercore", "rt_utils", "DicomRTTool"}
IMPORTERS = {"import_module", "importorskip"}


def declared() -> dict[str, set[str]]:
    """Modules that pyproject declares: of the package itself ("") and of each extra."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    names = {group: [re.split(r"[<>=!~;\[ ]", one)[0] for one in listed] for group, listed in groups.items()}
    return {
        group: {MODULES.get(name, name.replace("-", "_")) for name in listed if name not in PROGRAMS}
        for group, listed in names.items()
    }


def modules_of(source: str) -> Iterator[str]:
    """Top-level modules that a source text imports, by statement or by name."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            names = [str(node.args[0].value)] if function in IMPORTERS else []
        yield from (name.split(".")[0] for name in names)


def imported(*folders: str) -> set[str]:
    """Modules of others that the sources below some folders import."""
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    ours = {*SHIPPED, *(path.stem for path in files)}
    found = {name for path in files for name in modules_of(path.read_text(encoding="utf-8"))}
    return found - ours - sys.stdlib_module_names


def test_imports_are_found_however_they_are_written():
    source = "import a.b as c\nfrom d.e import f\nfrom . import g\nx = importlib.import_module('h.i')\n"
    source += "def late():\n    import j\n    pytest.importorskip('k', reason='l')\n    import_module(name)\n"
    assert set(modules_of(source)) == {"a", "d", "h", "j", "k"}


def test_the_package_declares_what_it_imports_and_only_that():
    assert imported(*SHIPPED) == declared()[""]


@pytest.mark.parametrize(("extra", "others"), [("test", set()), ("benchmarks", PEERS)])
def test_an_extra_declares_what_is_imported_beyond_the_package(extra, others):
    folder = {"test": "tests", "benchmarks": "benchmarks"}[extra]
    assert imported(folder) - declared()[""] - others == declared()[extra]
    assert others <= imported(folder)


def test_programs_that_the_test_extra_declares_are_run():
    texts = [(REPOSITORY / "tests" / "run").read_text(encoding="utf-8")]
    texts += [path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests" / "dicom").glob("*.py")]
    pyproject = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    for distribution, program in PROGRAMS.items():
        assert f'"{distribution}>=' in pyproject
        assert any(program in text for text in texts), program


def test_every_dependency_has_a_lower_bound():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for listed in (project["dependencies"], *project["optional-dependencies"].values()):
        assert [one for one in listed if ">=" not in one] == []
