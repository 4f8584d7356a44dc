"""Sliding windows: all places of a level as one view, of which a batch at a time is copied and classified."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def windows(pixels: Tensor, window: int, step: int) -> Tensor:
    """All windows ``(rows, columns, window, window, 3)`` of a picture ``(H, W, 3)``: a view, which copies nothing.

    What is left at the right and below is less than a step.
    """
    return pixels.unfold(0, window, step).unfold(1, window, step).permute(0, 1, 3, 4, 2)


def places(rows: int, columns: int, step: int) -> Tensor:
    """Left and top of the windows of ``windows``, row by row: int64 ``(rows * columns, 2)``."""
    tops, lefts = torch.meshgrid(torch.arange(rows) * step, torch.arange(columns) * step, indexing="ij")
    return torch.stack([lefts, tops], dim=-1).view(-1, 2)


@torch.inference_mode()
def logits_of_windows(
    logits: Callable[[Tensor], Tensor], pixels: Tensor, window: int, size: int, step: int, batch_size: int
) -> Tensor:
    """Logits ``(rows, columns, C)`` of all windows of a picture uint8 ``(H, W, 3)``.

    Args:
        logits: gives those of ``(B, 3, size, size)``, on the scale 0 to 255.
        window: side of the windows in pixels; they are scaled to ``size``, bilinearly.
        step: pixels between neighbouring windows.
        batch_size: windows that are copied and classified at a time.
    """
    view = windows(pixels, window, step)
    rows, columns = view.shape[:2]
    found = []
    for batch in torch.arange(rows * columns).split(batch_size):
        planes = view[batch // columns, batch % columns].permute(0, 3, 1, 2).float()
        if window != size:
            smaller = window > size
            planes = F.interpolate(planes, (size, size), mode="bilinear", align_corners=False, antialias=smaller)
        found.append(logits(planes))
    return torch.cat(found).unflatten(0, (rows, columns))
