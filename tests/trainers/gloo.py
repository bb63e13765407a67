"""nnU-Net's training on two "GPUs" that are processes of this CPU: ``python gloo.py COMMAND ARGUMENTS``.

Only code fixed to CUDA is replaced: NCCL by gloo, and the device. Started processes read this file again (as
``__mp_main__``), so that it applies to them too.
"""

import functools
import sys
from unittest import mock

import torch
from nnunetv2.run import run_training as stock
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock_trainer
from torch import distributed

CPU = torch.device("cpu")
torch.set_num_threads(1)


def on_cpu(make_trainer):
    @functools.wraps(make_trainer)
    def make(*arguments, **named):
        trainer = make_trainer(*arguments, **{**named, "device": CPU})
        trainer.device, trainer.grad_scaler = CPU, None  # (nnU-Net takes the GPU of the process' rank)
        return trainer

    return make


start_group = distributed.init_process_group
distributed.init_process_group = lambda _, **named: start_group("gloo", **named)
torch.cuda.set_device = lambda _: None
stock.get_trainer_from_args = on_cpu(stock.get_trainer_from_args)
wrapped = stock_trainer.DDP
stock_trainer.DDP = lambda network, device_ids: wrapped(network)

if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    with (
        mock.patch.object(torch.cuda, "is_available", return_value=True),
        mock.patch.object(torch.cuda, "device_count", return_value=2),
    ):
        if command == "nnUNetv2_train":
            sys.argv = [command, *arguments]
            sys.exit(stock.run_training_entry())
        from cdm_nnunet.cli.main import main

        sys.exit(main([command, *arguments]))
