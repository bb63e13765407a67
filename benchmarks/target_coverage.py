"""Does geometry predict how well a plan covers its target? V95% against the target's size, skin and OARs.

    python benchmarks/target_coverage.py -d 501 [--roi PTV_7000]

Takes the training patients of fold 0 of a raw data set. For the plans of lowest coverage it also prints how often
cold voxels (below 95 % of the prescription) lie near the skin or OARs, and how often the target's voxels do.
"""

import argparse
import json

import numpy as np
from scipy import ndimage
from scipy.stats import spearmanr

from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.folders import find_dataset, set_environment
from cdm_nnunet.images import read_image
from cdm_nnunet.roi import unpack

NEAR_MM = 6.0
SKIN_HU = -400.0
N_LOWEST = 8
PLACES = ("near skin", "in OARs", "near OARs")


def coverage(raw: RawDataset, case: str, roi: str) -> tuple[float, ...]:
    """V95%, voxels of the target, and the shares (%) of its voxels and of its cold voxels in each region."""
    record, names = raw.record(case), [entry.name for entry in raw.catalogue.rois]
    masks = unpack(read_image(raw.image_path(case, 2)).values, len(names))
    ct = read_image(raw.image_path(case, 0)).values
    target = masks[names.index(roi)]
    cold = target & (read_image(raw.dose_path(case)).values < 0.95 * record.prescriptions_gy[roi])
    oars = masks[[entry.kind == "oar" for entry in raw.catalogue.rois]].any(axis=0)
    parts, _ = ndimage.label(~ndimage.binary_fill_holes(ct > SKIN_HU))
    sizes = np.bincount(parts.ravel())
    air = parts == 1 + sizes[1:].argmax()
    near_skin, near_oars = (
        ndimage.distance_transform_edt(~there, sampling=record.spacing_mm) < NEAR_MM for there in (air, oars)
    )
    places = (near_skin, oars, near_oars)
    of_target = [100 * (target & place).sum() / target.sum() for place in places]
    of_cold = [100 * (cold & place).sum() / max(cold.sum(), 1) for place in places]
    return (100 * (1 - cold.sum() / target.sum()), target.sum(), *of_target, *of_cold)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", type=int, required=True, metavar="ID", help="dataset id")
    parser.add_argument("--roi", default="PTV_7000", metavar="NAME", help="a target (default: PTV_7000)")
    args = parser.parse_args()

    set_environment()
    raw = RawDataset(find_dataset(args.d))
    training = json.loads((raw.folder / "splits_final.json").read_text())[0]["train"]
    cases = sorted(case for case in training if args.roi in raw.record(case).rois)
    values = np.array([coverage(raw, case, args.roi) for case in cases])
    v95, n_places = values[:, 0], len(PLACES)
    print(f"{len(cases)} plans, V95% of {args.roi}: mean {v95.mean():.1f}, median {np.median(v95):.1f}\n")
    print("| property of the target | rank correlation with V95% |\n| --- | --- |")
    for name, column in zip(("voxels", *PLACES), values.T[1 : 2 + n_places], strict=True):
        print(f"| {name} | {spearmanr(column, v95).statistic:+.2f} |")
    header = " | ".join(f"{place}: cold, all (%)" for place in PLACES)
    print(f"\n| lowest | V95% | {header} |\n" + "| --- " * (2 + n_places) + "|")
    for index in v95.argsort()[:N_LOWEST]:
        of_target, of_cold = values[index, 2 : 2 + n_places], values[index, 2 + n_places :]
        shares = " | ".join(f"{cold:.1f}, {all_:.1f}" for cold, all_ in zip(of_cold, of_target, strict=True))
        print(f"| {cases[index]} | {v95[index]:.1f} | {shares} |")


if __name__ == "__main__":
    main()
