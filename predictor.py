"""A network as its users meet it: pictures of any kind in, probabilities of named classes out."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.saved import Preprocessing, saved_network


def default_device() -> str:
    """Where a network is fast."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class Predictor(nn.Module):
    """Preprocessing, network and softmax in one module, which is also what is exported.

    Args:
        network: gives logits ``(B, C)`` of normalised images ``(B, 3, H, W)``.
        preprocessing: see ``lightning_modules.saved``.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.classes: list[str] = preprocessing["classes"]
        self.stored_size: int = preprocessing["stored_size"]
        self.input_size: int = preprocessing["input_size"]
        self.register_buffer("shift", preprocessing["shift"])
        self.register_buffer("scale", preprocessing["scale"])

    @classmethod
    def load(cls, place: str | Path) -> "Predictor":
        """That of a run's folder, a checkpoint or exported weights, in evaluation mode; see ``saved_network``."""
        return cls(*saved_network(place)).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities float32 ``(B, C)`` of pictures uint8 RGB ``(B, S, S, 3)``, S being ``stored_size``."""
        return self.network(self.normalized(images)).float().softmax(dim=1)

    def normalized(self, images: Tensor) -> Tensor:
        """The network's input float32 ``(B, 3, H, W)``, of the same pictures."""
        planes = images.permute(0, 3, 1, 2).float()
        if self.stored_size != self.input_size:
            size = self.input_size, self.input_size
            planes = F.interpolate(planes, size, mode="bilinear", align_corners=False)
        return self.scaled(planes)

    def scaled(self, planes: Tensor) -> Tensor:
        """Pictures float32 ``(B, 3, H, W)`` on the scale 0 to 255 with the normalisation of training.

        H and W are ``input_size``, or any where no mean image is subtracted.
        """
        return (planes - self.shift) * self.scale

    def logits(self, planes: Tensor) -> Tensor:
        """float32 ``(B, C)`` of pictures float32 ``(B, 3, input_size, input_size)`` on the scale 0 to 255."""
        return self.network(self.scaled(planes)).float()

    @torch.inference_mode()
    def probabilities(self, pictures: list[np.ndarray]) -> np.ndarray:
        """float32 ``(B, C)`` of pictures uint8 ``(S, S, 3)``, on the module's device."""
        return self(torch.from_numpy(np.stack(pictures)).to(self.shift.device)).cpu().numpy()
