"""A node among real peers: DCMTK's storescu and storescp, and Orthanc."""

import hashlib
import io
import json
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
import pytest

from cdm_nnunet.errors import InputError
from cdm_nnunet.node.service import run_node, run_once
from cdm_nnunet.node.settings import read_settings
from cdm_nnunet.node.store import Queue

from .conftest import N_OBJECTS, Peers, dcmtk_program, files_of, free_port, phantom, settings_file, stand_in, wait_for

# pynetdicom leaves a socket to the garbage collector when nobody listens.
AWAY = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
CHECKER = Path(sysconfig.get_path("scripts")) / "dciodvfy"


@pytest.fixture(autouse=True)
def _no_identity(request):
    """No line of any log names a patient."""
    nodes = []
    if "running" in request.fixturenames:
        start = request.getfixturevalue("running")
        request.node.start = lambda *args, **options: nodes.append(start(*args, **options)) or nodes[-1]
    yield
    for line in (line for node in nodes for line in node.log):
        assert "phantom" not in line
        assert "1.2.826" not in line


@pytest.fixture
def start(request, running):
    return request.node.start


def sums_of(folder):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())]


def test_orthanc_gets_the_dose_of_what_storescu_sends(start, orthanc, tmp_path):
    node = start({"archive": {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.port}})
    assert node.echo() == 0
    files = phantom(tmp_path / "patient", 1)
    assert node.send(*files_of(files)).returncode == 0
    node.told(": sent to archive")
    (content,) = orthanc.doses()["phantom_001"]
    dose = pydicom.dcmread(io.BytesIO(content))
    plan = pydicom.dcmread(files.plan)
    assert dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == plan.SOPInstanceUID
    assert dose.SOPInstanceUID.startswith("2.25.")
    assert float(dose.pixel_array.max() * dose.DoseGridScaling) == pytest.approx(60, rel=1e-6)
    assert "PREDICTED" in dose.SeriesDescription
    (tmp_path / "dose.dcm").write_bytes(content)
    said = subprocess.run([CHECKER, tmp_path / "dose.dcm"], capture_output=True, text=True, check=False)
    assert [line for line in said.stderr.splitlines() if line.startswith("Error")] == []
    wait_for(lambda: node.names("studies") == [], "the queue is empty")
    assert node.names("incoming") == node.names("quarantine") == []
    # the same study once more: the dose would be the same object, and is not sent again
    assert node.send(*files_of(files)).returncode == 0
    node.told("predicted and sent before")
    wait_for(lambda: node.names("studies") == [], "the queue is empty")
    assert len(orthanc.doses()["phantom_001"]) == 1


def test_twenty_studies_at_once(start, orthanc, tmp_path):
    node = start({"archive": {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.port}})
    patients = [phantom(tmp_path / str(seed), seed) for seed in range(100, 120)]
    with ThreadPoolExecutor(20) as pool:
        sent = list(pool.map(lambda files: node.send(*files_of(files)).returncode, patients))
    assert sent == [0] * 20
    node.told(": sent to archive", 20)
    doses = {patient: found for patient, found in orthanc.doses().items() if patient >= "phantom_100"}
    assert sorted(doses) == [f"phantom_{seed}" for seed in range(100, 120)]
    assert {len(found) for found in doses.values()} == {1}
    assert node.names("quarantine") == []


def test_what_arrives_in_several_associations_is_one_study(start, tmp_path):
    node = start()
    files = phantom(tmp_path / "patient", 2)
    for part in (files.ct[:4], [files.plan], files.ct[4:], [files.structures]):
        assert node.send(*part).returncode == 0
    node.told(": sent to out")
    assert any(f": {N_OBJECTS} objects" in line for line in node.log)
    (dose,) = (tmp_path / "out").iterdir()
    assert dose.stat().st_mode & 0o077 == 0
    assert dose.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("titles", "reason"),
    [
        ({"title": "STRANGER"}, "'STRANGER' is not a caller from there"),
        ({"title": "ELSEWHERE"}, "'ELSEWHERE' is not a caller from there"),
        ({"called": "OTHER"}, "it calls another AE title"),
    ],
)
def test_strangers_are_refused(start, tmp_path, titles, reason):
    node = start()
    assert node.echo(**titles) != 0
    assert node.send(*files_of(phantom(tmp_path / "patient", 3)), **titles).returncode != 0
    node.told(reason, 2)
    assert node.echo() == 0
    assert node.names("studies") == []


def test_an_address_that_no_caller_has_gets_no_answer(start):
    node = start(callers=[{"ae_title": "SENDER", "addresses": ["10.1.2.3"]}])
    assert node.echo() != 0
    node.told("refused a connection from 127.0.0.1: no caller has this address")


def test_half_a_study_waits_and_goes_to_quarantine(start, tmp_path):
    node = start(incomplete_after_s=1.0)
    files = phantom(tmp_path / "patient", 4)
    assert node.send(*files.ct, files.structures).returncode == 0
    node.told("10 objects; waits for more: no RTPLAN")
    node.told("in quarantine: no RTPLAN")
    (name,) = node.names("quarantine")
    place = node.queue / "quarantine" / name
    assert (place / "reason.txt").read_text() == "no RTPLAN\n"
    assert len(list((place / "files").iterdir())) == 10
    for path in (node.queue, *node.queue.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    assert not (tmp_path / "out").exists()


def test_a_slice_that_comes_late_is_waited_for(start, tmp_path):
    node = start(incomplete_after_s=30)
    files = phantom(tmp_path / "patient", 5)
    assert node.send(*files.ct[1:], files.structures, files.plan).returncode == 0
    node.told("10 objects; waits for more: without 1 image that the structure set lists")
    assert node.send(files.ct[0]).returncode == 0
    node.told(": sent to out")


def test_a_reason_in_the_log_names_nobody_and_the_study_can_be_put_back(start, tmp_path):
    class Refusing(stand_in.StandIn):
        refuses = True

        def predict_patient(self, folder, out):
            if Refusing.refuses:
                raise InputError(f"phantom_006 of 20260101 ({pydicom.dcmread(next(folder.iterdir())).SOPInstanceUID})")
            return super().predict_patient(folder, out)

    node = start(load=Refusing)
    assert node.send(*files_of(phantom(tmp_path / "patient", 6))).returncode == 0
    node.told("in quarantine: [identity] of [date] ([uid])")
    (name,) = node.names("quarantine")
    assert "phantom_006" in (node.queue / "quarantine" / name / "reason.txt").read_text()
    Refusing.refuses = False
    with pytest.raises(InputError, match="has no study 'other'"):
        Queue(node.queue).retry("other")
    Queue(node.queue).retry(name)
    node.told(": sent to out")
    assert node.names("quarantine") == []


def test_an_internal_error_does_not_end_the_node(start, tmp_path):
    class Broken(stand_in.StandIn):
        def predict_patient(self, folder, out):
            raise RuntimeError("out of memory")

    node = start(load=Broken)
    assert node.send(*files_of(phantom(tmp_path / "patient", 7))).returncode == 0
    node.told("in quarantine: internal error (RuntimeError: out of memory)")
    assert "Traceback" in (node.queue / "errors.log").read_text()
    assert node.echo() == 0


def test_a_flood_is_cut_off(start, tmp_path):
    node = start(limits={"association_mb": 1})
    files = phantom(tmp_path / "patient", 8)
    large = pydicom.dcmread(files.ct[0])
    large.Rows = large.Columns = 1024
    large.PixelData = bytes(2 * 2**20)
    large.save_as(files.ct[0])
    assert node.send(files.ct[1], files.ct[0]).returncode != 0
    node.told("ended the association with SENDER at 127.0.0.1: more than 1 MB")
    wait_for(lambda: node.names("incoming") == [], "nothing of it is left")
    assert node.echo() == 0
    with socket.create_connection(("127.0.0.1", node.port), timeout=30) as raw:  # (a length that no PDU has)
        raw.sendall(b"\x01\x00" + (2**31).to_bytes(4, "big") + bytes(1000))
        assert raw.recv(1) == b""
    node.told("a PDU of 2048 MB")
    assert node.echo() == 0


def test_a_study_of_too_many_objects_goes_to_quarantine(start, tmp_path):
    node = start(limits={"objects": 5})
    assert node.send(*files_of(phantom(tmp_path / "patient", 9))).returncode != 0
    node.told("in quarantine: a study of more than 5 objects")
    assert node.echo() == 0


def test_nothing_is_taken_while_the_disk_is_full(start, tmp_path):
    node = start(limits={"free_disk_mb": 2**40})
    files = phantom(tmp_path / "patient", 10)
    assert node.send(files.ct[0]).returncode != 0
    node.told("the disk of the queue is full")
    assert node.names("incoming") == []


def test_an_object_that_is_not_what_was_announced_is_not_taken(start, tmp_path):
    """A sender's command names one object, and the data set is another, or has lost its head."""
    from pynetdicom import AE
    from pynetdicom.dimse_primitives import C_STORE

    node = start()
    dataset = pydicom.dcmread(phantom(tmp_path / "patient", 14).ct[0])
    encoded = io.BytesIO()
    pydicom.dcmwrite(encoded, pydicom.Dataset(dataset), implicit_vr=False, little_endian=True)
    statuses = []
    for uid, content in (("1.2.3", encoded.getvalue()), (dataset.SOPInstanceUID, encoded.getvalue()[:90])):
        entity = AE(ae_title="SENDER")
        entity.add_requested_context(dataset.SOPClassUID, "1.2.840.10008.1.2.1")
        association = entity.associate("127.0.0.1", node.port, ae_title="NODE")
        (context,) = association.accepted_contexts
        request = C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = dataset.SOPClassUID, uid
        request.DataSet = io.BytesIO(content)
        association._reactor_checkpoint.clear()
        association.dimse.send_msg(request, context.context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        statuses.append(answer.Status)
        association.release()
    assert statuses == [0xA900, 0xC000]
    node.told("it is not the one that was announced")
    node.told("it is damaged")
    assert node.names("studies") == node.names("incoming") == []


@AWAY
def test_a_destination_that_is_away_is_tried_again(start, tmp_path):
    port = free_port()
    node = start(
        {"planning": {"ae_title": "PLANNING", "host": "127.0.0.1", "port": port}}, retries={"tries": 200, "wait_s": 0}
    )
    assert node.send(*files_of(phantom(tmp_path / "patient", 11))).returncode == 0
    node.told(f"not sent to planning, next try in 0 s: PLANNING at 127.0.0.1:{port} is not reached")
    with storescp(tmp_path / "received", port):
        node.told(": sent to planning")
    assert len(list((tmp_path / "received").iterdir())) == 1


@AWAY
def test_a_destination_that_stays_away_does_not_keep_the_other_waiting(start, tmp_path):
    away = {"ae_title": "PLANNING", "host": "127.0.0.1", "port": free_port()}
    node = start({"planning": away, "out": {"folder": "out"}}, retries={"tries": 2, "wait_s": 0})
    assert node.send(*files_of(phantom(tmp_path / "patient", 12))).returncode == 0
    node.told("in quarantine: 'planning' did not accept it in 2 tries: PLANNING at 127.0.0.1")
    (first,) = (tmp_path / "out").iterdir()
    before = first.read_bytes()
    (name,) = node.names("quarantine")
    with storescp(tmp_path / "received", away["port"]):
        Queue(node.queue).retry(name)
        node.told(": sent to planning")
    (second,) = (tmp_path / "received").iterdir()
    assert pydicom.dcmread(second).SOPInstanceUID == pydicom.dcmread(first).SOPInstanceUID
    assert first.read_bytes() == before
    assert sum(": sent to out" in line for line in node.log) == 1


class storescp:  # (the program)
    """DCMTK's receiver, while a block runs."""

    def __init__(self, folder, port, *options):
        folder.mkdir()
        self.command = [dcmtk_program("storescp"), "-od", str(folder), *map(str, options), str(port)]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=30)


@pytest.fixture
def certificate(tmp_path):
    """Key and self-signed certificate of this machine."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on the path")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    alternative = ["-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-keyout", str(key), "-out", str(certificate), *options, *alternative]
    subprocess.run(command, check=True, capture_output=True)
    return key, certificate


def test_tls(start, tmp_path, certificate):
    key, own = map(str, certificate)
    port = free_port()
    planning = {"ae_title": "PLANNING", "host": "127.0.0.1", "port": port, "tls": True}
    files = {"certificate": "certificate.pem", "key": "key.pem", "ca": "certificate.pem"}
    node = start({"planning": planning}, tls=files)
    encrypted = ("+tls", key, own, "+cf", own)
    assert node.echo() != 0  # in the clear
    node.told("no TLS")
    assert node.run("echoscu", "+tla", "-ic").returncode != 0  # without a certificate
    with storescp(tmp_path / "received", port, *encrypted):
        assert node.run("storescu", *encrypted, *files_of(phantom(tmp_path / "patient", 13))).returncode == 0
        node.told(": sent to planning")
    assert len(list((tmp_path / "received").iterdir())) == 1


def test_once_predicts_a_folder_and_ends(tmp_path):
    for seed in (20, 21):
        phantom(tmp_path / "drop" / str(seed), seed)
    half = phantom(tmp_path / "drop" / "22", 22)
    half.structures.unlink()
    before = sums_of(tmp_path / "drop" / "20")
    settings = read_settings(settings_file(tmp_path, free_port(), {"out": {"folder": "out"}}))
    log = []

    class Checking(stand_in.StandIn):
        def predict_patient(self, folder, out):
            if len(list(folder.iterdir())) < N_OBJECTS:
                raise InputError("no structure set (RTSTRUCT)")
            return super().predict_patient(folder, out)

    outcome = run_once(settings, tmp_path / "drop", log.append, Checking)
    assert len(outcome.sent) == 2
    assert list(outcome.failed.values()) == ["no structure set (RTSTRUCT)"]
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert sums_of(tmp_path / "drop" / "20") == before
    sums = sums_of(tmp_path / "out")
    run_once(settings, tmp_path / "drop", log.append, Checking)  # again: nothing is sent twice
    assert sums_of(tmp_path / "out") == sums
    assert sum(": sent to out" in line for line in log) == 2


def test_a_model_that_cannot_be_loaded_ends_the_node_and_leaves_the_study(tmp_path):
    phantom(tmp_path / "drop", 23)
    settings = read_settings(settings_file(tmp_path, free_port(), {"out": {"folder": "out"}}))

    def fails():
        raise InputError("no model")

    with pytest.raises(InputError, match="no model"):
        run_once(settings, tmp_path / "drop", print, fails)
    assert len(list((tmp_path / "queue" / "studies").iterdir())) == 1
    assert list((tmp_path / "queue" / "quarantine").iterdir()) == []


def test_two_nodes_do_not_share_a_queue(start):
    node = start()
    settings = read_settings(settings_file(node.folder, free_port(), {"out": {"folder": "out"}}))
    with pytest.raises(InputError, match="another node works on"):
        run_node(settings, print, threading.Event(), stand_in.StandIn)


def test_without_pynetdicom_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("cdm_nnunet.node.sending.find_spec", lambda name: None)
    settings = read_settings(settings_file(tmp_path, free_port(), {"out": {"folder": "out"}}))
    with pytest.raises(InputError, match=r'pip install "cdm_nnunet\[node\]"'):
        run_node(settings, print, threading.Event(), stand_in.StandIn)


def test_a_port_that_is_taken_is_told(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = read_settings(settings_file(tmp_path, port, {"out": {"folder": "out"}}))
        with pytest.raises(InputError, match=f"can't listen on 127.0.0.1:{port}"):
            run_node(settings, print, threading.Event(), stand_in.StandIn)


# Renames in the life of a study, in their order: eleven objects; its state closed, and its prediction begun; the image
# and the RTDOSE of the stand-in, the RTDOSE with its UIDs, its state predicted; the record of sending, and of sent; its
# state done; and out of the way.
KILLED_BEFORE = {"third object": 3, "last object": 11, "closed": 12, "begun": 13, "image": 14, "dose": 16}
KILLED_BEFORE |= {"predicted": 17, "sending": 18, "sent": 19, "done": 20}


def test_nothing_is_lost_or_doubled_when_the_node_is_killed(tmp_path, dcmtk):
    port, to = free_port(), free_port()
    planning = {"planning": {"ae_title": "PLANNING", "host": "127.0.0.1", "port": to}}
    config = settings_file(tmp_path, port, planning, incomplete_after_s=60)  # (a sender may take seconds to begin)
    peers = Peers(port)
    patients = [phantom(tmp_path / str(seed), seed) for seed in range(len(KILLED_BEFORE))]
    with receiver(to) as received:
        for seed, number in enumerate([*KILLED_BEFORE.values(), 0]):
            armed = tmp_path / f"armed_{seed}"
            with (tmp_path / "log").open("a") as log:
                command = [
                    sys.executable,
                    str(Path(__file__).with_name("stand_in.py")),
                    str(config),
                    str(armed),
                    str(number),
                ]
                node = subprocess.Popen(command, stdout=log, stderr=log)
            wait_for(lambda: peers.echo() == 0, "the node listens")
            if seed and (again := seed - 1) < 2:  # the sender had no answer, and sends once more
                assert peers.send(*files_of(patients[again])).returncode == 0
            if seed:
                wait_for(lambda name=f"phantom_{seed - 1:03d}": name in received, (tmp_path / "log").read_text())
                wait_for(lambda: not list((tmp_path / "queue" / "studies").iterdir()), "the study is done")
            if number:
                armed.touch()
                sent = peers.send(*files_of(patients[seed]))
                assert node.wait(timeout=60) == -9
                assert (sent.returncode == 0) == (number > N_OBJECTS)
        node.terminate()
        node.wait(timeout=60)
    assert sorted(received) == [f"phantom_{seed:03d}" for seed in range(len(patients))]
    for doses in received.values():
        assert len(set(doses)) == 1  # one object, however often it came
    often = {seed for seed, doses in enumerate(received.values()) if len(doses) > 1}
    assert often == {list(KILLED_BEFORE).index("sent")}  # it can't know whether the destination has it
    assert list((tmp_path / "queue" / "quarantine").iterdir()) == []


class receiver:
    """A destination that keeps all that it gets, by PatientID."""

    def __init__(self, port):
        self.port, self.received = port, {}

    def __enter__(self):
        from pynetdicom import AE, evt

        def store(event):
            self.received.setdefault(event.dataset.PatientID, []).append(event.encoded_dataset(include_meta=False))
            return 0x0000

        entity = AE(ae_title="PLANNING")
        entity.add_supported_context("1.2.840.10008.5.1.4.1.1.481.2")
        self.server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
        )
        return self.received

    def __exit__(self, *_):
        self.server.shutdown()


def test_the_command_runs_until_it_is_asked_to_end(tmp_path, dcmtk):
    port = free_port()
    config = settings_file(tmp_path, port, {"out": {"folder": "out"}})
    command = [sys.executable, "-m", "cdm_nnunet.cli.main", "node", "--config", str(config), "--json"]
    with (tmp_path / "log").open("w") as log:
        node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    wait_for(lambda: Peers(port).echo() == 0, "the node listens")
    node.terminate()
    out, _ = node.communicate(timeout=60)
    assert node.returncode == 0, (tmp_path / "log").read_text()
    assert json.loads(out) == {"sent": [], "failed": {}}
    assert (tmp_path / "log").read_text().splitlines()[-1].endswith(" stopped")


def test_it_can_be_asked_to_end_as_soon_as_it_listens(tmp_path):
    settings = read_settings(settings_file(tmp_path, free_port(), {"out": {"folder": "out"}}))
    told = []

    def tell(line):
        told.append(line)
        if line.startswith("listening"):
            raise KeyboardInterrupt

    assert run_node(settings, tell, threading.Event(), stand_in.StandIn).sent == []
    assert told[-1] == "stopped"
