"""PTV and OAR score without a model: each metric is predicted as the median of the other patients' planned values.

    python benchmarks/without_a_model.py EVALUATION

EVALUATION is an output folder of ``cdm-nnunet evaluate``; only its reference values are used. The scores show how much
the plans differ between patients; where targets differ much, no loss can gain much in their metrics.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from cdm_nnunet.evaluation.pooling import SCORED_KINDS, SCORED_UNITS
from cdm_nnunet.evaluation.reading import load_evaluation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path)
    evaluation = load_evaluation(parser.parse_args().evaluation)
    planned = defaultdict(list)
    for case in evaluation.cases:
        for roi_name, roi in case.rois.items():
            for key, metric in roi.metrics.items():
                if metric.unit in SCORED_UNITS:
                    planned[roi.kind, roi_name, key].append(metric.reference)
    for score, kind in SCORED_KINDS.items():
        errors = [
            abs(value - np.median(values[:k] + values[k + 1 :]))
            for (own_kind, *_), values in planned.items()
            if own_kind == kind and len(values) > 1
            for k, value in enumerate(values)
        ]
        print(f"{score}: {np.mean(errors):.3f} ({len(errors)} values)")


if __name__ == "__main__":
    main()
