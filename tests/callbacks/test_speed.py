"""Switches that change how fast a network trains, and nothing else."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback, Trainer, seed_everything

from callbacks import EMA, ChannelsLast, Compile, WholeCheckpointIO, with_those_of_every_run
from datamodules import Digits
from lightning_modules import DCGAN, CifarResNet


def fit(folder: Path, shards: Path, *callbacks: Callback) -> tuple[Trainer, float]:
    """A trainer after an epoch, and the loss of that epoch."""
    seed_everything(3, verbose=False)
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=4,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[WholeCheckpointIO()],
        callbacks=with_those_of_every_run(list(callbacks), "", ""),
    )
    model = CifarResNet(10, 16, depth=8, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.01))
    trainer.fit(model, datamodule=Digits(root=str(shards), image_size=16, batch_size=64))
    return trainer, json.loads((folder / "history.json").read_text())[0]["train/loss"]


def test_channels_last(tmp_path: Path, shards: Path) -> None:
    _, expected = fit(tmp_path / "plain", shards)
    trainer, loss = fit(tmp_path / "fast", shards, ChannelsLast())
    assert loss == pytest.approx(expected, rel=1e-3)
    kernels = [weights for weights in trainer.lightning_module.parameters() if weights.ndim == 4]
    assert kernels
    assert all(weights.is_contiguous(memory_format=torch.channels_last) for weights in kernels)


def test_a_network_is_compiled_once_as_asked() -> None:
    asked: list[dict] = []
    network = SimpleNamespace(net=SimpleNamespace(compile=lambda **settings: asked.append(settings)))
    callback = Compile("max-autotune-no-cudagraphs", dynamic=True)
    for stage in ("fit", "test"):
        callback.setup(None, network, stage)
    assert asked == [{"mode": "max-autotune-no-cudagraphs", "dynamic": True}]


def test_a_network_of_two_parts_is_not_compiled() -> None:
    with pytest.raises(ValueError, match=r"networks of one part, which DCGAN is not"):
        Compile().setup(Trainer(accelerator="cpu", logger=False), DCGAN(10, 28, 1), "fit")


@pytest.mark.slow  # the compiler needs a minute
def test_compiled_and_averaged(tmp_path: Path, shards: Path) -> None:
    plain, expected = fit(tmp_path / "plain", shards, EMA(0.9))
    compiled, loss = fit(tmp_path / "fast", shards, EMA(0.9), Compile())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert loss == pytest.approx(expected, rel=1e-3)
    assert plain.lightning_module.state_dict().keys() == compiled.lightning_module.state_dict().keys()
    figures = []
    for trainer, folder in ((plain, "plain"), (compiled, "fast")):
        best = str(tmp_path / folder / "checkpoints/best.ckpt")
        figures.append(trainer.test(ckpt_path=best, datamodule=trainer.datamodule, verbose=False)[0]["test/loss"])
    assert figures[0] == pytest.approx(figures[1], rel=1e-3)
