"""Every command in README and docs runs unchanged on small synthetic patients.

Training, which takes hours, is cut short by environment variables, and runs on the CPU. A command in a block that is
not marked ``bash`` would escape, so there must be none.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert
from cdm_nnunet.dataset_conversion.synthetic import find_synthetic

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
# What CI itself does with every change, see .ci/run: installation, and the tests that this file is one of.
DONE_BY_CI = (
    "python3 -m venv .venv && . .venv/bin/activate && pip install . && cdm-nnunet demo -o cdm_demo",
    'pip install -e ".[test]" && tests/run',
)
# Records of past runs, with real patients and for hours; not instructions.
RECORDS = ("benchmarks.md",)
# Pages with their own tests: tests/test_first_hour.py.
RUN_APART = ("first_hour.md",)
PROGRAMS = ("cdm-nnunet", "nnUNetv2_", "python", "pip", "eval ", "tests/run", "CDM_")

# The commands are run by a shell in which these replace the programs.
SHORTER = """
set -euo pipefail
cdm-nnunet() {
    case "$1" in
        plan) command cdm-nnunet "$@" --gpu-memory 2 --base-features 8 ;;
        train)
            CDM_SEED=1 CDM_LEARNING_RATE=0.015 CDM_NUM_EPOCHS=1 CDM_NUM_ITERATIONS=1 CDM_NUM_VAL_ITERATIONS=1 \
                command cdm-nnunet "$@" -device cpu ;;
        predict) command cdm-nnunet "$@" -device cpu --disable-tta ;;
        study) command cdm-nnunet "$@" -device cpu ;;
        *) command cdm-nnunet "$@" ;;
    esac
}
nnUNetv2_train() {
    # One large step: a dose of 1 Gy everywhere would be refused, since it looks like another unit; so would 300 Gy.
    CDM_SEED=1 CDM_LEARNING_RATE=0.015 CDM_NUM_EPOCHS=1 CDM_NUM_ITERATIONS=1 CDM_NUM_VAL_ITERATIONS=1 \
        command nnUNetv2_train "$@" -device cpu
}
"""


def blocks(document):
    """Language and lines of the fenced blocks of a document."""
    found = re.findall(r"(?ms)^( *)```(\w*)\n(.*?)^\1```$", document.read_text(encoding="utf-8"))
    return [(language, [line.strip() for line in text.splitlines() if line.strip()]) for _, language, text in found]


def write_files(folder):
    """Write the files that documents show as YAML under their names; studies with short trainings.

    README's study compares two; that of docs/studies.md has one here (tests/end_to_end/test_study.py has more).
    """
    for document in [one for one in DOCUMENTS if one.name not in RUN_APART]:
        for name, text in re.findall(r"(?ms)^```yaml\n# (\w+\.yaml)\n(.*?)^```$", document.read_text(encoding="utf-8")):
            content = yaml.safe_load(text)
            if "trainings" in content:
                content |= {"seeds": [0], "settings": {"num_epochs": 1, "num_iterations": 1, "num_val_iterations": 1}}
                if document.name != "README.md":
                    content["trainings"] = {content["baseline"]: content["trainings"][content["baseline"]]}
                for training in content["trainings"].values():
                    training.update(settings={"learning_rate": 0.05}, seeds=[0])
            (folder / name).write_text(yaml.safe_dump(content))


def documented_commands():
    return [
        line
        for document in DOCUMENTS
        if document.name not in (*RECORDS, *RUN_APART)
        for language, lines in blocks(document)
        if language == "bash"
        for line in lines
    ]


def is_for_real_patients(command):
    return command.startswith(("cdm-nnunet convert openkbp ", "cdm-nnunet convert to-openkbp "))


def needs_the_extra_planning(command):
    """tests/planning runs these verbs, with another engine."""
    return command.startswith(("cdm-nnunet plan-doses ", "cdm-nnunet mimic "))


def run_in_shell(commands, folder):
    """Run commands in one shell, in a folder; return the messages on those that ran."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("nnUNet_", "CDM_"))}
    environment["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), environment["PATH"]])
    environment["nnUNet_n_proc_DA"] = "0"
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    marks = folder / "started"
    marks.unlink(missing_ok=True)
    script = SHORTER + "".join(f"echo {number} >> {marks}\n{line}\n" for number, line in enumerate(commands))
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    started = [int(number) for number in marks.read_text(encoding="utf-8").split()]
    assert done.returncode == 0, f"{commands[started[-1]]}\n{done.stderr[-3000:]}"
    assert started == list(range(len(commands)))
    return done.stdout


def test_there_are_commands_to_run():
    commands = documented_commands()
    assert len(commands) >= 12
    assert len(set(commands)) == len(commands)
    assert set(DONE_BY_CI) <= set(commands)
    for verb in (
        *("demo", "env", "convert openkbp", "convert to-openkbp", "plan", "predict", "evaluate", "compare"),
        *("check", "inspect", "dvh", "train", "convert dicom"),
    ):
        assert any(f"cdm-nnunet {verb}" in command for command in commands), verb


def test_no_command_stands_outside_a_block_that_is_run():
    for document in DOCUMENTS:
        if document.name in RECORDS:
            continue
        text = document.read_text(encoding="utf-8")
        run = {line for language, lines in blocks(document) if language == "bash" for line in lines}
        loose = [line.strip() for line in text.splitlines() if line.strip().removeprefix("$ ").startswith(PROGRAMS)]
        assert set(loose) <= run, document.name


def test_ci_does_what_readme_says():
    ci = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    assert '-m venv "$work/venv"' in ci
    assert re.search(r'(?m)^python -m pip install .*-e "\.\[test\]"$', ci)
    assert ci.rstrip().endswith("\ntests/run")


@pytest.mark.slow
def test_the_documented_commands_run_in_their_order(tmp_path):
    raw = tmp_path / "nnunet_data" / "nnUNet_raw"  # in place of the conversion of patients
    convert(find_synthetic(n_training=3, n_test=1, coarseness=2.0), DatasetPlace(raw, 501, "OpenKBP"))
    commands = [
        command
        for command in documented_commands()
        if command not in DONE_BY_CI and not is_for_real_patients(command) and not needs_the_extra_planning(command)
    ]
    write_files(tmp_path)
    out = run_in_shell(commands, tmp_path)
    assert out.count("dose MAE") >= 5
    assert (tmp_path / "study" / "vanilla" / "evaluation" / "result.json").is_file()
    assert (tmp_path / "against_vanilla" / "comparison" / "compare.html").is_file()
    for evaluation in (
        tmp_path / "evaluation" / "cdm",
        *(tmp_path / "against_vanilla" / name / "evaluation" for name in ("cdm", "vanilla")),
    ):
        assert {"result.json", "metrics.csv", "scores.csv", "pictures"} <= {path.name for path in evaluation.iterdir()}
        assert len(list((evaluation / "pictures").glob("*.png"))) == 2


def test_the_documented_conversions_of_patients_run(tmp_path, openkbp_patients):
    (tmp_path / "open-kbp").mkdir()
    (tmp_path / "open-kbp" / "provided-data").symlink_to(openkbp_patients)
    conversions = [line for line in documented_commands() if line.startswith("cdm-nnunet convert ")]
    forth, back = filter(is_for_real_patients, conversions)
    out = run_in_shell([forth], tmp_path)
    assert "2 cases (2 for training, 0 for testing): 2 converted" in out
    dataset = tmp_path / "nnunet_data" / "nnUNet_raw" / "Dataset501_OpenKBP"
    assert (dataset / "dataset.json").is_file()
    shutil.copytree(dataset / "labelsTr", tmp_path / "predictions" / "cdm")
    assert "2 predicted doses written to submission" in run_in_shell([back], tmp_path)
    assert len(list((tmp_path / "submission").glob("*.csv"))) == 2


def test_a_command_that_fails_fails_the_test(tmp_path):
    with pytest.raises(AssertionError, match="cdm-nnunet no-such-verb"):
        run_in_shell([f"{sys.executable} --version", "cdm-nnunet no-such-verb", "true"], tmp_path)
