"""Fine-tuning: -pretrained_weights, as nnU-Net's command hands it on."""

import os

import pytest
import torch
from nnunetv2.run import run_training

from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.checkpoint import write_checkpoint


def load(trainer, path):
    run_training.maybe_load_checkpoint(trainer, False, False, str(path))


def saved(make_trainer, tmp_path):
    trainer = make_trainer("nnUNetTrainerDoseMAE", SEED="1")
    trainer.initialize()
    for layer in trainer.network.decoder.seg_layers:  # (they start at zero)
        torch.nn.init.normal_(layer.weight)
    path = tmp_path / "mae.pth"
    trainer.save_checkpoint(str(path))
    return trainer, path


def test_fine_tuning_at_no_learning_rate_predicts_as_the_checkpoint(make_trainer, started, tmp_path):
    first, path = saved(make_trainer, tmp_path)
    second, batch = started("nnUNetTrainerCDM", SEED="2", LEARNING_RATE="1e-12", LOSS_START="0")
    load(second, path)
    second.train_step(batch)
    for trainer in (first, second):
        trainer.network.eval()
    with torch.no_grad():
        doses = [trainer.network(batch["data"])[0] for trainer in (first, second)]
    assert doses[0].std() > 0
    torch.testing.assert_close(*doses, rtol=0, atol=1e-6)


def test_a_file_that_is_no_checkpoint(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.initialize()
    (tmp_path / "text.pth").write_text("weights")
    torch.save({"network_weights": {}}, tmp_path / "half.pth")
    for name, message in (
        ("text.pth", "is damaged or cut, or not a checkpoint"),
        ("half.pth", "is not a checkpoint of nnU"),
    ):
        with pytest.raises(InputError, match=rf"{name} {message}"):
            load(trainer, tmp_path / name)


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_a_file_that_would_run_something(make_trainer, tmp_path):
    trainer, path = saved(make_trainer, tmp_path)
    torch.save({**torch.load(path), "more": Evil(tmp_path / "mark")}, path)
    with pytest.raises(InputError, match=r"mae\.pth names 'posix\.mkdir', which no checkpoint .* is not read"):
        load(trainer, path)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["init_args"]["plans"].pop("cdm"), "of a model that predicts no dose"),
        (lambda c: c["init_args"]["plans"]["cdm"]["catalogue"].reverse(), "ROI catalogue: entry 0 .* claims bit"),
        (lambda c: c["init_args"]["plans"]["cdm"]["catalogue"].pop(), "weights are not of its ROI catalogue: "),
        (
            lambda c: c["init_args"]["plans"]["cdm"].update(dose_scale_gy=60.0),
            r"another dose scale \(60.0 Gy, here 70.0 Gy\)",
        ),
        (
            lambda c: c["network_weights"].popitem(),
            r"of another network: 1 of \d+ weights do not fit, such as decoder",
        ),
        (
            lambda c: c["network_weights"].update(
                {"decoder.seg_layers.0.bias": torch.zeros(3), "decoder.more": torch.zeros(1)}
            ),
            r"of another network: 2 of \d+ weights do not fit",
        ),
    ],
)
def test_a_model_that_does_not_fit(make_trainer, tmp_path, change, message):
    _, path = saved(make_trainer, tmp_path)
    checkpoint = torch.load(path)
    change(checkpoint)
    write_checkpoint(path, checkpoint)
    trainer = make_trainer()
    trainer.initialize()
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    with pytest.raises(InputError, match=message):
        load(trainer, path)
    assert all(torch.equal(value, before[name]) for name, value in trainer.network.state_dict().items())
