"""Phantoms with K ROIs as two data sets: bits for this package, one image channel per ROI for stock nnU-Net."""

from __future__ import annotations

import copy
import functools
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from scipy import ndimage

from cdm_nnunet.dataset_conversion.case import Case, pack_masks
from cdm_nnunet.dataset_conversion.raw_layout import DatasetSpec, template_catalogue, write_dataset
from cdm_nnunet.dataset_conversion.synthetic import synthetic_patient
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.files import write_json

OURS, STOCK = "Dataset701_Bits", "Dataset702_OneHot"
CONFIGURATION = "3d_fullres"
_COARSENESS = 0.6  # about 110 x 150 x 150 voxels
_SHELL_VOXELS = 2


def template(n_rois: int) -> Template:
    """OpenKBP's targets and dose region, its organs, and paired shells around them up to ``n_rois``; 5 or more."""
    openkbp = Template.load("openkbp").to_json()
    whole = [roi for roi in openkbp["rois"] if roi["kind"] != "oar"]
    organs = [roi for roi in openkbp["rois"] if roi["kind"] == "oar"][: n_rois - len(whole)]
    shells = [f"Shell_{k // 2:02d}_{'LR'[k % 2]}" for k in range(n_rois - len(whole) - len(organs))]
    rois = [*whole, *organs, *({"name": name, "kind": "other"} for name in shells)]
    names = {roi["name"] for roi in rois}
    goals = [goal for goal in openkbp["goals"] if goal["roi"] in names]
    return Template.from_json({**openkbp, "name": f"rois_{n_rois}", "rois": rois, "goals": goals}, "benchmark")


@functools.cache
def _phantom(seed: int) -> Case:
    return synthetic_patient(seed, coarseness=_COARSENESS)


def phantom(seed: int, n_rois: int) -> Case:
    """A phantom with the ROIs of :func:`template`; a shell is cut into its left and right half."""
    case, used = _phantom(seed), template(n_rois)
    catalogue = template_catalogue(used)
    known = [name for name in case.catalogue.names if name in catalogue.names]

    def masks() -> Iterator[tuple[str, NDArray[np.bool_]]]:
        yield from ((name, case.mask(name)) for name in known)
        wanted = [name for name in catalogue.names if name.startswith("Shell")]
        organs = [name for name in case.rois if name != "DoseRegion"]
        shells = itertools.product(range(99), organs)
        while wanted:
            k, organ = next(shells)
            shell = _shell(seed, organ, k)
            middle = int(np.median(np.nonzero(shell.any((0, 1)))[0])) if shell.any() else 0
            left = np.arange(shell.shape[2]) > middle
            for half in (shell & left, shell & ~left):
                if wanted:
                    yield wanted.pop(0), half

    bits, empty = pack_masks(catalogue, masks(), case.roi_bits.shape)
    return replace(case, roi_bits=bits, catalogue=catalogue, empty_rois=empty)


@functools.cache
def _shell(seed: int, organ: str, k: int) -> NDArray[np.bool_]:
    distance = ndimage.distance_transform_edt(~_phantom(seed).mask(organ))
    shell: NDArray[np.bool_] = (distance > _SHELL_VOXELS * k) & (distance <= _SHELL_VOXELS * (k + 1))
    return shell


@dataclass(frozen=True)
class Source:
    """A phantom as a source of a conversion."""

    seed: int
    n_rois: int
    split: str = "Tr"

    @property
    def name(self) -> str:
        """Name of the case."""
        return f"phantom_{self.seed:03d}"

    def checksums(self) -> dict[str, str]:
        """Facts that determine it."""
        return {"seed": str(self.seed), "rois": str(self.n_rois)}

    def load(self) -> Case:
        """Make the phantom."""
        return replace(phantom(self.seed, self.n_rois), name=self.name)


def write_bits(raw: Path, n_rois: int, n_patients: int) -> None:
    """The raw data set of this package."""
    spec = DatasetSpec(701, "Bits", "benchmark", template(n_rois), "synthetic")
    write_dataset(raw, spec, [Source(seed, n_rois) for seed in range(n_patients)])


def write_onehot(raw: Path, n_rois: int, n_patients: int) -> None:
    """The same for stock nnU-Net.

    Channels: CT, prescription, a uint8 mask for each ROI, the dose. The label, which stock nnU-Net
    needs, is only the dose region: with dose as an integer label its loader would do far more work.
    """
    folder = raw / STOCK
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for seed in range(n_patients):
        source = Source(seed, n_rois)
        case = source.load()
        masks = [case.mask(name).astype(np.uint8) for name in case.catalogue.names]
        for channel, values in enumerate([case.ct_hu, case.prescription_map_gy(), *masks, case.dose_gy]):
            _write(folder / "imagesTr" / f"{source.name}_{channel:04d}.nii.gz", values, case)
        _write(folder / "labelsTr" / f"{source.name}.nii.gz", case.mask("DoseRegion").astype(np.uint8), case)
    record = {
        "channel_names": {str(k): f"channel_{k}" for k in range(n_rois + 3)},
        "labels": {"background": 0, "region": 1},
        "numTraining": n_patients,
        "file_ending": ".nii.gz",
    }
    write_json(folder / "dataset.json", record)


def _write(path: Path, values: NDArray[Any], case: Case) -> None:
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing(case.grid.spacing_xyz_mm)
    image.SetOrigin(case.grid.origin_xyz_mm.tolist())
    SimpleITK.WriteImage(image, str(path), useCompression=True)


def stock_plans(plans: dict[str, Any], n_rois: int) -> dict[str, Any]:
    """Plans of stock nnU-Net with the voxel size, patch, batch and network of ours."""
    stock = copy.deepcopy(plans)
    del stock["cdm"]
    statistics = stock["foreground_intensity_properties_per_channel"]["0"]
    configuration = stock["configurations"][CONFIGURATION]
    configuration["preprocessor_name"] = "DefaultPreprocessor"
    configuration["normalization_schemes"] = ["CTNormalization", *["NoNormalization"] * (n_rois + 2)]
    configuration["use_mask_for_norm"] = [False] * (n_rois + 3)
    stock.update(
        dataset_name=STOCK,
        image_reader_writer="SimpleITKIO",
        label_manager="LabelManager",
        configurations={CONFIGURATION: configuration},
        foreground_intensity_properties_per_channel={str(k): statistics for k in range(n_rois + 3)},
    )
    return stock


def small_plans(path: Path, patch: int, features: int) -> dict[str, Any]:
    """Set patch, batch and a small network of four stages in existing plans."""
    plans: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    configuration = plans["configurations"][CONFIGURATION]
    configuration["patch_size"], configuration["batch_size"] = [patch] * 3, 2
    arguments = configuration["architecture"]["arch_kwargs"]
    arguments.update(
        n_stages=4,
        features_per_stage=[features * 2**k for k in range(4)],
        kernel_sizes=[[3, 3, 3]] * 4,
        strides=[[1, 1, 1], *[[2, 2, 2]] * 3],
        n_conv_per_stage=[2] * 4,
        n_conv_per_stage_decoder=[2] * 3,
    )
    write_json(path, plans)
    return plans
