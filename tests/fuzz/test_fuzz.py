"""Spoilt files of every kind are refused or read as they were; a longer run: ``python tests/fuzz --seconds 1200``."""

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
try:
    engine = importlib.import_module("engine")
    subjects = importlib.import_module("subjects")
finally:
    sys.path.pop(0)

PAST = [
    # subject, file, edits (as the fuzzer prints them), outcome
    ("GDP-HMM plan", 0, [("cut", 3276, 162)], "refused"),  # the archive's directory points before its start
    ("image", 0, [("header", (76 + 4, "f"), 0)], "refused"),
    ("image", 0, [("header", (76 + 12, "f"), float("nan"))], "refused"),
    ("image", 0, [("header", (108, "f"), 348)], "refused"),
    ("image", 0, [("header", (252, "h"), 0), ("header", (254, "h"), 0)], "refused"),
    ("image", 0, [("header", (280, "f"), 2.5)], "refused"),
    ("image", 0, [("header", (72, "h"), 255)], "refused"),
    ("mapping", 0, [("double line", 8000, None)], "refused"),
    ("mapping", 0, [("word", 60_000, b".nan")], "refused"),
    ("YAML text", 0, [("word", 65_535, b"[" * 3000)], "refused"),
    ("template", 0, [("word", 65_535, b'{"a":' * 3000)], "refused"),
    ("template", 0, [("double line", 4000, None)], "refused"),
    ("template", 0, [("word", 0, b"[")], "refused"),
    ("data set", 0, [("end", 30_000, None)], "refused"),
    ("data set", 0, [("cut", 18_750, 1), ("cut", 18_750, 1)], "refused"),
    ("GDP-HMM plan", 0, [("zero", 5122, 158), ("zero", 5122, 158)], "refused"),
    ("side file", 0, [("set", 0, b"[")], "refused"),
    ("side file", 0, [("word", 38_327, b"1" * 5000)], "refused"),  # a path that is too long for the system
    ("DICOM patient", 0, [("vr", 2750, b"FD")], "refused"),
    ("DICOM patient", -1, [("vr", 31425, b"US")], "refused"),  # CLOSUS_PLANAR was ignored silently
    ("OpenKBP files", 0, [("flip", 47343, 6)], "refused"),  # two lines of a mask became one, and a voxel was lost
    ("OpenKBP files", 0, [("word", 20_000, b"12.7")], "refused"),
    ("OpenKBP files", -1, [("word", 7868, b"1_0"), ("flip", 1132, 3), ("flip", 1132, 3)], "refused"),
    ("OpenKBP files", -1, [("set", 193, b"\n")], "refused"),  # a digit became an empty line, the voxel size another
    ("OpenKBP files", -1, [("word", 117, b"-1")], "refused"),
    ("DICOM patient", 4, [("insert", 27009, b"\x8a\xc9\x11\n3C")], "refused"),  # a line break in a UID in the message
    ("index", 0, [("word", 30_000, b"1" * 5000)], "same"),
]


@pytest.fixture(scope="module")
def benches(tmp_path_factory):
    found = {}

    def bench(name):
        if name not in found:
            found[name] = engine.Bench(subjects.SUBJECTS[name], tmp_path_factory.mktemp("fuzz"))
        return found[name]

    return bench


@pytest.mark.parametrize(("name", "which", "edits", "outcome"), PAST)
def test_past_failures(benches, name, which, edits, outcome):
    assert benches(name).examine(which, edits)[0] == outcome


def test_the_bench_sees_what_it_looks_for(tmp_path):
    """A reader that accepts anything, one that fails, one that hangs: each is reported."""
    answers = iter(["sound", "another", KeyError("a"), engine.Hang()])

    def read(folder):
        answer = next(answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    subject = subjects.Subject("any", "packed", "*", lambda folder: (folder / "a").write_bytes(b"abc"), read)
    bench = engine.Bench(subject, tmp_path)
    assert [bench.examine(0, [("end", 0, None)])[0] for _ in range(3)] == ["silent", "traceback", "hang"]
    assert (tmp_path / "a").read_bytes() == b"abc"


def test_what_another_reader_takes_too_is_no_silent_change(benches):
    template = benches("template")
    changed = template.contents[0].replace(b'"Dmax"', b'"Dmean"')
    template.files[0].write_bytes(changed)
    assert template.subject.read(template.folder) != template.sound
    assert engine.describes_something_else("json", template.contents[0], changed)
    assert not engine.describes_something_else("json", template.contents[0], changed + b"}")
    template.files[0].write_bytes(template.contents[0])


def test_spoilt_files_are_refused_or_read_as_they_were():
    report = engine.fuzz(seconds=40, seed=20261128)
    assert not report.failures, str(report)
    assert set(report.tried) == set(subjects.SUBJECTS)
