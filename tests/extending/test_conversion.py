"""A conversion is one module: it is found by its name, and the common steps are done for it."""

import json
import sys
import textwrap

import pytest

from cdm_nnunet.cli import converters
from cdm_nnunet.cli.convert import found_converters
from cdm_nnunet.cli.main import main

MODULE = '''
"""The conversion ``two-phantoms``."""

from dataclasses import replace

from cdm_nnunet.cli import _conversion, _options

SUMMARY = "Phantoms of another name."
EXAMPLE = "cdm-nnunet convert two-phantoms -d 500 -n Demo"


def configure(parser):
    _conversion.add_dataset(parser)
    _options.add_exclude(parser, "CASE")


def run(args):
    from cdm_nnunet.dataset_conversion.synthetic import find_synthetic

    found = replace(find_synthetic(3, coarseness=2.2), converter="two-phantoms", where="here")
    return _conversion.converted(found, args, exclude=args.exclude)
'''


@pytest.fixture
def one_more(tmp_path, monkeypatch):
    """A conversion in a separate file."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "two_phantoms.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.setattr(converters, "__path__", [*converters.__path__, str(tmp_path / "modules")])
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    yield
    sys.modules.pop("cdm_nnunet.cli.converters.two_phantoms", None)


def test_the_shipped_conversions_are_found():
    assert list(found_converters()) == ["dicom", "gdphmm", "nifti", "openkbp", "synthetic", "to-openkbp"]


def test_a_new_conversion_is_one_module(one_more, tmp_path, capfd):
    convert = ["convert", "two-phantoms", "-d", "500", "-n", "Demo", "-np", "1"]
    assert main([*convert, "--exclude", "phantom_009"]) == 2
    assert "to be excluded, but not in here: phantom_009" in capfd.readouterr().err
    assert main([*convert, "--exclude", "phantom_002", "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert (record["converted"], record["excluded"]) == (["phantom_001", "phantom_003"], ["phantom_002"])
    dataset = json.loads((tmp_path / "raw" / "Dataset500_Demo" / "dataset.json").read_text())
    assert dataset["cdm"]["facts"]["source"] == "two-phantoms"
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    assert "Phantoms of another name." in capfd.readouterr().out
