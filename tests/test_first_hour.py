"""The transcripts of docs/first_hour.md: their commands run in a fresh folder, and print the stated output.

Each section has its own folder. Numbers of the output may differ with processor and load, and count as any number.
"""

import csv
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs" / "first_hour.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"(?ms)^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE))
PATIENTS = "From DICOM patients to an RTDOSE"
LOSS = "From a new loss to a comparison"
TABLE = "From a table to its numbers"
SHORTER = {  # skipped, because a test need not wait for it
    "my_study.yaml": {"num_epochs: 4, num_iterations: 25": "num_epochs: 1, num_iterations: 2"},
    "commands": {
        "--patients 8 --test-patients 6": "--patients 2 --test-patients 2",
        "--coarse-spacing 6 --base-features 8": "--coarse-spacing 9 --base-features 4",
    },
}
BLOCK = re.compile(r"(?ms)^```(\w+)\n(.*?)^```$")


def commands(section):
    blocks = BLOCK.findall(SECTIONS[section])
    return [line for language, text in blocks if language == "bash" for line in text.splitlines()]


def shown(section):
    """The lines of output that a section shows."""
    return [
        line.strip()
        for language, text in BLOCK.findall(SECTIONS[section])
        if language == "text"
        for line in text.splitlines()
        if line.strip() not in ("", "...")
    ]


def write_files(section, folder):
    """Write the files that a section shows; their path is in a comment on the first line."""
    for language, text in BLOCK.findall(SECTIONS[section]):
        if language in ("python", "yaml"):
            path = folder / re.match(r"# (\S+)\n", text).group(1)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")


def shortened(text, changes):
    """A text with some of its parts replaced, each of which must be there."""
    for long, short in changes.items():
        assert long in text
        text = text.replace(long, short)
    return text


def typed(section, folder, changes=None):
    """Run the commands of a section, with changes, in a shell; return the output of both channels."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("nnUNet_", "CDM_"))}
    environment["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), environment["PATH"]])
    environment |= {"nnUNet_n_proc_DA": "0", "OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "400"}
    script = shortened("\n".join(["set -euo pipefail", *commands(section)]), changes or {})
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def without_numbers(text):
    named = re.sub(r"case_[0-9a-f]+", "case_0", " ".join(text.split()))
    return re.sub(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", "0", named)


def refuse_missing(section, said):
    told = without_numbers(said)
    assert [line for line in shown(section) if without_numbers(line) not in told] == []


def test_the_page_has_three_ways():
    assert list(SECTIONS) == [PATIENTS, LOSS, TABLE, "How long it took"]
    assert all(commands(section) and shown(section) for section in (PATIENTS, LOSS, TABLE))
    assert len([line for line in BLOCK.findall(SECTIONS[LOSS])[0][1].splitlines() if line]) <= 30


def test_a_number_that_differs_is_the_same_line_and_another_word_is_not():
    assert without_numbers("goals: 1 fail, 8  pass") == without_numbers("goals: 2 fail, 7 pass")
    assert without_numbers("1 fail") != without_numbers("1 pass")


@pytest.mark.slow
def test_from_dicom_patients_to_an_rtdose(tmp_path):
    refuse_missing(PATIENTS, typed(PATIENTS, tmp_path))
    (dose,) = (tmp_path / "rtdose").glob("*.dcm")
    assert dose.with_suffix(".report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert '"status": "outside"' not in dose.with_suffix(".patient.json").read_text(encoding="utf-8")


@pytest.mark.slow
def test_from_a_new_loss_to_a_comparison(tmp_path):
    write_files(LOSS, tmp_path)
    study = tmp_path / "my_study.yaml"
    study.write_text(shortened(study.read_text(encoding="utf-8"), SHORTER["my_study.yaml"]), encoding="utf-8")
    refuse_missing(LOSS, typed(LOSS, tmp_path, SHORTER["commands"]))
    table = (tmp_path / "my_study" / "comparison" / "comparison.csv").read_text(encoding="utf-8")
    assert "huber" in table


def table(path):
    """Quantities by name, each with its numbers and words."""
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    return {(row["level"], row["name"]): {key: numeric(text) for key, text in row.items()} for row in rows}


def numeric(text):
    try:
        return pytest.approx(float(text), rel=1e-6, abs=1e-9)
    except ValueError:
        return text


def test_from_a_table_to_its_numbers(tmp_path):
    results = Path("benchmarks", "results", "phantoms")
    shutil.copytree(REPOSITORY / results, tmp_path / results)
    said = " ".join(typed(TABLE, tmp_path).split())
    assert [line for line in shown(TABLE) if " ".join(line.split()) not in said] == []
    committed, again = (table(path / "comparison.csv") for path in (REPOSITORY / results, tmp_path / "recomputed"))
    assert len(committed) == 60
    assert committed.keys() == again.keys()
    for quantity, row in committed.items():
        for key, value in row.items():
            assert getattr(again[quantity][key], "expected", again[quantity][key]) == value, (quantity, key)
