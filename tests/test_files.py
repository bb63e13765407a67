"""Files are whole or absent, and a library's failure to write is told with its reason."""

import errno
import json
import os

import pytest

from cdm_nnunet.files import raise_write_error, write_json, write_text


def test_text_replaces_what_was_there_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "a.csv"
    write_text(path, "one\n")
    write_text(path, "two\n")
    assert path.read_text() == "two\n"
    assert list(path.parent.iterdir()) == [path]


def test_what_is_private_can_at_no_moment_be_read_by_others(tmp_path, monkeypatch):
    modes = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: modes.append(os.stat(a).st_mode & 0o777) or replace(a, b))
    write_json(tmp_path / "names.json", {"case_1": "4711"}, private=True)
    write_text(tmp_path / "a.csv", "one\n")
    assert modes[0] == 0o600 == (tmp_path / "names.json").stat().st_mode & 0o777
    assert modes[1] & 0o600 == 0o600


def test_json_refuses_what_json_cannot_say(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1.5})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1.5}


def test_the_reason_is_the_systems_where_it_has_one(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        raise_write_error(tmp_path / "missing" / "a.nii.gz", 10, None)
    assert caught.value.filename == str(tmp_path / "missing" / "a.nii.gz")
    cause = RuntimeError("library")
    with pytest.raises(OSError, match="can't be read back unchanged") as caught:
        raise_write_error(tmp_path / "a.nii.gz", 10, cause)
    assert caught.value.errno == errno.EIO
    assert caught.value.__cause__ is cause
    assert list(tmp_path.iterdir()) == []
