"""Realistic trees of files: links, raw volumes, files that are not images."""

import numpy as np
import pydicom
import pytest

from cdm_nnunet.dicom import index as dicom_index
from cdm_nnunet.dicom.index import index_folder
from cdm_nnunet.dicom.phantom import LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Sphere
from cdm_nnunet.dicom.unread import unread_lines
from cdm_nnunet.errors import InputError

PHANTOM = Phantom(
    {"PTV60": Sphere((0.0, 0.0, 0.0), 8.0)},
    LinearDose(0, 0.5, 60.0),
    slices_z_mm=(-2.0, 0.0, 2.0),
    pixels=(24, 24),
    prescriptions_gy={"PTV60": 60.0},
)


@pytest.fixture
def patient(tmp_path):
    return write_phantom(PHANTOM, tmp_path / "store" / "patient")


def modalities(index):
    return sorted(entry.modality for entry in index.entries)


ALL = ["CT", "CT", "CT", "RTDOSE", "RTPLAN", "RTSTRUCT"]


def test_files_behind_links_are_read(patient, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for path in patient.folder.iterdir():
        (tree / f"link_{path.name}").symlink_to(path)
    assert modalities(index_folder(tree)) == ALL


def test_folders_behind_links_are_read_once_and_never_in_a_circle(patient, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").symlink_to(patient.folder)
    (tree / "b").symlink_to(patient.folder)
    (patient.folder / "up").symlink_to(tree)
    index = index_folder(tree)
    assert modalities(index) == ALL
    assert {entry.path.split("/")[-2] for entry in index.entries} == {"a"}


def test_a_link_that_leads_nowhere_is_told(patient, tmp_path):
    (patient.folder / "gone.dcm").symlink_to(tmp_path / "annex" / "gone")
    index = index_folder(patient.folder)
    assert modalities(index) == ALL
    assert list(index.unread.values()) == [f"{patient.folder / 'gone.dcm'} is a link to a missing file"]


@pytest.mark.parametrize("first", [0, 8, 2, 0x0800])
def test_a_raw_volume_costs_its_first_bytes(patient, monkeypatch, first):
    values = np.arange(first, first + 5000).astype("<i2")
    (patient.folder / "volume.raw").write_bytes(values.tobytes())
    read, opened = dicom_index.read_file, []
    monkeypatch.setattr(dicom_index, "read_file", lambda path, **given: opened.append(path.name) or read(path, **given))
    index = index_folder(patient.folder)
    assert modalities(index) == ALL
    assert "volume.raw" not in opened
    assert list(index.unread.values()) == [f"{patient.folder / 'volume.raw'} is not a DICOM file"]


@pytest.mark.parametrize("syntax", [pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.ExplicitVRLittleEndian])
def test_a_file_without_preamble_is_no_raw_volume(patient, syntax):
    path = patient.ct[0]
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)
    content = path.read_bytes()
    assert dicom_index._looks_like_dicom(path)
    path.write_bytes(content[132:])  # begins with the meta group
    assert dicom_index._looks_like_dicom(path)
    start = 144 + int.from_bytes(content[140:144], "little")
    path.write_bytes(content[start:])  # begins with the data set
    assert dicom_index._looks_like_dicom(path)


@pytest.mark.parametrize("first", [[8, 0, 0, 0, 0], [2, 0, 0, 0, 0], [8, 5, 0, 0, 8, 5, 0, 0]])
@pytest.mark.parametrize("kind", ["<i2", ">i2"])
def test_a_raw_volume_that_begins_like_an_element_is_no_dicom_file(tmp_path, first, kind):
    """Such as a map of labels: every eight of its zeros would be read as an element."""
    path = tmp_path / "labels"
    path.write_bytes(np.array(first + [0] * 5000, kind).tobytes())
    assert not dicom_index._looks_like_dicom(path)


def test_an_empty_tree_is_refused(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    with pytest.raises(InputError, match=r"can be read as a DICOM object of a patient: .*a(.raw)? is not a DICOM file"):
        index_folder(tmp_path)


def test_files_that_fail_alike_are_told_in_one_line_with_their_reason(patient):
    for path in patient.folder.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.StudyInstanceUID
        dataset.save_as(path)
    (patient.folder / "notes.txt").write_text("no image")
    with pytest.raises(
        InputError, match=r"no file in .* can be read as .*: 6 files: lacks StudyInstanceUID .*more\); /"
    ):
        index_folder(patient.folder)
    (patient.folder.parent / "empty").mkdir()
    with pytest.raises(InputError, match="has no files"):
        index_folder(patient.folder.parent / "empty")


def test_lines_stay_few_whatever_the_numbers():
    cut = {f"/a/{k}": f"/a/{k} is cut off: {k} of 900 bytes; export it again" for k in range(200)}
    (line,) = unread_lines(cut)
    assert line == "200 files: is cut off: 0 of 900 bytes; export it again (/a/0, /a/1 and 198 more)"
