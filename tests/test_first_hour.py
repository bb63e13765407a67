"""The transcript of docs/first_hour.md: what is typed there runs in a fresh folder, and says what stands there.

Numbers of the output may differ with processor and load, and count as any number.
"""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs" / "first_hour.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"(?ms)^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE))
PATIENTS = "From DICOM patients to an RTDOSE"
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


def typed(section, folder, **variables):
    """Type the commands of a section in a shell; what it says, on both channels."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("nnUNet_", "CDM_"))}
    environment["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), environment["PATH"]])
    environment |= {"nnUNet_n_proc_DA": "1", "OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "400", **variables}
    script = "\n".join(["set -euo pipefail", *commands(section)])
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


def test_the_page_has_commands_and_what_they_print():
    assert list(SECTIONS) == [PATIENTS, "How long it took"]
    assert commands(PATIENTS)
    assert shown(PATIENTS)


def test_a_number_that_differs_is_the_same_line_and_another_word_is_not():
    assert without_numbers("goals: 1 fail, 8  pass") == without_numbers("goals: 2 fail, 7 pass")
    assert without_numbers("1 fail") != without_numbers("1 pass")


@pytest.mark.slow
def test_from_dicom_patients_to_an_rtdose(tmp_path):
    refuse_missing(PATIENTS, typed(PATIENTS, tmp_path))
    (dose,) = (tmp_path / "rtdose").glob("*.dcm")
    assert dose.with_suffix(".report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert '"status": "outside"' not in dose.with_suffix(".patient.json").read_text(encoding="utf-8")
