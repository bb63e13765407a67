"""A node with a stand-in for the model: 60 Gy in a box. As a program, it kills itself on request.

    python stand_in.py CONFIG ARMED N

runs the node of a configuration. From the moment on when the file ARMED is there, it kills itself before the Nth time
that it would give a file or folder its name.
"""

import itertools
import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np

from cdm_nnunet.dicom.destination import find_destination
from cdm_nnunet.dicom.export import export_dose
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.images import Image, write_image
from cdm_nnunet.node.predicting import PredictedDose
from cdm_nnunet.node.service import run_node
from cdm_nnunet.node.settings import read_settings


class StandIn:
    """Predicts a dose that is higher at one end, on a grid of 6 x 5 x 4 voxels."""

    identity = "stand-in"

    def predict_patient(self, folder, out):
        out.mkdir()
        values = np.linspace(1, 60, 120, dtype=np.float32).reshape(4, 5, 6)
        grid = Grid.of_image(values.shape, (3.0, 3.0, 3.0), (-6.0, -6.0, -5.0), np.eye(3).ravel())
        write_image(Image(values, grid, out / "dose.nii.gz"))
        exported = export_dose(out / "dose.nii.gz", find_destination(folder), out / "dose.dcm")
        return PredictedDose(exported.path, exported.maximum_gy)


def kill_before(number, armed):
    """Let this process kill itself before one of its renames."""
    counted = itertools.count(1)

    def counting(function):
        def renamed(source, target, *args, **options):
            if armed.exists() and next(counted) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(source, target, *args, **options)

        return renamed

    os.replace, os.rename = counting(os.replace), counting(os.rename)


if __name__ == "__main__":
    kill_before(int(sys.argv[3]), Path(sys.argv[2]))
    run_node(read_settings(Path(sys.argv[1])), lambda line: print(line, flush=True), threading.Event(), StandIn)
