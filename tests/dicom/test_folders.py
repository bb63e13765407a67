"""Folders of exports: indexed, paired, inspected, converted, and refused with clear messages."""

import dataclasses
import json
import shutil

import numpy as np
import pydicom
import pytest
import yaml

from cdm_nnunet import kept_rows
from cdm_nnunet.cli import main as cli
from cdm_nnunet.dataset import CT_CHANNEL, ROI_CHANNEL, RawDataset
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace
from cdm_nnunet.dataset_conversion.dicom import DicomRules, convert_dicom
from cdm_nnunet.dataset_conversion.dicom_mapping import DicomMapping, mapping_from, read_mapping
from cdm_nnunet.dataset_conversion.dicom_patient import DicomPatient
from cdm_nnunet.dataset_conversion.mapping_file import mapping_text
from cdm_nnunet.dicom.index import index_folder
from cdm_nnunet.dicom.inspection import inspect_index
from cdm_nnunet.dicom.phantom import LinearDose, Phantom, write_phantom
from cdm_nnunet.dicom.phantom_shapes import Cylinder, Sphere
from cdm_nnunet.dicom.structures import read_structures
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.images import read_image
from cdm_nnunet.ranges import prescription_notes

TEMPLATE = Template.from_json(
    {
        "format_version": 1,
        "name": "small",
        "rois": [
            {"name": "PTV_6000", "kind": "target", "prescription_gy": "patient"},
            {"name": "SpinalCord", "kind": "oar"},
            {"name": "External", "kind": "external"},
        ],
        "goals": [{"roi": "PTV_6000", "metric": "D95%"}, {"roi": "SpinalCord", "metric": "Dmax"}],
    },
    "test",
)
MAPPING = DicomMapping({"PTV60": "PTV_6000", "Cord": "SpinalCord", "BODY": "External", "Ring": None})
PHANTOM = Phantom(
    {
        "BODY": Cylinder((0.0, 0.0, 0.0), 22.0, 32.0),
        "PTV60": Sphere((3.0, 0.0, 0.0), 8.0),
        "Cord": Cylinder((0.0, 14.0, 0.0), 3.0, 32.0),
        "Ring": Sphere((3.0, 0.0, 0.0), 12.0, 9.0),
    },
    LinearDose(0, 0.5, 55.0),
    slices_z_mm=tuple(np.arange(-16.0, 17.0, 2.0)),
    pixels=(28, 28),
    prescriptions_gy={"PTV60": 60.0},
    kinds={"BODY": "EXTERNAL", "PTV60": "PTV"},
)


@pytest.fixture
def exports(tmp_path):
    """Two patients in one folder, under names that say nothing, with a file that is no DICOM."""
    folder = tmp_path / "exports"
    for seed in range(2):
        files = write_phantom(dataclasses.replace(PHANTOM, seed=seed), tmp_path / f"patient_{seed}")
        (folder / "mixed").mkdir(parents=True, exist_ok=True)
        for k, path in enumerate(sorted(files.folder.iterdir())):
            shutil.move(path, folder / "mixed" / f"IM{seed}{k:03d}; rm -rf ~ \N{SNOWMAN}")
    (folder / "readme.txt").write_text("not an image")
    return folder


def of(folder, modality, patient="phantom_000"):
    """Files of one modality of a patient."""
    entries = index_folder(folder).entries
    return [pydicom.dcmread(e.path) for e in entries if e.modality == modality and e.patient == patient]


def problems(folder, patient="phantom_000"):
    (found,) = [files for files in index_folder(folder).patients() if files.patient == patient]
    return "; ".join(found.problems)


def convert(exports, tmp_path, mapping=MAPPING, grid="dose", **options):
    return convert_dicom(
        exports,
        DatasetPlace(tmp_path / "raw", 502, "Clinic"),
        DicomRules(TEMPLATE, mapping, grid),
        tmp_path / "local",
        **options,
    )


def test_files_are_paired_by_their_references(exports):
    index = index_folder(exports)
    assert [reason for reason in index.unread.values() if "is not a DICOM file" in reason]
    for files in index.patients():
        assert files.problems == ()
        assert (len(files.ct), len(files.doses)) == (17, 1)
        assert pydicom.dcmread(files.plans[0]).Modality == "RTPLAN"
        assert files.patient not in files.case_name


def test_the_index_goes_on_where_it_stopped(exports, tmp_path):
    cache = tmp_path / "index.jsonl"
    first = index_folder(exports, cache)
    assert index_folder(exports, cache) == first
    head, *lines = cache.read_text().splitlines()
    rows = [kept_rows._row_of(line) for line in lines if line]
    (path, kept), (other, _) = rows[:2]
    text = kept_rows._line(path, kept._replace(row=json.dumps({**json.loads(kept.row), "patient": "from the cache"})))
    edited = kept_rows._line(*rows[1]).replace('"patient": "', '"patient": "from elsewhere ')
    assert edited != kept_rows._line(*rows[1])
    cache.write_text("\n".join([head, text, edited, kept_rows._line(*rows[2])[:50]]))
    again = index_folder(exports, cache)
    assert {entry.path: entry.patient for entry in again.entries}[other] != "from elsewhere"
    assert [entry.patient for entry in again.entries].count("from the cache") == 1
    assert len(again.entries) == len(first.entries)
    shutil.copy(path, tmp_path / "copy")
    shutil.copy(tmp_path / "copy", path)  # touched: read again
    assert index_folder(exports, cache) == first
    for spoiled in ("{", "", '{"headers": 1}\n["a", 1]\n', "\xff"):
        cache.write_text(spoiled, encoding="latin-1")
        assert index_folder(exports, cache) == first
    assert cache.stat().st_mode & 0o077 == 0
    (exports / "readme.txt").unlink()
    assert index_folder(exports, cache).unread == {}
    assert "readme.txt" not in cache.read_text()


def test_a_folder_without_dicom_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        index_folder(tmp_path / "absent")
    (tmp_path / "a").write_text("a")
    with pytest.raises(InputError, match=r"can be read as a DICOM object of a patient: .*a(.raw)? is not a DICOM file"):
        index_folder(tmp_path)


def test_what_is_missing_or_ambiguous_is_told(exports):
    (dose,) = of(exports, "RTDOSE")
    dose.SOPInstanceUID = dose.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    shutil.copy(dose.filename, exports / "a copy")
    assert problems(exports) == ""  # equal byte by byte
    ct = of(exports, "CT")
    other = pydicom.dcmread(ct[0].filename)
    other.PixelData = bytes(len(other.PixelData))
    other.save_as(exports / "another")
    assert "have the same SOPInstanceUID but differ" in problems(exports)
    (exports / "another").unlink()
    (structures,) = of(exports, "RTSTRUCT")
    structures.SOPInstanceUID = structures.file_meta.MediaStorageSOPInstanceUID = "1.2.4"
    structures.save_as(structures.filename)
    assert "the structure set that the plan refers to is not in the folder" in problems(exports)
    (plan,) = of(exports, "RTPLAN")
    plan.SOPInstanceUID = plan.file_meta.MediaStorageSOPInstanceUID = "1.2.5"
    plan.save_as(plan.filename)
    assert "no dose (RTDOSE) refers to the plan" in problems(exports)


def test_two_ct_series_without_a_reference_are_ambiguous(exports):
    (structures,) = of(exports, "RTSTRUCT")
    del structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    for roi in structures.ROIContourSequence:
        for contour in roi.ContourSequence:
            del contour.ContourImageSequence
    structures.save_as(structures.filename)
    assert problems(exports) == ""  # paired by the frame of reference
    for k, image in enumerate(of(exports, "CT")):
        image.SeriesInstanceUID, image.SOPInstanceUID = "1.2.9", f"1.2.9.{k}"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.save_as(exports / f"second_{k}")
    assert "2 CT series: ambiguous, keep one" in problems(exports)


def test_frames_of_reference_are_compared(exports):
    (dose,) = of(exports, "RTDOSE")
    dose.FrameOfReferenceUID = "1.2.6"
    dose.save_as(dose.filename)
    assert "different frames of reference" in problems(exports)


def test_inspection_tells_names_prescriptions_and_doubts(exports):
    (plan,) = of(exports, "RTPLAN")
    plan.DoseReferenceSequence[0].TargetPrescriptionDose = 11
    plan.save_as(plan.filename)
    record = inspect_index(index_folder(exports))
    rows = list(record["patients"].values())
    assert sorted(row["prescriptions_gy"]["PTV60"] for row in rows) == [11.0, 60.0]
    assert [note for row in rows for note in row["notes"]] == [
        "unusual: the prescription of 'PTV60' is 11 Gy (usually 12 to 85 Gy)",
        "suspicious: the dose maximum is 68.12 Gy for a prescription of 11 Gy, expected 5.5 to 33 Gy; is it in cGy or "
        "in percent, or does it belong to another plan?",
    ]
    assert record["rois"]["Cord"]["proposal"] == "SpinalCord"
    assert record["rois"]["PTV60"]["prescription_gy"] == 60.0
    assert "phantom_000" not in json.dumps(record)


@pytest.mark.parametrize("level_gy", [0.6, 3.9, 11.0, 60.0, 90.0, 151.0, 7000.0])
def test_inspection_and_conversion_say_the_same_of_a_prescription(exports, level_gy):
    for patient in ("phantom_000", "phantom_001"):
        (plan,) = of(exports, "RTPLAN", patient)
        plan.DoseReferenceSequence[0].TargetPrescriptionDose = level_gy
        plan.save_as(plan.filename)
    rows = inspect_index(index_folder(exports), pixels=False)["patients"].values()
    try:
        said = prescription_notes({"PTV60": level_gy})
    except InputError as error:
        said = [f"suspicious: {error}"]
    assert [row["notes"] for row in rows] == [said, said]
    assert bool(said) == (level_gy != 60.0)


def test_the_mapping_is_written_for_review_and_read_back(tmp_path):
    (tmp_path / "rois.yaml").write_text(mapping_text({"Parotidd_L": 2, "PTV60": 3, 'odd: "name" #1': 1}))
    assert read_mapping(tmp_path / "rois.yaml").rois == {
        "PTV60": "PTV_6000",
        "Parotidd_L": None,
        'odd: "name" #1': None,
    }
    assert "perhaps Parotid_L" in (tmp_path / "rois.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "rois: {}\nend_caps: round",
            "line 2, column 11: end_caps: Input should be .* or 'none', not 'round'",
        ),
        ("- a", "line 1, column 1: Input should be an object, not a list; 'cdm-nnunet inspect dicom' writes"),
        ("rois: [a]", "line 1, column 7: rois: Input should be an object, not a list"),
        ("plans: latest", "rois: Field required"),
        ("rois: {}\nplans: newest", "'newest' is not a rule for all patients; those are latest, sum, each"),
        ("rois: {}\nplans: {case_1: 3}", "line 2, column 8: plans: Input should be a valid string, .*not 3"),
        ("rois: {a: 1}", "rois.a: Input should be a valid string, not 1"),
        (
            "rois: {a: b}\nprescriptions_gy: {b: high}",
            "line 2, column 23: prescriptions_gy.b: Input should be a valid number, not 'high'",
        ),
        ("rois: {}\nprescriptions_gy: {b: null}", "prescriptions_gy.b: Input should be a valid number, not null"),
        ("rois: {}\npatients: [case_1]", "line 2, column 11: patients: Input should be an object, not a list"),
        ("rois: {}\npatients: {case_1: {plan: a}}", "line 2, column 21: patients.case_1.plan: unknown key"),
        (
            "rois: {}\npatients: {case_1: {rois: {a: 1}}}",
            "patients.case_1.rois.a: .* a valid string, not 1",
        ),
        ("rois: {}\npatients: {1: {}}", "patients: the name 1 is not text; put it in quotes"),
        ("rois: {}\nleft_out_gy: [null]", "left_out_gy.0: Input should be a valid number, not null"),
        ("rois: 0", "rois: Input should be an object, not 0"),
        ("rois: {a: b}\nprescriptions_gy: []", "prescriptions_gy: Input should be an object, not a list"),
        ("rois: {}\nplans: false", "plans: Input should be a valid string, or: Input should be an object, not false"),
        ("rois: {}\nleft_out_gy: 95", "left_out_gy: Input should be a valid array, not 95"),
        ("rois: {a: !!python/object/apply:os.system [ls]}", "line 1, column 11: rois.a: the tag .* is not allowed"),
        ("rois: {", "not YAML: "),
        ("rois:\n  Cord: SpinalCord\n  Cord: Brainstem\n", "line 3, column 3: rois.Cord: the key appears twice"),
        ("rois: {a: b}\nprescriptions_gy: {b: .nan}", "line 2, column 23: prescriptions_gy.b: .nan can be read in two"),
        ("rois: {2024-01-31: b}", "2024-01-31 can be read in two ways; put a text in quotes"),
        ("rois: &a {b: *a}", "line 1, column 7: rois: '&' and '\\*'"),
        ("rois: " + "[" * 9000, "nest"),
    ],
)
def test_a_mapping_that_cannot_be_used_is_refused(tmp_path, text, message):
    path = tmp_path / "rois.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_mapping(path)


def test_an_empty_alias_gives_way_to_the_drawn_roi(exports, tmp_path):
    (structures,) = of(exports, "RTSTRUCT")
    for number, name in ((90, "SpinalCord"), (91, "Cord")):
        item = pydicom.Dataset()
        item.ROINumber, item.ROIName = number, name
        structures.StructureSetROISequence.insert(0, item)
    structures.save_as(structures.filename)
    mapping = dataclasses.replace(MAPPING, rois={**MAPPING.rois, "SpinalCord": "SpinalCord"})
    conversion = convert(exports, tmp_path, mapping)
    for record in RawDataset(conversion.folder).cases.values():
        assert record.rois == ("PTV_6000", "SpinalCord", "External")
    with pytest.raises(InputError, match="'Cord' and 'Ring' both mean ROI 'SpinalCord'"):
        DicomMapping({**mapping.rois, "Ring": "SpinalCord"}).names(
            ["SpinalCord", "Cord", "Ring"], "file", {"SpinalCord"}
        )


@pytest.mark.parametrize("grid", ["dose", "ct", "3"])
def test_conversion(exports, tmp_path, grid):
    conversion = convert(exports, tmp_path, grid=grid)
    dataset = RawDataset(conversion.folder)
    for name, record in dataset.cases.items():
        assert record.prescriptions_gy == {"PTV_6000": 60.0}
        dose, ct = read_image(dataset.dose_path(name)), read_image(dataset.image_path(name, CT_CHANNEL))
        x = np.indices(dose.values.shape)[2]
        x_mm = dose.grid.origin_xyz_mm[0] + x * dose.grid.spacing_zyx_mm[2]
        has_dose = dose.values > 0
        assert has_dose.mean() > 0.8
        assert np.abs(dose.values - (55 + 0.5 * x_mm))[has_dose].max() < 0.01
        bits = read_image(dataset.image_path(name, ROI_CHANNEL)).values
        voxel_cc = np.prod(dose.grid.spacing_zyx_mm) / 1000
        assert (bits & 1 > 0).sum() * voxel_cc == pytest.approx(PHANTOM.solids["PTV60"].volume_cc, rel=0.08)
        assert ct.values[bits & 1 > 0].min() > -900
        assert ct.grid.spacing_zyx_mm == {"dose": (2.5, 2.5, 2.5), "ct": (2.0, 2.0, 2.0), "3": (3.0, 3.0, 3.0)}[grid]
    everything = "".join(p.read_text() for p in conversion.folder.glob("*.json"))
    assert "phantom_00" not in everything
    assert convert(exports, tmp_path, grid=grid).converted == ()


def test_a_ct_with_a_change_of_the_spacing_is_converted_on_even_planes(tmp_path):
    slices = (*np.arange(-16.0, 0.0, 2.0), *np.arange(0.0, 17.0, 4.0))
    phantom = dataclasses.replace(PHANTOM, slices_z_mm=slices, dose_spacing_mm=(2.5, 2.5, 2.0))
    for seed in range(2):
        write_phantom(dataclasses.replace(phantom, seed=seed), tmp_path / "exports" / str(seed))
    for grid, spacing_mm in (("ct", (2.0, 2.0, 2.0)), ("dose", (2.0, 2.5, 2.5))):
        folder = tmp_path / grid
        folder.mkdir()
        conversion = convert(tmp_path / "exports", folder, grid=grid)
        dataset = RawDataset(conversion.folder)
        for name, record in dataset.cases.items():
            notes = json.loads(record.source["notes"])
            assert any("the slices of the CT are 2 and 4 mm apart" in note for note in notes)
            assert ("the CT grid was given equally spaced planes, one every 2 mm" in notes) == (grid == "ct")
            assert not any("gap" in note for note in notes)
            bits = read_image(dataset.image_path(name, ROI_CHANNEL))
            assert bits.grid.spacing_zyx_mm == spacing_mm
            volume_cc = (bits.values & 1 > 0).sum() * np.prod(spacing_mm) / 1000
            assert volume_cc == pytest.approx(PHANTOM.solids["PTV60"].volume_cc, rel=0.08)


@pytest.mark.parametrize(("end_caps", "height_mm"), [(None, 20), ("half-slab", 20), ("none", 18), ("rounded", 18)])
def test_the_ends_of_rois_are_chosen_kept_and_named(tmp_path, end_caps, height_mm):
    """A cylinder of 20 mm with faces half-way between slices, on a grid with other planes."""
    phantom = dataclasses.replace(PHANTOM, solids=PHANTOM.solids | {"Cord": Cylinder((0, 14.0, 0), 3.0, 20.0)})
    phantom = dataclasses.replace(phantom, slices_z_mm=tuple(np.arange(-17.0, 18.0, 2.0)))
    for seed in range(2):
        write_phantom(dataclasses.replace(phantom, seed=seed), tmp_path / "exports" / str(seed))
    mapping = dataclasses.replace(MAPPING, end_caps=end_caps)
    convert(tmp_path / "exports", tmp_path, mapping, grid="1")
    dataset = RawDataset(tmp_path / "raw" / "Dataset502_Clinic")
    bits = read_image(dataset.image_path(next(iter(dataset.cases)), ROI_CHANNEL)).values
    assert np.count_nonzero((bits & 2).any((1, 2))) == height_mm
    record, _ = json.loads((dataset.folder / "cdm_cases.json").read_text()).values()
    assert record["source"]["end caps"] == (end_caps or "rounded-half-slab")
    stored = mapping_from(json.loads((dataset.folder / "dataset.json").read_text())["cdm"]["mapping"], "dataset.json")
    assert stored.ends == mapping.ends
    assert stored.updated(DicomMapping({})).ends == mapping.ends  # a new patient is read as the model has learnt
    other = "none" if mapping.ends != "none" else "rounded"
    with pytest.raises(
        InputError, match=f"'end_caps: {other}', and the model was trained on ROIs with the ends '{stored.ends}'"
    ):
        stored.updated(DicomMapping({}, end_caps=other))


def test_conversion_refuses_what_it_would_have_to_guess(exports, tmp_path):
    fewer = DicomMapping({name: roi for name, roi in MAPPING.rois.items() if name != "Ring"})
    with pytest.raises(InputError, match="the mapping lacks Ring; add them, with null"):
        convert(exports, tmp_path, fewer)
    with pytest.raises(InputError, match="'Cord' and 'Ring' both mean ROI 'SpinalCord'"):
        convert(exports, tmp_path, DicomMapping({**MAPPING.rois, "Ring": "SpinalCord"}))
    with pytest.raises(InputError, match="the mapping has ROIs that are not in template 'small': Lung_L"):
        convert(exports, tmp_path, DicomMapping({**MAPPING.rois, "Ring": "Lung_L"}))
    with pytest.raises(InputError, match="--grid takes 'dose', 'ct' or a voxel size"):
        convert(exports, tmp_path, grid="fine")
    with pytest.raises(InputError, match=r"to be excluded, but not in .*: case_x"):
        convert(exports, tmp_path, exclude=["case_x"])
    many = {"format_version": 1, "name": "many", "goals": [{"roi": "R0", "metric": "Dmean"}]}
    many["rois"] = [{"name": f"R{k}", "kind": "oar"} for k in range(65)]
    with pytest.raises(InputError, match="64"):
        convert_dicom(
            exports,
            DatasetPlace(tmp_path, 503, "Many"),
            DicomRules(Template.from_json(many, "test"), MAPPING),
            tmp_path,
        )


def test_a_plan_without_a_prescription_needs_one_in_the_mapping(exports, tmp_path):
    for patient in ("phantom_000", "phantom_001"):
        (plan,) = of(exports, "RTPLAN", patient)
        del plan.DoseReferenceSequence
        plan.save_as(plan.filename)
    with pytest.raises(InputError, match="target 'PTV_6000' is contoured and has no prescription"):
        convert(exports, tmp_path)
    conversion = convert(exports, tmp_path, dataclasses.replace(MAPPING, prescriptions_gy={"PTV_6000": 60.0}))
    assert {record.prescriptions_gy["PTV_6000"] for record in RawDataset(conversion.folder).cases.values()} == {60.0}


def test_a_new_patient_needs_no_dose(exports, tmp_path):
    (files, _) = index_folder(exports).patients(needed=("RTSTRUCT",))
    assert (files.problems, files.doses) == ((), ())
    case = DicomPatient(files, MAPPING, TEMPLATE, "2.5x4x5", "Ts").load()
    assert case.dose_gy is None
    assert case.grid.spacing_xyz_mm == (2.5, 4.0, 5.0)
    assert case.ct_hu.shape == (7, 14, 22)  # within the voxel centres of the CT: 54 x 54 x 32 mm
    with pytest.raises(InputError, match="a new patient has no dose grid"):
        DicomPatient(files, MAPPING, TEMPLATE, "dose", "Ts").load()


def test_the_commands(exports, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    out = tmp_path / "inspection"
    assert cli.main(["inspect", "dicom", str(exports), "-o", str(out)]) == 0
    shown = capfd.readouterr().out
    assert "2 patients in 40 DICOM files; 2 can be converted" in shown
    mapping = yaml.safe_load((out / "rois.yaml").read_text())
    assert mapping["rois"] == {"BODY": "External", "Cord": "SpinalCord", "PTV60": "PTV_6000", "Ring": None}
    (tmp_path / "small.json").write_text(json.dumps(TEMPLATE.to_json()))
    common = ["--template", str(tmp_path / "small.json"), "--mapping", str(out / "rois.yaml"), "-np", "1"]
    assert cli.main(["convert", "dicom", str(exports), "-d", "502", "-n", "Clinic", *common]) == 0
    assert "2 cases (2 for training, 0 for testing): 2 converted" in capfd.readouterr().out


def test_a_missing_plan_and_a_missing_external_are_told(exports):
    (plan,), (structures,) = of(exports, "RTPLAN"), of(exports, "RTSTRUCT")
    structures.RTROIObservationsSequence[0].RTROIInterpretedType = "ORGAN"
    structures.save_as(structures.filename)
    (exports / "mixed" / plan.filename).unlink()
    rows = inspect_index(index_folder(exports))["patients"].values()
    (row,) = [row for row in rows if row["notes"]]
    assert row["convertible"]
    assert row["notes"] == [
        "no plan (RTPLAN): prescriptions must come from the mapping or the template",
        "no external contour",
    ]


def unknown_syntax(dataset):
    dataset.file_meta.TransferSyntaxUID = "1.2.3.4"


def empty_pixels(dataset):
    dataset.PixelData = b""


@pytest.mark.parametrize(
    ("edit", "message"),
    [(unknown_syntax, "has an unknown TransferSyntaxUID .*, '1.2.3.4'"), (empty_pixels, "is cut off: 0 bytes of pix")],
)
@pytest.mark.parametrize("modality", ["CT", "RTDOSE"])
def test_one_file_that_can_not_be_decoded_refuses_one_patient(exports, tmp_path, edit, message, modality):
    image = of(exports, modality)[0]
    edit(image)
    image.save_as(image.filename, implicit_vr=False, little_endian=True)
    with pytest.raises(InputError, match=rf"1 of 2 patients can't be used: .*{message}"):
        convert(exports, tmp_path)
    rows = inspect_index(index_folder(exports))["patients"].values()
    assert sorted(row["convertible"] for row in rows) in ([False, True], [True, True])  # (of three images at most)


def test_a_fault_of_our_own_refuses_one_patient(exports, tmp_path, monkeypatch):
    from cdm_nnunet.dataset_conversion import dicom_patient
    from cdm_nnunet.dicom import inspection

    first = index_folder(exports).patients()[0].structures

    def fails(path):
        if path == first:
            raise ZeroDivisionError("unforeseen")
        return read_structures(path)

    monkeypatch.setattr(dicom_patient, "read_structures", fails)
    monkeypatch.setattr(inspection, "read_structures", fails)
    with pytest.raises(InputError, match=r"1 of 2 .*internal error \(ZeroDivisionError: unforeseen\); left out, see"):
        convert(exports, tmp_path)
    assert "ZeroDivisionError" in (tmp_path / "local" / "Dataset502_Clinic_errors.log").read_text()
    rows = inspect_index(index_folder(exports), cache=tmp_path / "look" / "rows")["patients"].values()
    assert sorted(row["convertible"] for row in rows) == [False, True]


def test_a_dose_grid_smaller_than_an_roi_is_told(tmp_path):
    files = write_phantom(dataclasses.replace(PHANTOM, dose_margin_mm=6.0), tmp_path / "exports")
    second = write_phantom(dataclasses.replace(PHANTOM, seed=1), tmp_path / "exports" / "second")
    assert files.ct != second.ct
    conversion = convert(tmp_path / "exports", tmp_path)
    notes = [note for r in RawDataset(conversion.folder).cases.values() for note in json.loads(r.source["notes"])]
    (body,) = [note for note in notes if note.startswith("ROI 'BODY'") and float(note.split()[2]) > 10]
    assert "cc lie outside the grid" in body
