import errno
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from cdm_nnunet import files
from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion.raw_layout import template_catalogue, write_dataset
from cdm_nnunet.dataset_conversion.synthetic import SyntheticSource
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.images import Image, write_image

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
DATA_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")


def read(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def data_files(folder):
    return {
        f"{name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for name in DATA_FOLDERS
        for path in (folder / name).glob("*")
    }


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
def test_every_bit_survives_the_file(tmp_path, dtype):
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (4, 5, 6), dtype=dtype, endpoint=True)
    values[0, 0, :2] = 0, np.iinfo(dtype).max
    write_image(
        Image(values, Grid(values.shape, (3.5, 2.5, 1.5), np.array((1.0, -2.0, 3.0))), tmp_path / "bits.nii.gz")
    )
    assert read(tmp_path / "bits.nii.gz").dtype == dtype
    np.testing.assert_array_equal(read(tmp_path / "bits.nii.gz"), values)


def test_what_was_written_is_what_was_given(tmp_path, spec, memory_source):
    sources = [memory_source("a", 1), memory_source("b", 2), memory_source("t", 3, split="Ts")]
    conversion = write_dataset(tmp_path, spec, sources)
    dataset = RawDataset(tmp_path / "Dataset501_Test")
    assert conversion.folder == dataset.folder
    for source in sources:
        case = source.load()
        np.testing.assert_array_equal(read(dataset.image_path(source.name, 0)), case.ct_hu)
        np.testing.assert_array_equal(read(dataset.image_path(source.name, 1)), case.prescription_map_gy())
        np.testing.assert_array_equal(read(dataset.image_path(source.name, 2)), case.roi_bits)
        np.testing.assert_array_equal(read(dataset.dose_path(source.name)), case.dose_gy)
        assert dataset.record(source.name) == case.record()
        for path in [dataset.image_path(source.name, k) for k in range(3)] + [dataset.dose_path(source.name)]:
            image = sitk.ReadImage(str(path))
            assert image.GetSpacing() == pytest.approx((3.5, 4.0, 2.5))
            assert image.GetOrigin() == pytest.approx((-10.0, 20.0, -35.5))
    assert read(dataset.image_path("a", 0)).dtype == np.int16
    assert read(dataset.image_path("a", 1)).dtype == np.float32
    assert read(dataset.image_path("a", 2)).dtype == np.uint16
    assert dataset.image_path("t", 0).parent.name == "imagesTs"


def test_dataset_json_is_what_nnunet_and_the_contract_ask_for(tmp_path, spec, memory_source):
    write_dataset(tmp_path, spec, [memory_source("a"), memory_source("b"), memory_source("t", split="Ts")])
    written = json.loads((tmp_path / "Dataset501_Test" / "dataset.json").read_text())
    section = written.pop("cdm")
    assert written == {
        "name": "Test",
        "description": "A test",
        "channel_names": {"0": "CT", "1": "prescription", "2": "roi_bits"},
        "labels": {"background": 0},
        "numTraining": 2,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "CDMReaderWriter",
    }
    assert section["format_version"] == 1
    assert section["units"] == {"dose": "Gy", "ct": "HU"}
    assert section["template"] == spec.template.to_json()
    dataset = RawDataset(tmp_path / "Dataset501_Test")
    assert dataset.catalogue == spec.catalogue
    assert dataset.template == spec.template
    assert section["facts"]["source"] == "memory"


def test_the_catalogue_has_mirror_partners(spec):
    catalogue = template_catalogue(spec.template)
    assert catalogue.names[:5] == ("PTV_7000", "PTV_6300", "PTV_5600", "Brainstem", "SpinalCord")
    assert catalogue.names[5:9] == ("Parotid_R", "Parotid_L", "Esophagus", "Larynx")
    assert catalogue.names[9:] == ("Bone_Mandible", "DoseRegion")
    assert catalogue.one_sided == ()
    assert catalogue.mirror_permutation == (0, 1, 2, 3, 4, 6, 5, 7, 8, 9, 10)


def test_folds_are_written_for_training_cases_only(tmp_path, spec, memory_source):
    sources = [memory_source(name) for name in "abc"] + [memory_source("t", split="Ts")]
    write_dataset(tmp_path, replace(spec, published_validation=("c",)), sources)
    folds = json.loads((tmp_path / "Dataset501_Test" / "splits_final.json").read_text())
    assert folds[0] == {"train": ["a", "b"], "val": ["c"]}
    assert {name for fold in folds for side in fold.values() for name in side} == {"a", "b", "c"}


def test_a_second_run_reads_and_writes_nothing(tmp_path, spec, memory_source):
    sources = [memory_source("a"), memory_source("b")]
    first = write_dataset(tmp_path, spec, sources)
    before = data_files(first.folder)
    stamps = {path: path.stat().st_mtime_ns for path in first.folder.glob("*Tr/*")}
    again = write_dataset(tmp_path, spec, sources)
    assert (first.converted, again.converted) == (("a", "b"), ())
    assert again.to_json()["unchanged"] == ["a", "b"]
    assert [source.loads for source in sources] == [1, 1]
    assert data_files(first.folder) == before
    assert {path: path.stat().st_mtime_ns for path in first.folder.glob("*Tr/*")} == stamps


def test_only_what_has_changed_is_converted_again(tmp_path, spec, memory_source):
    write_dataset(tmp_path, spec, [memory_source("a", 1), memory_source("b", 2)])
    changed = memory_source("b", 3)
    assert write_dataset(tmp_path, spec, [memory_source("a", 1), changed]).converted == ("b",)
    dataset = RawDataset(tmp_path / "Dataset501_Test")
    np.testing.assert_array_equal(read(dataset.dose_path("b")), changed.load().dose_gy)


def test_a_new_patient_is_added(tmp_path, spec, memory_source):
    write_dataset(tmp_path, spec, [memory_source("a"), memory_source("b")])
    conversion = write_dataset(tmp_path, spec, [memory_source(name) for name in "abc"])
    assert conversion.converted == ("c",)
    assert RawDataset(conversion.folder).dataset_json["numTraining"] == 3


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:99])])
@pytest.mark.parametrize("file", ["imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz"])
def test_a_damaged_file_is_written_again(tmp_path, spec, memory_source, damage, file):
    sources = [memory_source("a"), memory_source("b")]
    folder = write_dataset(tmp_path, spec, sources).folder
    before = data_files(folder)
    damage(folder / file)
    assert write_dataset(tmp_path, spec, sources).converted == ("a",)
    assert data_files(folder) == before


def test_a_case_that_moves_to_testing_leaves_training(tmp_path, spec, memory_source):
    write_dataset(tmp_path, spec, [memory_source(name) for name in "abc"])
    sources = [memory_source("a"), memory_source("b"), memory_source("c", split="Ts")]
    folder = write_dataset(tmp_path, spec, sources).folder
    assert {name for name in data_files(folder) if "/c" in name} == {
        "imagesTs/c_0000.nii.gz",
        "imagesTs/c_0001.nii.gz",
        "imagesTs/c_0002.nii.gz",
        "labelsTs/c.nii.gz",
    }


def test_all_refused_patients_are_named_and_the_dataset_stays_unfinished(tmp_path, spec, memory_source):
    sources = [
        memory_source("a"),
        memory_source("b", refusal="no CT"),
        memory_source("c", changes={"prescriptions_gy": {}}),
        memory_source("d"),
    ]
    with pytest.raises(InputError, match=r"2 of 4 patients can't be used: \[b\] no CT; \[c\] no target with a presc"):
        write_dataset(tmp_path, spec, sources)
    folder = tmp_path / "Dataset501_Test"
    assert not (folder / "dataset.json").exists()
    with pytest.raises(InputError, match=r"dataset.json is missing; was the conversion finished\?"):
        _ = RawDataset(folder).dataset_json
    assert write_dataset(tmp_path, spec, [sources[0], sources[3]]).converted == ()
    assert RawDataset(folder).dataset_json["numTraining"] == 2


def test_absent_and_empty_rois_are_reported(tmp_path, spec, memory_source):
    sources = [
        memory_source("a", changes={"empty_rois": ("Larynx",)}),
        memory_source("b"),
        memory_source("t", split="Ts", changes={"dose_gy": None}),
    ]
    record = write_dataset(tmp_path, spec, sources).to_json()
    assert record["absent_rois"]["Larynx"] == 3
    assert record["absent_rois"]["PTV_7000"] == 0
    assert record["empty_rois"] == {"a": ["Larynx"]}
    assert record["without_reference_dose"] == ["t"]
    assert (record["cases"], record["training_cases"], record["test_cases"]) == (3, 2, 1)
    assert not (tmp_path / "Dataset501_Test" / "labelsTs").exists()
    assert write_dataset(tmp_path, spec, sources).to_json()["empty_rois"] == {"a": ["Larynx"]}


def test_a_taken_id_is_refused(tmp_path, spec, memory_source):
    (tmp_path / "Dataset501_Other").mkdir()
    with pytest.raises(InputError, match="dataset id 501 is taken by Dataset501_Other"):
        write_dataset(tmp_path, spec, [memory_source("a"), memory_source("b")])
    assert not (tmp_path / "Dataset501_Test").exists()


def test_a_folder_of_somebody_else_is_refused(tmp_path, spec, memory_source):
    folder = tmp_path / "Dataset501_Test"
    folder.mkdir()
    (folder / "dataset.json").write_text("{}")
    with pytest.raises(InputError, match="exists and was not written by this command"):
        write_dataset(tmp_path, spec, [memory_source("a"), memory_source("b")])
    assert [path.name for path in folder.iterdir()] == ["dataset.json"]


def test_other_content_of_the_same_name_is_refused(tmp_path, spec, memory_source):
    sources = [memory_source(name) for name in "abc"]
    write_dataset(tmp_path, spec, sources)
    with pytest.raises(InputError, match="was converted with another source"):
        write_dataset(tmp_path, replace(spec, source="dicom"), sources)
    rois = spec.template.rois
    swapped = spec.template.model_copy(update={"rois": (rois[1], rois[0], *rois[2:])})
    with pytest.raises(InputError, match="was converted with another catalogue"):
        write_dataset(tmp_path, replace(spec, template=swapped), sources)
    with pytest.raises(InputError, match="holds cases that are not among the patients to convert: c;"):
        write_dataset(tmp_path, spec, sources[:2])
    assert RawDataset(tmp_path / "Dataset501_Test").dataset_json["numTraining"] == 3


def test_files_added_by_hand_are_refused(tmp_path, spec, memory_source):
    sources = [memory_source("a"), memory_source("b")]
    folder = write_dataset(tmp_path, spec, sources).folder
    (folder / "imagesTr" / "z_0000.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"belong to no converted case: imagesTr/z_0000.nii.gz"):
        write_dataset(tmp_path, spec, sources)


def test_two_conversions_at_a_time_are_refused(tmp_path, spec, memory_source):
    fcntl = pytest.importorskip("fcntl")
    sources = [memory_source("a"), memory_source("b")]
    folder = write_dataset(tmp_path, spec, sources).folder
    with (folder / ".conversion" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another conversion is writing to"):
            write_dataset(tmp_path, spec, sources)
    assert write_dataset(tmp_path, spec, sources).converted == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "no patients to convert"), (["a", "b", "a"], "'a' is in the source 2 times"), (["a"], "at least two cases")],
)
def test_impossible_lists_of_patients_are_refused(tmp_path, spec, memory_source, names, message):
    with pytest.raises(InputError, match=message):
        write_dataset(tmp_path, spec, [memory_source(name) for name in names])
    assert list(tmp_path.iterdir()) == []


def test_worker_processes_give_the_same_files(tmp_path, spec):
    spec = replace(spec, source="synthetic")
    sources = [SyntheticSource(k, f"p{k}", "Tr", 2.2) for k in (1, 2)] + [SyntheticSource(-1, "broken", "Tr")]
    with pytest.raises(InputError, match=r"1 of 3 patients can't be used: \[broken\] a seed is a number from 0"):
        write_dataset(tmp_path, spec, sources, n_processes=2)
    parallel = write_dataset(tmp_path, spec, sources[:2], n_processes=2)
    assert parallel.converted == ()
    serial = write_dataset(tmp_path / "serial", spec, sources[:2])
    assert data_files(serial.folder) == data_files(parallel.folder)
    assert len(data_files(serial.folder)) == 8


def test_a_truncated_write_is_noticed(tmp_path, spec, memory_source, monkeypatch):
    """SimpleITK reports success when the disk is full; the file is short, and reads back as zeros without an error."""
    write = sitk.WriteImage

    def write_half(image, path, **options):
        write(image, path, **options)
        with open(path, "r+b") as file:
            file.truncate(file.seek(0, 2) // 2)

    monkeypatch.setattr(sitk, "WriteImage", write_half)
    with pytest.raises(OSError, match="the written file does not read back unchanged") as caught:
        write_dataset(tmp_path, spec, [memory_source("a"), memory_source("b")])
    assert caught.value.errno == errno.EIO
    assert "a_0000.nii.gz" in caught.value.filename
    assert data_files(tmp_path / "Dataset501_Test") == {}


def test_a_full_disk_leaves_nothing_half_written(tmp_path, spec, memory_source, file_size_limit, capfd):
    shape = (40, 40, 40)
    rng = np.random.default_rng(0)
    everywhere = np.uint16(1 | 1 << 10)  # PTV_7000 and DoseRegion
    changes = {
        "ct_hu": np.where(np.arange(40) < 8, -1000, 0).astype(np.int16) * np.ones(shape, np.int16),
        "roi_bits": np.full(shape, everywhere),
        "prescriptions_gy": {"PTV_7000": 70.0},
        "dose_gy": rng.uniform(60, 75, shape).astype(np.float32),
        "grid": Grid(shape, (2.5, 4.0, 3.5)),
    }
    sources = [memory_source("a"), memory_source("big", changes=changes), memory_source("c")]
    folder = tmp_path / "Dataset501_Test"
    with file_size_limit(50_000), pytest.raises(OSError, match="too large") as caught:
        write_dataset(tmp_path, spec, sources)
    assert caught.value.errno == errno.EFBIG
    assert "big" in caught.value.filename
    assert not (folder / "dataset.json").exists()
    assert {name.split("/")[1][:1] for name in data_files(folder)} == {"a"}
    assert list((folder / ".conversion" / "incomplete").iterdir()) == []
    assert write_dataset(tmp_path, spec, sources).converted == ("big", "c")
    capfd.readouterr()  # (the NIfTI library complains on stderr)


def test_a_json_file_is_whole_or_absent(tmp_path, file_size_limit):
    path = tmp_path / "dataset.json"
    files.write_json(path, {"a": 1})
    with file_size_limit(100), pytest.raises(OSError, match="too large"):
        files.write_json(path, {"a": "x" * 1000})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
