"""Checks of the input of a prediction: files of a case, meaning of its ROI bits, plausibility."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_nnunet.counting import counted
from cdm_nnunet.dataset import (
    CASES_FILE,
    CHANNEL_NAMES,
    FILE_ENDING,
    FORMAT_VERSION,
    UNITS,
    RawDataset,
    case_of_image,
    image_name,
)
from cdm_nnunet.errors import InputError, numbers
from cdm_nnunet.files import write_json
from cdm_nnunet.images import SPACING_TOLERANCE_MM
from cdm_nnunet.nnunet.case_facts import CaseFacts
from cdm_nnunet.nnunet.cohort import Cohort
from cdm_nnunet.nnunet.plans import DosePlans
from cdm_nnunet.nnunet.reader import image_of
from cdm_nnunet.prediction_record import NOT_COMPARED, Applicability
from cdm_nnunet.roi import Catalogue

_CATALOGUE_FILE = "dataset.json"


def find_cases(folder: Path) -> list[list[str]]:
    """Cases of an input folder: the files of the channels of each case, in order.

    Raises:
        InputError: If the folder is missing or has no case, or a case lacks a channel.
    """
    if not folder.is_dir():
        raise InputError(f"input folder {folder} is missing")
    files = sorted(path for path in folder.glob(f"*_????{FILE_ENDING}") if not path.name.startswith("."))
    if not files:
        raise InputError(
            f"{folder} has no case; expected CASE_0000{FILE_ENDING} (CT), _0001 (prescription), _0002 (ROIs)"
        )
    names: dict[str, set[str]] = {}  # (not itertools.groupby: between A_0000 and A_0001 there may be A_0000_0000)
    for path in files:
        names.setdefault(case_of_image(path), set()).add(path.name)
    cases = []
    for case, found in names.items():
        expected = [image_name(case, channel) for channel in range(len(CHANNEL_NAMES))]
        if found != set(expected):
            missing, extra = sorted(set(expected) - found), sorted(found - set(expected))
            what = f"lacks {', '.join(missing)}" if missing else f"has unknown channels {', '.join(extra)}"
            raise InputError(f"case '{case}' in {folder} {what}")
        cases.append([str(folder / name) for name in expected])
    return cases


def refuse_other_catalogues(cases: Sequence[Sequence[str]], catalogue: Catalogue) -> None:
    """Check that the bits of all cases have the meaning that the model expects.

    Their meaning is stored in the ``dataset.json`` of the converted data set: in the folder of the cases or the folder
    above it.

    Args:
        cases: Files of the channels of each case.
        catalogue: Catalogue of the model.

    Raises:
        InputError: If there is no such file, or its catalogue has other ROIs, another order, kind or mirror partner.
    """
    for folder in sorted({Path(file).absolute().parent for files in cases for file in files}):
        path = next((p for p in (folder / _CATALOGUE_FILE, folder.parent / _CATALOGUE_FILE) if p.is_file()), None)
        if path is None:
            raise InputError(
                f"nothing says which ROI is which bit in {folder}: it has no {_CATALOGUE_FILE}, nor has the folder "
                f"above it; copy the {_CATALOGUE_FILE} of the data set that the cases were converted into beside them"
            )
        found = RawDataset(path.parent).catalogue
        if found != catalogue:
            raise InputError(
                f"the ROI bits in {folder} are not those of the model: {_difference(found, catalogue)} ({path}); "
                "convert the cases with the template that the model was trained with"
            )


def write_catalogue(folder: Path, catalogue: Catalogue) -> None:
    """Write the ``dataset.json`` that defines the ROI bits of cases outside a data set."""
    section = {"format_version": FORMAT_VERSION, "units": dict(UNITS), "catalogue": catalogue.to_json()}
    write_json(folder / _CATALOGUE_FILE, {"cdm": section})


def unlike_training(
    data: NDArray[np.float32], spacing_mm: Sequence[float], plans: DosePlans
) -> tuple[CaseFacts, Applicability]:
    """Measure a new case and compare it with the model's training cases.

    Args:
        data: Result of :meth:`CDMReaderWriter.read_images`, (2 + L, Z, Y, X).
        spacing_mm: Voxel size (z, y, x).
        plans: Plans of the model.

    Returns:
        The case's facts, and whether the model applies to it.

    Raises:
        InputError: If the case contradicts itself or is implausibly far from all training cases.
    """
    facts = CaseFacts.measure(data, spacing_mm, plans.catalogue)
    cohort = Cohort.of_plans(plans)
    return facts, NOT_COMPARED if cohort is None else cohort.compare(facts, plans.catalogue)


def refuse_bare_array(data: NDArray[np.float32], properties: Mapping[str, Any], plans: DosePlans) -> None:
    """Check that a case in memory gives the geometry of its voxels and the meaning of its bits.

    Args:
        data: Its channels, (2 + L, Z, Y, X).
        properties: ``spacing`` and ``sitk_stuff`` as from :class:`CDMReaderWriter`, and ``catalogue``.
        plans: Plans of the model.

    Raises:
        InputError: If an entry is missing, the axes are not the patient's, or the catalogue is not the model's.
    """
    lacking = [key for key in ("spacing", "sitk_stuff", "catalogue") if key not in properties]
    if lacking:
        raise InputError(
            f"an array carries no geometry and no ROI names: its properties lack {', '.join(lacking)}; take those that "
            "CDMReaderWriter().read_images(files) returns, and add the 'catalogue' of dataset.json (section 'cdm')"
        )
    if data.ndim != 4 or len(data) < plans.n_channels or data.dtype != np.float32:
        raise InputError(
            f"an array of a case is float32 with {plans.n_channels} channels (CT, prescription, ROI words) and three "
            f"axes, not {data.dtype} {data.shape}"
        )
    image = image_of("the array", data[0], properties)
    image.refuse_other_axes()
    if not np.allclose(image.grid.spacing_zyx_mm, properties["spacing"], rtol=0, atol=SPACING_TOLERANCE_MM):
        raise InputError(
            f"the array's spacing is {numbers(properties['spacing'])} mm (z, y, x) and "
            f"{numbers(image.grid.spacing_zyx_mm)} in 'sitk_stuff'"
        )
    found = Catalogue.from_json(properties["catalogue"])
    if found != plans.catalogue:
        raise InputError(f"the array's ROI bits are not those of the model: {_difference(found, plans.catalogue)}")


def refuse_output_over_data(cases: Sequence[Sequence[str]], output: Path) -> None:
    """Check that the output folder contains no input and is not a data set: nnU-Net writes its own files there.

    Raises:
        InputError: Otherwise.
    """
    inputs = {Path(file).resolve().parent for files in cases for file in files}
    if output.resolve() in inputs or (output / CASES_FILE).exists():
        raise InputError(f"{output} holds the cases to predict or a data set; choose another folder for the doses (-o)")


def _difference(found: Catalogue, expected: Catalogue) -> str:
    for bit, (ours, theirs) in enumerate(zip(found.rois, expected.rois, strict=False)):
        if ours.name != theirs.name:
            return f"bit {bit} is '{ours.name}' there and '{theirs.name}' in the model"
        if ours.kind != theirs.kind:
            return f"'{ours.name}' is of kind '{ours.kind}' there and '{theirs.kind}' in the model"
        if ours.mirror != theirs.mirror:
            return f"'{ours.name}' has the mirror partner {ours.mirror} there and {theirs.mirror} in the model"
    return f"the catalogue has {counted(len(found), 'ROI')} there and {len(expected)} in the model"
