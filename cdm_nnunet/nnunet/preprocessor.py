"""Preprocessing to the grid of the network: crop, resample, normalise; ROI bits stay exact."""

from __future__ import annotations

import functools
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from numpy.typing import NDArray

from cdm_nnunet.counting import counted
from cdm_nnunet.dataset import RawDataset, case_of_image
from cdm_nnunet.documents import read_json
from cdm_nnunet.errors import InputError
from cdm_nnunet.files import raise_write_error
from cdm_nnunet.nnunet.plans import CT, FIRST_WORD, PRESCRIPTION, DosePlans, plan_command
from cdm_nnunet.nnunet.resampling import resample_ct, resample_dose, resample_nearest
from cdm_nnunet.parallel import processes_for, unordered
from cdm_nnunet.progress import progress
from cdm_nnunet.roi import WORD_BITS, Catalogue, from_words, mask_from_words

_LOCATIONS_PER_ROI = 1000


def crop_box(words: NDArray[np.float32], catalogue: Catalogue) -> tuple[slice, slice, slice]:
    """The relevant part of a case.

    If the catalogue has a dose region, dose outside it is zero by definition, so cropping to all ROI bits loses
    nothing. Without one, it is the whole image.

    Args:
        words: ROI words, shape (L, Z, Y, X).
        catalogue: Catalogue of the bits.

    Returns:
        Slices along z, y and x.

    Raises:
        InputError: If the catalogue has a dose region and the case has none.
    """
    shape = words.shape[1:]
    bit = catalogue.dose_region_bit
    if bit is None:
        return (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    if not mask_from_words(words, bit).any():
        raise InputError(f"the dose region '{catalogue.rois[bit].name}' is empty")
    occupied = words.any(0)
    ends = []
    for axis in range(3):
        line = np.flatnonzero(np.any(occupied, axis=tuple(other for other in range(3) if other != axis)))
        ends.append(slice(int(line[0]), int(line[-1]) + 1))
    return (ends[0], ends[1], ends[2])


def take_words(words: NDArray[np.float32], catalogue: Catalogue) -> NDArray[np.float32]:
    """Select the words that the catalogue needs from those of the raw channel's type.

    Raises:
        InputError: If there are too few words, or a bit beyond the catalogue is set.
    """
    if len(words) < catalogue.n_words:
        raise InputError(
            f"the ROI channel holds {WORD_BITS * len(words)} bits at most, the catalogue of the plans has "
            f"{len(catalogue)} ROIs: they belong to different data sets"
        )
    if words[catalogue.n_words :].any():
        raise InputError(f"the ROI channel has bits beyond the {counted(len(catalogue), 'ROI')} of the catalogue")
    words = words[: catalogue.n_words]
    from_words(words, len(catalogue))  # refuses non-integer words and stray bits
    return words


class DosePreprocessor(DefaultPreprocessor):
    """nnU-Net preprocessor for dose: CT and dose by cubic splines, ROI bits once by the nearest voxel."""

    def run_case_npy(
        self,
        data: NDArray[np.float32],
        seg: NDArray[np.float32] | None,
        properties: dict[str, Any],
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        dataset_json: Mapping[str, Any] | str,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, dict[str, Any]]:
        """Preprocess one case.

        Args:
            data: Result of :meth:`CDMReaderWriter.read_images`, (2 + L', Z, Y, X).
            seg: Dose in Gy, (1, Z, Y, X), or None for a new patient.
            properties: Properties from the reader; keys are added.
            plans_manager: Plans with our section.
            configuration_manager: Configuration to preprocess for.
            dataset_json: Not used: the plans contain everything relevant.

        Returns:
            float32 (2 + L, Z', Y', X'): normalised CT, prescription in units of the dose scale, ROI words.
            float32 (1, Z', Y', X'), dose in Gy, or None.
            The properties.

        Raises:
            InputError: If the bits do not fit the catalogue, or grids differ.
        """
        plans = DosePlans(plans_manager.plans)
        if seg is not None and seg.shape[1:] != data.shape[1:]:
            raise InputError(f"the dose has grid {seg.shape[1:]}, the CT {data.shape[1:]} (z, y, x)")
        words = take_words(data[FIRST_WORD:], plans.catalogue)
        box = crop_box(words, plans.catalogue)
        properties["shape_before_cropping"] = data.shape[1:]
        properties["bbox_used_for_cropping"] = [[s.start, s.stop] for s in box]
        words = words[(slice(None), *box)]
        properties["shape_after_cropping_and_before_resampling"] = words.shape[1:]

        shape = compute_new_shape(words.shape[1:], properties["spacing"], configuration_manager.spacing)
        shape = [max(int(n), 1) for n in shape]
        new_words = resample_nearest(words, shape)
        statistics = plans.ct_statistics
        ct = np.clip(data[(CT, *box)], statistics["percentile_00_5"], statistics["percentile_99_5"])
        ct = resample_ct((ct - statistics["mean"]) / max(statistics["std"], 1e-8), shape)
        prescription = (
            resample_nearest(data[(slice(PRESCRIPTION, PRESCRIPTION + 1), *box)], shape) / plans.dose_scale_gy
        )
        preprocessed = np.concatenate([ct[None], prescription, new_words]).astype(np.float32, copy=False)

        properties["cdm"] = self._own_properties(plans, words, new_words, properties)
        if seg is None:
            return preprocessed, None, properties
        dose_gy = _resample_dose(seg[(0, *box)], words, new_words, plans.catalogue)[None]
        properties["class_locations"] = _class_locations(new_words, plans.catalogue)
        return preprocessed, dose_gy, properties

    @staticmethod
    def _own_properties(
        plans: DosePlans, words: NDArray[np.float32], new_words: NDArray[np.float32], properties: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Properties of a case beyond nnU-Net's.

        ``dose_region``: mask on the cropped raw grid, packed; None if the catalogue has none. ``roi_voxels``: number of
        voxels of each ROI on the network's grid. ``voxel_volume_cc``: of the network's grid.
        """
        bit = plans.catalogue.dose_region_bit
        volume_cc = np.prod(properties["spacing"]) * np.prod(words.shape[1:]) / np.prod(new_words.shape[1:]) / 1000
        return {
            "dose_region": None
            if bit is None
            else zlib.compress(np.packbits(mask_from_words(words, bit)).tobytes(), 1),
            "roi_voxels": [int(mask_from_words(new_words, k).sum()) for k in range(len(plans.catalogue))],
            "voxel_volume_cc": float(volume_cc),
        }

    def run_case(
        self,
        image_files: Sequence[str],
        seg_file: str | None,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        dataset_json: Mapping[str, Any] | str,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, dict[str, Any]]:
        """Read and preprocess one case; as :meth:`run_case_npy`.

        Raises:
            InputError: If the case can't be used; the message names its file.
        """
        try:
            reader = plans_manager.image_reader_writer_class()
            if seg_file is None:
                data, properties = reader.read_images(image_files)
                seg = None
            else:
                data, seg, properties = reader.read_case(image_files, seg_file)
            return self.run_case_npy(data, seg, properties, plans_manager, configuration_manager, dataset_json)
        except InputError as error:
            name = case_of_image(image_files[0]) if image_files else "?"
            raise InputError(f"case '{name}': {error}") from error

    def run_case_save(
        self,
        output_filename_truncated: str,
        image_files: Sequence[str],
        seg_file: str,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        dataset_json: Mapping[str, Any] | str,
    ) -> None:
        """Preprocess a training case and store it for nnU-Net's data loader, dose as float32.

        Raises:
            InputError: As :meth:`run_case`, or if the plans have another catalogue, or the case has no record.
        """
        case = Path(output_filename_truncated).name
        plans = DosePlans(plans_manager.plans)
        raw = RawDataset(Path(seg_file).parent.parent)
        if raw.catalogue != plans.catalogue:
            raise InputError(
                f"the plans '{plans_manager.plans_name}' have another ROI catalogue than {raw.folder}, so bits would "
                f"mean other ROIs; run: {plan_command(plans.plans)}"
            )
        record = raw.record(case)
        data, dose_gy, properties = self.run_case(
            image_files, seg_file, plans_manager, configuration_manager, dataset_json
        )
        configuration = configuration_manager.data_identifier.removeprefix(f"{plans_manager.plans_name}_")
        properties["cdm"]["digest"] = plans.digest(configuration)
        properties["cdm"]["prescription_gy"] = [
            record.prescriptions_gy.get(name, float("nan")) for name in plans.catalogue.names
        ]
        patch = tuple(configuration_manager.patch_size)
        if dose_gy is None:  # (a training case has a dose file)
            raise InputError(f"case '{case}' has no reference dose")
        blocks, chunks = comp_blosc2_params(data.shape, patch, data.itemsize)
        blocks_dose, chunks_dose = comp_blosc2_params(dose_gy.shape, patch, dose_gy.itemsize)
        target = Path(output_filename_truncated)
        try:
            nnUNetDatasetBlosc2.save_case(
                data,
                dose_gy,
                properties,
                output_filename_truncated,
                chunks=chunks,
                blocks=blocks,
                chunks_seg=chunks_dose,
                blocks_seg=blocks_dose,
            )
            stored, stored_dose, _, _ = nnUNetDatasetBlosc2(str(target.parent), [case]).load_case(case)
            intact = np.array_equal(stored[:], data) and np.array_equal(stored_dose[:], dose_gy)
        except RuntimeError as error:  # blosc2's only message for a full disk
            raise_write_error(target, data.nbytes + dose_gy.nbytes, error)
        if not intact:
            raise_write_error(target, data.nbytes + dose_gy.nbytes, None)

    def run(
        self, dataset_name_or_id: int | str, configuration_name: str, plans_identifier: str, num_processes: int
    ) -> None:
        """Preprocess all training cases of a data set for one configuration.

        The result appears under its name only when every case is finished: an interrupted run leaves nothing that
        looks complete to a training.

        Raises:
            InputError: If a case can't be used.
        """
        dataset_name = maybe_convert_to_dataset_name(dataset_name_or_id)
        folder = Path(nnUNet_preprocessed) / dataset_name
        plans_manager = PlansManager(str(folder / f"{plans_identifier}.json"))
        DosePlans(plans_manager.plans)  # refuses other plans before processes start
        configuration_manager = plans_manager.get_configuration(configuration_name)
        dataset_json = read_json(folder / "dataset.json", dict[str, Any], "run 'cdm-nnunet plan' again")
        cases = get_filenames_of_train_images_and_targets(str(Path(nnUNet_raw) / dataset_name), dataset_json)

        target = folder / configuration_manager.data_identifier
        partial = folder / f".partial_{configuration_manager.data_identifier}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        jobs = [(str(partial / case), files["images"], files["label"]) for case, files in cases.items()]
        work = functools.partial(
            self._save,
            plans_manager=plans_manager,
            configuration_manager=configuration_manager,
            dataset_json=dataset_json,
        )
        try:
            done = unordered(work, jobs, processes_for(len(jobs), num_processes))
            for _ in progress(done, desc=f"preprocess {configuration_name}", total=len(jobs)):
                pass
            shutil.rmtree(target, ignore_errors=True)
            os.replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _save(self, job: tuple[str, list[str], str], **managers: Any) -> None:
        self.run_case_save(*job, **managers)


def _resample_dose(
    dose_gy: NDArray[np.float32], words: NDArray[np.float32], new_words: NDArray[np.float32], catalogue: Catalogue
) -> NDArray[np.float32]:
    """The dose on the new grid; also there zero outside the dose region."""
    bit = catalogue.dose_region_bit
    if bit is None:
        return resample_dose(dose_gy, None, new_words.shape[1:])
    return resample_dose(dose_gy, mask_from_words(words, bit), new_words.shape[1:]) * mask_from_words(new_words, bit)


def _class_locations(words: NDArray[np.float32], catalogue: Catalogue) -> dict[int, NDArray[np.int32]]:
    """Voxels around which patches are drawn: for each target and OAR, by its bit, up to 1000 of its voxels.

    Each row is (0, z, y, x), as nnU-Net's data loader expects it.
    """
    generator = np.random.default_rng(1234)
    locations = {}
    for bit in catalogue.bits_of_kind("target", "oar"):
        voxels = np.flatnonzero(mask_from_words(words, bit))
        if len(voxels) > _LOCATIONS_PER_ROI:
            voxels = generator.choice(voxels, _LOCATIONS_PER_ROI, replace=False)
        zyx = np.stack(np.unravel_index(voxels, words.shape[1:]), 1)
        locations[bit] = np.concatenate([np.zeros((len(zyx), 1)), zyx], 1).astype(np.int32)
    return locations
