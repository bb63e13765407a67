"""A data set of five small patients with 20 overlapping ROIs, planned and preprocessed once."""

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

import cdm_nnunet
from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion.case import Case, pack_masks
from cdm_nnunet.dataset_conversion.raw_layout import DatasetSpec, template_catalogue, write_dataset
from cdm_nnunet.dvh import Template
from cdm_nnunet.geometry.grid import Grid

DATASET_ID = 531
MODEL_NAME = "Dataset531_Small/nnUNetTrainerDoseMAE__nnUNetPlans__3d_fullres"
SHAPE = (20, 24, 28)
SPACING_MM = (3.0, 4.0, 4.0)  # z, y, x
ORIGIN_MM = (-54.0, 11.5, -130.0)  # x, y, z


def template(n_fillers: int = 13, *, dose_region: bool = True) -> Template:
    """Left and right parotid are in different words; ``Ghost`` is never contoured."""
    fillers = [{"name": f"Organ_{k:02d}", "kind": "oar"} for k in range(n_fillers)]
    return Template.from_json(
        {
            "format_version": 1,
            "name": "small",
            "rois": [
                {"name": "PTV_High", "kind": "target", "prescription_gy": "patient"},
                {"name": "PTV_Low", "kind": "target", "prescription_gy": "patient"},
                *fillers,
                {"name": "Parotid_L", "kind": "oar"},
                {"name": "Parotid_R", "kind": "oar"},
                {"name": "Ghost", "kind": "oar"},
                {"name": "SpinalCord", "kind": "oar"},
                {"name": "Region", "kind": "dose_region" if dose_region else "external"},
            ],
            "goals": [
                {"roi": "PTV_High", "metric": "D95%"},
                {"roi": "PTV_High", "metric": "V95%"},
                {"roi": "PTV_Low", "metric": "D2%"},
                {"roi": "Parotid_L", "metric": "Dmean"},
                {"roi": "Parotid_R", "metric": "Dmean"},
                {"roi": "Ghost", "metric": "Dmean"},
                {"roi": "SpinalCord", "metric": "D0.03cc"},
            ],
        },
        "test",
    )


TEMPLATE = template()


def sphere(centre, radius, shape=SHAPE) -> np.ndarray:
    grid = np.stack(np.indices(shape), -1)
    return (((grid - np.asarray(centre)) / np.asarray(radius)) ** 2).sum(-1) <= 1


def small_case(name: str, seed: int, split: str = "Tr", used: Template = TEMPLATE, **changes) -> Case:
    """An elliptic neck; the spinal cord leaves the dose region at the feet end."""
    rng = np.random.default_rng(seed)
    region = (
        sphere((11, 12, 14), (7.5, 9, 11))
        if used.roi("Region").kind == "dose_region"
        else sphere((9, 12, 14), (30, 10, 12))
    )
    high = sphere((10 + rng.integers(0, 3), 11, 14), (3, 3, 4))
    masks = {
        "PTV_High": high,
        "PTV_Low": high | sphere((11, 12, 13), (4.5, 4, 7)),
        "Parotid_L": sphere((12, 12, 21), (3, 3, 2)),
        "Parotid_R": sphere((12, 12, 7), (3, 2, 2)),
        "SpinalCord": np.zeros(SHAPE, bool),
        "Region": region,
    }
    masks["SpinalCord"][1:16, 17:19, 13:15] = True
    for roi in used.rois:
        if roi.name.startswith("Organ"):
            masks[roi.name] = sphere(rng.uniform((7, 8, 8), (15, 16, 20)), rng.uniform(1, 4, 3)) & region
    catalogue = template_catalogue(used)
    bits, empty = pack_masks(catalogue, masks.items(), SHAPE)
    distance = np.linalg.norm((np.stack(np.indices(SHAPE), -1) - (11, 11, 14)) * SPACING_MM, axis=-1)
    dose = np.where(region, np.clip(75 - distance * rng.uniform(0.9, 1.3), 2, 72) + rng.random(SHAPE), 0)
    body = sphere((10, 12, 14), (40, 11, 13))
    fields = {
        "name": name,
        "split": split,
        "ct_hu": np.where(body, rng.normal(30, 40, SHAPE), -1000).round().astype(np.int16),
        "roi_bits": bits,
        "catalogue": catalogue,
        "dose_gy": dose.astype(np.float32),
        "prescriptions_gy": {"PTV_High": 70.0, "PTV_Low": 56.0},
        "grid": Grid(SHAPE, SPACING_MM, np.array(ORIGIN_MM)),
        "empty_rois": empty,
    }
    return Case(**{**fields, **changes})


@dataclass
class MemorySource:
    """A case that is made when it is written."""

    name: str
    seed: int
    split: str = "Tr"
    used: Template = TEMPLATE
    changes: dict = field(default_factory=dict)

    def checksums(self) -> dict[str, str]:
        return {"seed": str(self.seed)}

    def load(self) -> Case:
        return small_case(self.name, self.seed, self.split, self.used, **self.changes)


def write_small_dataset(raw: Path, n_cases: int = 5, used: Template = TEMPLATE, **changes) -> RawDataset:
    """``case_0`` to ``case_N-1`` for training and ``test_0``."""
    spec = DatasetSpec(DATASET_ID, "Small", "five small patients", used, "test")
    sources = [MemorySource(f"case_{k}", k, used=used, changes=changes) for k in range(n_cases)]
    write_dataset(raw, spec, [*sources, MemorySource("test_0", 100, "Ts", used)])
    return RawDataset(raw / f"Dataset{DATASET_ID}_Small")


@dataclass(frozen=True)
class Folders:
    """nnU-Net's three folders, with a raw data set."""

    root: Path
    raw: RawDataset

    @property
    def preprocessed(self) -> Path:
        return self.root / "preprocessed" / self.raw.folder.name

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("raw", "preprocessed", "results"):
            (self.root / name).mkdir(exist_ok=True)
            monkeypatch.setenv(f"nnUNet_{name}", str(self.root / name))
        monkeypatch.setenv("nnUNet_n_proc_DA", "0")


@pytest.fixture(scope="session")
def planned_once(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Both configurations planned with 4 base features; ``3d_fullres`` has the voxel size of the data."""
    from cdm_nnunet.nnunet.configurations import CONFIGURATIONS
    from cdm_nnunet.nnunet.plan_choices import PlanChoices
    from cdm_nnunet.nnunet.planner import plan_and_preprocess

    root = tmp_path_factory.mktemp("planned")
    folders = Folders(root, write_small_dataset(root / "raw"))
    with pytest.MonkeyPatch.context() as patch:
        folders.use(patch)
        plan_and_preprocess(
            DATASET_ID,
            PlanChoices(coarse_spacing_mm=6.0, base_features=4),
            configurations=CONFIGURATIONS,
            n_processes=1,
        )
    return folders


@pytest.fixture
def planned(planned_once: Folders, monkeypatch: pytest.MonkeyPatch) -> Folders:
    """The planned data set, with nnU-Net's variables set to it; not to be changed."""
    planned_once.use(monkeypatch)
    return planned_once


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Folders]:
    """Make a data set of one's own that is not planned yet."""

    def make(*args, **changes) -> Folders:
        folders = Folders(tmp_path, write_small_dataset(tmp_path / "raw", *args, **changes))
        folders.use(monkeypatch)
        return folders

    return make


@pytest.fixture
def case_factory() -> Callable[..., Case]:
    return small_case


@pytest.fixture
def small_template() -> Callable[..., Template]:
    return template


@pytest.fixture
def known(planned):
    """Plans and dataset.json of the data set."""
    return [json.loads((planned.preprocessed / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json")]


@pytest.fixture
def save(known, tmp_path, monkeypatch):
    """Write a fold of an untrained model, and the copies in the model's folder."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setenv("nnUNet_extTrainer", os.path.join(os.path.dirname(cdm_nnunet.__file__), "ext_trainers"))
    folder = tmp_path / "results" / MODEL_NAME

    def save(fold=0, plans=None, trainer="nnUNetTrainerDoseMAE", network=None, **own):
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        from cdm_nnunet.nnunet.checkpoint import FINAL, write_checkpoint
        from cdm_nnunet.nnunet.model import mark
        from cdm_nnunet.nnunet.plans import model_plans
        from cdm_nnunet.trainers import nnUNetTrainerDoseMAE

        plans, dataset_json = plans or known[0], known[1]
        manager = PlansManager(copy.deepcopy(known[0]))
        torch.manual_seed(fold)
        made = network or nnUNetTrainerDoseMAE.build_network_architecture(
            manager, manager.get_configuration("3d_fullres"), 4, 1, False
        )
        content = {
            "network_weights": made.state_dict(),
            "logging": {},
            "current_epoch": 1,
            "init_args": {"plans": plans, "dataset_json": dataset_json, "configuration": "3d_fullres", "fold": fold},
            "trainer_name": trainer,
            "inference_allowed_mirroring_axes": None,
            "cdm": own,
        }
        path = folder / f"fold_{fold}" / FINAL
        write_checkpoint(path, content, mark(content["network_weights"], plans, dataset_json))
        (folder / "plans.json").write_text(json.dumps(model_plans(plans)))
        (folder / "dataset.json").write_text(json.dumps(dataset_json))
        return path

    save.folder = folder
    return save
