"""Settings of a node: refusals with line and column, and the documentation of each setting."""

import re
import ssl
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from cdm_nnunet.cli.main import main
from cdm_nnunet.errors import InputError
from cdm_nnunet.node.settings import NodeSettings, Tls, is_listed, read_settings
from cdm_nnunet.node.tls import server_context

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "node.md"
SMALL = {"ae_title": "NODE", "queue": "queue", "trained": {"dataset": 501}, "destinations": {"out": {"folder": "out"}}}


def read(tmp_path, **changes):
    (tmp_path / "node.yaml").write_text(yaml.safe_dump({**SMALL, **changes}))
    return read_settings(tmp_path / "node.yaml")


def test_paths_are_relative_to_the_file(tmp_path):
    (tmp_path / "model.zip").touch()
    settings = read(tmp_path, mapping="rois.yaml", model="model.zip", trained=None)
    assert settings.model == str(tmp_path / "model.zip")
    assert read(tmp_path, model="a_shipped_one", trained=None).model == "a_shipped_one"
    assert settings.queue == str(tmp_path / "queue")
    assert settings.mapping == str(tmp_path / "rois.yaml")
    assert settings.destinations["out"].folder == str(tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"port": "11112"}, r"line \d+, column \d+: port: "),
        ({"colour": 1}, r"line 2, column 1: colour: unknown key"),
        ({"quiet_s": -1}, "quiet_s: "),
        ({"ae_title": "A" * 17}, "is not an AE title"),
        ({"ae_title": "A\\B"}, "is not an AE title"),
        ({"ae_title": " A"}, "is not an AE title"),
        ({"callers": [{"ae_title": "A", "addresses": ["planning.example"]}]}, "is not an IP address or network"),
        ({"callers": [{"ae_title": "A", "addresses": ["10.0.0.5/24"]}]}, "is not an IP address or network"),
        ({"callers": [{"ae_title": "A", "addresses": []}]}, "callers.0.addresses: "),
        ({"destinations": {}}, "destinations: "),
        ({"destinations": {"a/b": {"folder": "out"}}}, "'a/b' is not a valid name of a destination"),
        ({"destinations": {"a": {"ae_title": "A", "host": "h"}}}, "'a' has ae_title, host and port, or a folder"),
        ({"destinations": {"a": {"folder": "out", "port": 1}}}, "'a' has ae_title, host and port, or a folder"),
        ({"destinations": {"a": {"ae_title": "", "host": "h", "port": 1}}}, "'' is not an AE title"),
        (
            {"destinations": {"a": {"ae_title": "A", "host": "h", "port": 1, "tls": True}}},
            "'a' is to be encrypted, and there is no 'tls'",
        ),
        ({"model": "model.zip"}, "give a model package"),
        ({"trained": None}, "give a model package"),
        ({"incomplete_after_s": 1, "quiet_s": 2}, "incomplete_after_s is 1, less than quiet_s"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, **changes)


@pytest.mark.parametrize(
    ("address", "networks", "listed"),
    [
        ("10.0.0.5", ["10.0.0.5"], True),
        ("10.0.0.6", ["10.0.0.5", "10.1.0.0/16"], False),
        ("::ffff:10.0.0.5", ["10.0.0.0/24"], True),
        ("fe80::1%eth0", ["fe80::/10"], True),
        ("::1", ["127.0.0.1"], False),
    ],
)
def test_addresses(address, networks, listed):
    assert is_listed(address, networks) == listed


def test_files_for_tls_that_are_of_no_use(tmp_path):
    (tmp_path / "a.pem").write_text("no certificate")
    for name in ("a.pem", "missing.pem"):
        path = str(tmp_path / name)
        with pytest.raises(InputError, match=f"the files for TLS .*{name}.* can't be used") as refusal:
            server_context(Tls(certificate=path, key=path, ca=path))
        assert not isinstance(refusal.value, ssl.SSLError)


def test_a_node_without_callers_does_not_listen(tmp_path, capfd):
    read(tmp_path)
    assert main(["node", "--config", str(tmp_path / "node.yaml")]) == 2
    assert "the node has no callers: nobody may send to it" in capfd.readouterr().err


def fields_of(kind, prefix=""):
    """Names of all settings, those within others too."""
    for name, entry in kind.model_fields.items():
        yield prefix + name
        for inner in re.findall(r"\w+\.settings\.(\w+)", str(entry.annotation)):
            module = __import__("cdm_nnunet.node.settings", fromlist=[inner])
            yield from fields_of(getattr(module, inner), f"{prefix}{name}.")


def test_every_setting_is_documented_with_its_default():
    rows = dict(re.findall(r"(?m)^\| `([\w.]+)` \|([^|]*)\|", DOCUMENT.read_text(encoding="utf-8")))
    assert issubclass(NodeSettings, BaseModel)
    assert set(rows) == set(fields_of(NodeSettings))
    for name, entry in NodeSettings.model_fields.items():
        if isinstance(entry.default, int | float) and not isinstance(entry.default, bool):
            assert float(rows[name]) == entry.default, name


def test_the_example_of_the_documentation_is_sound(tmp_path):
    (text,) = re.findall(r"(?ms)^```yaml\n# node.yaml\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"))
    (tmp_path / "node.yaml").write_text(text)
    assert read_settings(tmp_path / "node.yaml").callers
