"""PSNR and SSIM of a split: against the formulas, whatever the batches."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer
from torch import Tensor

from callbacks import EnlargementQuality
from datamodules import PhotographPairs
from lightning_modules import SRCNN


def batches_of(sizes: tuple[int, ...], channels: int) -> list[dict[str, Tensor]]:
    """What the steps return; some values lie outside 0 .. 1, as a network's may."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for size in sizes:
        targets = torch.rand(size, channels, 21, 21, generator=generator)
        noise = torch.randn(2, *targets.shape, generator=generator)
        batches.append({"targets": targets, "enlarged": targets + 0.1 * noise[0], "interpolated": targets + noise[1]})
    return batches


def logged(batches: list[dict[str, Tensor]], stage: str = "validation", sanity_checking: bool = False) -> dict:
    """What the callback logs of an epoch."""
    callback, found = EnlargementQuality(), {}
    strategy = SimpleNamespace(reduce=lambda tensor, reduce_op: tensor, root_device=torch.device("cpu"))
    trainer = SimpleNamespace(sanity_checking=sanity_checking, strategy=strategy)
    module = SimpleNamespace(log=lambda name, value, prog_bar: found.update({name: value.item()}))
    callback.setup(trainer, module, "fit")
    worse = [{**batch, "enlarged": 1 - batch["targets"], "interpolated": 0 * batch["targets"]} for batch in batches]
    for epoch in (worse, batches):  # the second epoch must forget the first
        getattr(callback, f"on_{stage}_epoch_start")(trainer, module)
        for number, batch in enumerate(epoch):
            getattr(callback, f"on_{stage}_batch_end")(trainer, module, batch, None, number)
        getattr(callback, f"on_{stage}_epoch_end")(trainer, module)
    return found


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004: means, variances and covariance under a Gaussian of deviation 1.5, over mirrored edges."""
    a, b = (np.pad(image, 5, mode="reflect") for image in (a, b))
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    c1, c2, values = 0.01**2, 0.03**2, []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = (image[y : y + 11, x : x + 11] for image in (a, b))
            mp, mq = (weights * p).sum(), (weights * q).sum()
            vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
            covariance = (weights * (p - mp) * (q - mq)).sum()
            values.append((2 * mp * mq + c1) * (2 * covariance + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stage", ["validation", "test"])
def test_metrics_follow_the_formulas_in_batches_of_any_sizes(stage: str, channels: int) -> None:
    batches = batches_of((3, 1, 2), channels)
    found = logged(batches, stage)
    whole = {name: torch.cat([batch[name] for batch in batches]).double().numpy() for name in batches[0]}
    for way, ending in (("enlarged", ""), ("interpolated", "_bicubic")):
        clipped = whole[way].clip(0, 1)
        psnr = -10 * np.log10(np.mean((clipped - whole["targets"]) ** 2))
        prefix = "val" if stage == "validation" else "test"
        assert found.pop(f"{prefix}/psnr{ending}") == pytest.approx(psnr, abs=1e-4)
        pairs = zip(clipped.reshape(-1, 21, 21), whole["targets"].reshape(-1, 21, 21), strict=True)
        expected = np.mean([ssim(a, b) for a, b in pairs])
        assert found.pop(f"{prefix}/ssim{ending}") == pytest.approx(expected, abs=1e-4)
    assert not found


def test_a_sanity_check_logs_nothing() -> None:
    assert logged(batches_of((2,), 1), sanity_checking=True) == {}


def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    for number in range(6):
        values = np.random.default_rng(number).integers(0, 256, (5, 7), np.uint8)
        Image.fromarray(values).resize((80, 61)).save(tmp_path / f"photographs/{number}.png")
    found = []
    for processes in (1, 2):
        torch.manual_seed(0)
        data = PhotographPairs(str(tmp_path), str(tmp_path / "photographs"), colour="luminance", batch_size=5)
        settings = {"logger": False, "enable_progress_bar": False, "use_distributed_sampler": False}
        trainer = Trainer(
            accelerator="cpu",
            devices=processes,
            strategy="ddp_fork" if processes > 1 else "auto",
            default_root_dir=tmp_path / str(processes),
            callbacks=[EnlargementQuality()],
            **settings,
        )
        trainer.test(SRCNN(1), datamodule=data, verbose=False)
        found.append(json.loads((tmp_path / str(processes) / "report/metrics.json").read_text()))
    assert found[0]["samples"] == 4 * 2  # windows of the one photograph that tests: 5 and 3 in a batch
    assert found[1] == pytest.approx(found[0], rel=1e-5)
