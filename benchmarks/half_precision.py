"""How much a dose changes when the weights of a model are stored in half precision.

    python benchmarks/half_precision.py SINGLE HALF IMAGES [--cases CASE ...] [--float32]

SINGLE and HALF are packages of one model (``cdm-nnunet model export``, without and with ``--half``), IMAGES is a folder
of cases. Both predict each case; the largest and the mean absolute difference over its voxels above 1 Gy are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

import numpy as np

from cdm_nnunet import Model
from cdm_nnunet.dataset import FILE_ENDING, case_of_image
from cdm_nnunet.images import read_image
from cdm_nnunet.nnunet import predictor
from cdm_nnunet.nnunet.inputs import find_cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("single")
    parser.add_argument("half")
    parser.add_argument("images", type=Path)
    parser.add_argument("--cases", nargs="+", help="only these")
    parser.add_argument("--float32", action="store_true", help="compute in float32 throughout")
    args = parser.parse_args()
    if args.float32:
        predictor.autocast = lambda device: contextlib.nullcontext()
    models = [Model.load(path) for path in (args.single, args.half)]
    cases = [files for files in find_cases(args.images) if not args.cases or case_of_image(files[0]) in args.cases]
    largest_gy = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for files in cases:
            case = case_of_image(files[0])
            doses_gy = []
            for number, model in enumerate(models):
                model.predict_files([files], Path(folder) / str(number), n_processes=0)
                doses_gy.append(read_image(Path(folder) / str(number) / f"{case}{FILE_ENDING}").values)
            change_gy = np.abs(doses_gy[1] - doses_gy[0])[doses_gy[0] > 1]
            largest_gy = max(largest_gy, float(change_gy.max()))
            print(f"{case}: at most {change_gy.max():.4f} Gy, mean {change_gy.mean():.5f} Gy", flush=True)
    print(f"{len(cases)} cases: at most {largest_gy:.4f} Gy")


if __name__ == "__main__":
    main()
