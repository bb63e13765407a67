import argparse
import errno
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from cdm_nnunet import __version__
from cdm_nnunet.cli import main as cli
from cdm_nnunet.errors import InputError

RECORD = {"answer": 42, "names": ["a", "b"]}


def stub(run):
    """A verb module with the behaviour that a test needs."""
    verb = types.SimpleNamespace(SUMMARY="stub", EXAMPLE="cdm-nnunet demo", configure=lambda parser: None, run=run)
    verb.render = lambda record: f"the answer is {record['answer']}"
    return verb


@pytest.fixture
def demo_does(monkeypatch):
    """Put a function in place of the verb 'demo'."""

    def replace(run):
        monkeypatch.setitem(sys.modules, "cdm_nnunet.cli.demo", stub(run))

    return replace


def raiser(error):
    def run(args):
        raise error

    return run


@pytest.mark.parametrize("name", cli.VERBS)
def test_a_verb_keeps_the_protocol(name, capsys):
    verb = cli._parser()[1][name]
    for attribute in ("SUMMARY", "EXAMPLE"):
        assert isinstance(getattr(verb, attribute), str)
    for function in ("configure", "run", "render"):
        assert callable(getattr(verb, function))
    with pytest.raises(SystemExit) as exit_:
        cli.main([name, "--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    assert f"example:\n  {verb.EXAMPLE}" in shown
    assert f"cdm-nnunet {name}" in verb.EXAMPLE
    assert "--json" in shown


@pytest.mark.parametrize("name", sorted(set(cli.VERBS) - {"convert", "env"}))
def test_the_example_of_a_verb_is_understood(name):
    program, *arguments = cli._parser()[1][name].EXAMPLE.split()
    assert program == "cdm-nnunet"
    assert cli._parser()[0].parse_args(arguments).verb == name


def test_every_verb_is_listed():
    modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - {"__init__", "main"}
    assert {name for name in modules if not name.startswith("_")} == {name.replace("-", "_") for name in cli.VERBS}


def test_the_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"cdm-nnunet {__version__}\n"


@pytest.mark.parametrize("arguments", [["simulate"], ["demo", "--no-such-option"]])
def test_bad_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert "see: cdm-nnunet" in capsys.readouterr().err


def test_success_words_the_record(demo_does, capfd):
    demo_does(lambda args: RECORD)
    assert cli.main(["demo"]) == 0
    assert capfd.readouterr().out == "the answer is 42\n"


def test_json_on_stdout_is_nothing_but_json(demo_does, capfd):
    def noisy(args):
        print("noise by print")
        os.write(1, b"noise by a library\n")
        subprocess.run([sys.executable, "-c", "print('noise by a worker')"], check=True)
        return RECORD

    demo_does(noisy)
    assert cli.main(["demo", "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == RECORD
    assert all(f"noise by {source}" in err for source in ("print", "a library", "a worker"))


def test_stdout_is_given_back(demo_does, capfd):
    demo_does(lambda args: RECORD)
    cli.main(["demo"])
    capfd.readouterr()
    print("later")
    sys.stdout.flush()
    assert capfd.readouterr().out == "later\n"


def test_bad_input_is_one_line(demo_does, capfd):
    demo_does(raiser(InputError("case 'a':\n  the dose is negative\n")))
    assert cli.main(["demo"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "cdm-nnunet: error: case 'a': the dose is negative\n"


def test_names_from_files_do_not_act_on_the_screen(demo_does, capfd):
    name = "PTV\x1b[2J\u202e\udc80"  # clears the screen; turns the text round; a byte that is no UTF-8
    demo_does(raiser(InputError(f"ROI '{name}' is empty")))
    assert cli.main(["demo"]) == 2
    assert capfd.readouterr().err == "cdm-nnunet: error: ROI 'PTV\\x1b[2J\\u202e\\udc80' is empty\n"


def test_a_full_disk_is_one_line(demo_does, capfd):
    demo_does(raiser(OSError(errno.ENOSPC, "No space left on device", "dose.nii.gz")))
    assert cli.main(["demo"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "the disk is full" in err
    assert "dose.nii.gz" in err


def test_a_file_that_may_not_be_read_is_one_line(demo_does, capfd):
    demo_does(raiser(PermissionError(errno.EACCES, "Permission denied", "ct.csv")))
    assert cli.main(["demo"]) == 2
    assert capfd.readouterr().err == "cdm-nnunet: error: Permission denied: ct.csv\n"


@pytest.mark.parametrize("error", [ValueError("a defect"), OSError("without a file")])
def test_a_defect_is_not_hidden(demo_does, error):
    demo_does(raiser(error))
    with pytest.raises(type(error), match=str(error)):
        cli.main(["demo"])


def test_an_interruption_exits_with_130(demo_does, capfd):
    demo_does(raiser(KeyboardInterrupt()))
    assert cli.main(["demo"]) == 130
    assert capfd.readouterr().err == "cdm-nnunet: interrupted\n"


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "cdm_nnunet.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_the_process_exits_with_2_and_no_traceback(tmp_path):
    done = command("evaluate", "-d", "501", "-i", "predictions", "-o", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("cdm-nnunet: error: no dataset 501 in ")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "cdm_nnunet.cli.main", "env"],
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_namespace_of_every_verb_has_json():
    parser = cli._parser()[0]
    subparsers = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    assert set(subparsers.choices) == set(cli.VERBS)
    assert all("--json" in sub._option_string_actions for sub in subparsers.choices.values())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_result_that_does_not_fit_on_the_disk_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cdm_nnunet.cli.main", "env"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "the disk is full" in done.stderr


def test_shell_code_of_odd_folders_is_refused(monkeypatch, capfd):
    monkeypatch.setenv("nnUNet_raw", "/data/\x1b[2J")
    assert cli.main(["env"]) == 2
    assert "nnUNet_raw is '/data/\\x1b[2J'; choose a folder" in capfd.readouterr().err
