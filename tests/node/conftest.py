"""Phantoms, peers of DICOM (Orthanc, DCMTK), and a node that runs in this process."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sysconfig
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from phantoms import TINY

from cdm_nnunet.dicom.phantom import write_phantom
from cdm_nnunet.node.service import run_node
from cdm_nnunet.node.settings import read_settings

N_OBJECTS = 11  # of a phantom: nine slices, structure set and plan
_WAIT_S = 60
_SPEC = importlib.util.spec_from_file_location("stand_in", Path(__file__).with_name("stand_in.py"))
stand_in = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(stand_in)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(found, what):
    """Wait until something is true, and return it."""
    end = time.monotonic() + _WAIT_S
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {_WAIT_S} s: {what}")


def dcmtk_program(name):
    """Path of one of DCMTK's programs; pynetdicom installs others of the same names."""
    folders = [path for path in os.environ["PATH"].split(os.pathsep) if path != sysconfig.get_path("scripts")]
    return shutil.which(name, path=os.pathsep.join(folders))


class Peers:
    """DCMTK's programs, as AE title SENDER."""

    def __init__(self, port):
        self.port = port

    def run(self, program, *args, title="SENDER", called="NODE"):
        command = [dcmtk_program(program), "-aet", title, "-aec", called, "127.0.0.1", str(self.port), *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S, check=False)

    def echo(self, **titles):
        return self.run("echoscu", **titles).returncode

    def send(self, *files, **titles):
        return self.run("storescu", *files, **titles)


class RunningNode(Peers):
    """A node in this process: its log, queue and senders."""

    def __init__(self, folder, port):
        super().__init__(port)
        self.folder, self.log, self.stop = folder, [], threading.Event()
        self.queue = folder / "queue"

    def told(self, text, count=1):
        wait_for(lambda: sum(text in line for line in self.log) >= count, f"{text!r} in {self.log}")

    def names(self, part):
        return sorted(path.name for path in (self.queue / part).iterdir())


def settings_file(folder, port, destinations, **changes):
    """Write the settings of a node that is quick."""
    content = {
        "ae_title": "NODE",
        "port": port,
        "queue": "queue",
        "callers": [
            {"ae_title": "SENDER", "addresses": ["127.0.0.1"]},
            {"ae_title": "ELSEWHERE", "addresses": ["10.1.2.3", "10.2.0.0/16"]},
        ],
        "destinations": destinations,
        "trained": {"dataset": 552},
        "quiet_s": 0.3,
        "incomplete_after_s": 1.5,
        "retries": {"tries": 3, "wait_s": 0.1},
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "node.yaml").write_text(yaml.safe_dump(content))
    return folder / "node.yaml"


def files_of(phantom_files):
    """Sent files of a phantom."""
    return [*phantom_files.ct, phantom_files.structures, phantom_files.plan]


def phantom(folder, seed):
    return write_phantom(dataclasses.replace(TINY, seed=seed), folder)


@pytest.fixture(scope="session")
def dcmtk():
    missing = [name for name in ("storescu", "echoscu", "storescp") if dcmtk_program(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} of DCMTK on the path")


@pytest.fixture
def running(tmp_path, dcmtk):
    """Start a node with the stand-in; it is stopped at the end."""
    with contextlib.ExitStack() as ends:

        def start(destinations=None, load=stand_in.StandIn, **changes):
            port = free_port()
            node = RunningNode(tmp_path, port)
            path = settings_file(tmp_path, port, destinations or {"out": {"folder": "out"}}, **changes)
            arguments = (read_settings(path), node.log.append, node.stop, load)
            thread = threading.Thread(target=run_node, args=arguments)
            thread.start()
            ends.callback(thread.join)
            ends.callback(node.stop.set)
            node.told("listening")
            return node

        yield start


class Orthanc:
    """A running Orthanc."""

    def __init__(self, port, http_port):
        self.port, self.url = port, f"http://127.0.0.1:{http_port}"

    def get(self, path):
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=30) as answer:
            return answer.read()

    def json(self, path):
        return json.loads(self.get(path))

    def doses(self):
        """By PatientID: the files of all RTDOSE that it holds."""
        found = {}
        for one in self.json("instances"):
            tags = self.json(f"instances/{one}/simplified-tags")
            if tags["Modality"] == "RTDOSE":
                found.setdefault(tags["PatientID"], []).append(self.get(f"instances/{one}/file"))
        return found

    def post(self, path, content):
        """Send something to it."""
        with urllib.request.urlopen(f"{self.url}/{path}", content, timeout=60) as answer:
            return answer.read()


@contextlib.contextmanager
def running_orthanc(folder, settings):
    """An Orthanc with some settings, while the block runs."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    if program is None:
        pytest.skip("no Orthanc on the path")
    http_port = free_port()
    storage = str(folder / "storage")
    places = {"StorageDirectory": storage, "IndexDirectory": storage, "HttpPort": http_port, "Plugins": []}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "orthanc.json").write_text(json.dumps({**settings, **places}))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
    peer = Orthanc(settings["DicomPort"], http_port)

    def answers():
        with contextlib.suppress(OSError):
            return peer.json("system")

    try:
        wait_for(answers, f"Orthanc: {(folder / 'log').read_text()}")
        yield peer
    finally:
        process.kill()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    settings = {"Name": "test", "DicomAet": "ORTHANC", "DicomPort": free_port()}
    settings |= {"RemoteAccessAllowed": False, "AuthenticationEnabled": False}
    with running_orthanc(tmp_path_factory.mktemp("orthanc"), settings) as peer:
        yield peer
