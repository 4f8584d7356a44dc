"""A classifier as one convolution over a whole picture: neighbouring windows share their work.

What comes out has a column of logits for each window, as many pixels apart as all strides of the network multiply to.
It equals what the windows give one by one only where the network pads nothing, so both ways are compared.
"""

from typing import NoReturn

import torch
from torch import Tensor, nn

from detection.layers import Refused, padded_layer, sliding
from detection.windows import logits_of_windows
from lightning_modules.shapes import on_shapes
from predictor import Predictor

TOLERANCE = 1e-4  # between the logits of both ways, as a share of the greatest; rounding is about a hundredth of it


class Convolutional(nn.Module):
    """Logits of all windows of a picture at once.

    Args:
        predictor: network and normalisation; the network is left as it is.
        window: side of the windows in pixels.

    Raises:
        Refused: the network cannot be such a convolution, or gives other logits then.
    """

    def __init__(self, predictor: Predictor, window: int) -> None:
        super().__init__()
        if predictor.shift[0, 0].numel() > 1:
            raise Refused("has a mean image subtracted, of which each window would need another part")
        if window != predictor.input_size:
            raise Refused(f"takes {predictor.input_size} pixels, to which windows of {window} have to be scaled")
        self.window = window
        self.predictor = predictor
        self.net = sliding(predictor.network, window)
        self.stride = self._stride()
        self.difference = self._difference()
        if self.difference > TOLERANCE:
            self._refuse(f"they differ by {self.difference:.2g} of the greatest")

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> Tensor:
        """Logits ``(rows, columns, C)`` of a picture uint8 ``(H, W, 3)``, its windows ``stride`` pixels apart."""
        planes = self.predictor.scaled(pixels.permute(2, 0, 1)[None].float())
        rows, columns = ((side - self.window) // self.stride + 1 for side in pixels.shape[:2])
        found = self.net(planes)[0].permute(1, 2, 0).float()
        return found[:rows, :columns]  # a network that leaves out a window's last pixels may give one more

    def logits_of_windows(self, pixels: Tensor, step: int, tile: int) -> Tensor:
        """Those of ``windows.logits_of_windows``, from pieces of the picture that overlap by what windows share.

        Args:
            step: a multiple of ``stride``.
            tile: longest side of a piece in pixels; a window fits always.
        """
        most = max(0, tile - self.window) // self.stride + 1  # windows along a side of a piece
        rows, columns = ((side - self.window) // step * (step // self.stride) + 1 for side in pixels.shape[:2])
        pieces = [
            [self(pixels[top][:, left]) for left in self._pieces(columns, most)] for top in self._pieces(rows, most)
        ]
        every = step // self.stride
        return torch.cat([torch.cat(row, dim=1) for row in pieces])[::every, ::every]

    def _pieces(self, windows: int, most: int) -> list[slice]:
        """Pixels of so many windows in turn, along one side."""
        ends = [(first, min(first + most, windows)) for first in range(0, windows, most)]
        return [slice(first * self.stride, (end - 1) * self.stride + self.window) for first, end in ends]

    def _stride(self) -> int:
        """Pixels by which a picture must grow for each more column; tried on shapes, without arithmetic.

        The first one may come sooner, where the network leaves out the last pixels of a window.
        """
        grown: list[int] = []
        for width in range(self.window, 3 * self.window + 1):
            if on_shapes(self.net, 1, 3, self.window, width).shape[-1] > len(grown) + 1:
                grown.append(width)
            if len(grown) == 2:
                return grown[1] - grown[0]
        raise Refused("gives one answer to pictures of any size")

    def _difference(self) -> float:
        """The greatest between logits of both ways, as a share of the greatest logit, for 2 x 2 windows of noise."""
        side = self.window + self.stride
        noise = torch.randint(0, 256, (side, side, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        noise = noise.to(self.predictor.shift.device)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # its rounding hides what is looked for
            alone = logits_of_windows(self.predictor.logits, noise, self.window, self.window, self.stride, batch_size=4)
            together = self(noise)
        if together.shape != alone.shape:
            self._refuse("there they are of other places")
        return float((together - alone).abs().max() / alone.abs().max())

    def _refuse(self, how: str) -> NoReturn:
        padded = padded_layer(self.predictor.network)
        why = f"as its layer {padded} pads what it is given; " if padded else ""
        raise Refused(f"gives a window within a picture other logits than alone, {why}{how}")
