import argparse
import subprocess
import sys

import pytest

from cdm_nnunet.cli import evaluate as verb
from cdm_nnunet.errors import InputError
from cdm_nnunet.folders import FOLDER_VARIABLES


def parse(*arguments):
    parser = argparse.ArgumentParser()
    verb.configure(parser)
    return parser.parse_args(arguments)


def test_the_example_in_help_is_understood():
    program, name, *arguments = verb.EXAMPLE.split()
    assert (program, name) == ("cdm-nnunet", "evaluate")
    args = parse(*arguments)
    assert (args.d, str(args.i), str(args.o), args.np, args.pictures) == (501, "predictions", "evaluation", 4, 3)


def test_importing_the_verb_is_light():
    heavy = ("numpy", "SimpleITK", "matplotlib", "pydantic", "torch", "nnunetv2")
    code = f"import sys, cdm_nnunet.cli.evaluate; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_evaluation_needs_neither_torch_nor_nnunet():
    code = (
        "import sys, cdm_nnunet.evaluation.run, cdm_nnunet.evaluation.pictures; "
        "print([m for m in ('torch', 'nnunetv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_dataset_is_refused(tmp_path, monkeypatch):
    for variable in FOLDER_VARIABLES:
        monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(InputError, match="no dataset 501 in"):
        verb.run(parse("-d", "501", "-i", str(tmp_path), "-o", str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
