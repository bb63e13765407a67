"""Damages files, reads them, and counts failures: silent changes, tracebacks and hangs."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import io
import json
import re
import shutil
import signal
import struct
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pydicom
import yaml
from hypothesis import strategies as st
from subject import Subject
from subjects import SUBJECTS

from cdm_nnunet.errors import InputError

HANG_SECONDS = 20
SAME_PLACE_MM = 0.25  # a tenth of a voxel: see cdm_nnunet.nifti_header
# A header whose scaling, number type (of the same width) or origin in both forms is changed is that of another image.
HEADER_FIELDS = [
    *((40 + 2 * k, "h") for k in range(8)),
    *((72, "h"), (108, "f"), (123, "B"), (252, "h"), (254, "h"), (0, "i"), (344, "i"), (348, "i")),
    *((76 + 4 * k, "f") for k in range(4)),
    *((256 + 4 * k, "f") for k in range(18)),
]
NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    7,
    255,
    32767,
    -32768,
    1e-3,
    2.5,
    1e9,
    -1e9,
    1e38,
    float("nan"),
    float("inf"),
    -0.0,
    352,
    348,
]
WORDS = [
    *(b"NaN", b"1e999", b"-1", b"0", b'""', b"null", b"true", b"[]", b"{}", b'"\\ud800"', b'"\\u0000"', b"1" * 5000),
    *(b"[" * 3000, b'{"a":' * 3000, b"2024-01-31", b".nan", b"&a", b"*a", b"!!python/name:os.system", b"<<: *a"),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b"\x85", b"? ", b"- ", b"---\n", b"no", b"60,5", b"1:30", b"'", b"|\n"),
    *(
        b"%",
        b"010",
        b"(a|aa)+",
        b"(a+)+$",
        b"{1000}{1000}{1000}",
        b"((",
        b".*" * 50,
        b"12.7",
        b"1_0",
        b"+1",
        b",",
        b"\r",
    ),
]
_PARTS = 2**16
_TEXTS = ["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"]
VRS = [b"UN", b"SQ", b"US", b"FD", b"DS", b"UI", b"OB", b"ZZ", b"AT", b"PN", b"IS"]
fraction = st.integers(0, _PARTS - 1)  # where in a file
byte_edits = st.one_of(
    st.tuples(st.just("set"), fraction, st.binary(min_size=1, max_size=4)),
    st.tuples(st.just("flip"), fraction, st.integers(0, 7)),
    st.tuples(st.just("cut"), fraction, st.integers(1, 400)),
    st.tuples(st.just("repeat"), fraction, st.integers(1, 400)),
    st.tuples(st.just("insert"), fraction, st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("end"), fraction, st.none()),
    st.tuples(st.just("zero"), fraction, st.integers(1, 400)),
)
edits = {
    "bytes": byte_edits,
    "words": st.tuples(st.just("word"), fraction, st.sampled_from(WORDS)),
    "lines": st.tuples(st.sampled_from(["drop line", "double line"]), fraction, st.none()),
    "header": st.tuples(st.just("header"), st.sampled_from(HEADER_FIELDS), st.sampled_from(NUMBERS)),
    "header bytes": st.tuples(st.just("header flip"), st.integers(0, 8 * 352 - 1), st.none()),
    "vr": st.tuples(st.just("vr"), fraction, st.sampled_from(VRS)),
}
STRATEGIES = {
    "json": st.one_of(edits["bytes"], edits["words"], edits["lines"]),
    "yaml": st.one_of(edits["bytes"], edits["words"], edits["lines"]),
    "nifti": st.one_of(edits["bytes"], edits["header"], edits["header bytes"]),
    "dicom": st.one_of(edits["bytes"], edits["vr"]),
    "packed": edits["bytes"],
    "csv": st.one_of(edits["bytes"], edits["words"], edits["lines"]),
    "cache": st.one_of(edits["bytes"], edits["words"], edits["lines"]),
}
# (of two edits of a DICOM file, one may change a value, which can't be detected, and the other the structure)
_MOST_EDITS = {kind: 1 if kind == "dicom" else 3 for kind in STRATEGIES}
UNJUDGED_HEADER_BITS = {8 * at + bit for at in (70, 71, 112, 113, 114, 115, 116, 117, 118, 119) for bit in range(8)}
Edit = tuple[str, Any, Any]


@dataclasses.dataclass
class Report:
    """Results of a run.

    Attributes:
        tried: Inputs read, by subject.
        refused: Number of refused ones.
        failures: Kind of failure, subject, file and edits, and outcome.
    """

    tried: Counter[str] = dataclasses.field(default_factory=Counter)
    refused: Counter[str] = dataclasses.field(default_factory=Counter)
    failures: list[tuple[str, str, str, list[Edit], str]] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        kinds = Counter(failure[0] for failure in self.failures)
        counts = ", ".join(f"{kinds[kind]} {kind}" for kind in ("silent", "traceback", "hang"))
        lines = [f"{sum(self.tried.values())} inputs, {sum(self.refused.values())} refused; {counts}"]
        lines += [f"  {name}: {n} inputs, {self.refused[name]} refused" for name, n in self.tried.items()]
        return "\n".join([*lines, *map(repr, self.failures[:40])])


def spoilt(content: bytes, edit: Edit) -> bytes:
    """Content after one edit."""
    kind, where, what = edit
    if kind == "header" or kind == "header flip":
        return _with_header(content, edit)
    lines = content.split(b"\n")
    at, line = where * len(content) // _PARTS, where * len(lines) // _PARTS
    if kind == "vr":
        places = [k for k in range(len(content) - 2) if content[k : k + 2].isalpha() and content[k : k + 2].isupper()]
        at = places[where * len(places) // _PARTS] if places else 0
    return {
        "set": lambda: content[:at] + what + content[at + len(what) :],
        "flip": lambda: content[:at] + bytes([content[at] ^ 1 << what]) + content[at + 1 :] if content else content,
        "cut": lambda: content[:at] + content[at + what :],
        "repeat": lambda: content[: at + what] + content[at:],
        "insert": lambda: content[:at] + what + content[at:],
        "word": lambda: content[:at] + what + content[at:],
        "end": lambda: content[:at],
        "zero": lambda: content[:at] + bytes(len(content[at : at + what])) + content[at + what :],
        "drop line": lambda: b"\n".join(lines[:line] + lines[line + 1 :]),
        "double line": lambda: b"\n".join(lines[: line + 1] + lines[line:]),
        "vr": lambda: content[:at] + what + content[at + 2 :],
    }[kind]()


def _with_header(content: bytes, edit: Edit) -> bytes:
    """A NIfTI file with another header, packed again, so that no checksum reveals it."""
    kind, where, what = edit
    try:
        unpacked = bytearray(gzip.decompress(content))
    except (OSError, EOFError, ValueError, zlib.error):
        return content
    if len(unpacked) < 352:
        return content
    if kind == "header flip" and where not in UNJUDGED_HEADER_BITS:
        unpacked[where // 8] ^= 1 << where % 8
    if kind == "header":
        with contextlib.suppress(struct.error, OverflowError, ValueError):
            struct.pack_into(f"<{where[1]}", unpacked, where[0], what if where[1] == "f" else int(what))
    return gzip.compress(bytes(unpacked), 1)


def same(one: Any, two: Any, key: str = "") -> bool:
    """Whether two readings are alike; places may differ by a tenth of a voxel."""
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(same(one[k], two[k], k) for k in one)
    if key == "geometry":
        return all(np.allclose(a, b, rtol=0, atol=SAME_PLACE_MM) for a, b in zip(one, two, strict=True))
    if isinstance(one, list | tuple) and type(one) is type(two):
        return len(one) == len(two) and all(same(a, b) for a, b in zip(one, two, strict=True))
    if isinstance(one, np.ndarray):
        return isinstance(two, np.ndarray) and one.dtype == two.dtype and np.array_equal(one, two)
    return bool(one == two)


def describes_something_else(kind: str, before: bytes, after: bytes) -> bool:
    """Whether other software also reads the damaged file as valid with other content, so that it can't be detected."""
    try:
        if kind == "json":
            text = after.decode("utf-8-sig")
            json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
            return True
        if kind == "yaml":
            yaml.load(after.decode("utf-8-sig"), Loader=_Strict)
            return True
        if kind == "csv":
            return _is_table(after.decode("ascii"))
        return kind == "dicom" and _skeleton(before) == _skeleton(after)
    except Exception:  # noqa: BLE001  # (whatever another reader raises, it refuses the file)
        return False


def _is_table(text: str) -> bool:
    """Whether a file has OpenKBP's form: a header and lines of an index and a number or nothing, or three numbers."""
    lines = text.replace("\r\n", "\n").split("\n")
    number = r"(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
    if len(lines) in (3, 4) and all(re.fullmatch(number, line) for line in lines[:3]) and lines[3:] in ([], [""]):
        return True
    rows = lines[1:-1]
    indices = [int(row.split(",")[0]) for row in rows if re.fullmatch(rf"\d+,-?({number})?", row)]
    return (lines[0], lines[-1]) == (",data", "") and len(set(indices)) == len(rows)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("twice")
    return dict(pairs)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


class _Strict(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        return _once(
            [(self.construct_object(k, deep=True), self.construct_object(v, deep=True)) for k, v in node.value]
        )


def _skeleton(content: bytes) -> list[Any]:
    """Tags and kinds of types of a file, without its values."""

    def of(dataset: pydicom.Dataset) -> list[Any]:
        return [
            (e.tag, "text" if e.VR in _TEXTS else e.VR, [of(item) for item in e.value] if e.VR == "SQ" else None)
            for e in dataset
        ]

    dataset = pydicom.dcmread(io.BytesIO(content))
    return [of(dataset), of(dataset.file_meta)]


class Hang(BaseException):
    """Reading took too long."""


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Bench:
    """A subject with its sound files."""

    def __init__(self, subject: Subject, root: Path) -> None:
        self.subject, self.folder = subject, root
        subject.make(root)
        self.sound = subject.read(root)
        self.files = sorted(path for path in root.glob(subject.files) if path.is_file())
        self.contents = [path.read_bytes() for path in self.files]

    def examine(self, which: int, todo: list[Edit]) -> tuple[str, str]:
        """Spoil a file, read, and put it back; returns ``same``, ``refused``, ``other``, or a failure, and why."""
        which %= len(self.files)
        path, before = self.files[which], self.contents[which]
        after = before
        for edit in todo:
            after = spoilt(after, edit)
        path.write_bytes(after)
        try:
            with alarm(HANG_SECONDS), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = self.subject.read(self.folder)
        except InputError as error:
            return ("refused", "") if "\n" not in str(error) else ("traceback", f"a message of many lines: {error}")
        except UnicodeDecodeError as error:
            text = self.subject.name.endswith("text")  # (these are decoded here, not by the reader)
            return ("refused", "") if text else ("traceback", repr(error))
        except Hang:
            return "hang", f"over {HANG_SECONDS} s"
        except Exception as error:  # noqa: BLE001  # (that is what is looked for)
            return "traceback", repr(error)
        finally:
            path.write_bytes(before)
        if same(self.sound, found):
            return "same", ""
        if describes_something_else(self.subject.kind, before, after):
            return "other", ""
        return "silent", f"{str(found)[:300]}"


def fuzz(seconds: float, seed: int, names: list[str] | None = None) -> Report:
    """Spoil and read for some seconds, each subject in turn."""
    report = Report()
    end = time.monotonic() + seconds
    root = Path(tempfile.mkdtemp(prefix="fuzz_"))
    try:
        benches = []
        for name in names or SUBJECTS:
            (root / name).mkdir()
            benches.append(Bench(SUBJECTS[name], root / name))
        for number in range(1_000_000):
            for bench in benches:
                if time.monotonic() > end:
                    return report
                _batch(bench, report, seed * 1_000_003 + number, end)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return report


def _batch(bench: Bench, report: Report, seed: int, end: float) -> None:
    name, kind = bench.subject.name, bench.subject.kind

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=25,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(st.integers(0, 10**6), st.lists(STRATEGIES[kind], min_size=1, max_size=_MOST_EDITS[kind]))
    def one(which: int, todo: list[Edit]) -> None:
        if time.monotonic() > end:
            return
        outcome, why = bench.examine(which, todo)
        report.tried[name] += 1
        report.refused[name] += outcome == "refused"
        if outcome in ("silent", "traceback", "hang"):
            file = bench.files[which % len(bench.files)].name
            report.failures.append((outcome, name, file, todo, why))

    one()
