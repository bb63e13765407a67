"""pyproject.toml declares exactly the imported packages."""

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHIPPED = ("cdm_nnunet", "trainers", "dataset_conversion")
# Distributions whose modules have another name.
MODULES = {"PyYAML": "yaml", "pyradplan": "pyRadPlan", "scikit-image": "skimage", "mlflow-skinny": "mlflow"}
# Packages that an extra only limits to a version, because another of its packages needs that.
HELD_BACK = {"numpydantic"}
# Programs that the tests run: distribution, and the name of the program.
PROGRAMS = {"ruff": "ruff", "mypy": "mypy", "import-linter": "lint-imports", "dicom3tools": "dciodvfy"}
PROGRAMS |= {"pytest-xdist": "-n auto"}  # (a plug-in: an option of pytest)
# Peers of the benchmarks. Each of them runs in its own environment, because it needs other versions than we do.
PEERS = {"dicompylercore", "rt_utils", "DicomRTTool", "dosemetrics", "pymedphys"}
IMPORTERS = {"import_module", "importorskip"}


def declared() -> dict[str, set[str]]:
    """Modules that pyproject declares: of the package itself ("") and of each extra."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    names = {group: [re.split(r"[<>=!~;\[ ]", one)[0] for one in listed] for group, listed in groups.items()}
    return {
        group: {
            MODULES.get(name, name.replace("-", "_")) for name in listed if name not in {*PROGRAMS, project["name"]}
        }
        for group, listed in names.items()
    }


@functools.cache
def parsed(*folders: str) -> tuple[ast.Module, ...]:
    """The sources below some folders."""
    paths = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    return tuple(ast.parse(path.read_text(encoding="utf-8")) for path in paths)


def named(statement: ast.AST) -> list[str]:
    """Modules imported by a statement or a call."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    if isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
        return [statement.module]
    if isinstance(statement, ast.Call) and statement.args and isinstance(statement.args[0], ast.Constant):
        function = (
            statement.func.attr if isinstance(statement.func, ast.Attribute) else getattr(statement.func, "id", "")
        )
        return [str(statement.args[0].value)] if function in IMPORTERS else []
    return []


def others(folders: tuple[str, ...], nodes: Iterator[ast.AST]) -> set[str]:
    """Top-level modules that are neither ours nor Python's."""
    ours = {*SHIPPED, *(path.stem for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))}
    return {name.split(".")[0] for node in nodes for name in named(node)} - ours - sys.stdlib_module_names


def imported(*folders: str) -> set[str]:
    """Modules of others that the sources below some folders import, wherever they do it."""
    return others(folders, (node for tree in parsed(*folders) for node in ast.walk(tree)))


def imported_at_once(*folders: str) -> set[str]:
    """Those that are imported with the module: an extra may be missing then."""
    return others(folders, (node for tree in parsed(*folders) for node in tree.body))


def texts(*folders: str) -> set[str]:
    """All strings: a module may be imported by a name that is kept in one."""
    nodes = (node for tree in parsed(*folders) for node in ast.walk(tree))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_imports_are_found_however_they_are_written():
    source = "import a.b as c\nfrom d.e import f\nfrom . import g\nx = importlib.import_module('h.i')\n"
    source += "def late():\n    import j\n    pytest.importorskip('k', reason='l')\n    import_module(name)\n"
    nodes = list(ast.walk(ast.parse(source)))
    assert {name for node in nodes for name in named(node)} == {"a.b", "d.e", "h.i", "j", "k"}


def test_the_package_declares_what_it_imports_and_only_that():
    base, node = declared()[""], declared()["node"]
    planning = declared()["planning"] - base - HELD_BACK
    used_if_there = declared()["cluster"] | declared()["notebook"] | declared()["tracking"] | planning
    assert imported(*SHIPPED) <= base | node | used_if_there
    assert imported_at_once(*SHIPPED) - imported_at_once("cdm_nnunet/node") <= base
    assert imported_at_once("cdm_nnunet/node") <= base | node  # (the server of the network alone, and it comes late)
    assert base <= imported(*SHIPPED)
    assert node <= imported("cdm_nnunet/node")
    assert used_if_there <= imported(*SHIPPED) | texts(*SHIPPED)


@pytest.mark.parametrize(("extra", "folder", "peers"), [("test", "tests", set()), ("benchmarks", "benchmarks", PEERS)])
def test_an_extra_declares_what_is_imported_beyond_the_package(extra, folder, peers):
    of_the_package = set.union(*(declared()[group] for group in ("", "cluster", "node", "planning", "tracking")))
    assert imported(folder) - of_the_package - peers == declared()[extra]
    assert peers <= imported(folder)


def test_every_package_is_installed():
    setuptools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    places = {path.parent.relative_to(REPOSITORY) for path in (REPOSITORY / "cdm_nnunet").rglob("__init__.py")}
    there = {".".join(place.parts) for place in places}
    assert there | {"cdm_nnunet.trainers", "cdm_nnunet.dataset_conversion"} == set(setuptools["packages"])


def test_programs_that_the_test_extra_declares_are_run():
    sources = [(REPOSITORY / "tests" / "run").read_text(encoding="utf-8"), *texts("tests/dicom")]
    pyproject = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    for distribution, program in PROGRAMS.items():
        assert f'"{distribution}>=' in pyproject
        assert any(program in source for source in sources), program


def test_every_dependency_has_a_lower_bound():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for listed in (project["dependencies"], *project["optional-dependencies"].values()):
        assert [one for one in listed if ">=" not in one and not one.startswith(f"{project['name']}[")] == []
