"""The examples in docstrings run, under the names by which the package is imported.

Not by ``--doctest-modules``: trainers/ and dataset_conversion/ are mapped into the package by setuptools, and pytest
would import their files a second time under other names.
"""

import doctest
import importlib
import pkgutil
import types

import pytest

PACKAGES = ("cdm_nnunet", "cdm_nnunet.trainers", "cdm_nnunet.dataset_conversion")


def module_names():
    names = set()
    for name in PACKAGES:
        package = importlib.import_module(name)
        names |= {name, *(found.name for found in pkgutil.walk_packages(package.__path__, f"{name}."))}
    return sorted(names)


def run_examples(module):
    """Number of examples of a module; an example that fails fails the test."""
    results = doctest.testmod(module)
    assert results.failed == 0, (
        f"{results.failed} of {results.attempted} examples of {module.__name__} fail; see stdout"
    )
    return results.attempted


@pytest.mark.parametrize("name", module_names())
def test_examples(name):
    run_examples(importlib.import_module(name))


def test_examples_of_every_folder_are_found():
    names = module_names()
    assert {"cdm_nnunet.trainers.settings", "cdm_nnunet.dataset_conversion.splits", "cdm_nnunet.folders"} <= set(names)
    for name in ("cdm_nnunet.trainers.settings", "cdm_nnunet.dataset_conversion.splits", "cdm_nnunet.folders"):
        assert run_examples(importlib.import_module(name)) > 0


def test_a_wrong_example_fails():
    module = types.ModuleType("wrong", "Wrong.\n\n>>> 1 + 1\n3\n")
    with pytest.raises(AssertionError, match="1 of 1 examples of wrong fail"):
        run_examples(module)
