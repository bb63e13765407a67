"""Allowed imports, checked in a process; import-linter checks the same from the source."""

import subprocess
import sys

import pytest

from cdm_nnunet.cli.main import VERBS

HEAVY = (
    *("torch", "nnunetv2", "SimpleITK", "matplotlib", "scipy", "batchgenerators", "batchgeneratorsv2"),
    *("plotly", "pydicom", "pandas", "yaml"),
)


def imported_with(*modules):
    """Which of the heavy packages a fresh interpreter has imported after importing some modules."""
    code = f"import sys, {', '.join(modules)}\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_core_is_numpy_only():
    assert imported_with("cdm_nnunet", "cdm_nnunet.dvh", "cdm_nnunet.roi") == set()


def test_the_command_line_starts_light():
    assert imported_with("cdm_nnunet.cli.main") == set()
    assert imported_with(*(f"cdm_nnunet.cli.{verb}".replace("-", "_") for verb in VERBS)) == set()


@pytest.mark.parametrize(
    "modules",
    [
        ("cdm_nnunet.evaluation.run", "cdm_nnunet.evaluation.pictures", "cdm_nnunet.evaluation.tables"),
        ("cdm_nnunet.report.page", "cdm_nnunet.comparison.run"),
        ("cdm_nnunet.dataset_conversion.openkbp", "cdm_nnunet.dataset_conversion.synthetic"),
        ("cdm_nnunet.node.service", "cdm_nnunet.node.receiving"),
    ],
)
def test_evaluation_and_conversion_run_without_torch_and_nnunet(modules):
    imported = imported_with(*modules)
    assert "SimpleITK" in imported  # (it does look into the other process)
    assert not imported & {"torch", "nnunetv2", "batchgenerators", "batchgeneratorsv2"}


def test_a_study_is_checked_and_told_without_torch():
    assert imported_with("cdm_nnunet.studies.run", "cdm_nnunet.trainers.settings") == set()


def test_losses_run_without_nnunet():
    imported = imported_with("cdm_nnunet.losses.cdm", "cdm_nnunet.losses.dose")
    assert "torch" in imported
    assert not imported & {"nnunetv2", "batchgenerators", "batchgeneratorsv2"}
