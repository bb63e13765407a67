"""Dockerfile and compose.yaml: images can't be built here, so their steps are walked in an empty environment."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from cdm_nnunet.node.service import run_node
from cdm_nnunet.node.settings import read_settings

from .conftest import Orthanc, files_of, free_port, phantom, running_orthanc, stand_in, wait_for

REPOSITORY = Path(__file__).resolve().parents[2]
INSTRUCTIONS = {"ARG", "FROM", "RUN", "COPY", "ENV", "USER", "WORKDIR", "VOLUME", "EXPOSE", "ENTRYPOINT", "CMD"}


def instructions():
    """Instructions of the Dockerfile with their arguments."""
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def of(name):
    return [argument for known, argument in instructions() if known == name]


def test_the_dockerfile_is_made_of_known_instructions():
    assert {name for name, _ in instructions()} <= INSTRUCTIONS
    assert of("FROM") == ["${BASE} AS build", "${BASE}"]
    assert of("ARG")[0].startswith("BASE=")
    for command in of("RUN"):
        subprocess.run(["bash", "-n", "-c", command], check=True)
    assert json.loads(of("ENTRYPOINT")[0]) == ["cdm-nnunet"]
    arguments = json.loads(of("CMD")[0])
    assert arguments[:2] == ["node", "--config"]
    assert Path(arguments[2]).parent.as_posix() in of("VOLUME")


def test_what_is_copied_is_there_and_docker_may_see_it():
    seen = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split()
    for argument in of("COPY"):
        if not argument.startswith("--from"):
            for source in argument.split()[:-1]:
                assert (REPOSITORY / source).exists()
                assert f"!{source}" in seen


@pytest.mark.slow
def test_the_steps_make_an_installation_whose_program_starts(tmp_path):
    """All RUN lines in their order, with the paths of an image below a folder; apt and users are stand-ins."""
    root, programs = tmp_path / "image", tmp_path / "programs"
    programs.mkdir()
    for name in ("apt-get", "useradd", "chown"):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >> "{tmp_path}/called"\n')
        (programs / name).chmod(0o755)
    environment = {
        "PATH": os.pathsep.join([str(programs), str(Path(sys.base_prefix) / "bin"), "/usr/bin", "/bin"]),
        "HOME": str(tmp_path),
        "PIP_NO_DEPS": "1",  # (the others are large, and tested by the installation of the tests)
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        **{name: text for name, text in os.environ.items() if name.lower().endswith("_proxy") or name[:4] == "PIP_"},
    }
    for name, argument in instructions():
        if name == "COPY" and not argument.startswith("--from"):
            *sources, target = argument.split()
            for source in sources:
                copy(REPOSITORY / source, root / target.lstrip("/") / ("" if target.endswith("/") else "."))
        if name == "RUN":
            command = re.sub(r"(?<![\w.])/(src|opt|data|var)\b", rf"{root}/\1", argument)
            done = subprocess.run(
                ["bash", "-ec", command], env=environment, capture_output=True, text=True, check=False
            )
            if "No matching distribution found for setuptools" in done.stderr:
                pytest.skip("pip can't fetch setuptools here")
            assert done.returncode == 0, f"{argument}\n{done.stderr[-2000:]}"
    assert (root / "data").is_dir()
    assert "useradd --create-home" in (tmp_path / "called").read_text()
    (installed,) = (root / "opt" / "cdm_nnunet" / "lib").glob("python*/site-packages/cdm_nnunet")
    for folder, place in {
        "cdm_nnunet": ".",
        "trainers": "trainers",
        "dataset_conversion": "dataset_conversion",
    }.items():
        assert contents(REPOSITORY / folder) <= contents(installed / place)
    needed = [path for path in sys.path if "site-packages" in path]  # (further packages that it would install)
    (installed.parent / "needed.pth").write_text("\n".join(needed))
    program = root / "opt" / "cdm_nnunet" / "bin" / "cdm-nnunet"
    shown = subprocess.run([program, "--help"], env=environment, capture_output=True, text=True, check=False, cwd=root)
    assert shown.returncode == 0, shown.stderr
    assert "node" in shown.stdout
    where = [program.with_name("python"), "-c", "import cdm_nnunet; print(cdm_nnunet.__file__)"]
    said = subprocess.run(where, env=environment, capture_output=True, text=True, check=True, cwd=root).stdout
    assert Path(said.strip()).parent == installed


def contents(folder):
    """Names of all files below a folder, without Python's caches."""
    found = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {path for path in found if "__pycache__" not in path.parts}


def copy(source, target):
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def test_compose_and_the_settings_of_its_services_agree():
    compose = yaml.safe_load((REPOSITORY / "compose.yaml").read_text(encoding="utf-8"))
    orthanc = json.loads((REPOSITORY / "deploy" / "orthanc.json").read_text(encoding="utf-8"))
    settings = read_settings(REPOSITORY / "deploy" / "node.yaml")
    (caller,), (destination,) = settings.callers, settings.destinations.values()
    assert [caller.ae_title, destination.ae_title] == [orthanc["DicomAet"]] * 2
    assert (destination.host in compose["services"], destination.port) == (True, orthanc["DicomPort"])
    assert orthanc["DicomModalities"]["node"] == [settings.ae_title, "node", settings.port]
    assert "node" in compose["services"]
    assert caller.addresses == [compose["networks"]["default"]["ipam"]["config"][0]["subnet"]]
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in compose["volumes"] or source == "./data" or (REPOSITORY / source).is_file()
        for port in service["ports"]:  # (nothing is open to the network by default)
            assert port.startswith("127.0.0.1:")
    assert str(settings.port) in of("EXPOSE")


def test_a_patient_goes_from_orthanc_to_the_node_and_back(tmp_path):
    """With the files of deploy/, hosts and ports apart: they are those of containers."""
    content = json.loads((REPOSITORY / "deploy" / "orthanc.json").read_text(encoding="utf-8"))
    port, node_port = free_port(), free_port()
    content |= {"DicomPort": port, "AuthenticationEnabled": False, "RemoteAccessAllowed": False}
    content["DicomModalities"]["node"][1:] = ["127.0.0.1", node_port]
    settings = yaml.safe_load((REPOSITORY / "deploy" / "node.yaml").read_text(encoding="utf-8"))
    settings |= {"host": "127.0.0.1", "port": node_port, "quiet_s": 0.3}
    settings["callers"][0]["addresses"] = ["127.0.0.1"]
    settings["destinations"]["orthanc"] |= {"host": "127.0.0.1", "port": port}
    (tmp_path / "node.yaml").write_text(json.dumps(settings))
    log, stop = [], threading.Event()
    arguments = (read_settings(tmp_path / "node.yaml"), log.append, stop, stand_in.StandIn)
    node = threading.Thread(target=run_node, args=arguments)
    with running_orthanc(tmp_path / "orthanc", content) as orthanc, contextlib.ExitStack() as ends:
        node.start()
        ends.callback(node.join)
        ends.callback(stop.set)
        wait_for(lambda: any("listening" in line for line in log), "the node listens")
        assert isinstance(orthanc, Orthanc)
        for path in files_of(phantom(tmp_path / "patient", 30)):
            orthanc.post("instances", path.read_bytes())
        (study,) = orthanc.json("studies")
        orthanc.post("modalities/node/store", study.encode())
        wait_for(lambda: orthanc.doses().get("phantom_030"), log)
