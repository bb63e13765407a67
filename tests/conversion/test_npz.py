"""Pickled dictionaries in NPZ files are read without running code; hostile or damaged files are refused."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cdm_nnunet.dataset_conversion.npz import read_dictionary
from cdm_nnunet.errors import InputError


def archive(path: Path, pickled: bytes, dtype: str = "|O", shape: str = "()") -> Path:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("arr_0.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + pickled)
    return path


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "argument"), [(os.system, "touch hacked"), (eval, "open('hacked', 'w')"), (np.load, "x"), (open, "x")]
)
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, monkeypatch, protocol, function, argument):
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps({"img": Hostile(function, argument)}, protocol)
    with pytest.raises(InputError, match=r"its pickle wants to call .*which no array needs: the file may be hostile"):
        read_dictionary(archive(tmp_path / "x.npz", pickled))
    assert not (tmp_path / "hacked").exists()


def test_what_a_hostile_pickle_makes_of_the_allowed_names_is_refused(tmp_path):
    reconstruct = np.zeros(1).__reduce__()[0]
    for value, message in (
        (Hostile(reconstruct, np.dtype, (0,), b"b"), "makes an array in an unusual way"),
        (Hostile(np.ndarray, (10**15,)), "'object' object is not callable"),
        (Hostile(np.dtype, "V100000"), "type 'V100000', which is neither number nor text"),
        (Hostile(np.dtype, ["a"]), "which is neither number nor text"),
    ):
        with pytest.raises(InputError, match=message):
            read_dictionary(archive(tmp_path / "x.npz", pickle.dumps({"x": value})))


def test_an_array_has_as_many_bytes_as_its_shape_says(tmp_path):
    pickled = pickle.dumps({"x": np.arange(7, dtype=np.uint8)}).replace(b"K\x07\x85", b"K\x09\x85")
    with pytest.raises(InputError, match="cannot reshape array of size 7"):
        read_dictionary(archive(tmp_path / "x.npz", pickled))


@pytest.mark.parametrize("protocol", [3, 4])  # those that NumPy writes
def test_arrays_of_both_pickle_protocols_are_read(tmp_path, protocol):
    given = {
        "array": np.arange(12, dtype=">f4").reshape(3, 4).T,
        "bits": np.array([True, False]),
        "scalar": np.float32(2.5),
        "text": np.array(["a", "bc"]),
        "list": [1, "x", (2.5, None)],
        "empty": np.zeros((0, 3)),
        "names": np.array(["x", 3], object),
    }
    found = read_dictionary(archive(tmp_path / "x.npz", pickle.dumps(np.array(given, object), protocol)))
    assert list(found) == list(given)
    for key in ("array", "bits", "text", "empty", "names"):
        np.testing.assert_array_equal(found[key], given[key])
        assert found[key].dtype.kind == given[key].dtype.kind
    assert (found["scalar"], found["list"]) == (2.5, given["list"])


def test_files_as_numpy_saves_them_are_read(tmp_path):
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", {"a": np.eye(3), "b": 2.0})
        found = read_dictionary(tmp_path / "x.npz")
        np.testing.assert_array_equal(found["a"], np.eye(3))
        assert found["b"] == 2.0


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def whole_zip_cut_pickle(path: Path) -> None:
    archive(path, pickle.dumps({"a": np.zeros(1000)})[:300])


def plain(path: Path) -> None:
    np.savez(path, np.eye(3))


def other(path: Path) -> None:
    np.savez(path, img=np.eye(3))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.unlink(), "x.npz is missing"),
        (lambda p: p.write_bytes(b""), "is damaged, cut off or not an NPZ file"),
        (lambda p: p.write_bytes(b"PK\3\4 nothing"), "is damaged, cut off or not an NPZ file"),
        (cut, "is damaged, cut off or not an NPZ file"),
        (whole_zip_cut_pickle, "x.npz can't be read"),
        (plain, r"holds an array of float64 and shape \(3, 3\); expected one pickled dictionary"),
        (other, "has no array 'arr_0'; it has img.npy"),
        (lambda p: np.savez(p, np.array([1, 2], object)), "holds an array of object and shape"),
        (lambda p: archive(p, pickle.dumps([1])), "holds no dictionary with names for keys but list"),
        (lambda p: archive(p, pickle.dumps({1: 2})), "holds no dictionary with names for keys"),
        (lambda p: archive(p, b"."), "x.npz can't be read"),
        (lambda p: archive(p, b"", dtype="nonsense"), "x.npz can't be read"),
    ],
)
def test_damaged_files_are_refused(tmp_path, spoil, message):
    path = tmp_path / "x.npz"
    np.savez(path, {"a": np.eye(30)})
    spoil(path)
    with pytest.raises(InputError, match=message):
        read_dictionary(path)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    from cdm_nnunet.dataset_conversion import npz

    np.savez_compressed(tmp_path / "x.npz", {"a": np.zeros(10**5)})
    monkeypatch.setattr(npz, "MAX_BYTES", 10**5)
    with pytest.raises(InputError, match=r"unpacks to 0\.0 GiB; expected 4 at most"):
        read_dictionary(tmp_path / "x.npz")


def test_reading_needs_no_numpy_unpickler(tmp_path):
    """A pickle that NumPy would run is refused at its first dangerous name, wherever it is."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"deep": [Hostile(os.system, "true")]}], object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("arr_0.npy", buffer.getvalue().replace(b"(1,)", b"()  "))
    with pytest.raises(InputError, match=r"wants to call posix.system|wants to call nt.system"):
        read_dictionary(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "member", ["../../evil.npy", "/etc/passwd", "a/../../b", "..", r"..\evil.npy", "C:evil.npy", "folder/arr_0.npy"]
)
def test_an_archive_path_that_climbs_out_is_refused(tmp_path, monkeypatch, member):
    folder = tmp_path / "inner" / "folder"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    np.savez(folder / "x.npz", {"a": np.eye(2)})
    with zipfile.ZipFile(folder / "x.npz", "a") as file:
        file.writestr(zipfile.ZipInfo(member), b"evil")
    with pytest.raises(InputError, match=r"x\.npz has the member .*, whose path leads out of the archive"):
        read_dictionary(folder / "x.npz")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [folder / "x.npz"]
