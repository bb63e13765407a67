import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cdm_nnunet import demo
from cdm_nnunet.errors import InputError

NEW_PATIENT = {
    "model": "openkbp_hn",
    "applies": "unusual",
    "findings": ["the CT is 30 HU higher"],
    "verdicts": {"fail": 1, "pass": 9},
    "report": "demo/phantom.report.html",
}


@pytest.fixture
def fake_steps(monkeypatch):
    """Demo steps that finish immediately, run by the interpreter; returns the list of those that ran."""
    ran = []

    def steps(size, *, quick=False):
        def step(name, code="pass"):
            make = f"import pathlib; pathlib.Path('{name}.out').write_text('done'); print('{name} says hello'); {code}"
            return demo.Step(name, ("python", "-c", make), f"{name}.out")

        return [step("one"), step("two"), step("three")]

    def run_step(step, *arguments):
        ran.append(step.name)
        return real(step, *arguments)

    real = demo._run_step
    monkeypatch.setattr(demo, "demo_steps", steps)
    monkeypatch.setattr(demo, "_run_step", run_step)
    monkeypatch.setattr(demo, "_environment", lambda folder, training: {})
    monkeypatch.setattr(demo, "_program", lambda name: sys.executable)
    monkeypatch.setattr(demo, "_outcome", lambda folder, trainer: {})
    monkeypatch.setattr(demo, "_score_table", lambda folder: [])
    monkeypatch.setattr(demo, "_new_patient", lambda folder: NEW_PATIENT)
    return ran


def test_steps_run_in_order_each_with_its_log(fake_steps, tmp_path, capsys):
    record = demo.run_demo(tmp_path / "d")
    assert fake_steps == ["one", "two", "three"] == list(record["seconds"])
    log = (tmp_path / "d" / "logs" / "two.log").read_text()
    assert log.startswith("$ python -c ")
    assert log.endswith("two says hello\n")
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == ["[1/3] one", "[2/3] two", "[3/3] three"]


def test_a_finished_demo_is_not_run_again(fake_steps, tmp_path):
    first = demo.run_demo(tmp_path / "d")
    assert demo.run_demo(tmp_path / "d") == first
    assert fake_steps == ["one", "two", "three"]


def test_a_long_step_says_each_minute_what_is_left(monkeypatch, capsys):
    steps = demo.demo_steps(demo.FULL)
    left = demo._Left(steps[2:], {"convert": 50.0, "plan": 24.0})  # (twice the usual time: 310 s more are usual)
    left.tell(60.0)
    left.tell(120.0)
    assert capsys.readouterr().err == ("\n      1 min, about 9 min to go ... \n      2 min, about 8 min to go ... ")
    demo._Left(steps, {}).tell(60.0)
    assert capsys.readouterr().err == "\n      1 min ... "


def test_test_patients_that_are_unlike_all_others_are_predicted_too():
    """The full demo has one without a second target, which all patients for training have."""
    predictions = [step.command for step in demo.demo_steps(demo.FULL) if step.name.startswith("predict_")]
    assert [command[:2] for command in predictions] == [("cdm-nnunet", "predict")] * 2
    assert all("--allow-outside" in command for command in predictions)


def test_a_step_ends_with_the_demo(monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_TELL_EVERY_S", 0.01)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        with pytest.raises(KeyboardInterrupt):
            demo._wait(process, interrupt)
        assert process.wait(20) < 0


@pytest.mark.parametrize("there", [True, False])
def test_the_page_is_opened_on_demand(fake_steps, tmp_path, monkeypatch, there):
    from cdm_nnunet.cli import demo as verb

    asked = []
    monkeypatch.setattr(demo.webbrowser, "open", lambda page: asked.append(page) or there)
    args = argparse.Namespace(o=tmp_path / "d", quick=True, open=True, dicom=None)
    record = {**verb.run(args), "models": {}}
    assert asked == [(tmp_path / "d" / "comparison" / "compare.html").as_uri()]
    wanted = "opened: " if there else "no browser found; open: "
    assert f"\n{wanted}{tmp_path / 'd'}" in verb.render(record)
    args.open = False
    assert verb.run(args)["opened"] is None
    assert len(asked) == 1


def test_a_step_without_its_product_runs_again(fake_steps, tmp_path):
    demo.run_demo(tmp_path)
    (tmp_path / "two.out").unlink()
    demo.run_demo(tmp_path)
    assert fake_steps == ["one", "two", "three", "two"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [("raise SystemExit('no more memory')", "no more memory"), ("pathlib.Path('b.out').unlink()", "")],
)
def test_a_step_that_fails_is_named_with_its_log_and_the_demo_goes_on_from_there(
    fake_steps, tmp_path, monkeypatch, code, reason
):
    write = "import pathlib; pathlib.Path('{0}.out').write_text(''); "

    def steps(size, *, quick=False):
        return [
            demo.Step("a", ("python", "-c", write.format("a")), "a.out"),
            demo.Step("b", ("python", "-c", write.format("b") + code), "b.out"),
        ]

    healthy = demo.demo_steps
    monkeypatch.setattr(demo, "demo_steps", steps)
    with pytest.raises(InputError, match=rf"step 'b' failed \(exit status \d\): .*{reason}.*; its log: .*b\.log"):
        demo.run_demo(tmp_path)
    assert list(json.loads((tmp_path / demo.STATE_FILE).read_text())["seconds"]) == ["a"]
    monkeypatch.setattr(demo, "demo_steps", healthy)
    demo.run_demo(tmp_path)
    assert fake_steps == ["a", "b", "one", "two", "three"]


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="exists and is not the folder of a demo"):
        demo.run_demo(tmp_path)
    with pytest.raises(InputError, match="exists and is not the folder of a demo"):
        demo.run_demo(tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_demo_of_the_other_size_is_refused(tmp_path):
    demo.open_folder(tmp_path, quick=True)
    with pytest.raises(InputError, match="is a demo with --quick"):
        demo.open_folder(tmp_path, quick=False)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format_version": 1}', '{"format_version": 1, "quick": 0, "seconds": {}}', "[" * 9000],
)
def test_a_damaged_state_is_refused(tmp_path, text):
    (tmp_path / demo.STATE_FILE).write_text(text)
    with pytest.raises(InputError, match=r"demo\.json: .*; delete .* or name a new folder with -o"):
        demo.open_folder(tmp_path, quick=False)


def test_the_state_of_another_version_is_refused(tmp_path):
    (tmp_path / demo.STATE_FILE).write_text('{"format_version": 2, "quick": false, "seconds": {}}')
    with pytest.raises(InputError, match="another version"):
        demo.open_folder(tmp_path, quick=False)


@pytest.mark.parametrize("size", [demo.FULL, demo.QUICK])
def test_both_models_get_the_same_commands(size):
    steps = {step.name: step for step in demo.demo_steps(size)}
    assert len(steps) == 11
    for verb in ("train", "predict", "evaluate"):
        mae, cdm = (steps[f"{verb}_{trainer}"] for trainer in (demo.BASELINE, demo.CDM))
        assert [word.replace(demo.BASELINE, demo.CDM) for word in mae.command] == list(cdm.command)
        assert mae.command != cdm.command


def test_the_shipped_model_is_said_to_apply_or_not(fake_steps, tmp_path):
    from cdm_nnunet.cli import demo as verb

    record = {**demo.run_demo(tmp_path / "d"), "models": {}, "opened": None}
    text = verb.render(record)
    assert "on a new phantom, unusual among its training patients; goals of the predicted dose: 1 fail, 9 pass." in text
    assert "\n  the CT is 30 HU higher\nreport   demo/phantom.report.html\n" in text


@pytest.mark.parametrize("options", [["--quick"], ["--open"], []])
def test_only_phantoms_as_dicom_files(tmp_path, capsys, options):
    from cdm_nnunet.cli.main import main

    folder = tmp_path / "patients"
    status = main(["demo", "-o", str(folder), "--dicom", "0", *options])
    wanted = "it goes without --quick and --open" if options else "0 phantom patients; expected 1 to 99"
    assert (status, wanted in capsys.readouterr().err) == (2, True)
    assert not folder.exists()


@pytest.mark.slow
def test_the_quick_demo_runs_from_patients_to_pictures(tmp_path):
    def run(*options):
        command = [sys.executable, "-m", "cdm_nnunet.cli.main", "demo", "-o", "demo", "--quick", *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    first = run("--json")
    assert first.returncode == 0, first.stderr
    record = json.loads(first.stdout)
    assert set(record["models"]) == {demo.BASELINE, demo.CDM}
    for model in record["models"].values():
        assert 0 < model["dose_mae_gy"] < 40
        assert model["ptv_score"] > 0
        result = json.loads((tmp_path / model["result"]).read_text())
        assert result["scores"]["openkbp"]["dose_score"] == model["dose_score_gy"]
        names = [path.rsplit("_", 1)[1] for path in model["pictures"]]
        assert names == ["dvh.png", "slices.png"]
        for picture in model["pictures"]:
            assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    pages = [*(model["report"] for model in record["models"].values()), record["comparison"]]
    pages.append(record["new_patient"]["report"])
    assert len(set(pages)) == 4
    for page in pages:
        assert Path(page).read_text(encoding="utf-8").startswith("<!doctype html>")
    again = run()
    assert again.returncode == 0
    assert all(page in again.stdout for page in pages)
    assert again.stderr.count("done before") == 11
    assert (
        "openkbp_hn, the model that ships, on a new phantom, like its training patients; goals of the" in again.stdout
    )
    (row,) = (line for line in again.stdout.splitlines() if line.strip().startswith("OAR score"))
    assert [float(word.split()[0]) for word in re.split(r" {3,}", row.strip())[1:3]] == [
        pytest.approx(record["models"][trainer]["oar_score"], abs=0.001) for trainer in (demo.BASELINE, demo.CDM)
    ]
    assert row.endswith("too few to tell")
    *_, to_open, own = again.stdout.splitlines()
    assert to_open == f"open: {record['comparison']}   (cdm-nnunet demo -o {tmp_path / 'demo'} --open does)"
    assert own.startswith("your own patients: cdm-nnunet inspect dicom ")
