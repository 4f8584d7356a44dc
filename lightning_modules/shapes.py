"""What a network makes of pictures of a size: found on shapes alone, without memory or arithmetic."""

from bisect import bisect_left
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def on_shapes(network: nn.Module, *size: int) -> Any:
    """What a network gives for a batch of this size, ``(B, 3, H, W)``: tensors on the device ``meta``."""
    tensors: dict[str, Tensor] = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    return functional_call(network, shapes, torch.empty(size, device="meta"))


def takes(network: nn.Module, image_size: int) -> bool:
    """Whether a network in training mode can take square pictures of so many pixels."""
    try:
        on_shapes(network, 2, 3, image_size, image_size)
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True


def smallest_size(network: nn.Module) -> int:
    """Pixels of the smallest square pictures that a network can take, if it takes all that are larger."""
    return bisect_left(range(512), True, lo=1, key=partial(takes, network))
