"""SRCNN: photographs sharper than interpolation makes them (Dong et al. 2015, arXiv 1501.00092)."""

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.network import Network


class SRCNN(Network):
    """Patch extraction (9x9, 64 channels), mapping (1x1, 32) and reconstruction (5x5), none of them padded.

    Some draw a ReLU after the last convolution as well. It is left out here, as in the paper: a channel whose first
    outputs are all negative would get no gradient and stay black.

    Args:
        image_channels: C of the pictures: 3, or 1 for luminance alone; linked from the datamodule.
        optimizer: maps parameters to an optimizer.
    """

    monitor = "val/psnr"
    border = 6  # pixels that the output lacks on each side

    def __init__(self, image_channels: int, optimizer: OptimizerCallable = torch.optim.Adam) -> None:
        super().__init__(optimizer)
        self.net = nn.Sequential(
            nn.Conv2d(image_channels, 64, 9),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 32, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, image_channels, 5),
        )
        for module in self.net:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, interpolated: Tensor) -> Tensor:
        """Sharper pictures ``(B, C, H - 12, W - 12)`` of interpolated ones ``(B, C, H, W)`` in 0 .. 1."""
        return self.net(interpolated)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """``loss``, the mean squared error; ``enlarged``, ``targets`` and ``interpolated``, ``(B, C, h, w)``."""
        interpolated, originals = batch
        enlarged, targets = self(interpolated), self.centre(originals)
        shown = {"enlarged": enlarged.detach(), "targets": targets, "interpolated": self.centre(interpolated)}
        return {"loss": F.mse_loss(enlarged, targets), **shown}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """The same as in training."""
        return self.training_step(batch, batch_idx)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """The same as in training."""
        return self.training_step(batch, batch_idx)

    def centre(self, images: Tensor) -> Tensor:
        """The part of ``(B, C, H, W)`` that the output shows."""
        return images[..., self.border : -self.border, self.border : -self.border]

    def on_fit_start(self) -> None:
        """Refuse data that are no pairs.

        Raises:
            ValueError: says which are.
        """
        if not hasattr(self.trainer.datamodule, "upscale_factor"):
            name = type(self.trainer.datamodule).__name__
            raise ValueError(
                f"SRCNN learns from pairs of windows, which {name} has not; take datamodules.PhotographPairs"
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One group of all parameters."""
        return self.optimizer(self.parameters())
