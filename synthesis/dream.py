"""DeepDream: gradient ascent on a picture, so that it holds more of what layers look for.

Mordvintsev, Olah and Tyka, Inceptionism: Going Deeper into Neural Networks, 2015. Octaves and lost detail as in
Chollet's Keras example of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from synthesis.backbone import Backbone, refuse_too_little_memory
from synthesis.networks import NetworkSettings
from synthesis.step import Step
from synthesis.tiles import ALIGNMENT, check, shifts, tiles

BORDER = 2  # outermost activations that do not count: padding decides them
LEAST = 1e-7  # of the mean absolute gradient, which the gradient is divided by


@dataclass(frozen=True)
class DreamSettings:
    """DeepDream: gradient ascent on a picture, so that it holds more of what layers of a network look for.

    Args:
        picture: file of the picture to start from.
        layers: the coefficient of each layer's mean square in the loss, by the name of the module.
        network: which network looks.
        size: length of the longer side in pixels that the picture is brought to; as it is, if none is given.
        octaves: number of sizes that are gone through, the smallest first.
        octave_scale: each is so many times as large as the one before.
        iterations: in each octave.
        step: mean change of a value by an iteration, where colours are -1 to 1.
        max_loss: an octave ends where the loss is beyond; never, if none is given.
        jitter: in each iteration the picture is rolled by up to so many pixels in both directions, and back.
        tile: pixels of the squares that are looked at one by one, for large pictures; 0 looks at the whole picture.
        seed_everything: of random weights, jitter, the grid of tiles and of --walk.
        ranges: what --walk draws from: KEY=LOW:HIGH, KEY=log:LOW:HIGH or KEY=A,B,C; layers.NAME is a coefficient.
    """

    picture: str
    layers: dict[str, float]
    network: NetworkSettings = field(default_factory=NetworkSettings)
    size: int | None = None
    octaves: int = 3
    octave_scale: float = 1.4
    iterations: int = 50
    step: float = 0.001
    max_loss: float | None = 10.0
    jitter: int = 0
    tile: int = 0
    seed_everything: int = 42
    ranges: list[str] = field(default_factory=list)


def octave_sizes(height: int, width: int, octaves: int, scale: float) -> list[tuple[int, int]]:
    """Height and width of each octave, smallest first; the last is the picture's."""
    return [(int(height / scale**power), int(width / scale**power)) for power in reversed(range(octaves))]


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image ``(1, 3, H, W)`` of another size: bilinear, antialiased where it shrinks."""
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)


def loss_of(
    maps: Mapping[str, Tensor], coefficients: Mapping[str, float], shapes: Mapping[str, tuple[int, int, int]]
) -> Tensor:
    """Sum over layers of coefficient times mean square of the activations without the border.

    Args:
        maps: ``(1, C, h, w)``, of the picture or of a tile, which adds its part.
        coefficients: of each layer.
        shapes: C, H, W of the maps of the whole picture.
    """
    total = torch.zeros((), device=next(iter(maps.values())).device)
    for name, coefficient in coefficients.items():
        channels, height, width = shapes[name]
        inner = maps[name][:, :, BORDER:-BORDER, BORDER:-BORDER]
        total = total + coefficient * inner.square().sum() / (channels * (height - 2 * BORDER) * (width - 2 * BORDER))
    return total


def ascended(image: Tensor, gradient: Tensor, step: float) -> Tensor:
    """The image after one step along its gradient, whose mean absolute value is made 1."""
    return image + step * gradient / gradient.abs().mean().clamp(min=LEAST)


class Dream:
    """Dreams one picture; iterate over it for the picture after each step.

    Args:
        backbone: the network that looks.
        pixels: float32 RGB ``(1, 3, H, W)``, 0..255, on the device of the network.
        settings: see there.

    Raises:
        ValueError: a setting is out of its range, there is no such layer, the smallest octave is too small for one,
            or memory is not enough.
    """

    def __init__(self, backbone: Backbone, pixels: Tensor, settings: DreamSettings) -> None:
        self.backbone, self.settings = backbone, settings
        self.original = pixels / 127.5 - 1
        _check(settings)
        self.sizes = octave_sizes(*pixels.shape[2:], settings.octaves, settings.octave_scale)
        self.shapes = [self._checked(*size) for size in self.sizes]
        self.generator = torch.Generator().manual_seed(settings.seed_everything)

    def __iter__(self) -> Iterator[Step]:
        """Octave by octave, the loss being that before the step; detail is put back at the end of each octave."""
        settings, number = self.settings, 0
        image = shrunk = resized(self.original, self.sizes[0])
        for octave, size in enumerate(self.sizes):
            here = resized(self.original, size)
            detail = here - resized(shrunk, size)  # what the smaller octave could not show
            image, shrunk = resized(image, size), here
            for left in reversed(range(settings.iterations)):
                loss, gradient = self.gradient(image, octave)
                ends = left == 0
                if settings.max_loss is not None and loss > settings.max_loss:
                    ends = True
                else:
                    image = ascended(image, gradient, settings.step)
                if ends:
                    image = image + detail
                number += 1
                yield Step(number, octave + 1, {"loss": loss}, 127.5 * (image + 1))
                if ends:
                    break

    def gradient(self, image: Tensor, octave: int) -> tuple[float, Tensor]:
        """The loss of an image ``(1, 3, H, W)``, -1..1, and its gradient; of tiles, the loss is their weighted mean."""
        down, right = self._random(2 * self.settings.jitter + 1)
        rolled = image.roll((down - self.settings.jitter, right - self.settings.jitter), dims=(2, 3))
        loss, gradient = (self._in_tiles if self.settings.tile else self._whole)(rolled, self.shapes[octave])
        return loss, gradient.roll((self.settings.jitter - down, self.settings.jitter - right), dims=(2, 3))

    def _whole(self, image: Tensor, shapes: Mapping[str, tuple[int, int, int]]) -> tuple[float, Tensor]:
        image = image.detach().requires_grad_()
        maps = self.backbone.maps(127.5 * (image + 1), list(self.settings.layers))
        loss = loss_of(maps, self.settings.layers, shapes)
        return loss.item(), torch.autograd.grad(loss, image)[0]

    def _in_tiles(self, image: Tensor, shapes: Mapping[str, tuple[int, int, int]]) -> tuple[float, Tensor]:
        total, gradient = 0.0, torch.empty_like(image)
        shift = self._random(shifts(self.settings.tile))
        for tile in tiles(*image.shape[2:], self.settings.tile, shift):
            loss, part = self._whole(image[:, :, *tile.seen], shapes)
            total += tile.share * loss
            gradient[:, :, *tile.own] = part[:, :, *tile.own_within]
        return total, gradient

    def _random(self, end: int) -> tuple[int, int]:
        down, right = torch.randint(end, (2,), generator=self.generator).tolist()
        return down, right

    def _checked(self, height: int, width: int) -> dict[str, tuple[int, int, int]]:
        """The shapes of the layers' maps of an octave, once it is known that it can be gone through."""
        layers, tile = list(self.settings.layers), self.settings.tile or max(height, width)
        whole = self.backbone.survey(height, width, layers)
        least = [min(tile - ALIGNMENT + 1 if self.settings.tile else tile, side) for side in (height, width)]
        for name, (_, rows, columns) in self.backbone.survey(*least, layers).shapes.items():
            if min(rows, columns) <= 2 * BORDER:
                raise ValueError(
                    f"{least[1]}x{least[0]} pixels, as an octave or a tile has, are too few for the layer {name}: its "
                    f"map of {columns}x{rows} is nothing without its border of {BORDER}; take fewer --octaves, a "
                    "larger --size, or a layer before"
                )
        piece = min(tile, height), min(tile, width)
        remedy = "give --tile 512, or less" if not self.settings.tile else "give a smaller --tile"
        seen = self.backbone.survey(*piece, layers)
        refuse_too_little_memory(seen, *piece, str(self.original.device), remedy)
        return whole.shapes


def _check(settings: DreamSettings) -> None:
    for sentence, wrong in (
        ("--layers names no layer with a coefficient other than 0", not any(settings.layers.values())),
        ("--octaves must be at least 1", settings.octaves < 1),
        ("--octave_scale must be above 1", settings.octave_scale <= 1),
        ("--iterations must be at least 1", settings.iterations < 1),
        ("--step must be above 0", not settings.step > 0),
        ("--jitter must be at least 0", settings.jitter < 0),
    ):
        if wrong:
            raise ValueError(sentence)
    if settings.tile:
        check(settings.tile)
