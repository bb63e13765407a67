"""Files are complete or absent, and a library's failure to write is reported with its reason."""

import errno
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cdm_nnunet.files import aside, passing_folder, raise_write_error, replacing, write_json, write_text


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
    with pytest.raises(OSError, match="does not read back unchanged") as caught:
        raise_write_error(tmp_path / "a.nii.gz", 10, cause)
    assert caught.value.errno == errno.EIO
    assert caught.value.__cause__ is cause
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys, time
from pathlib import Path
from cdm_nnunet.files import passing_folder
with passing_folder(Path(sys.argv[1]), ".predict_") as made:
    (made / "ct.nii.gz").write_bytes(b"patient")
    print(made, flush=True)
    time.sleep(float(sys.argv[2]))
"""


class TestPassingFolder:
    def start(self, parent: Path, seconds: float) -> tuple[subprocess.Popen, Path]:
        holder = subprocess.Popen([sys.executable, "-c", HOLD, str(parent), str(seconds)], stdout=subprocess.PIPE)
        with holder.stdout as out:
            return holder, Path(out.readline().decode().strip())

    def gone(self, path: Path, seconds: float = 60) -> bool:
        end = time.monotonic() + seconds
        while path.exists() and time.monotonic() < end:
            time.sleep(0.02)
        return not path.exists()

    def test_it_goes_with_the_work(self, tmp_path):
        with passing_folder(tmp_path / "out", ".predict_") as made:
            (made / "a").touch()
        assert list((tmp_path / "out").iterdir()) == []

    def test_it_goes_when_the_work_fails(self, tmp_path):
        with pytest.raises(ZeroDivisionError), passing_folder(tmp_path, ".predict_"):
            1 / 0  # noqa: B018  # raises
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
    def test_it_goes_when_the_process_is_killed(self, tmp_path, name):
        holder, made = self.start(tmp_path, 100)
        assert (made / "ct.nii.gz").is_file()
        holder.send_signal(getattr(signal, name))
        holder.wait()
        assert self.gone(made)

    def test_what_a_dead_process_has_left_is_removed_and_what_is_in_use_stays(self, tmp_path):
        host = platform.node()
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        left, foreign = tmp_path / f".predict_{host}_{dead.pid}_x", tmp_path / ".predict_elsewhere_1_x"
        left.mkdir()
        foreign.mkdir()
        holder, used = self.start(tmp_path, 100)
        try:
            with passing_folder(tmp_path, ".predict_") as made:
                assert set(tmp_path.iterdir()) == {used, made, foreign}
        finally:
            holder.kill()
            holder.wait()


@pytest.mark.parametrize("ending", ["", ".nii.gz"])
def test_what_a_killed_process_left_goes_when_the_file_is_written_again(tmp_path, ending):
    killed = (
        "import os, pathlib, signal, sys; from cdm_nnunet.files import aside\n"
        "with aside(pathlib.Path(sys.argv[1]), sys.argv[2]) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path, other = tmp_path / "a[1].txt", tmp_path / "a[1].txt_2"
    for target in (path, other):
        done = subprocess.run([sys.executable, "-c", killed, str(target), ending], check=False)
        assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    of_other_machine = tmp_path / f".{path.name}.partial_elsewhere_1"
    of_other_machine.write_text("being written")
    with aside(path, ending) as of_this_process, replacing(path) as partial:
        of_this_process.write_text("being written")
        partial.write_text("whole")
        assert of_this_process.name.endswith(ending)
    left = sorted(entry.name for entry in tmp_path.iterdir())
    assert path.read_text() == "whole"
    assert len(left) == 3  # the file, another machine's temporary file, and a leftover of another file
    assert of_other_machine.name in left
    assert any(name.startswith(f".{other.name}.partial_") for name in left)


def test_a_library_that_tells_formats_by_the_ending_writes_aside_too(tmp_path):
    with replacing(tmp_path / "a" / "b.nii.gz", ".nii.gz") as partial:
        assert partial.name.endswith(".nii.gz")
        partial.write_bytes(b"new")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.nii.gz"]
