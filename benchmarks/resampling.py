"""Resampling error of a configuration: reference doses on the network's grid and back, scored as predictions.

    python benchmarks/resampling.py -d 501 -c 3d_coarse -o resampling_3d_coarse

Resamples the preprocessed doses of a planned data set back, as if a perfect network had predicted them, and evaluates
them. No model on this grid can be expected to score better.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from cdm_nnunet.dataset import FILE_ENDING, RawDataset
from cdm_nnunet.folders import find_dataset, folder, set_environment
from cdm_nnunet.images import Image, read_image, write_image
from cdm_nnunet.nnunet.export import dose_on_patient_grid
from cdm_nnunet.nnunet.plans import DosePlans


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", type=int, required=True, metavar="ID", help="dataset id")
    parser.add_argument("-c", default="3d_coarse", metavar="CONFIGURATION")
    parser.add_argument("-f", type=int, default=0, metavar="FOLD", help="whose validation cases are taken (default: 0)")
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="where doses and evaluation go")
    args = parser.parse_args()

    set_environment()
    raw = RawDataset(find_dataset(args.d))
    preprocessed = folder("nnUNet_preprocessed") / raw.folder.name
    plans = DosePlans(json.loads((preprocessed / "nnUNetPlans.json").read_text()))
    cases = json.loads((preprocessed / "splits_final.json").read_text())[args.f]["val"]
    data = nnUNetDatasetBlosc2(str(preprocessed / f"nnUNetPlans_{args.c}"), cases)
    for case in cases:
        _, dose_gy, _, properties = data.load_case(case)
        back_gy = dose_on_patient_grid(np.asarray(dose_gy[:]) / plans.dose_scale_gy, properties, plans)
        reference = read_image(raw.dose_path(case))
        path = args.o / "doses" / (case + FILE_ENDING)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(Image(back_gy, reference.grid, path))
    evaluate = ("evaluate", "-d", str(args.d), "-i", str(args.o / "doses"), "-o", str(args.o / "evaluation"))
    subprocess.run([sys.executable, "-m", "cdm_nnunet.cli.main", *evaluate, "--pictures", "0"], check=True)


if __name__ == "__main__":
    main()
