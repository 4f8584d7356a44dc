"""How near enlarged pictures come to the originals: PSNR and SSIM, beside those of interpolation."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from callbacks.class_report import write_metrics
from callbacks.run_folder import METRICS

WAYS = {"enlarged": "", "interpolated": "_bicubic"}  # what a step returns, and how its metrics end


class EnlargementQuality(Callback):
    """Logs ``psnr``, ``ssim``, ``psnr_bicubic`` and ``ssim_bicubic`` of validation and test.

    PSNR, in dB, is that of the mean squared error over all pixels of the split: a mean of the windows' own would be
    one of flat windows, that have next to no error. SSIM is the mean over the windows (Wang et al. 2004), continued by
    reflection. Values are clipped to 0 .. 1 first, as in a picture. Both are exact in any number of processes.

    A test leaves all its metrics in ``report/metrics.json``, and prints ``test PSNR = 32.79 dB, bicubic 30.80 dB``.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin from nothing."""
        self._samples, self._tested = 0, 0
        self._metrics = {
            f"{name}{ending}": (way, metric(data_range=1.0))
            for name, metric in (("psnr", PeakSignalNoiseRatio), ("ssim", StructuralSimilarityIndexMeasure))
            for way, ending in WAYS.items()
        }

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what was seen."""
        self._samples = 0
        for _, metric in self._metrics.values():
            metric.to(trainer.strategy.root_device).reset()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch."""
        targets = outputs["targets"].float()
        self._samples += len(targets)
        for way, metric in self._metrics.values():
            metric.update(outputs[way].float().clamp(0, 1), targets)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the validation."""
        if not trainer.sanity_checking:
            self._log("val", pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the test."""
        self._log("test", pl_module)
        seen = torch.tensor(self._samples, device=trainer.strategy.root_device)
        self._tested = int(trainer.strategy.reduce(seen, reduce_op="sum"))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write and print; only now has Lightning printed its own table."""
        if not self._tested or not trainer.is_global_zero:
            return
        metrics = {name: v.item() for name, v in trainer.callback_metrics.items() if name.startswith("test/")}
        write_metrics(metrics, self._tested, Path(trainer.default_root_dir) / METRICS)
        print(f"test PSNR = {metrics['test/psnr']:.2f} dB, bicubic {metrics['test/psnr_bicubic']:.2f} dB", flush=True)

    def _log(self, stage: str, pl_module: LightningModule) -> None:
        for name, (_, metric) in self._metrics.items():
            pl_module.log(f"{stage}/{name}", metric.compute(), prog_bar=name == "psnr")
