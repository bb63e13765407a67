"""A package that was changed, cut or made to harm is refused in one line, and nothing of it is unpacked or run."""

import hashlib
import json
import shutil
import stat
import struct
import zipfile

import pytest

from cdm_nnunet.cli.main import main
from cdm_nnunet.errors import InputError
from cdm_nnunet.models import members
from cdm_nnunet.models.members import Members
from cdm_nnunet.models.package import Package
from cdm_nnunet.prediction.model_export import verify_model


@pytest.fixture
def contents(clinic):
    """Members by name, with their sums."""
    with zipfile.ZipFile(clinic.package) as archive:
        return {name.removeprefix("clinic_hn/"): archive.read(name) for name in archive.namelist()}


@pytest.fixture
def folder(contents, tmp_path):
    """The package as a folder."""
    for name, content in contents.items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(content)
    return tmp_path / "model"


def pack(path, contents, **entries):
    """Write a ZIP file; ``entries`` change how a member is described."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            for key, value in entries.items():
                setattr(entry, key, value)
            archive.writestr(entry, content)
    return path


def with_sums(contents):
    """The members with sums that fit them: changed on purpose, not by chance."""
    others = {name: content for name, content in contents.items() if name != "SHA256SUMS"}
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(others.items()))
    return {**others, "SHA256SUMS": sums.encode()}


def test_a_folder_and_a_packed_folder_are_taken_as_well(folder, contents, tmp_path):
    expected = verify_model(folder)["bytes"]
    (folder / ".DS_Store").write_text("left by a file manager")
    assert verify_model(folder)["bytes"] == expected
    packed = pack(tmp_path / "packed.zip", {f"model/{name}": content for name, content in contents.items()})
    assert verify_model(packed)["bytes"] == expected


def test_a_changed_byte_is_found_wherever_it_is(folder, contents, clinic, tmp_path):
    for name, content in contents.items():
        for place in (0, len(content) // 2, len(content) - 1):
            changed = bytearray(content)
            changed[place] ^= 1
            (folder / name).write_bytes(bytes(changed))
            with pytest.raises(InputError, match=r"was damaged or changed|is damaged|SHA256SUMS"):
                Package.read(folder).verify()
        (folder / name).write_bytes(content)
    Package.read(folder).verify()
    whole = clinic.package.read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.zip is damaged or cut, or not a model in a ZIP file"):
        Members.of(tmp_path / "cut.zip")
    changed = bytearray(whole)
    changed[whole.index(b"weights/fold_0") + 10_000] ^= 1
    (tmp_path / "changed.zip").write_bytes(bytes(changed))
    with pytest.raises(InputError, match="damaged"):
        Package.read(tmp_path / "changed.zip").verify()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../../evil.json", r"'\.\./\.\./evil\.json', which is not a part of a model"),
        ("/etc/cron.d/evil", "'/etc/cron.d/evil', which is not a part of a model"),
        ("weights\\fold_0.safetensors", "which is not a part of a model"),
        ("more/../../evil.json", "which is not a part of a model"),
        ("weights/fold_0.pth", "'weights/fold_0.pth', which is not a part of a model"),
        ("more/left.json", "holds more/left.json, which SHA256SUMS lacks"),
        ("PLANS.json", "which is not a part of a model"),
    ],
)
def test_members_that_no_model_has(contents, tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    path = pack(tmp_path / "evil.zip", {**contents, name: b"{}"})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message):
        Members.of(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_member_that_is_there_twice(contents, tmp_path):
    path = pack(tmp_path / "twice.zip", contents)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("plans.json", "{}")
    with pytest.raises(InputError, match=r"holds 'plans\.json' twice: two readers could see two models"):
        Members.of(path)


def test_links_and_encryption(contents, tmp_path, folder):
    path = pack(tmp_path / "link.zip", contents, external_attr=(stat.S_IFLNK | 0o777) << 16)
    with pytest.raises(InputError, match="is a link, or no file"):
        Members.of(path)
    raw = bytearray(pack(tmp_path / "secret.zip", contents).read_bytes())
    for at in [k for k in range(len(raw)) if raw[k : k + 4] == b"PK\1\2"]:
        raw[at + 8] |= 1
    (tmp_path / "secret.zip").write_bytes(bytes(raw))
    with pytest.raises(InputError, match="is encrypted"):
        Members.of(tmp_path / "secret.zip")


def test_bombs(contents, tmp_path, monkeypatch):
    path = pack(tmp_path / "bomb.zip", {**contents, "dataset.json": bytes(20 * 2**20)})
    assert path.stat().st_size < 2**20
    with pytest.raises(InputError, match=r"dataset\.json has 20,971,520 bytes, at most 16,777,216 are read"):
        Members.of(path)
    raw = path.read_bytes()  # a member that is larger than it says
    at = raw.rindex(b"PK\1\2", 0, raw.rindex(b"dataset.json"))
    (tmp_path / "liar.zip").write_bytes(raw[: at + 24] + struct.pack("<I", 100) + raw[at + 28 :])
    with pytest.raises(
        InputError,
        match=r"(dataset\.json in .*liar\.zip (has another size than|is damaged))|damaged",
    ):
        Package.read(tmp_path / "liar.zip").verify()
    many = {**contents, **{f"more/{k}.json": b"{}" for k in range(200)}}
    with pytest.raises(InputError, match=r"has 20\d members: a model has at most 64"):
        Members.of(pack(tmp_path / "many.zip", many))
    monkeypatch.setattr(members, "MAX_TOTAL_BYTES", 1000)
    with pytest.raises(InputError, match="more than a model has"):
        Members.of(pack(tmp_path / "large.zip", contents))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=2), "has format version 2, this software reads 1; update it"),
        (lambda m: m.pop("precision"), "precision"),
        (lambda m: m.update(loader="pickle"), "loader"),
        (lambda m: m.update(trainer="os.system"), "trainer"),
        (lambda m: m["folds"].append(m["folds"][0]), "names a fold twice"),
        (lambda m: m["folds"].pop(), "disagree about weights/fold_1.safetensors"),
        (lambda m: m.update(plans_sha256="0" * 64), "plans.json or dataset.json is not that of the training"),
        (lambda m: m["folds"][0].update(weights_sha256="0" * 64), "are not the weights that model.json names"),
        (lambda m: m.update(configuration="3d_none"), "its plans have no configuration '3d_none'"),
        (lambda m: m.update(trainer="Unknown"), "was trained by 'Unknown', which is not installed"),
        (lambda m: m.update(plans="Others"), "model.json says Dataset561_Clinic, Others, and plans.json"),
    ],
)
def test_a_manifest_that_cannot_be(contents, tmp_path, change, message):
    manifest = json.loads(contents["model.json"])
    change(manifest)
    path = pack(tmp_path / "other.zip", with_sums({**contents, "model.json": json.dumps(manifest).encode()}))
    with pytest.raises(InputError, match=message):
        verify_model(path)


def test_plans_that_name_foreign_code(contents, tmp_path):
    plans = json.loads(contents["plans.json"])
    plans["configurations"]["3d_packed"]["architecture"]["network_class_name"] = "os.system"
    path = pack(tmp_path / "evil.zip", with_sums({**contents, "plans.json": json.dumps(plans).encode()}))
    with pytest.raises(InputError, match=r"evil\.zip: plans.json or dataset.json is not that of the training"):
        verify_model(path)


def weights_of(header: dict, n_bytes: int = 0) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(n_bytes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not in the format safetensors: its header is cut"),
        (b"\x80\x04\x95" + bytes(50), "is not in the format safetensors"),  # (how a pickle begins)
        ((2**40).to_bytes(8, "little") + b"{}", "its header is cut, or larger than"),
        (
            weights_of({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}, 4),
            "is not in the format safetensors",
        ),
        (weights_of({"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}, 8), "of type torch.float64"),
        (weights_of({"__metadata__": {"same_as": '{"b": "c"}'}}), "the names of weights contradict each other"),
        (weights_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, 4), "are not the weights"),
    ],
)
def test_weights_that_are_none(contents, tmp_path, content, message):
    path = pack(tmp_path / "other.zip", with_sums({**contents, "weights/fold_0.safetensors": content}))
    with pytest.raises(InputError, match=message):
        verify_model(path)


def test_the_command_says_it_in_one_line(folder, capfd):
    (folder / "plans.json").write_text("{}")
    assert main(["model", "verify", str(folder)]) == 2
    assert "plans.json in" in capfd.readouterr().err
    shutil.rmtree(folder / "weights")
    assert main(["model", "info", str(folder)]) == 2
    assert "lacks weights/fold_0.safetensors, which SHA256SUMS lists" in capfd.readouterr().err
    assert main(["model", "info", str(folder / "nothing.zip")]) == 2
    assert "the name of a shipped model" in capfd.readouterr().err
