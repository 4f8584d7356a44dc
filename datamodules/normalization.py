"""Normalisation of whole batches on the device: uint8 (B, H, W, C) in, float (B, C, H, W) out."""

from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch
from torch import Tensor

from datamodules.manifest import Manifest

Kind = Literal["unit", "channel_mean", "mean_image", "standardize", "imagenet", "symmetric"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as torchvision's weights expect


class Normalization:
    """An affine map ``(x - shift) * scale`` of each pixel, with the statistics of the training split or of ImageNet.

    - ``unit``: x / 255
    - ``channel_mean``: x - mean of the channel, on the 0..255 scale
    - ``mean_image``: x - mean image, on the 0..255 scale
    - ``standardize``: (x - mean of the channel) / standard deviation of the channel
    - ``imagenet``: the same with ImageNet's figures, for weights that were trained on it
    - ``symmetric``: x / 127.5 - 1, for torchvision's weights of GoogLeNet, Inception and EfficientNetV2-L
    """

    def __init__(self, kind: Kind, folder: Path, manifest: Manifest) -> None:
        self.shift, self.scale = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
        if kind == "unit":
            self.scale /= 255
        elif kind == "symmetric":
            self.shift, self.scale = self.shift + 127.5, self.scale / 127.5
        elif kind == "imagenet":
            self.shift = 255 * torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
            self.scale /= 255 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
        elif kind == "mean_image":
            with h5py.File(folder / manifest.statistics.file, "r", locking=False) as file:
                self.shift = torch.from_numpy(file["mean_image"][:]).float().permute(2, 0, 1)[None]
        else:
            self.shift = torch.tensor(manifest.channel_mean).view(1, 3, 1, 1)
        if kind == "standardize":
            self.scale /= torch.tensor(manifest.channel_std).clamp(min=1e-3).view(1, 3, 1, 1)

    def lines(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Shift ``(size or 1, size * 3)`` and scale ``(size * 3,)``, float32, of the rows of a picture in memory."""
        shift = np.broadcast_to(self.shift.cpu().numpy()[0].transpose(1, 2, 0), (len(self.shift[0, 0]), size, 3))
        scale = np.broadcast_to(self.scale.cpu().numpy()[0].transpose(1, 2, 0), (1, size, 3))
        return np.ascontiguousarray(shift.reshape(len(shift), -1)), np.ascontiguousarray(scale.reshape(-1))

    def __call__(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Normalised images; computed in float32, since bfloat16 cannot tell neighbouring pixel values apart."""
        if self.shift.device != images.device:
            self.shift, self.scale = self.shift.to(images.device), self.scale.to(images.device)
        return images.permute(0, 3, 1, 2).float().sub_(self.shift).mul_(self.scale).to(dtype)
