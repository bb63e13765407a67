"""The format of a raw data set: the content of ``dataset.json`` and ``cdm_cases.json``, and the location of the files.

For each case, a raw data set has three images on one grid and, for training and testing, the reference dose:

==========================  =================================================================================
``imagesTr/CASE_0000``      CT, HU
``imagesTr/CASE_0001``      prescription map, float32 Gy: the highest prescription of the targets that contain a
                            voxel, else 0
``imagesTr/CASE_0002``      ROI bits, one unsigned channel (see :mod:`cdm_nnunet.roi.bits`)
``labelsTr/CASE``           dose, float32 Gy
==========================  =================================================================================

``imagesTs`` and ``labelsTs`` contain cases that are kept out of training. This module reads and describes; only
``dataset_conversion.raw_layout`` writes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass as record_class

from cdm_nnunet.documents import STRICT, parse_json, plain, read_json, typed
from cdm_nnunet.dvh.template import Template
from cdm_nnunet.errors import InputError
from cdm_nnunet.roi import Catalogue

FORMAT_VERSION = 1
FILE_ENDING = ".nii.gz"
CHANNEL_NAMES = ("CT", "prescription", "roi_bits")
CT_CHANNEL, PRESCRIPTION_CHANNEL, ROI_CHANNEL = range(3)
READER_NAME = "CDMReaderWriter"
CASES_FILE = "cdm_cases.json"
UNITS: Mapping[str, str] = MappingProxyType({"dose": "Gy", "ct": "HU"})
NOTES = "notes"  # key of a case's source: a JSON list in text
COLOURS = "colours"  # key of a case's source: a JSON object in text, #rrggbb by ROI, from its structure set
POSITION = "patient position"  # key of a case's source: HFS, FFS, ... of its CT, if stated there
Split = Literal["Tr", "Ts"]
Positive = Annotated[float, Field(gt=0)]
_AGAIN = "convert the data again"
_MAX_CASES_BYTES = 256 * 2**20
_IMAGE_ENDING = re.compile(rf"_.{{4}}{re.escape(FILE_ENDING)}$")


def image_name(case: str, channel: int) -> str:
    """File name of an image channel of a case.

    Example:
        >>> image_name("pt_1", ROI_CHANNEL)
        'pt_1_0002.nii.gz'
    """
    return f"{case}_{channel:04d}{FILE_ENDING}"


def case_of_image(path: str | Path) -> str:
    """The case that an image channel belongs to: the inverse of :func:`image_name`.

    Example:
        >>> case_of_image("imagesTr/pt_1_0002.nii.gz")
        'pt_1'
    """
    return _IMAGE_ENDING.sub("", Path(path).name)


@record_class(frozen=True, kw_only=True, config=ConfigDict(**STRICT, extra="forbid"))
class CaseRecord:
    """Facts about a case besides its images; one entry of ``cdm_cases.json``.

    Attributes:
        prescriptions_gy: Prescribed dose of each target of the case, by ROI name, Gy.
        rois: Names of the contoured ROIs, in catalogue order.
        spacing_mm: Voxel size (z, y, x) in mm.
        split: ``Tr`` (imagesTr) or ``Ts`` (imagesTs).
        source: Origin of the case: name in the source, checksums.
        fractions: Number of fractions of the plan; None if unknown.
    """

    prescriptions_gy: Mapping[str, Positive]
    rois: tuple[str, ...]
    spacing_mm: tuple[Positive, Positive, Positive]
    split: Split
    source: Mapping[str, str] = field(default_factory=dict)
    fractions: int | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Decisions at conversion, and unusual properties."""
        return tuple(parse_json(self.source.get(NOTES, "[]"), list[str], f"the notes of a case in {CASES_FILE}"))

    def to_json(self) -> dict[str, Any]:
        """Entry for ``cdm_cases.json``."""
        content: dict[str, Any] = plain(self)
        if self.fractions is None:
            del content["fractions"]  # (data sets of earlier versions have none)
        return content


class DatasetSection(BaseModel):
    """Our section of ``dataset.json``.

    Attributes:
        catalogue: The ROIs in bit order, as :meth:`cdm_nnunet.roi.Catalogue.from_json` takes them.
        template: The clinical template, as :meth:`cdm_nnunet.dvh.Template.from_json` takes it.
        facts: Facts about the whole data set.
        mapping: ROI of each name in the patients' files, if a model should read new patients with it.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    catalogue: list[dict[str, Any]]
    template: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    mapping: dict[str, Any] | None = None


class StockEntries(BaseModel):
    """The entries of ``dataset.json`` that nnU-Net reads; planning and training need all of them."""

    model_config = ConfigDict(strict=True)

    channel_names: dict[str, str]
    labels: dict[str, int]
    numTraining: Annotated[int, Field(ge=0)]  # noqa: N815  # (nnU-Net's name)
    file_ending: Literal[".nii.gz"]


def cdm_section(dataset_json: Mapping[str, Any], where: str = "dataset.json") -> Mapping[str, Any]:
    """Our section of a ``dataset.json`` or of plans, checked for version and units.

    Raises:
        InputError: If it is missing (the data set is not ours) or has another format version or unit.
    """
    section: object = dataset_json.get("cdm")
    if not isinstance(section, dict):
        raise InputError(f"{where} has no 'cdm' section: the data set was not written by 'cdm-nnunet convert'")
    if section.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{where} has format version {section.get('format_version')}, this software reads {FORMAT_VERSION}; "
            "convert the data again"
        )
    if section.get("units") != UNITS:
        raise InputError(f"{where} has units {section.get('units')}; expected dose in Gy and CT in HU")
    return section


@dataclass(frozen=True)
class RawDataset:
    """A raw data set on disk.

    Attributes:
        folder: ``nnUNet_raw/DatasetNNN_NAME``.
    """

    folder: Path

    @cached_property
    def dataset_json(self) -> dict[str, Any]:
        """The parsed ``dataset.json``.

        Raises:
            InputError: If it is missing, not JSON or not ours.
        """
        path = self.folder / "dataset.json"
        parsed = read_json(path, dict[str, Any], "was the conversion finished?")
        cdm_section(parsed, str(path))
        typed(parsed["cdm"], DatasetSection, f"{path}: cdm", _AGAIN)
        return parsed

    @cached_property
    def catalogue(self) -> Catalogue:
        """The ROI catalogue."""
        return Catalogue.from_json(self.dataset_json["cdm"]["catalogue"], f"{self.folder / 'dataset.json'}: catalogue")

    @cached_property
    def template(self) -> Template:
        """The clinical template that came with the data set."""
        where = f"{self.folder / 'dataset.json'}: template"
        if "template" not in self.dataset_json["cdm"]:
            raise InputError(f"{where} is missing; {_AGAIN}")
        return Template.from_json(self.dataset_json["cdm"]["template"], where)

    @cached_property
    def roi_colours(self) -> dict[str, str]:
        """``#rrggbb`` by ROI: the colour of most structure sets with a colour for the ROI; other ROIs are left out."""
        found: dict[str, Counter[str]] = {}
        for case, record in self.cases.items():
            text = record.source.get(COLOURS, "{}")
            where = f"the colours of case '{case}' in {CASES_FILE}"
            for name, colour in parse_json(text, dict[str, str], where).items():
                found.setdefault(name, Counter())[colour] += 1
        most = {name: counts.most_common(1)[0] for name, counts in found.items()}
        return {name: colour for name, (colour, n) in most.items() if 2 * n > found[name].total()}

    @property
    def converted_from(self) -> str:
        """Name of the conversion that wrote the data set; empty if it is not known."""
        return str(self.dataset_json["cdm"].get("facts", {}).get("source", ""))

    @cached_property
    def cases(self) -> dict[str, CaseRecord]:
        """Records of all cases by name."""
        return read_json(self.folder / CASES_FILE, dict[str, CaseRecord], _AGAIN, max_bytes=_MAX_CASES_BYTES)

    def record(self, case: str) -> CaseRecord:
        """Record of one case.

        Raises:
            InputError: If the data set has no such case.
        """
        if case not in self.cases:
            raise InputError(f"case '{case}' is not in {self.folder / CASES_FILE}; was it added by hand?")
        return self.cases[case]

    def patient(self, case: str) -> str:
        """The patient of a case, as known from the conversion; else the case's own name.

        Raises:
            InputError: As :meth:`record`.
        """
        return self.record(case).source.get("patient", case)

    def image_path(self, case: str, channel: int) -> Path:
        """Path of an image channel (0 CT, 1 prescription, 2 ROI bits) of a case."""
        return self.folder / f"images{self.record(case).split}" / image_name(case, channel)

    def dose_path(self, case: str) -> Path:
        """Path of the reference dose of a case."""
        return self.folder / f"labels{self.record(case).split}" / f"{case}{FILE_ENDING}"
