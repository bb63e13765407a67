"""Output in a terminal, and in a pipe instead."""

import argparse
import io
import os
import re
import subprocess
import sys

import pytest

from cdm_nnunet import progress
from cdm_nnunet.cli import _guide, _options
from cdm_nnunet.cli import main as cli
from cdm_nnunet.cli._parser import long_name
from cdm_nnunet.errors import InputError


def parsers(parser):
    """A parser and all below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                yield from parsers(part)


def said(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    assert end.value.code == 2
    return capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_verb_it_says_what_it_is_and_where_to_start(capsys):
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    assert "not a medical device" in shown
    commands = re.findall(r"cdm-nnunet ([a-z]\S*)", shown)
    assert commands[:2] == ["demo", "inspect"]
    assert set(commands) <= set(cli.VERBS)
    assert max(map(len, shown.splitlines())) <= 110


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["evalute"], "there is no verb 'evalute'; did you mean evaluate?"),
        (["convert", "dcm"], "there is no conversion 'dcm'; did you mean dicom?"),
        (["predict", "--ouput", "x"], "there is no option --ouput; did you mean --output?"),
        (["predict", "-devise", "cpu"], "there is no option -devise; did you mean --device?"),
        (["predict", "-device", "gpu"], "there is no 'gpu'; there are: cuda, mps, cpu"),
        (["export", "dicom", "--sorce", "x"], "there is no option --sorce; did you mean --source?"),
        (["demo", "-o", "a", "b"], "unexpected argument 'b'"),
        (["plan", "-d", "five"], "501 or Dataset501_OpenKBP, not 'five'"),
    ],
)
def test_a_mistake_is_one_line_with_what_was_meant(arguments, meant, capsys):
    error, see = said(capsys, *arguments).splitlines()
    assert error.endswith(meant)
    assert re.fullmatch(r"see: (cdm-nnunet[a-z -]*) --help", see)


def test_every_option_has_one_style_of_name_and_keeps_nnunets():
    for parser in parsers(cli._parser()[0]):
        for flag, action in parser._option_string_actions.items():
            assert parser._option_string_actions[long_name(flag)] is action, (parser.prog, flag)
            assert re.fullmatch(r"--?[a-z][a-z-]*", long_name(flag))
    predict = cli._parser()[0]
    plain = ["predict", "-i", "a", "-o", "b", "-d", "5"]
    one = predict.parse_args([*plain, "-device", "cpu", "-np", "3", "--disable_tta", "-step_size", "0.3"])
    two = predict.parse_args([*plain, "--device", "cpu", "--processes", "3", "--disable-tta", "--step-size", "0.3"])
    assert vars(one) == vars(two)
    assert (one.np, one.step_size, one.disable_tta) == (3, 0.3, True)
    assert predict.parse_args([*plain, "--disable"]).disable_tta  # (both spellings are one option)


def test_a_data_set_is_named_by_number_or_name(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    for variable in ("nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    (tmp_path / "Dataset501_OpenKBP").mkdir()
    parser = cli._parser()[0]
    for arguments, option in ((["plan", "-d"], "d"), (["train"], "dataset"), (["train", "-d"], "dataset_option")):
        for word in ("501", "Dataset501_OpenKBP"):
            args = parser.parse_args([*arguments, word])
            _options.numbers_of_datasets(args)
            assert getattr(args, option) == 501
        args = parser.parse_args([*arguments, "Dataset501_OpenKPB"])
        with pytest.raises(InputError, match="no Dataset501_OpenKPB; data set 501 is called Dataset501_OpenKBP"):
            _options.numbers_of_datasets(args)
    args = parser.parse_args(["convert", "synthetic", "-d", "Dataset500_Demo", "-n", "Trial"])
    with pytest.raises(InputError, match="data set 500 is called Dataset500_Trial"):
        _options.numbers_of_datasets(args)


@pytest.mark.parametrize("name", sorted({*cli.VERBS} - {"env"}))
def test_every_verb_says_what_it_starts(name):
    parser, verbs = cli._parser()
    args = parser.parse_args(verbs[name].EXAMPLE.split()[1:])
    text = _guide.starting(name, verbs[name].SUMMARY, args)
    assert re.fullmatch(rf"{name}: \S.*\w.*", text)
    assert "{" not in text


def test_in_a_terminal_the_start_is_told_and_a_pipe_gets_the_result_alone(monkeypatch, capfd):
    monkeypatch.setattr(sys.modules["cdm_nnunet.cli.dvh"], "run", lambda args: {})
    monkeypatch.setattr(sys.modules["cdm_nnunet.cli.dvh"], "render", lambda record: "done")
    words = ["dvh", "--rtstruct", "rs.dcm", "--rtdose", "rd.dcm"]
    assert cli.main([*words, "--json"]) == 0
    assert capfd.readouterr() == ("{}\n", "")
    assert cli.main(words) == 0
    assert capfd.readouterr() == ("done\n", "next: cdm-nnunet inspect dicom FOLDER, to learn from such plans\n")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert cli.main(words) == 0
    assert terminal.getvalue().splitlines()[0] == "dvh: DVH metrics of rd.dcm"


@pytest.mark.parametrize(
    ("verb", "words", "record", "command"),
    [
        ("convert", "synthetic -d 7 -n A", {"training_cases": 3, "dataset": "x"}, "cdm-nnunet plan -d 7"),
        ("plan", "-d 7 -p Small", {"preprocessed": ["3d_packed"]}, "cdm-nnunet train 7 3d_packed 0 -p Small"),
        ("predict", "-i a -o b -d 7", {}, "cdm-nnunet evaluate -d 7 -i b -o evaluation"),
        ("model", "export -d 7 -o m.zip", {}, "cdm-nnunet model info m.zip"),
        ("model", "verify m.zip", {}, "cdm-nnunet predict -m m.zip --dicom FOLDER -o OUT"),
        ("ensemble", "-i a c -o b", {}, "cdm-nnunet evaluate -d ID -i b -o evaluation"),
        ("evaluate", "-d 7 -i a -o b", {"files": {}}, "cdm-nnunet compare OTHER_EVALUATION b -o comparison"),
        ("compare", "a b -o c", {"files": {"html": "c/compare.html"}}, "open c/compare.html"),
        (
            "train",
            "7 3d_packed 0",
            {"model": "m"},
            "cdm-nnunet predict -i FOLDER -o predictions -d 7 -c 3d_packed -f 0",
        ),
        (
            "inspect",
            "dicom 'my exports' --template prostate",
            {"mapping": "inspection/rois.yaml"},
            "read inspection/rois.yaml, then: cdm-nnunet convert dicom 'my exports' -d 501 -n NAME --template prostate",
        ),
    ],
)
def test_the_end_names_what_comes_next(verb, words, record, command):
    import shlex

    args = cli._parser()[0].parse_args([verb, *shlex.split(words)])
    assert _guide.next_command(verb, args, record).startswith(command)


def test_lines_break_between_words_in_a_terminal_only(monkeypatch):
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda: os.terminal_size((40, 24)))
    text = "note: the dose of the plan is in cGy, and /a/path/that/is/longer/than/the/whole/terminal.dcm\nshort"
    assert progress.wrapped(text, io.StringIO()) == text
    lines = progress.wrapped(text, Terminal()).split("\n")
    assert [line for line in lines if len(line) > 40] == ["  /a/path/that/is/longer/than/the/whole/terminal.dcm"]
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())


def test_a_pipe_gets_a_line_a_minute():
    file, now = io.StringIO(), [0.0]
    bar = progress.Lines(range(10), desc="predict", file=file, clock=lambda: now[0])
    for _ in bar:
        now[0] += 25
    assert file.getvalue().splitlines() == [
        "predict: 3 of 10 cases after 1 min 15 s, about 2 min 55 s to go",
        "predict: 6 of 10 cases after 2 min 30 s, about 1 min 40 s to go",
        "predict: 9 of 10 cases after 3 min 45 s, about 25 s to go",
        "predict: 10 of 10 cases after 4 min 10 s",
    ]
    bar.close()
    assert "\r" not in file.getvalue()
    assert len(file.getvalue().splitlines()) == 4


def test_the_time_to_go_forgets_cases_that_took_no_time():
    """43 cases were done before; each of the others takes a minute."""
    now, file = [0.0], io.StringIO()
    bar = progress.Lines(desc="convert", total=50, file=file, clock=lambda: now[0])
    for _ in range(43):
        bar.update()
    for _ in range(5):
        now[0] += 60
        bar.update()
    assert file.getvalue().splitlines()[-1] == "convert: 48 of 50 cases after 5 min, about 2 min to go"


def test_short_work_prints_nothing():
    quick = io.StringIO()
    assert list(progress.Lines("abc", desc="predict", file=quick, clock=lambda: 0.0)) == ["a", "b", "c"]
    assert quick.getvalue() == ""


def test_a_shell_can_complete_words(tmp_path):
    answer = tmp_path / "answer"
    line = "cdm-nnunet ev"
    environment = os.environ | {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    subprocess.run([sys.executable, "-m", "cdm_nnunet.cli.main"], env=environment, check=True)
    assert answer.read_text().split() == ["evaluate"]


def test_goals_are_printed_with_their_limits():
    from cdm_nnunet.cli.evaluate import _goal_lines

    counts = {"n": 9, "agree": 8, "reference": {"fail": 1}, "predicted": {"fail": 2}, "certainty": None}
    limits = {"SpinalCord D0.03cc": "\N{LESS-THAN OR EQUAL TO} 45 Gy (acceptable to 48)"}
    _, head, row = _goal_lines(dict.fromkeys(limits, counts), limits)
    assert row.split("   ")[0] == "SpinalCord D0.03cc \N{LESS-THAN OR EQUAL TO} 45 Gy (acceptable to 48)"
    assert row.split()[-4:] == ["8", "7", "9", "8"]
    assert len(head) == len(row)
