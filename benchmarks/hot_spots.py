"""Profile of a loader sample and of a training step, on a preprocessed data set.

    python benchmarks/hot_spots.py 501 3d_coarse [-tr nnUNetTrainerCDM] [--batches 20] [--steps 3] [--rows 12]

Processor time of one thread, so that other work on the machine does not count. Nothing is written into the results.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time

import torch


def loader_table(trainer: object, n_batches: int, rows: int) -> None:
    """Functions by their own time."""
    loader, _ = trainer.get_dataloaders()
    start = time.process_time()
    for _ in range(n_batches):
        next(loader)
    seconds = (time.process_time() - start) / n_batches / trainer.batch_size
    print(f"loader: {1000 * seconds:.2f} ms a sample")
    profile = cProfile.Profile(time.process_time)
    profile.runcall(lambda: [next(loader) for _ in range(n_batches)])
    pstats.Stats(profile, stream=sys.stdout).strip_dirs().sort_stats("tottime").print_stats(rows)


def step_table(trainer: object, n_steps: int, rows: int) -> None:
    """Operators by their own time."""
    loader, _ = trainer.get_dataloaders()
    batch = next(loader)
    trainer.network.train()
    trainer.train_step(batch)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(n_steps):
            trainer.train_step(batch)
    print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=rows, max_name_column_width=40))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("-tr", default="nnUNetTrainerCDM")
    for name, default in {"batches": 20, "steps": 3, "rows": 12}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    import os

    from nnunetv2.run.run_training import get_trainer_from_args

    import cdm_nnunet.nnunet  # noqa: F401  # registers our classes
    from cdm_nnunet.trainers.estimate import elsewhere

    torch.set_num_threads(1)
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112  # nnU-Net's name
    with elsewhere():
        trainer = get_trainer_from_args(
            args.dataset, args.configuration, 0, args.tr, "nnUNetPlans", device=torch.device("cpu")
        )
        trainer.initialize()
        trainer.current_epoch = trainer.num_epochs - 1  # every loss is on
        loader_table(trainer, args.batches, args.rows)
        step_table(trainer, args.steps, args.rows)


if __name__ == "__main__":
    main()
