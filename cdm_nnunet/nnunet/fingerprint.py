"""Fingerprint of a data set for planning: grids after cropping, CT statistics, fall-off, ranges of its patients."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.paths import nnUNet_preprocessed
from numpy.typing import NDArray

from cdm_nnunet.dataset import CT_CHANNEL, PRESCRIPTION_CHANNEL, RawDataset
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import write_json
from cdm_nnunet.nnunet.case_facts import CaseFacts
from cdm_nnunet.nnunet.cohort import SECTION as COHORT
from cdm_nnunet.nnunet.cohort import Cohort
from cdm_nnunet.nnunet.first_guess import best_width_mm, misfits_gy
from cdm_nnunet.nnunet.plans import FIRST_WORD
from cdm_nnunet.nnunet.preprocessor import crop_box, take_words
from cdm_nnunet.nnunet.reader import CDMReaderWriter
from cdm_nnunet.parallel import processes_for, unordered
from cdm_nnunet.progress import progress
from cdm_nnunet.roi import Catalogue

SPACINGS = "spacings_mm"  # nnU-Net's name for it is "spacings"
FALL_OFF = "fall_off_mm"  # a standard deviation
_CT_SAMPLES = 1_000_000  # over the whole data set: nnU-Net's 1e8 give no better percentiles and take minutes


class DoseFingerprintExtractor(DatasetFingerprintExtractor):
    """Fingerprint of a dose data set, in the layout of nnU-Net's, from the cropped cases.

    nnU-Net's own planner does not find the spacings, and so stops with an error before it overwrites our plans.
    Every training case is read in full and checked: geometry, types, bits, dose.
    """

    def run(self, overwrite_existing: bool = False) -> dict[str, Any]:
        """Write and return ``dataset_fingerprint.json``.

        Args:
            overwrite_existing: Not used: the fingerprint is always made again, in seconds, so that it fits the data.

        Returns:
            nnU-Net's entries, with intensity statistics of the CT (channel 0) in voxels with dose, the width of the
            first guess (:func:`best_width_mm`), the highest prescription, and the ranges of the patients
            (:class:`Cohort`).

        Raises:
            InputError: If a case can't be used.
        """
        raw = RawDataset(Path(self.input_folder))
        missing = sorted(set(self.dataset) ^ {case for case, record in raw.cases.items() if record.split == "Tr"})
        if missing:
            raise InputError(
                f"imagesTr and cdm_cases.json of {self.input_folder} disagree about {', '.join(missing[:5])}"
                f"{' ...' if len(missing) > 5 else ''}; convert the data again"
            )
        samples = max(_CT_SAMPLES // len(self.dataset), 1000)
        jobs = [(files["images"], files["label"]) for files in self.dataset.values()]
        work = functools.partial(_analyse, catalogue=raw.catalogue, n_samples=samples)
        facts: list[Mapping[str, Any]] = [{}] * len(jobs)
        done = unordered(work, jobs, processes_for(len(jobs), self.num_processes))
        for position, fact in progress(done, desc="fingerprint", total=len(jobs)):
            facts[position] = fact
        fingerprint = {
            SPACINGS: [fact["spacing"] for fact in facts],
            "shapes_after_crop": [fact["shape"] for fact in facts],
            "foreground_intensity_properties_per_channel": {
                str(CT_CHANNEL): _statistics(np.concatenate([fact["ct"] for fact in facts]))
            },
            "median_relative_size_after_cropping": float(np.median([fact["relative_size"] for fact in facts])),
            FALL_OFF: best_width_mm(fact["misfits_gy"] for fact in facts),
            "max_prescription_gy": max(fact["max_prescription_gy"] for fact in facts),
            COHORT: Cohort.of([fact["case"] for fact in facts]).to_json(),
        }
        path = Path(nnUNet_preprocessed) / self.dataset_name / "dataset_fingerprint.json"
        write_json(path, fingerprint)
        return fingerprint


def _analyse(files: tuple[list[str], str], *, catalogue: Catalogue, n_samples: int) -> Mapping[str, Any]:
    images, dose = files
    data, dose_gy, properties = CDMReaderWriter().read_case(images, dose)
    try:
        box = crop_box(take_words(data[FIRST_WORD:], catalogue), catalogue)
        case = CaseFacts.measure(data, properties["spacing"], catalogue)
    except InputError as error:
        raise InputError(f"{images[-1]}: {error}") from error
    ct = data[(CT_CHANNEL, *box)]
    inside = ct[dose_gy[(0, *box)] > 0]
    if not inside.size:
        raise InputError(f"{dose} is zero everywhere")
    return {
        "spacing": properties["spacing"],
        "shape": [int(n) for n in ct.shape],
        "relative_size": ct.size / data[0].size,
        "ct": np.random.default_rng(1234).choice(inside, n_samples),
        "misfits_gy": misfits_gy(data[PRESCRIPTION_CHANNEL], dose_gy[0], properties["spacing"]),
        "max_prescription_gy": float(data[PRESCRIPTION_CHANNEL].max()),
        "case": case,
    }


def _statistics(values: NDArray[np.floating]) -> dict[str, float]:
    low, median, high = np.percentile(values, (0.5, 50.0, 99.5))
    return {
        "mean": float(values.mean(dtype=np.float64)),
        "median": float(median),
        "std": float(values.std(dtype=np.float64)),
        "min": float(values.min()),
        "max": float(values.max()),
        "percentile_99_5": float(high),
        "percentile_00_5": float(low),
    }
