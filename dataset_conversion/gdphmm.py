"""The GDP-HMM challenge (AAPM, 2025): from its NPZ and JSON files to a raw data set.

A case is one plan; a patient has several, which stay on one side of every split. Doses are scaled as the challenge
scales its references, to D97% = prescription of the high-dose PTV; the factor is kept with the case.

References:
    https://github.com/RiqiangGao/GDP-HMM_AAPMChallenge: ``data_loader.py``, ``DICOM2NPZ.py``, ``meta_files``.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.challenges.gdphmm import CONVERSION, HIGH_DOSE_TARGET, TARGETS, normalisation_factor
from cdm_nnunet.counting import counted
from cdm_nnunet.dataset import Split
from cdm_nnunet.documents import read_json
from cdm_nnunet.dvh import Template, TemplateRoi, match_rois
from cdm_nnunet.errors import InputError, numbers
from cdm_nnunet.geometry.grid import Grid

from .case import Case, clip_hu, pack_masks
from .case_files import sha256
from .conversion import FoundPatients
from .npz import read_dictionary
from .raw_layout import template_catalogue
from .roi_mapping import RoiMapping, unused_text

PRESCRIPTION_FILE, OBJECTIVE_FILE, PLAN_FILE = "PTV_DICT.json", "Pat_Obj_DICT.json", "meta_data.csv"
SPACING_MM = (2.5, 2.5, 2.0)  # x, y, z of all published files, which contain no spacing
MIN_PRESCRIPTION_GY = 20.0
_NOT_MASKS = ("img", "dose", "beam_plate", "angle_plate")
_DEV_SPLITS: Mapping[str, Split] = {"train": "Tr", "valid": "Tr", "test": "Ts"}


@dataclass(frozen=True)
class GdpHmmPlan:
    """A plan of a patient.

    Attributes:
        path: The NPZ file.
        split: ``Tr``, or ``Ts`` for a plan that is kept out of training and may lack a dose.
        targets: ``PTV_DICT.json``'s entry of the patient.
        optimised: Names of the structures that the plan was optimised with (``Pat_Obj_DICT.json``).
        template: Assigns names to ROIs.
    """

    path: Path
    split: Split
    targets: Mapping[str, Mapping[str, Any]]
    optimised: tuple[str, ...]
    template: Template

    @property
    def name(self) -> str:
        """Name of the case: the file's name with ``__`` instead of ``+``."""
        return self.path.stem.replace("+", "__")

    @property
    def patient(self) -> str:
        """The patient's name."""
        return self.path.stem.split("+")[0]

    def checksums(self) -> dict[str, str]:
        """SHA-256 of the file, and all settings that affect its conversion."""
        rois = {roi.name: (roi.aliases, roi.kind, *roi.regex) for roi in self.template.rois}
        return {"npz": sha256(self.path), "decisions": repr((self.targets, self.optimised, rois))}

    def load(self) -> Case:
        """Read and check the plan.

        Raises:
            InputError: If the file is damaged or hostile, an array or the prescription is missing or implausible.
        """
        content = read_dictionary(self.path)
        ct = self._array(content, "img")
        prescribed_gy = self._prescriptions_gy()
        mapping = self._mapping([key for key, value in content.items() if _is_mask(key, value)])
        catalogue = template_catalogue(self.template)
        roi_bits, empty = pack_masks(catalogue, self._masks(content, mapping, ct.shape), ct.shape)
        dose_gy, factor = self._dose_gy(content, mapping, ct.shape, prescribed_gy["PTV_High"])
        contoured = [roi for roi in mapping.names if roi not in empty]
        self._refuse_other_prescriptions(prescribed_gy)
        return Case(
            name=self.name,
            split=self.split,
            ct_hu=clip_hu(ct),
            roi_bits=roi_bits,
            catalogue=catalogue,
            dose_gy=dose_gy,
            prescriptions_gy={roi: prescribed_gy[level] for roi, level in self._levels().items() if roi in contoured},
            grid=self._grid(content, ct.shape),
            source={
                "patient": self.patient,
                "plan": self.path.stem,
                "sha256 npz": self.checksums()["npz"],
                "vmat": str(bool(content.get("isVMAT"))),
                **({} if factor is None else {"dose factor (D97% = prescription)": f"{factor:.6g}"}),
                **unused_text(mapping.unused),
            },
            empty_rois=empty,
        )

    def _prescriptions_gy(self) -> dict[str, float]:
        found = {}
        for level in TARGETS:
            if level not in self.targets:
                continue
            value = self.targets[level].get("PDose")
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"{PRESCRIPTION_FILE}: PDose of {level} of {self.patient} is {value!r}, not Gy")
            if value < MIN_PRESCRIPTION_GY:
                raise InputError(
                    f"{PRESCRIPTION_FILE}: {level} of {self.patient} is prescribed {value:g} Gy, under "
                    f"{MIN_PRESCRIPTION_GY:g} Gy; it looks like a number in a name. Leave the patient out"
                )
            found[level] = float(value)
        if "PTV_High" not in found:
            raise InputError(f"{PRESCRIPTION_FILE} has no PTV_High of {self.patient}")
        return found

    def _refuse_other_prescriptions(self, prescribed_gy: Mapping[str, float]) -> None:
        """Refuse fixed prescriptions of the template that contradict the plan's."""
        for roi in self.template.rois:
            level_gy = prescribed_gy.get(self._levels().get(roi.name, ""))
            if isinstance(roi.prescription_gy, float) and level_gy not in (None, roi.prescription_gy):
                raise InputError(
                    f"{PRESCRIPTION_FILE}: '{roi.name}' of {self.patient} is prescribed {level_gy:g} Gy, but template "
                    f"'{self.template.name}' has {roi.prescription_gy:g} Gy for all; write \"patient\" there"
                )

    def _levels(self) -> dict[str, str]:
        """Level of each ROI of the template for which ``PTV_DICT.json`` names a structure."""
        known = {roi.name for roi in self.template.rois}
        return {roi: level for level in self.targets if level in TARGETS for roi in _rois_of(level) if roi in known}

    def _mapping(self, names: list[str]) -> RoiMapping:
        """Targets by ``PTV_DICT.json``, other ROIs by the template; among several names, the one used for the plan."""
        found: dict[str, str] = {}
        for roi, level in self._levels().items():
            entry = self.targets[level]
            key = "StructName" if roi == level and level != "PTV_High" else "OPTName"
            if entry.get(key) in names:
                found[roi] = str(entry[key])
            elif level == roi:
                raise InputError(f"{self.path}: {level} is '{entry.get(key)}' in {PRESCRIPTION_FILE}, which is missing")
        levels = [roi for roi in self.template.rois if roi.kind == "target" and roi.name.startswith(TARGETS)]
        taken = {label.casefold() for roi in levels for label in (roi.name, *roi.aliases)}
        others = self.template.model_copy(
            update={"rois": tuple(roi for roi in self.template.rois if roi not in levels)}
        )
        free = [name for name in names if name not in found.values() and name.casefold() not in taken]
        try:
            matched = match_rois(others, free, prefer=self._used_by_plan)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from None
        found |= {roi: match.source for roi, match in matched.items()}
        return RoiMapping(found, tuple(name for name in names if name not in found.values()))

    def _used_by_plan(self, roi: TemplateRoi, fitting: Sequence[str]) -> Sequence[str]:
        """Among several spellings, the one that the plan was optimised with, else the challenge's own."""
        for preferred in (self.optimised, roi.aliases, (roi.name, *roi.aliases)):
            best = [name for name in fitting if name in preferred]
            if len(best) == 1:
                return best
        return fitting

    def _array(self, content: Mapping[str, Any], key: str, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
        values = content.get(key)
        if not isinstance(values, np.ndarray) or values.ndim != 3 or values.dtype.kind not in "biuf":
            raise InputError(f"{self.path}: '{key}' is missing or no three-dimensional array of numbers")
        if shape is not None and values.shape != shape:
            raise InputError(f"{self.path}: '{key}' has shape {values.shape}, the CT has {shape}")
        return values

    def _masks(
        self, content: Mapping[str, Any], mapping: RoiMapping, shape: tuple[int, ...]
    ) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        for roi, name in mapping.names.items():
            mask = self._array(content, name, shape)
            values = np.unique(mask)
            if not np.isin(values, (0, 1)).all():
                raise InputError(f"{self.path}: '{name}' has the values {numbers(values[:6])}; a mask has 0 and 1")
            yield roi, mask == 1

    def _dose_gy(
        self, content: Mapping[str, Any], mapping: RoiMapping, shape: tuple[int, ...], prescription_gy: float
    ) -> tuple[NDArray[np.float32] | None, float | None]:
        """Dose scaled to D97% = prescription of PTV_High, and the factor."""
        if "dose" not in content:
            if self.split == "Tr":
                raise InputError(f"{self.path} has no dose; only a test plan can do without it")
            return None, None
        scale = content.get("dose_scale")
        if not isinstance(scale, int | float | np.number) or not (math.isfinite(scale) and scale > 0):
            raise InputError(f"{self.path}: dose_scale is {scale!r}, expected a number above zero")
        dose_gy = self._array(content, "dose", shape).astype(np.float64) * float(scale)
        high_dose_ptv = self._array(content, mapping.names[HIGH_DOSE_TARGET], shape) == 1
        try:
            factor = normalisation_factor(dose_gy, high_dose_ptv, prescription_gy)
        except InputError as error:
            raise InputError(f"{self.path}: '{mapping.names[HIGH_DOSE_TARGET]}': {error}") from None
        return (dose_gy * factor).astype(np.float32), factor

    def _grid(self, content: Mapping[str, Any], shape: tuple[int, ...]) -> Grid:
        x, y, z = self._numbers(content, "spacing", SPACING_MM)
        origin = self._numbers(content, "origin", (0.0, 0.0, 0.0))
        direction = self._numbers(content, "direction", tuple(np.eye(3).ravel()))
        return Grid.of_image(shape, (z, y, x), origin, direction)

    def _numbers(self, content: Mapping[str, Any], key: str, default: Sequence[float]) -> list[float]:
        """Numbers of an entry; the count must equal the default's."""
        try:
            values = [float(value) for value in np.ravel(content.get(key, default))]
        except (TypeError, ValueError):
            values = []
        if len(values) != len(default):
            raise InputError(f"{self.path}: '{key}' is {content[key]!r}, expected {counted(len(default), 'number')}")
        return values


@dataclass(frozen=True)
class GdpHmmSource:
    """The plans found.

    Attributes:
        plans: Plans by file name.
        validation: Names of the challenge's validation plans; all plans of a patient.
    """

    plans: tuple[GdpHmmPlan, ...]
    validation: tuple[str, ...] = ()


def find_plans(source: Path, meta: Path, template: Template) -> GdpHmmSource:
    """Find plans.

    Args:
        source: Folder with NPZ files, at any depth.
        meta: The repository's ``meta_files``: ``PTV_DICT.json``, ``Pat_Obj_DICT.json``, and ``meta_data.csv`` for the
            published split, which may be missing.
        template: Assigns names to ROIs.

    Raises:
        InputError: If there are none, a file has no patient in its name, or the meta files are damaged or lack
            the patient.
    """
    if not source.is_dir():
        raise InputError(f"{source} is not a folder; expected one with NPZ files of the GDP-HMM challenge")
    paths = sorted(path for path in source.rglob("*.npz") if not path.name.startswith("."))
    if not paths:
        raise InputError(f"no NPZ files in {source}")
    targets, objectives = (read_json(meta / name, dict[str, object]) for name in (PRESCRIPTION_FILE, OBJECTIVE_FILE))
    splits = _published_splits(meta / PLAN_FILE)
    plans = []
    for path in paths:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*\.npz", path.name) or "+" not in path.name:
            raise InputError(f"{path} is not named PATIENT+PLAN+....npz")
        patient = path.stem.split("+")[0]
        entry = targets.get(patient, targets.get(patient.zfill(3)))
        if not isinstance(entry, dict) or not all(isinstance(level, dict) for level in entry.values()):
            raise InputError(f"{meta / PRESCRIPTION_FILE} has no prescriptions of {patient} ({path.name})")
        used = objectives.get(patient, [])
        if isinstance(used, dict):  # (one list per plan, as in the notebook)
            used = used.get(path.stem.split("+")[1], [])
        if splits and path.name not in splits:
            raise InputError(f"{meta / PLAN_FILE} does not list {path.name}")
        if not isinstance(used, list):
            raise InputError(f"{meta / OBJECTIVE_FILE}: structures of {patient} are {type(used).__name__}, not a list")
        split = _DEV_SPLITS[splits.get(path.name, "train")]
        plans.append(GdpHmmPlan(path, split, entry, tuple(map(str, used)), template))
    validation = tuple(plan.name for plan in plans if splits.get(plan.path.name) == "valid")
    return GdpHmmSource(tuple(plans), validation)


def find_gdphmm(
    source: Path, *, meta: Path | None = None, template: Template | None = None
) -> FoundPatients[GdpHmmPlan]:
    """Plans of the GDP-HMM challenge, for conversion.

    Args:
        source: See :func:`find_plans`.
        meta: See :func:`find_plans`; default: ``meta_files`` in ``source``.
        template: Default: the shipped template ``gdphmm``.

    Raises:
        InputError: As :func:`find_plans`, or if the template has no PTV_High.
    """
    template = template or Template.load("gdphmm")
    if "PTV_High" not in template_catalogue(template).names:
        raise InputError(f"template '{template.name}' needs an ROI 'PTV_High' for GDP-HMM data")
    found = find_plans(source, meta or source / "meta_files", template)
    return FoundPatients(
        CONVERSION,
        source,
        "Plans of the GDP-HMM challenge; cite Gao et al., Automating RT planning at scale, arXiv 2501.11803 (2025)",
        template,
        found.plans,
        found.validation,
        {plan.name: plan.patient for plan in found.plans},
    )


def _rois_of(level: str) -> Iterable[str]:
    """Names in the shipped template of a level's PTV and of its optimisation PTV."""
    return (level,) if level == "PTV_High" else (level, f"{level}OPT")


def _is_mask(key: str, value: object) -> bool:
    return key not in _NOT_MASKS and isinstance(value, np.ndarray) and value.ndim == 3


def _published_splits(path: Path) -> dict[str, str]:
    """``dev_split`` by file name; empty without a table."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if not {"npz_path", "dev_split", "PID"} <= set(reader.fieldnames or ()):
            raise InputError(f"{path} has no columns PID, npz_path and dev_split")
        rows = list(reader)
    found: dict[str, str] = {}
    sides: dict[str, str] = {}
    for row in rows:
        label, patient = row["dev_split"], row["PID"]
        if label not in _DEV_SPLITS:
            raise InputError(f"{path}: dev_split '{label}' is unknown; known are {', '.join(_DEV_SPLITS)}")
        if sides.setdefault(patient, label) != label:
            raise InputError(f"{path}: plans of patient {patient} are in both {sides[patient]} and {label}")
        found[row["npz_path"].replace("\\", "/").rsplit("/", 1)[-1]] = label
    return found
