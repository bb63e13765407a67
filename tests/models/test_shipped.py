"""Models that ship are found by name; export with other weights; half precision."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from cdm_nnunet.cli.main import main
from cdm_nnunet.errors import InputError
from cdm_nnunet.models import shipped
from cdm_nnunet.models.shipped import find_model, shipped_models
from cdm_nnunet.nnunet.checkpoint import read_checkpoint
from cdm_nnunet.nnunet.packaged import packed_weights, read_package, unpacked_weights

REPOSITORY = Path(__file__).resolve().parents[2]
ONE_FOLD = ["-d", "561", "-c", "3d_packed", "-tr", "nnUNetTrainerDoseMAE", "-f", "0"]


@pytest.fixture
def ships(clinic, tmp_path, monkeypatch):
    """A replacement for the folder of shipped models, with one model."""
    here = tmp_path / "site"
    with zipfile.ZipFile(clinic.package) as archive:
        archive.extractall(here)
    (here / "clinic_hn").rename(here / "stand_in")
    monkeypatch.setattr(shipped.resources, "files", lambda package: here)
    return here


def test_a_shipped_model_is_found_by_name(ships, clinic, tmp_path, capfd, monkeypatch):
    assert find_model("stand_in") == ships / "stand_in"
    out = ["predict", "--dicom", str(clinic.new), "-o", str(tmp_path / "out"), "-device", "cpu", "-np", "0"]
    assert main([*out, "-m", "stand_in"]) == 0
    assert len(list((tmp_path / "out").glob("*.dcm"))) == 1
    assert main([*out, "-m", "standin"]) == 2
    assert "no model standin: give a folder, a ZIP file, or the name of a shipped model; these ship: stand_in" in (
        capfd.readouterr().err
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stand_in").mkdir()  # (predictions may be called so)
    assert find_model("stand_in") == ships / "stand_in"
    shutil.copy(ships / "stand_in" / "model.json", tmp_path / "stand_in")
    with pytest.raises(
        InputError, match=r"'stand_in' is a model that ships and one in this folder; .* write \./stand_in"
    ):
        find_model("stand_in")
    shutil.rmtree(ships / "stand_in")
    with pytest.raises(InputError, match="no model ships with this version"):
        find_model("other")


def test_what_ships_is_whole_and_small():
    for name, path in shipped_models().items():
        assert read_package(path).name == name
        assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) <= 4 * 2**20


def test_the_record_in_the_repository_is_of_the_model_that_ships():
    """Its scores equal those of the package, within the arithmetic of two machines, and those of the page."""
    record = json.loads((REPOSITORY / "benchmarks/results/openkbp_hn/result.json").read_text())
    package = json.loads((find_model("openkbp_hn") / "scores.json").read_text())
    assert record["model"]["weights_sha256"] == package["model"]["weights_sha256"]
    assert record["n_cases"] == package["n_cases"] == len(record["cases"])
    scores = [
        (one["openkbp"]["dose_score"], one["openkbp"]["dvh_score"], one["ptv_score"], one["oar_score"])
        for one in (record["scores"], package["scores"])
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.005)
    page = (REPOSITORY / "docs/results/openkbp.md").read_text()
    (row,) = re.findall(r"^\| half precision, as shipped \|(.*)\|$", page, re.M)
    assert [float(number) for number in row.split("|")] == pytest.approx(scores[0], abs=0.006)


def test_half_precision_is_half_the_size_and_changes_the_dose_little(clinic, tmp_path):
    assert main(["model", "export", *ONE_FOLD, "--half", "-o", str(tmp_path / "half")]) == 0
    assert main(["model", "export", *ONE_FOLD, "-o", str(tmp_path / "single")]) == 0
    single, half = (read_package(tmp_path / name).checkpoints[0] for name in ("single", "half"))
    sizes = [(tmp_path / name / "weights" / "fold_0.safetensors").stat().st_size for name in ("single", "half")]
    assert 0.45 < sizes[1] / sizes[0] < 0.7  # (names are a part of so small a network)
    assert single.digest == read_checkpoint(clinic.model / "fold_0" / "checkpoint_final.pth").digest != half.digest
    for name, value in single.weights.items():
        assert half.weights[name].dtype == torch.float32
        torch.testing.assert_close(half.weights[name], value, rtol=2**-11, atol=2**-25)


def test_weights_that_half_precision_cannot_hold():
    with pytest.raises(InputError, match="weight a has values up to 70000, which half precision can't hold"):
        packed_weights({"a": torch.tensor([70000.0])}, "half")
    with pytest.raises(InputError, match="weight a is not finite"):
        packed_weights({"a": torch.tensor([np.nan])}, "single")
    weights = {"a": torch.arange(3.0), "b": torch.arange(3.0), "n": torch.tensor(5), "empty": torch.zeros(0, 2)}
    content = packed_weights(weights, "single")
    back = unpacked_weights(content, "here")
    assert {name: value.tolist() for name, value in back.items()} == {k: v.tolist() for k, v in weights.items()}
    assert len(content) < len(packed_weights({**weights, "b": torch.ones(3)}, "single"))  # duplicates are stored once


@pytest.mark.parametrize("form", ["plain", "checkpoint", "averaged", "safetensors"])
def test_given_weights_take_the_place_of_the_checkpoint(clinic, tmp_path, form):
    weights = read_checkpoint(clinic.model / "fold_1" / "checkpoint_final.pth").weights
    file = tmp_path / ("average.safetensors" if form == "safetensors" else "average.pt")
    if form == "safetensors":
        file.write_bytes(packed_weights(weights, "single"))
    elif form == "averaged":
        torch.save({"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in weights.items()}}, file)
    else:
        torch.save({"network_weights": dict(weights)} if form == "checkpoint" else dict(weights), file)
    assert main(["model", "export", *ONE_FOLD, "--weights", str(file), "-o", str(tmp_path / "model.zip")]) == 0
    (fold,) = read_package(tmp_path / "model.zip").checkpoints
    assert fold.fold == "0"
    assert all(torch.equal(fold.weights[name], value) for name, value in weights.items())


class Evil:
    def __reduce__(self):
        return print, ("evil",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda w: {**w, "more": torch.zeros(1)}, r"of another network: 1 of \d+ weights do not fit, such as more"),
        (lambda w: {k: v[..., :1] for k, v in w.items()}, "of another network: "),
        (lambda w: {"a": 1}, "is not a state dict: it holds other things than tensors by name"),
        (lambda w: {"a": Evil()}, "is not a state dict: "),
    ],
)
def test_given_weights_that_do_not_fit(clinic, tmp_path, capfd, content, message):
    torch.save(
        content(dict(read_checkpoint(clinic.model / "fold_0" / "checkpoint_final.pth").weights)), tmp_path / "w.pt"
    )
    options = ["--weights", str(tmp_path / "w.pt"), "-o", str(tmp_path / "model.zip")]
    assert main(["model", "export", *ONE_FOLD, *options]) == 2
    shown = capfd.readouterr()
    assert "evil" not in shown.out
    (line,) = [line for line in shown.err.splitlines() if line.startswith("cdm-nnunet: error:")]
    assert re.search(message, line)
    assert not (tmp_path / "model.zip").exists()
    assert main(["model", "export", *ONE_FOLD, "1", *options]) == 2
    assert "--weights replaces the weights of one fold, not of 2" in capfd.readouterr().err
