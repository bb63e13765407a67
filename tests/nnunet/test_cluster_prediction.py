"""Prediction on a real Dask cluster: the doses, records and messages of one process."""

import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk

from cdm_nnunet.errors import InputError
from cdm_nnunet.parallel.cluster import on_cluster
from cdm_nnunet.prediction.cases import CasePredictor
from cdm_nnunet.prediction.models import ModelChoice

distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")


@pytest.fixture
def images(planned, tmp_path) -> Path:
    """Three cases; the CT of one is empty."""
    folder = tmp_path / "images"
    shutil.copytree(planned.raw.folder / "imagesTs", folder)
    shutil.copy(planned.raw.folder / "dataset.json", folder)
    for name in ("wrong", "last"):
        for channel in range(3):
            shutil.copy(folder / f"test_0_000{channel}.nii.gz", folder / f"{name}_000{channel}.nii.gz")
    ct = folder / "wrong_0000.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(ct)) * 0, str(ct))
    return folder


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "predict_from_raw_data_args.json"}


def test_doses_records_and_messages_are_those_of_one_process(save, images, tmp_path, capfd):
    save(0)
    predictor = CasePredictor(
        ModelChoice(int(save.folder.parent.name[7:10]), trainer="nnUNetTrainerDoseMAE"), device="cpu", n_processes=0
    )
    with pytest.raises(InputError, match="case 'wrong': ") as here:
        predictor.predict_folder(images, tmp_path / "here")
    notes_here = [line for line in capfd.readouterr().err.splitlines() if line.startswith("case '")]
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        with on_cluster(cluster.scheduler_address), pytest.raises(InputError) as there:
            predictor.predict_folder(images, tmp_path / "there")
        notes_there = [line for line in capfd.readouterr().err.splitlines() if line.startswith("case '")]
        with on_cluster(cluster.scheduler_address, needs_gpu=False):
            (images / "wrong_0000.nii.gz").write_bytes((images / "last_0000.nii.gz").read_bytes())
            predictor.predict_folder(images, tmp_path / "there")  # by the model that the workers have kept
        with (
            pytest.raises(InputError, match="no worker offers a GPU"),
            on_cluster(cluster.scheduler_address, needs_gpu=True),
        ):
            pass
    assert str(there.value) == str(here.value)
    assert notes_there == notes_here
    doses = written(tmp_path / "there")
    assert written(tmp_path / "here").items() <= doses.items()
    assert doses["wrong.nii.gz"] == doses["last.nii.gz"]
