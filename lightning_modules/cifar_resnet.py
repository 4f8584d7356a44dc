"""ResNet for CIFAR-10 (He et al. 2015, arXiv 1512.03385, section 4.2)."""

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.base import Classifier


class BasicBlock(nn.Module):
    """Two 3x3 convolutions added to a shortcut, which is a projection where the channels differ."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, channels, ceil(H / stride), ceil(W / stride))``."""
        return F.relu(self.residual(x).add_(self.shortcut(x)), inplace=True)


def stage(in_channels: int, channels: int, size: int, stride: int) -> nn.Sequential:
    """``size`` blocks, the first of them with the stride."""
    return nn.Sequential(
        BasicBlock(in_channels, channels, stride), *(BasicBlock(channels, channels, 1) for _ in range(size - 1))
    )


class CifarResNet(Classifier):
    """Three stages of n basic blocks with 16, 32 and 64 channels: ``depth = 6n + 2`` layers with weights.

    Args:
        num_classes: number of classes C.
        image_size: height and width of the input in pixels, at least 4.
        depth: 6n + 2 with n >= 1; the paper has 20, 32, 44, 56, 110 and 1202.
        optimizer: see ``Classifier``.
        weight_decay: see ``Classifier``.
        label_smoothing: see ``Classifier``.

    Raises:
        ValueError: for another depth, or an input that is too small for two strides of 2.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        depth: int = 56,
        optimizer: OptimizerCallable = torch.optim.SGD,
        weight_decay: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_classes, image_size, optimizer, weight_decay, label_smoothing)
        size, rest = divmod(depth - 2, 6)
        if size < 1:
            raise ValueError(f"depth must be 6n + 2 with n >= 1, not {depth}; the nearest is 8")
        if rest:
            lower = depth - rest
            raise ValueError(f"depth must be 6n + 2, not {depth}; the nearest are {lower} and {lower + 6}")
        if image_size < 4:
            raise ValueError(f"CifarResNet takes an image_size of at least 4, not {image_size}")
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            stage(16, 16, size, stride=1),
            stage(16, 32, size, stride=2),
            stage(32, 64, size, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, num_classes),
        )
        for module in self.net.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):  # fan_in, as the paper cites it (arXiv 1502.01852)
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(self.net[-1].bias)
