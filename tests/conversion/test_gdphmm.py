"""Files in the format of the GDP-HMM challenge, as its DICOM2NPZ.py writes them: ``numpy.savez`` of a dictionary."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cdm_nnunet.cli.main import main
from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion.gdphmm import convert_gdphmm, find_plans
from cdm_nnunet.dataset_conversion.npz import read_dictionary
from cdm_nnunet.dataset_conversion.splits import make_folds
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError

SHAPE = (7, 9, 8)
TEMPLATE = Template.load("gdphmm")


def content(seed: int = 0, site: str = "HaN") -> dict:
    rng = np.random.default_rng(seed)
    names = {
        "HaN": ("PTVHighOPT", "PTVMid", "PTVMidOPT", "Body", "Chiasim", "BrainStem_03", "Lens_L", "Zahn 3", "CTV 70"),
        "Lung": ("PTV", "Body", "Total Lung-GTV", "PTV_Ring.3-2"),
    }[site]
    masks = {name: np.zeros(SHAPE, np.uint8) for name in names}
    masks["Body"][:, 1:8, 1:7] = 1
    high = "PTV" if site == "Lung" else "PTVHighOPT"
    masks[high][2:5, 3:6, 3:6] = 1
    if site == "HaN":
        masks["PTVMid"][1:6, 3:7, 2:6] = 1
        masks["PTVMidOPT"][1:6, 6, 2:6] = 1
        masks["Chiasim"][3, 2, 4] = 1
    dose = rng.integers(20_000, 30_000, SHAPE).astype(np.uint32) * masks["Body"]
    return {
        **masks,
        "all_mask": list(masks),
        "img": rng.integers(-1000, 1500, SHAPE).astype(np.int16),
        "dose": dose,
        "dose_scale": 0.0025,
        "isVMAT": seed % 2 == 0,
        "angle_plate": np.zeros(SHAPE[1:]),
        "beam_plate": rng.random(SHAPE),
        "isocenter": [3.0, np.float32(4.0), np.float64(4.5)],
        "angle_list": np.array([0, 72, 144], np.float32),
    }


class Challenge:
    """A folder of the challenge."""

    def __init__(self, root: Path) -> None:
        self.root, self.meta = root, root / "meta_files"
        self.meta.mkdir(parents=True)
        self.targets, self.objectives, self.rows = {}, {}, []

    def plan(self, name: str = "HNC_001+9Ag+MOS_1", site: str = "HaN", split: str = "train", seed=0, **changes) -> Path:
        path = self.root / site / "train" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        made = {key: value for key, value in {**content(seed, site), **changes}.items() if value is not None}
        np.savez_compressed(path, made)
        patient = name.split("+")[0]
        self.targets[patient] = {
            "PTV_High": {"OPTName": "PTVHighOPT" if site == "HaN" else "PTV", "PDose": 70, "RingName": "RingPTVHigh"}
        }
        if site == "HaN":
            self.targets[patient]["PTV_Mid"] = {
                "MinusName": "PTVMid-PTVHigh",
                "OPTName": "PTVMidOPT",
                "PDose": 59.4,
                "RingName": "RingPTVMid",
                "StructName": "PTVMid",
            }
        self.objectives[patient] = ["PTVHighOPT", "Chiasim"]
        self.rows.append(f"{patient},{name.split('+')[1]},/somewhere/{site}/train/{name}.npz,{split}")
        self.write()
        return path

    def write(self, table: bool = True) -> None:
        (self.meta / "PTV_DICT.json").write_text(json.dumps(self.targets))
        (self.meta / "Pat_Obj_DICT.json").write_text(json.dumps(self.objectives))
        if table:
            (self.meta / "meta_data.csv").write_text("PID,PlanID,npz_path,dev_split\n" + "\n".join(self.rows) + "\n")

    def only(self):
        return find_plans(self.root, self.meta, TEMPLATE).plans[0]


@pytest.fixture
def challenge(tmp_path) -> Challenge:
    return Challenge(tmp_path / "challenge")


def test_a_plan_of_the_head_and_neck(challenge):
    challenge.plan()
    case = challenge.only().load()
    given = content()
    assert case.name == "HNC_001__9Ag__MOS_1"
    assert case.rois == ("PTV_High", "PTV_Mid", "PTV_MidOPT", "External", "OpticChiasm")
    assert case.empty_rois == ("Brainstem_PRV03", "Lens_L")
    assert case.prescriptions_gy == {"PTV_High": 70.0, "PTV_Mid": 59.4, "PTV_MidOPT": 59.4}
    np.testing.assert_array_equal(case.ct_hu, given["img"])
    np.testing.assert_array_equal(case.mask("PTV_High"), given["PTVHighOPT"] == 1)
    np.testing.assert_array_equal(case.mask("OpticChiasm"), given["Chiasim"] == 1)
    assert case.geometry.spacing_mm == (2.5, 2.5, 2.0)
    # The challenge's own formula (data_loader.py, evaluation.ipynb).
    dose = given["dose"] * given["dose_scale"]
    dose = dose * (70 / (np.percentile(dose[given["PTVHighOPT"].astype(bool)], 3) + 1e-5))
    np.testing.assert_allclose(case.dose_gy, dose, rtol=1e-6)
    assert np.percentile(case.dose_gy[case.mask("PTV_High")], 3) == pytest.approx(70, abs=1e-4)
    factor = float(case.source["dose factor (D97% = prescription)"])
    np.testing.assert_allclose(case.dose_gy / factor, given["dose"] * 0.0025, rtol=1e-5)
    assert json.loads(case.source["unused masks"]) == ["Zahn 3", "CTV 70"]
    assert (case.source["vmat"], case.source["patient"]) == ("True", "HNC_001")


def test_a_plan_of_the_lung(challenge):
    challenge.plan("LUNG1-001+2Ac+MOS_9", "Lung", seed=1)
    case = challenge.only().load()
    assert case.rois == ("PTV_High", "External")
    assert case.empty_rois == ("Lungs-GTV", "Ring_PTV_High")
    assert (case.prescriptions_gy, case.source["vmat"]) == ({"PTV_High": 70.0}, "False")


@pytest.mark.parametrize("spelling", ["Chiasm", "Chiasim"])
@pytest.mark.parametrize("body", ["Body", "BODY"])
def test_the_chiasm_and_the_body_are_spelled_in_two_ways(challenge, spelling, body):
    mask = content()["Chiasim"]
    challenge.plan(**{"Chiasim": None, "Body": None, spelling: mask, body: content()["Body"]})
    case = challenge.only().load()
    np.testing.assert_array_equal(case.mask("OpticChiasm"), mask == 1)
    np.testing.assert_array_equal(case.mask("External"), content()["Body"] == 1)


def test_of_two_spellings_the_one_that_was_optimised_counts(challenge):
    other = content()["PTVMid"]
    challenge.plan(Chiasm=other)
    case = challenge.only().load()
    np.testing.assert_array_equal(case.mask("OpticChiasm"), content()["Chiasim"] == 1)
    assert "Chiasm" in json.loads(case.source["unused masks"])
    challenge.objectives = {}
    challenge.write()
    with pytest.raises(InputError, match="'Chiasim' and 'Chiasm' both stand for ROI 'OpticChiasm'"):
        challenge.only().load()


def test_one_list_of_structures_a_plan_is_understood(challenge):
    challenge.plan()
    challenge.objectives = {"HNC_001": {"9Ag": ["Lens_L"]}}
    challenge.write()
    assert challenge.only().optimised == ("Lens_L",)


def test_spacing_and_origin_in_the_file_are_used(challenge):
    challenge.plan(spacing=(1.25, 1.5, 3.0), origin=(-10.0, 5.0, np.float64(7.0)))
    geometry = challenge.only().load().geometry
    assert (geometry.spacing_mm, geometry.origin_mm) == ((1.25, 1.5, 3.0), (-10.0, 5.0, 7.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img": None}, "'img' is missing or no three-dimensional array"),
        ({"img": np.zeros((3, 3))}, "'img' is missing or no three-dimensional array"),
        ({"img": content()["img"] + 1024}, "no air anywhere; is it stored as HU \\+ 1024"),
        ({"dose": None}, "has no dose; only a test plan can do without it"),
        ({"dose": content()["dose"][1:]}, r"'dose' has shape \(6, 9, 8\), the CT has \(7, 9, 8\)"),
        ({"dose": np.zeros(SHAPE)}, "D97% of the high-dose PTV is 0 Gy; the dose can't be normalised"),
        ({"dose": np.full(SHAPE, np.nan)}, "27 of 27 voxel doses are not finite"),
        ({"dose_scale": None}, "dose_scale is None, expected a number above zero"),
        ({"dose_scale": -1.0}, "dose_scale is -1.0, expected a number above zero"),
        ({"dose_scale": float("nan")}, "dose_scale is nan, expected a number above zero"),
        ({"PTVHighOPT": None}, "PTV_High is 'PTVHighOPT' in PTV_DICT.json, which is missing"),
        ({"PTVMid": None}, "PTV_Mid is 'PTVMid' in PTV_DICT.json, which is missing"),
        ({"PTVHighOPT": np.zeros(SHAPE, np.uint8)}, "'PTVHighOPT' is empty, the dose can't be normalised to it"),
        ({"PTVMid": content()["PTVMid"] * 3}, r"'PTVMid' has the values \(0, 3\); a mask has 0 and 1"),
        ({"Body": np.ones((2, 2, 2))}, r"'Body' has shape \(2, 2, 2\)"),
        (
            {"direction": (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)},
            "image axes must run to the patient's left, back and head",
        ),
    ],
)
def test_damaged_plans_are_refused(challenge, changes, message):
    challenge.plan(**changes)
    with pytest.raises(InputError, match=message):
        challenge.only().load()


@pytest.mark.parametrize(
    ("level", "dose", "message"),
    [
        ("PTV_High", 11, "PTV_High of HNC_001 is prescribed 11 Gy, under 20 Gy; it looks like a number in a name"),
        ("PTV_Mid", 15, "PTV_Mid of HNC_001 is prescribed 15 Gy"),
        ("PTV_High", "70", "PDose of PTV_High of HNC_001 is '70', not Gy"),
        ("PTV_High", None, "PDose of PTV_High of HNC_001 is None, not Gy"),
    ],
)
def test_suspicious_prescriptions_are_refused(challenge, level, dose, message):
    challenge.plan()
    challenge.targets["HNC_001"][level]["PDose"] = dose
    challenge.write()
    with pytest.raises(InputError, match=message):
        challenge.only().load()


def test_a_patient_without_a_high_dose_target_is_refused(challenge):
    challenge.plan()
    del challenge.targets["HNC_001"]["PTV_High"]
    challenge.write()
    with pytest.raises(InputError, match=r"PTV_DICT\.json has no PTV_High of HNC_001"):
        challenge.only().load()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: (c.meta / "PTV_DICT.json").unlink(), "PTV_DICT.json is missing"),
        (lambda c: (c.meta / "Pat_Obj_DICT.json").write_text("{"), "Pat_Obj_DICT.json is not JSON"),
        (lambda c: (c.meta / "PTV_DICT.json").write_text("{}"), "has no prescriptions of HNC_001"),
        (
            lambda c: (c.meta / "Pat_Obj_DICT.json").write_text('{"HNC_001": 3}'),
            "structures of HNC_001 are int, not a l",
        ),
        (lambda c: (c.root / "x.npz").touch(), "x.npz is not named PATIENT\\+PLAN"),
        (lambda c: (c.root / "a b+c.npz").touch(), "a b\\+c.npz is not named PATIENT\\+PLAN"),
        (lambda c: (c.meta / "meta_data.csv").write_text("a,b\n"), "has no columns PID, npz_path and dev_split"),
        (
            lambda c: (c.meta / "meta_data.csv").write_text("PID,npz_path,dev_split\nx,y.npz,train\n"),
            "does not list HNC",
        ),
        (
            lambda c: (c.meta / "meta_data.csv").write_text("PID,npz_path,dev_split\nx,y,fun\n"),
            "dev_split 'fun' is unkn",
        ),
        (
            lambda c: (c.meta / "meta_data.csv").write_text("PID,npz_path,dev_split\nx,y,train\nx,z,valid\n"),
            "plans of patient x are in both train and valid",
        ),
    ],
)
def test_faults_of_the_folder(challenge, spoil, message):
    challenge.plan()
    spoil(challenge)
    with pytest.raises(InputError, match=message):
        find_plans(challenge.root, challenge.meta, TEMPLATE)


def test_a_folder_without_files_is_refused(challenge, tmp_path):
    with pytest.raises(InputError, match="no NPZ files in"):
        find_plans(challenge.root, challenge.meta, TEMPLATE)
    with pytest.raises(InputError, match="nowhere is no folder"):
        find_plans(tmp_path / "nowhere", challenge.meta, TEMPLATE)


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
        (lambda p: p.write_bytes(b""), "is damaged, cut off or no NPZ file"),
        (lambda p: p.write_bytes(b"PK\3\4 nothing"), "is damaged, cut off or no NPZ file"),
        (cut, "is damaged, cut off or no NPZ file"),
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


def test_the_command_keeps_patients_together(challenge, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    for number, (patient, split) in enumerate([("A1", "train"), ("A2", "train"), ("A3", "valid"), ("A4", "test")]):
        for plan in ("9Ag", "A4Ac"):
            dose = {} if split != "test" else {"dose": None}
            challenge.plan(f"{patient}+{plan}+MOS_{number}", split=split, seed=number, **dose)
    challenge.plan("A5+9Ag+MOS_7")
    challenge.targets["A5"]["PTV_High"]["PDose"] = 11
    challenge.write()
    command = ["convert", "gdphmm", str(challenge.root), "-d", "504", "-n", "GdpHmm", "-np", "1"]
    assert main(command) == 2
    assert "PTV_High of A5 is prescribed 11 Gy" in capfd.readouterr().err
    assert main([*command, "--exclude", "A5", "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert (record["cases"], record["training_cases"], record["converted"]) == (8, 6, [])
    assert record["without_reference_dose"] == ["A4__9Ag__MOS_3", "A4__A4Ac__MOS_3"]
    assert record["unused_masks"] == {"CTV 70": 8, "Zahn 3": 8}
    dataset = RawDataset(tmp_path / "raw" / "Dataset504_GdpHmm")
    facts = dataset.dataset_json["cdm"]["facts"]
    assert facts["published_validation"] == ["A3__9Ag__MOS_2", "A3__A4Ac__MOS_2"]
    folds = json.loads((dataset.folder / "splits_final.json").read_text())
    assert folds[0]["val"] == facts["published_validation"]
    for fold in folds:
        sides = [{name.split("__")[0] for name in fold[side]} for side in ("train", "val")]
        assert not sides[0] & sides[1]
        assert len(fold["train"]) + len(fold["val"]) == 6
    assert main([*command, "--exclude", "A9"]) == 2
    assert "to be excluded, but not in" in capfd.readouterr().err


def test_without_the_table_all_plans_are_for_training(challenge):
    challenge.plan("A1+9Ag+MOS_1")
    (challenge.meta / "meta_data.csv").unlink()
    found = find_plans(challenge.root, challenge.meta, TEMPLATE)
    assert ([plan.split for plan in found.plans], found.validation) == (["Tr"], ())


def test_a_changed_prescription_converts_anew(challenge, tmp_path):
    challenge.plan("A1+9Ag+MOS_1")
    challenge.plan("A2+9Ag+MOS_1", seed=1)
    assert len(convert_gdphmm(challenge.root, tmp_path, 504, "X").converted) == 2
    assert convert_gdphmm(challenge.root, tmp_path, 504, "X").converted == ()
    challenge.targets["A2"]["PTV_High"]["PDose"] = 66
    challenge.write()
    again = convert_gdphmm(challenge.root, tmp_path, 504, "X")
    assert again.converted == ("A2__9Ag__MOS_1",)
    assert again.cases["A2__9Ag__MOS_1"].record.prescriptions_gy["PTV_High"] == 66


def test_a_template_without_the_high_dose_target_is_refused(challenge, tmp_path):
    with pytest.raises(InputError, match="template 'openkbp' needs an ROI 'PTV_High'"):
        convert_gdphmm(challenge.root, tmp_path, 504, "X", template=Template.load("openkbp"))


def test_folds_of_patients_with_several_plans():
    patients = {f"{patient}_{plan}": patient for patient in "abcdefg" for plan in range(3)}
    folds = make_folds(list(patients), (), patients)
    for fold in folds:
        assert {patients[name] for name in fold["train"]}.isdisjoint(patients[name] for name in fold["val"])
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(patients)
    with pytest.raises(InputError, match="all cases are of a"):
        make_folds(["a_0", "a_1"], (), patients)
    with pytest.raises(InputError, match="the published split has cases of patient 'b' on both sides"):
        make_folds(list(patients), ["b_1"], patients)


def test_reading_needs_no_numpy_unpickler(tmp_path):
    """A pickle that NumPy would run is told from its first dangerous name, wherever it hides."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"deep": [Hostile(os.system, "true")]}], object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("arr_0.npy", buffer.getvalue().replace(b"(1,)", b"()  "))
    with pytest.raises(InputError, match=r"wants to call posix.system|wants to call nt.system"):
        read_dictionary(tmp_path / "x.npz")
