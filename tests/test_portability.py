"""The package without functions of POSIX systems. Nothing was run on Windows itself."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

import cdm_nnunet
from cdm_nnunet import files
from cdm_nnunet.errors import InputError

# Imports all modules, after third-party ones, without POSIX modules and functions.
WITHOUT_POSIX = """
import importlib, os, pkgutil, signal, sys
import numpy, scipy, SimpleITK, pydicom, pynetdicom, torch, nnunetv2, skimage, matplotlib, plotly, yaml, pydantic
import batchgenerators, dynamic_network_architectures, distributed, dask_jobqueue, regex, tqdm, blosc2
import concurrent.futures.process, multiprocessing.popen_spawn_posix, socketserver, asyncio, logging.handlers, ssl
import nnunetv2.utilities.plans_handling.plans_handler, nnunetv2.training.nnUNetTrainer.nnUNetTrainer
import nnunetv2.inference.predict_from_raw_data

HIDDEN = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "syslog"}

class Hidden:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden)
for name in HIDDEN:
    sys.modules.pop(name, None)
for name in ("fork", "forkpty", "getuid", "geteuid", "getgid", "setsid", "killpg", "sched_getaffinity", "statvfs",
             "nice", "sched_setaffinity", "uname", "getpgid", "mkfifo", "register_at_fork", "getloadavg", "chown"):
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM", "SIGCHLD"):
    delattr(signal, name)
import cdm_nnunet
for module in pkgutil.walk_packages(cdm_nnunet.__path__, "cdm_nnunet."):
    if not module.name.endswith("cdm_nnunet_trainers"):
        importlib.import_module(module.name)
from cdm_nnunet.parallel import usable_cores
from cdm_nnunet.parallel.local import _why_broken
assert usable_cores() >= 1
assert "killed" in _why_broken([None])
print(len([name for name in sys.modules if name.startswith("cdm_nnunet.")]))
"""


def test_every_module_is_imported_without_what_only_posix_has():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_POSIX], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.splitlines()[-1]) > 200


def test_no_process_is_forked():
    """Worker processes are spawned, as on Windows."""
    for path in Path(cdm_nnunet.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "os.fork" not in text, path
        assert '"fork"' not in text, path


def test_a_lock_on_windows(tmp_path, monkeypatch):
    taken = []

    def locking(descriptor, mode, n_bytes):
        if taken:
            raise PermissionError
        taken.append((mode, n_bytes))

    monkeypatch.setattr(files, "sys", types.SimpleNamespace(platform="win32"))
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2))
    with files.locked(tmp_path / "lock", "busy"):
        assert taken == [(2, 1)]
        with pytest.raises(InputError, match="busy"), files.locked(tmp_path / "lock", "busy"):
            pass


@pytest.mark.parametrize(
    ("handle", "error", "status", "running"), [(0, 87, 0, 0), (0, 5, 0, 1), (7, 0, 259, 1), (7, 0, 1, 0)]
)
def test_a_process_on_windows(monkeypatch, handle, error, status, running):
    import ctypes

    def exit_code(_, pointer):
        pointer._obj.value = status
        return 1

    kernel = types.SimpleNamespace(
        OpenProcess=lambda *_: handle,
        GetLastError=lambda: error,
        GetExitCodeProcess=exit_code,
        CloseHandle=lambda _: 1,
    )
    monkeypatch.setattr(ctypes, "windll", types.SimpleNamespace(kernel32=kernel), raising=False)
    monkeypatch.setattr(files, "sys", types.SimpleNamespace(platform="win32"))
    monkeypatch.setattr(files.os, "kill", lambda *_: pytest.fail("it would be Ctrl-C"))
    assert files._is_running("123") == bool(running)
    assert files._is_running("no number")
