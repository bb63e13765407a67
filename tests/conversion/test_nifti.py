import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from cdm_nnunet.cli.main import main
from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace, convert
from cdm_nnunet.dataset_conversion.image_files import read_on_patient_axes
from cdm_nnunet.dataset_conversion.nifti import find_nifti, find_patients
from cdm_nnunet.dataset_conversion.roi_mapping import map_rois, prescriptions_gy, unused_masks
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError

SHAPE = (6, 8, 9)
SPACING, ORIGIN = (3.5, 4.0, 2.5), (-10.0, 20.0, -35.5)  # x, y, z
CLINIC = Template.from_json(
    {
        "format_version": 1,
        "name": "clinic",
        "rois": [
            {"name": "PTV_High", "kind": "target", "aliases": ["PTV 70"], "prescription_gy": "patient"},
            {"name": "PTV_Low", "kind": "target", "prescription_gy": 54},
            {"name": "GTV", "kind": "target"},
            {"name": "Parotid_L", "kind": "oar", "aliases": ["Parotis li"]},
            {"name": "Parotid_R", "kind": "oar"},
        ],
        "goals": [{"roi": "PTV_High", "metric": "D95%"}],
    },
    "test",
)


def write(path: Path, values: np.ndarray, spacing=SPACING, orientation: str = "LPS") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    image.SetOrigin(ORIGIN)
    sitk.WriteImage(sitk.DICOMOrient(image, orientation), str(path), True)


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = {name: np.zeros(SHAPE, np.uint8) for name in ("PTV 70", "ptv_low", "Parotis li", "Parotid_R", "Zahn 3")}
    masks["PTV 70"][2:4, 3:5, 3:5] = 1
    masks["ptv_low"][1:5, 2:6, 2:7] = 1
    masks["Parotis li"][2, 5, 7] = 1
    masks["Parotid_R"][2, 5, 1:3] = 1
    return {
        "ct": rng.integers(-1000, 900, SHAPE).astype(np.int16),
        "dose": np.where(masks["ptv_low"], rng.uniform(52, 60, SHAPE), rng.uniform(0, 50, SHAPE)).astype(np.float32)
        + np.float32(14) * masks["PTV 70"],
        **masks,
    }


def patient(root: Path, name: str = "case_1", seed: int = 0, orientation: str = "LPS") -> Path:
    folder = root / name
    for key, values in arrays(seed).items():
        place = folder / f"{key}.nii.gz" if key in ("ct", "dose") else folder / "masks" / f"{key}.nii.gz"
        write(place, values, orientation=orientation)
    (folder / "prescriptions.json").write_text('{"PTV 70": 70}')
    return folder


def load(folder: Path, **options):
    return find_patients(folder.parent, CLINIC, **options).patients[0].load()


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "LAS", "SPL", "AIR", "PRI"])
def test_a_patient_in_any_orientation(tmp_path, orientation):
    case = load(patient(tmp_path, orientation=orientation))
    expected = arrays()
    assert case.rois == ("PTV_High", "PTV_Low", "Parotid_L", "Parotid_R")
    np.testing.assert_array_equal(case.ct_hu, expected["ct"])
    np.testing.assert_array_equal(case.dose_gy, expected["dose"])
    for roi, name in {"PTV_High": "PTV 70", "PTV_Low": "ptv_low", "Parotid_L": "Parotis li"}.items():
        np.testing.assert_array_equal(case.mask(roi), expected[name] == 1)
    assert case.prescriptions_gy == {"PTV_High": 70.0, "PTV_Low": 54.0}
    assert case.grid.spacing_xyz_mm == pytest.approx(SPACING)
    assert case.grid.origin_xyz_mm == pytest.approx(ORIGIN)
    assert case.source["unused masks"] == '["Zahn 3"]'


@pytest.mark.parametrize("name", ["masks/Parotis li.nii.gz", "dose.nii.gz"])
def test_an_origin_that_was_rounded_is_noted(tmp_path, name):
    folder = patient(tmp_path)
    image = sitk.ReadImage(str(folder / name))

    def moved(by_mm):
        image.SetOrigin([ORIGIN[0] + by_mm, *ORIGIN[1:]])
        sitk.WriteImage(image, str(folder / name))

    moved(0.02)
    assert json.loads(load(folder).source["notes"]) == [
        f"{Path(name).name}: its origin is 0.02 mm off; taken as rounding"
    ]
    moved(0.11 * min(SPACING))
    with pytest.raises(InputError, match="has origin"):
        load(folder)


def replace(name: str, change):
    def spoil(folder: Path) -> None:
        path = folder / name
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        write(path, change(values))

    return spoil


def text(name: str, content: str):
    return lambda folder: (folder / name).write_text(content)


def cut(name: str):
    def spoil(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])

    return spoil


def short(name: str):
    def spoil(folder: Path) -> None:
        whole = gzip.decompress((folder / name).read_bytes())
        (folder / name).write_bytes(gzip.compress(whole[:-40]))

    return spoil


def to_float(value: float):
    return lambda values: np.where(values > 0, value, 0).astype(np.float32)


MASK = "masks/PTV 70.nii.gz"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "ct.nii.gz").unlink(), "ct.nii.gz is missing"),
        (lambda f: (f / "dose.nii.gz").unlink(), "dose.nii.gz: the dose is missing; only a test patient"),
        (lambda f: (f / "prescriptions.json").unlink(), "target 'PTV_High' is contoured and has no prescription"),
        (text("prescriptions.json", "{}"), "target 'PTV_High' is contoured and has no prescription"),
        (text("prescriptions.json", "[70]"), "line 1, column 1: Input should be an object, not a list"),
        (text("prescriptions.json", "{70"), r"prescriptions\.json: line 1, column 2: not JSON: "),
        (text("prescriptions.json", '{"PTV_High": 70, "PTV_High": 60}'), "PTV_High: the key appears twice"),
        (text("prescriptions.json", '{"PTV_High": 70, "PTV 70": 60}'), "'PTV_High' may be any of 'PTV_High', 'PTV 70'"),
        (text("prescriptions.json", '{"PTV_High": "70 Gy"}'), "the prescription of 'PTV_High' is '70 Gy', expected a"),
        (text("prescriptions.json", '{"PTV_High": NaN}'), "not JSON: NaN is not a JSON number"),
        (
            text("prescriptions.json", '{"PTV_High": 7000}'),
            "the prescription of 'PTV_High' is 7000 Gy, which is not",
        ),
        (text("prescriptions.json", '{"Parotid_L": 26}'), "a prescription is given for 'Parotid_L'; targets of the"),
        (text("prescriptions.json", '{"PTV_High": 70, "GTV": 70}'), "'GTV' has a prescription but is not a contoured"),
        (replace("dose.nii.gz", lambda v: v * 100), "is it in cGy"),
        (replace("dose.nii.gz", lambda v: -v), "the dose is negative in"),
        (replace("ct.nii.gz", lambda v: v + 1024), "no air anywhere; is it stored as HU \\+ 1024"),
        (replace(MASK, lambda v: v * 254), r"PTV 70.nii.gz has the values \(0, 254\); a mask has 0 and 1"),
        (replace(MASK, to_float(0.5)), r"PTV 70.nii.gz has the values \(0, 0.5\); a mask has 0 and 1"),
        (
            replace(MASK, lambda v: v[1:]),
            r"PTV 70.nii.gz has size \(z, y, x\) \(5, 8, 9\), .*ct.nii.gz has \(6, 8, 9\)",
        ),
        (lambda f: write(f / MASK, arrays()["PTV 70"], (3.5, 4.0, 2.6)), "PTV 70.nii.gz has spacing"),
        (lambda f: write(f / "dose.nii.gz", arrays()["dose"], (3.6, 4.0, 2.5)), "dose.nii.gz has spacing"),
        (cut("dose.nii.gz"), "dose.nii.gz is damaged or cut off"),
        (short("ct.nii.gz"), "ct.nii.gz is cut off"),
        (text("ct.nii.gz", ""), "ct.nii.gz is empty"),
        (text("masks/x.mgz", ""), "x.mgz is not a mask; expected files ROI.nii.gz"),
        (text("PTV.nii.gz", ""), "PTV.nii.gz is not understood; a patient has ct.nii.gz"),
        (
            lambda f: write(f / "masks" / "PTV_High.nii.gz", arrays()["PTV 70"]),
            "'PTV_High' may be any of 'PTV 70', 'PTV_High'",
        ),
        (lambda f: (f / "masks").rename(f.parent / ".masks"), "masks is missing; it holds one mask per ROI"),
    ],
)
def test_damaged_patients_are_refused(tmp_path, spoil, message):
    folder = patient(tmp_path)
    spoil(folder)
    with pytest.raises(InputError, match=message):
        load(folder)


def test_nan_is_refused(tmp_path):
    folder = patient(tmp_path)
    spoiled = arrays()["dose"]
    spoiled[0, 0, 0] = np.nan
    write(folder / "dose.nii.gz", spoiled)
    with pytest.raises(InputError, match=r"dose\.nii\.gz is not finite in 1 voxel"):
        load(folder)


def test_an_empty_mask_counts_as_absent_and_needs_no_prescription(tmp_path):
    folder = patient(tmp_path)
    write(folder / "masks" / "GTV.nii.gz", np.zeros(SHAPE, np.uint8))
    case = load(folder)
    assert case.empty_rois == ("GTV",)
    assert "GTV" not in case.rois


def test_a_test_patient_may_lack_the_dose(tmp_path):
    folder = patient(tmp_path)
    (folder / "dose.nii.gz").unlink()
    case = load(folder, test_only=True)
    assert (case.split, case.dose_gy) == ("Ts", None)


def test_more_than_64_rois_are_refused(tmp_path):
    template = CLINIC.to_json()
    template["rois"] += [{"name": f"R{k}", "kind": "oar"} for k in range(60)]
    patient(tmp_path)
    with pytest.raises(InputError, match="1 to 64 ROIs, not 65"):
        convert(find_nifti(tmp_path, Template.from_json(template, "test")), DatasetPlace(tmp_path / "raw", 503, "X"))


@pytest.mark.parametrize("name", ["a b", "ä", "-x", "a$(rm)"])
def test_hostile_folder_names_are_refused(tmp_path, name):
    patient(tmp_path, name)
    with pytest.raises(InputError, match="a case name has letters"):
        find_patients(tmp_path, CLINIC)


def test_a_source_without_patients_is_refused(tmp_path):
    with pytest.raises(InputError, match="no patients in"):
        find_patients(tmp_path, CLINIC)
    with pytest.raises(InputError, match="nowhere is missing; expected a CSV table or a folder"):
        find_patients(tmp_path / "nowhere", CLINIC)


HEADER = "case,ct,dose,masks,prescriptions,mask:GTV,prescription:PTV_High,split\n"


def table(root: Path, *rows: str, header: str = HEADER) -> Path:
    (root / "patients.csv").write_text(header + "".join(f"{row}\n" for row in rows))
    return root / "patients.csv"


def row(name: str, prescription: str = "", split: str = "", dose: str = "dose.nii.gz") -> str:
    json_file = "" if prescription else f"{name}/prescriptions.json"
    dose = f"{name}/{dose}" if dose else ""
    return f"{name},{name}/ct.nii.gz,{dose},{name}/masks,{json_file},,{prescription},{split}"


def test_a_table(tmp_path):
    for seed, name in enumerate(("a", "b", "c")):
        patient(tmp_path, name, seed)
    path = table(tmp_path, row("a"), row("b", "66.5", "validation"), row("c", "", "test", dose=""))
    found = find_patients(path, CLINIC)
    assert [(p.name, p.split) for p in found.patients] == [("a", "Tr"), ("b", "Tr"), ("c", "Ts")]
    assert found.validation == ("b",)
    assert found.patients[0].load().prescriptions_gy["PTV_High"] == 70
    assert found.patients[1].load().prescriptions_gy["PTV_High"] == 66.5
    assert found.patients[2].load().dose_gy is None
    np.testing.assert_array_equal(found.patients[1].load().dose_gy, arrays(1)["dose"])
    assert find_patients(path, CLINIC, test_only=True).validation == ()


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        (
            HEADER,
            "../../etc,a/ct.nii.gz,a/dose.nii.gz,a/masks,,,70,",
            "line 2: a case name has letters.*not '../../etc'",
        ),
        (HEADER, ",a/ct.nii.gz,a/dose.nii.gz,a/masks,,,70,", "line 2: a case name has letters"),
        (HEADER, "a,a/ct.nii.gz", "line 2 has another number of fields than the header"),
        (HEADER, "a,,a/dose.nii.gz,a/masks,,,70,", "line 2 names no CT"),
        (HEADER, "a,a/ct.nii.gz,,a/masks,,,70,", "line 2: the dose is missing; only a test patient"),
        (HEADER, "a,a/ct.nii.gz,a/dose.nii.gz,,,,70,", "line 2 names no masks"),
        (HEADER, "a,a/ct.nii.gz,a/dose.nii.gz,b/masks,,,70,", "b/masks is missing"),
        (
            HEADER,
            "a,a/ct.nii.gz,a/dose.nii.gz,a/masks,,,seventy,",
            "line 2: the prescription of 'PTV_High' is 'seventy'",
        ),
        (HEADER, "a,a/ct.nii.gz,a/dose.nii.gz,a/masks,x.json,,,", "x.json is missing"),
        (HEADER, "a,a/ct.nii.gz,a/dose.nii.gz,a/masks,,,70,holdout", "split 'holdout' is unknown; known are train"),
        ("case,ct,weight\n", "a,a/ct.nii.gz,3", "column 'weight' is unknown or repeated"),
        ("case,ct,ct\n", "a,a,a", "column 'ct' is unknown or repeated"),
        ("ct,dose\n", "a,a", "has no column 'case'; it has ct, dose"),
        (
            "case,ct,dose,masks,mask:Parotid_R\n",
            "a,a/ct.nii.gz,a/dose.nii.gz,a/masks,x",
            "'Parotid_R' has a mask in two",
        ),
    ],
)
def test_faults_of_a_table(tmp_path, header, line, message):
    patient(tmp_path, "a")
    with pytest.raises(InputError, match=message):
        find_patients(table(tmp_path, line, header=header), CLINIC)


def test_a_case_that_comes_twice_is_refused(tmp_path):
    patient(tmp_path, "a")
    with pytest.raises(InputError, match="patient 'a' is in the source 2 times"):
        convert(find_nifti(table(tmp_path, row("a"), row("a")), CLINIC), DatasetPlace(tmp_path / "raw", 503, "X"))


def test_the_command_converts_and_resumes(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    for seed, name in enumerate(("a", "b", "c")):
        patient(tmp_path / "data", name, seed)
    (tmp_path / "clinic.json").write_text(json.dumps(CLINIC.to_json()))
    command = ["convert", "nifti", str(tmp_path / "data"), "-d", "503", "-n", "Clinic", "-np", "1"]
    command += ["--template", str(tmp_path / "clinic.json"), "--exclude", "c"]
    assert main([*command, "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert (record["converted"], record["excluded"], record["unchanged"]) == (["a", "b"], ["c"], [])
    assert record["unused_masks"] == {"Zahn 3": 2}
    dataset = RawDataset(tmp_path / "raw" / "Dataset503_Clinic")
    assert dataset.record("a").prescriptions_gy == {"PTV_High": 70.0, "PTV_Low": 54.0}
    assert dataset.dataset_json["cdm"]["facts"]["source"] == "nifti"
    (tmp_path / "data" / "b" / "prescriptions.json").write_text('{"PTV_High": 66}')
    assert main(command) == 0
    out = capfd.readouterr().out
    assert "1 converted, 1 unchanged" in out
    assert "mirroring" not in out
    assert "masks not used, because the template has no such ROI: Zahn 3 (2 cases)" in out
    assert RawDataset(dataset.folder).record("b").prescriptions_gy["PTV_High"] == 66


def test_the_text_says_what_can_not_be_mirrored(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    for seed, name in enumerate("ab"):
        patient(tmp_path / "data", name, seed)
    template = CLINIC.to_json()
    del template["rois"][4]
    (tmp_path / "clinic.json").write_text(json.dumps(template))
    command = ["convert", "nifti", str(tmp_path / "data"), "-d", "503", "-n", "Clinic", "-np", "1", "--template"]
    assert main([*command, str(tmp_path / "clinic.json")]) == 0
    assert "no left-right mirroring in training and prediction, because the other side is missing: Parotid_L" in (
        capfd.readouterr().out
    )


def test_an_alias_moved_in_the_template_converts_anew(tmp_path):
    for seed, name in enumerate("ab"):
        patient(tmp_path / "data", name, seed)
    assert convert(find_nifti(tmp_path / "data", CLINIC), DatasetPlace(tmp_path, 503, "X")).converted == ("a", "b")
    template = CLINIC.to_json()
    template["rois"][3]["aliases"], template["rois"][2]["aliases"] = [], ["Parotis li"]
    moved = convert(
        find_nifti(tmp_path / "data", Template.from_json(template, "test")), DatasetPlace(tmp_path, 503, "X")
    )
    assert moved.converted == ("a", "b")
    assert "Parotid_L" not in moved.cases["a"].record.rois
    assert unused_masks(moved.cases.values()) == {"Zahn 3": 2}


def test_names_that_say_the_same_are_refused():
    with pytest.raises(InputError, match="'Parotid_L' may be any of 'parotis LI', 'Parotid_L'"):
        map_rois(CLINIC, ["parotis LI", "Parotid_L"])


def test_a_prescription_of_the_case_comes_before_that_of_the_template():
    assert prescriptions_gy(CLINIC, {"PTV_Low": 50}, ["PTV_Low", "Parotid_L"]) == {"PTV_Low": 50.0}


def test_a_fixed_prescription_changed_in_the_template_converts_anew(tmp_path):
    for seed, name in enumerate("ab"):
        patient(tmp_path / "data", name, seed)
    template = CLINIC.to_json()
    low = next(roi for roi in template["rois"] if roi["name"] == "PTV_Low")
    levels = {}
    for low["prescription_gy"] in (54, 50, 50):
        done = convert(
            find_nifti(tmp_path / "data", Template.from_json(template, "test")), DatasetPlace(tmp_path, 503, "X")
        )
        levels[low["prescription_gy"]] = (len(done.converted), done.cases["a"].record.prescriptions_gy["PTV_Low"])
    assert levels == {54: (2, 54.0), 50: (0, 50.0)}


def notes_of(case) -> list[str]:
    return json.loads(case.record().source.get("notes", "[]"))


class TestAccepted:
    """Common, unambiguous data are accepted, with a note on decisions."""

    @pytest.mark.parametrize("ending", [".nii", ".nrrd", ".mha"])
    @pytest.mark.parametrize("compressed", [True, False])
    def test_other_endings_hold_the_same_patient(self, tmp_path, ending, compressed):
        folder = patient(tmp_path, orientation="RAS")
        expected = load(folder)
        for path in list(folder.rglob("*.nii.gz")):
            image = sitk.ReadImage(str(path))
            sitk.WriteImage(image, str(path).replace(".nii.gz", ending), compressed and ending != ".nii")
            path.unlink()
        case = load(folder)
        for name in ("ct_hu", "roi_bits", "dose_gy"):
            np.testing.assert_array_equal(getattr(case, name), getattr(expected, name))
        assert case.grid.same_as(expected.grid)
        assert notes_of(case) == notes_of(expected)

    def test_one_image_in_two_files_is_refused(self, tmp_path):
        folder = patient(tmp_path)
        sitk.WriteImage(sitk.ReadImage(str(folder / "ct.nii.gz")), str(folder / "ct.mha"))
        with pytest.raises(InputError, match=r"ct\.mha and ct\.nii\.gz are both there; keep one of them"):
            load(folder)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
    def test_255_stands_for_1(self, tmp_path, dtype):
        folder = patient(tmp_path)
        write(folder / "masks" / "PTV 70.nii.gz", (255 * arrays()["PTV 70"]).astype(dtype))
        case = load(folder)
        np.testing.assert_array_equal(case.mask("PTV_High"), arrays()["PTV 70"] == 1)
        assert "PTV 70.nii.gz: 255 stands for 1" in notes_of(case)

    @pytest.mark.parametrize("values", [(0, 1, 255), (0, 254), (0, 2), (0, 0.5), (0, -1)])
    def test_other_values_are_none_of_a_mask(self, tmp_path, values):
        folder = patient(tmp_path)
        mask = np.resize(np.array(values, np.float32), SHAPE)
        write(folder / "masks" / "PTV 70.nii.gz", mask)
        with pytest.raises(InputError, match=r"a mask has 0 and 1 \(or 255\)"):
            load(folder)

    def test_what_resampling_leaves_below_zero_is_set_to_zero(self, tmp_path):
        folder = patient(tmp_path)
        dose = arrays()["dose"]
        dose[0, 0, :2] = (-1e-6, -0.009)
        write(folder / "dose.nii.gz", dose)
        case = load(folder)
        assert case.dose_gy.min() == 0
        np.testing.assert_array_equal(case.dose_gy[dose >= 0], dose[dose >= 0])
        assert "dose.nii.gz: negative by 0.009 Gy at most, set to zero" in notes_of(case)
        dose[0, 0, 0] = -0.02
        write(folder / "dose.nii.gz", dose)
        with pytest.raises(InputError, match="the dose is negative"):
            load(folder)

    def test_a_dose_on_its_own_grid(self, tmp_path):
        """A dose that is linear in space is the same on any grid inside its own."""
        folder = patient(tmp_path)
        z, y, x = np.meshgrid(*(np.arange(n) for n in (12, 16, 18)), indexing="ij")
        image = sitk.GetImageFromArray((50 + 0.3 * x + 0.5 * y + 0.7 * z).astype(np.float32))
        image.SetSpacing([size / 2 for size in SPACING])
        image.SetOrigin(ORIGIN)
        sitk.WriteImage(image, str(folder / "dose.nii.gz"))
        with pytest.raises(InputError, match="or the dose is resampled to the CT's with --resample-dose"):
            load(folder)
        found = dataclasses.replace(find_patients(tmp_path, CLINIC).patients[0], resample_dose=True)
        case = found.load()
        z, y, x = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
        np.testing.assert_allclose(case.dose_gy, 50 + 0.6 * x + 1.0 * y + 1.4 * z, rtol=1e-6)
        assert "dose.nii.gz: resampled linearly from its own grid to the CT's" in notes_of(case)
        assert found.checksums() != find_patients(tmp_path, CLINIC).patients[0].checksums()


class TestTextHeaders:
    @pytest.fixture(params=[".nrrd", ".mha"])
    def path(self, tmp_path, request) -> Path:
        path = tmp_path / f"ct{request.param}"
        write(path, arrays()["ct"])
        return path

    @pytest.mark.parametrize("ending", [".nrrd", ".mha"])
    @pytest.mark.parametrize("compressed", [True, False])
    def test_a_file_that_is_cut_off(self, tmp_path, ending, compressed):
        path = tmp_path / f"ct{ending}"
        sitk.WriteImage(sitk.GetImageFromArray(arrays()["ct"]), str(path), compressed)
        content = path.read_bytes()
        for lost in (1, 3, 40):
            path.write_bytes(content[:-lost])
            with pytest.raises(InputError, match=r"write it again"):
                read_on_patient_axes(path)

    @pytest.mark.parametrize(
        ("path", "field"),
        [
            (".nrrd", "space directions"),
            (".nrrd", "space origin"),
            (".mha", "ElementSpacing"),
            (".mha", "Offset"),
            (".mha", "TransformMatrix"),
        ],
        indirect=["path"],
    )
    def test_a_header_that_does_not_say_where_its_voxels_lie(self, path, field):
        lines = path.read_bytes().split(b"\n", 20)
        kept = [line for line in lines if not line.lower().startswith(field.lower().encode())]
        assert len(kept) < len(lines)
        path.write_bytes(b"\n".join(kept))
        with pytest.raises(InputError, match=f"lacks the position of its voxels: the header has no '{field}'"):
            read_on_patient_axes(path)

    def test_other_content(self, path):
        for content in (b"", b"NRRD0004\n", b"ObjectType = Image\n", bytes(400)):
            path.write_bytes(content)
            with pytest.raises(InputError, match=r"is not a|is not an"):
                read_on_patient_axes(path)

    def test_voxels_that_are_not_finite(self, path):
        write(path, np.where(arrays()["ct"] > 0, np.nan, 1).astype(np.float32))
        with pytest.raises(InputError, match="is not finite in"):
            read_on_patient_axes(path)

    def test_a_channel_more(self, path):
        image = sitk.GetImageFromArray(np.zeros((*SHAPE, 2), np.int16), isVector=True)
        sitk.WriteImage(image, str(path))
        with pytest.raises(InputError, match="is not a three-dimensional image with one value per voxel"):
            read_on_patient_axes(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            replace("dose.nii.gz", lambda v: (v / 70 * 100).astype(np.float32)),
            "looks like percent, or counted twice. Export",
        ),
        (replace("dose.nii.gz", lambda v: (v / 35).astype(np.float32)), "the dose maximum is .* expected 35 to 210 Gy"),
        (text("prescriptions.json", '{"PTV_High": 70, "PTV_Low": 2}'), "'PTV_Low' is 2 Gy, .* not of a fraction"),
        (
            text("prescriptions.json", '{"PTV_High": 2, "PTV_Low": 1.8}'),
            "is 2 Gy, .* the total in Gy, not of a fraction",
        ),
        (text("prescriptions.json", '{"PTV_High": 100, "PTV_Low": 77}'), "and 100 Gy are prescribed: not plausible"),
        (replace("ct.nii.gz", lambda v: np.where(v > -900, v + 1024, -1024).astype(v.dtype)), "no ROI lies in tissue"),
    ],
)
def test_data_in_another_unit_are_refused(tmp_path, spoil, message):
    folder = patient(tmp_path)
    spoil(folder)
    with pytest.raises(InputError, match=message):
        load(folder)


WITH_COURSE = "case,ct,dose,masks,prescriptions,patient,fractions\n"


def course_row(name, patient_name="", fractions=""):
    return (
        f"{name},{name}/ct.nii.gz,{name}/dose.nii.gz,{name}/masks,{name}/prescriptions.json,{patient_name},{fractions}"
    )


def test_patient_and_fractions_of_a_table(tmp_path):
    for seed, name in enumerate("abc"):
        patient(tmp_path, name, seed)
    path = table(tmp_path, course_row("a", "p", "35"), course_row("b", "p"), course_row("c"), header=WITH_COURSE)
    convert(find_nifti(path, CLINIC), DatasetPlace(tmp_path / "raw", 503, "X"))
    dataset = RawDataset(tmp_path / "raw" / "Dataset503_X")
    assert [dataset.patient(case) for case in "abc"] == ["p", "p", "c"]
    assert [dataset.record(case).fractions for case in "abc"] == [35, None, None]
    folds = json.loads((dataset.folder / "splits_final.json").read_text(encoding="utf-8"))
    assert all(("a" in fold["train"]) == ("b" in fold["train"]) for fold in folds)


def test_fractions_beside_the_prescriptions(tmp_path):
    patient(tmp_path, "a")
    levels = json.loads((tmp_path / "a" / "prescriptions.json").read_text())
    (tmp_path / "a" / "prescriptions.json").write_text(json.dumps({**levels, "fractions": 30}))
    (found,) = find_patients(tmp_path, CLINIC).patients
    assert found.load().fractions == 30
    same = table(tmp_path, course_row("a", "", "30"), header=WITH_COURSE)
    assert find_patients(same, CLINIC).patients[0].fractions == 30
    for fractions, message in (
        ("35", "line 2: the number of fractions is 30 in one place and 35 in another"),
        ("0", "line 2: the number of fractions is 0, expected a whole number from 1 on"),
        ("2.5", "line 2: the number of fractions is '2.5', expected a whole number"),
    ):
        with pytest.raises(InputError, match=message):
            find_patients(table(tmp_path, course_row("a", "", fractions), header=WITH_COURSE), CLINIC)


def test_one_patient_under_two_names_stays_together_and_is_told(tmp_path):
    for name, seed in (("a", 1), ("b", 2), ("c", 1)):
        patient(tmp_path, name, seed)
    conversion = convert(find_nifti(tmp_path, CLINIC), DatasetPlace(tmp_path / "raw", 503, "X"))
    assert conversion.to_json()["same_images"] == [["a", "c"]]
    folds = json.loads((conversion.folder / "splits_final.json").read_text(encoding="utf-8"))
    assert all(("a" in fold["train"]) == ("c" in fold["train"]) for fold in folds)
