"""Small cases to write, OpenKBP patients of a few voxels, and files in the format of the GDP-HMM challenge."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from cdm_nnunet.dataset_conversion.case import Case, pack_masks
from cdm_nnunet.dataset_conversion.gdphmm import find_plans
from cdm_nnunet.dataset_conversion.raw_layout import DatasetSpec, template_catalogue
from cdm_nnunet.dvh import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Grid

SHAPE = (5, 6, 7)
GDPHMM_SHAPE = (7, 9, 8)
TEMPLATE = Template.load("openkbp")


def case_fields(name: str = "case_1", seed: int = 0) -> dict:
    """Fields of a valid case, to vary."""
    rng = np.random.default_rng(seed)
    masks = {roi: np.zeros(SHAPE, bool) for roi in ("PTV_7000", "PTV_5600", "SpinalCord", "DoseRegion")}
    masks["DoseRegion"][:, 1:5, 1:6] = True
    masks["PTV_5600"][1:4, 2:5, 2:5] = True
    masks["PTV_7000"][2:4, 2:4, 2:4] = True  # overlaps PTV_5600
    masks["SpinalCord"][:, 4, 3] = True
    catalogue = template_catalogue(TEMPLATE)
    roi_bits, _ = pack_masks(catalogue, masks.items(), SHAPE)
    dose_gy = np.where(masks["DoseRegion"], rng.uniform(10, 50, SHAPE), 0).astype(np.float32)
    for roi, level_gy in (("PTV_5600", 56), ("PTV_7000", 70)):
        dose_gy[masks[roi]] = rng.uniform(0.95 * level_gy, 1.07 * level_gy, np.count_nonzero(masks[roi]))
    return {
        "name": name,
        "split": "Tr",
        "ct_hu": rng.integers(-1024, 1000, SHAPE).astype(np.int16),
        "roi_bits": roi_bits,
        "catalogue": catalogue,
        "dose_gy": dose_gy,
        "prescriptions_gy": {"PTV_7000": 70.0, "PTV_5600": 56.0},
        "grid": Grid(SHAPE, (2.5, 4.0, 3.5), np.array((-10.0, 20.0, -35.5))),
        "source": {"patient": name},
    }


@dataclass
class MemorySource:
    """A source whose content can be changed, and which counts how often it is read."""

    name: str
    seed: int = 0
    split: str = "Tr"
    changes: Mapping = field(default_factory=dict)
    refusal: str = ""
    loads: int = 0

    def checksums(self) -> dict[str, str]:
        return {"seed": str(self.seed)}

    def load(self) -> Case:
        self.loads += 1
        if self.refusal:
            raise InputError(self.refusal)
        return Case(**{**case_fields(self.name, self.seed), "split": self.split, **self.changes})


@pytest.fixture
def fields() -> Callable[..., dict]:
    return case_fields


@pytest.fixture
def memory_source() -> type[MemorySource]:
    return MemorySource


@pytest.fixture
def spec() -> DatasetSpec:
    return DatasetSpec(501, "Test", "A test", TEMPLATE, "memory")


def flat(back: int, left: int, feet: int) -> int:
    """OpenKBP's index of a voxel."""
    return (back * 128 + left) * 128 + feet


@dataclass
class OpenKbpWriter:
    """Writes patients of a few voxels in OpenKBP's format."""

    root: Path

    def patient(self, name: str = "pt_1", split: str | None = "train-pats") -> Path:
        folder = self.root / split / name if split else self.root / name
        folder.mkdir(parents=True)
        region = sorted(flat(b, left, f) for b in range(60, 66) for left in range(50, 58) for f in range(40, 44))
        self.values(folder / "ct.csv", {index: 1024 + index % 90 for index in region} | {5: 3, 6: 9000})
        self.values(folder / "dose.csv", {index: 60 + (index % 151) / 10 for index in region})
        self.mask(folder / "possible_dose_mask.csv", region)
        self.mask(folder / "PTV70.csv", [flat(62, left, f) for left in range(52, 55) for f in (41, 42)])
        self.mask(folder / "LeftParotid.csv", [flat(63, left, 41) for left in (56, 57)])
        self.mask(folder / "RightParotid.csv", [flat(63, left, 41) for left in (50, 51)])
        (folder / "voxel_dimensions.csv").write_text("3.5\n4.25\n2.5\n")
        return folder

    @staticmethod
    def values(path: Path, values: Mapping[int, float]) -> None:
        path.write_text(",data\n" + "".join(f"{index},{value}\n" for index, value in values.items()))

    @staticmethod
    def mask(path: Path, index: list[int]) -> None:
        path.write_text(",data\n" + "".join(f"{i},\n" for i in index))


@pytest.fixture
def openkbp(tmp_path: Path) -> OpenKbpWriter:
    return OpenKbpWriter(tmp_path / "openkbp")


def gdphmm_content(seed: int = 0, site: str = "HaN") -> dict:
    """Content of a file of the challenge, as written by its DICOM2NPZ.py."""
    rng = np.random.default_rng(seed)
    names = {
        "HaN": ("PTVHighOPT", "PTVMid", "PTVMidOPT", "Body", "Chiasim", "BrainStem_03", "Lens_L", "Zahn 3", "CTV 70"),
        "Lung": ("PTV", "Body", "Total Lung-GTV", "PTV_Ring.3-2"),
    }[site]
    masks = {name: np.zeros(GDPHMM_SHAPE, np.uint8) for name in names}
    masks["Body"][:, 1:8, 1:7] = 1
    high = "PTV" if site == "Lung" else "PTVHighOPT"
    masks[high][2:5, 3:6, 3:6] = 1
    if site == "HaN":
        masks["PTVMid"][1:6, 3:7, 2:6] = 1
        masks["PTVMidOPT"][1:6, 6, 2:6] = 1
        masks["Chiasim"][3, 2, 4] = 1
    dose = rng.integers(24_000, 30_000, GDPHMM_SHAPE).astype(np.uint32) * masks["Body"]
    return {
        **masks,
        "all_mask": list(masks),
        "img": rng.integers(-1000, 900, GDPHMM_SHAPE).astype(np.int16),
        "dose": dose,
        "dose_scale": 0.0025,
        "isVMAT": seed % 2 == 0,
        "angle_plate": np.zeros(GDPHMM_SHAPE[1:]),
        "beam_plate": rng.random(GDPHMM_SHAPE),
        "isocenter": [3.0, np.float32(4.0), np.float64(4.5)],
        "angle_list": np.array([0, 72, 144], np.float32),
    }


class Challenge:
    """A folder of the GDP-HMM challenge."""

    content = staticmethod(gdphmm_content)

    def __init__(self, root: Path) -> None:
        self.root, self.meta = root, root / "meta_files"
        self.meta.mkdir(parents=True)
        self.targets, self.objectives, self.rows = {}, {}, []

    def plan(self, name: str = "HNC_001+9Ag+MOS_1", site: str = "HaN", split: str = "train", seed=0, **changes) -> Path:
        path = self.root / site / "train" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        made = {key: value for key, value in {**gdphmm_content(seed, site), **changes}.items() if value is not None}
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
        return find_plans(self.root, self.meta, Template.load("gdphmm")).plans[0]


@pytest.fixture
def challenge(tmp_path: Path) -> Challenge:
    return Challenge(tmp_path / "challenge")
