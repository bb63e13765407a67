"""Share of each weighted DVH loss relative to the voxel-wise MAE, in value and gradient, on real batches.

    python benchmarks/loss_shares.py 501 3d_coarse 0 --weights CHECKPOINT [--batches 20] [--seed 0]

The losses of all trainers are computed for a model's doses on validation patches of preprocessed patients, with the
settings of the environment (``CDM_...``). Prints a Markdown table of medians over the batches: the weighted loss as a
percentage of the MAE, and the Euclidean norm of its gradient with respect to the dose as a percentage of that of the
MAE. Without ``--weights`` the network is untrained. Everything acts on the finest output; nothing is trained or kept.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from nnunetv2.run.run_training import get_trainer_from_args
from torch import Tensor

import cdm_nnunet.trainers
from cdm_nnunet.losses.dose import region_mae
from cdm_nnunet.losses.terms import Terms
from cdm_nnunet.nnunet.compute import autocast, to_device
from cdm_nnunet.nnunet.facts import loss_arguments
from cdm_nnunet.nnunet.plans import FIRST_WORD
from cdm_nnunet.trainers import nnUNetTrainerDoseMAE


def losses(trainer: nnUNetTrainerDoseMAE) -> dict[str, Any]:
    """The loss that each trainer adds to the MAE or uses instead: from dose in Gy and a batch's facts to a scalar."""
    terms = Terms.of(trainer.dose_plans.template, trainer.dose_plans.catalogue, "loss")
    scale_gy = trainer.dose_plans.dose_scale_gy
    found = {}
    for name in cdm_nnunet.trainers.find_trainers():
        kind = getattr(cdm_nnunet.trainers, name)
        dvh_loss = kind.build_dvh_loss(trainer, terms)
        if dvh_loss is None:
            found[name] = lambda dose_gy, reference_gy, region, *_, error=kind.voxel_error: error(
                dose_gy / scale_gy, reference_gy / scale_gy, region
            )
        else:
            weight = kind.dvh_weight if trainer.settings.loss_weight is None else trainer.settings.loss_weight
            found[name] = lambda dose_gy, reference_gy, _, *facts, loss=dvh_loss, weight=weight: (
                weight * loss(dose_gy, reference_gy, *facts)
            )
    return found


def shares(trainer: nnUNetTrainerDoseMAE, batch: dict[str, Any], found: dict[str, Any]) -> dict[str, Tensor]:
    """(value, gradient norm) of each loss as shares of the MAE's, and the MAE itself in Gy, of one batch."""
    data, reference_gy = to_device(batch["data"], trainer.device), batch["target"].to(trainer.device)
    words = data[:, FIRST_WORD:]
    region = trainer.dose_region(words)
    scale_gy = trainer.dose_plans.dose_scale_gy
    with torch.no_grad(), autocast(trainer.device):
        output = trainer.network(data)
    output = output[0] if isinstance(output, list | tuple) else output
    dose_gy = (output.float() * region * scale_gy).requires_grad_()
    facts = loss_arguments(batch["facts"])

    def value_and_norm(loss: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(loss, dose_gy)
        return torch.stack([loss.detach(), gradient.norm()])

    mae = value_and_norm(region_mae(dose_gy / scale_gy, reference_gy / scale_gy, region))
    of_losses = {
        name: value_and_norm(loss(dose_gy, reference_gy, region, words, *facts)) / mae for name, loss in found.items()
    }
    return {**of_losses, "MAE in Gy": mae * scale_gy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("fold", type=int)
    parser.add_argument("-p", default="nnUNetPlans", metavar="PLANS")
    parser.add_argument("--weights", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ |= {
        "nnUNet_n_proc_DA": "0",
        "CDM_SEED": str(args.seed),
    }  # no worker processes: the same batches each time
    with tempfile.TemporaryDirectory() as results:
        os.environ |= {"nnUNet_results": results}
        trainer = get_trainer_from_args(
            args.dataset,
            args.configuration,
            args.fold,
            nnUNetTrainerDoseMAE.__name__,
            args.p,
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        )
        trainer.initialize()
        if args.weights is not None:
            trainer.load_pretrained_weights(str(args.weights))
        _, batches = trainer.get_dataloaders()
        found = losses(trainer)
        rows = [shares(trainer, next(batches), found) for _ in range(args.batches)]
    mae_gy = statistics.median(float(row["MAE in Gy"][0]) for row in rows)
    print(f"{args.batches} batches, MAE {mae_gy:.2f} Gy\n")
    print("| loss of | value, % of the MAE | gradient, % of the MAE's |\n| --- | --- | --- |")
    for name in found:
        value, norm = (100 * statistics.median(float(row[name][i]) for row in rows) for i in range(2))
        print(f"| `{name}` | {value:.3g} | {norm:.3g} |")


if __name__ == "__main__":
    main()
