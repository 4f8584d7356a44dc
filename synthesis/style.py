"""Neural style transfer: the content of one picture in the style of another, by L-BFGS on the picture.

Gatys, Ecker and Bethge, A Neural Algorithm of Artistic Style, arXiv 1508.06576; total variation and the scale of Gram
matrices as in Chollet's Keras example of it, the default weights and iterations as in Rosebrock, Deep Learning for
Computer Vision with Python.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from synthesis.backbone import Backbone, refuse_too_little_memory
from synthesis.networks import NetworkSettings
from synthesis.step import Step

EVALUATIONS = 20  # of loss and gradient in an iteration, at most
HISTORY = 10  # gradients that L-BFGS remembers, as many as SciPy's does


@dataclass(frozen=True)
class StyleSettings:
    """Style transfer: the content of one picture in the style of another (Gatys et al., arXiv 1508.06576).

    Args:
        content: file of the picture whose content stays.
        style: file of the picture whose style is taken.
        content_layers: the share of each layer in the content loss, by the name of the module.
        style_layers: the share of each layer in the style loss.
        network: which network looks.
        content_weight: of the sum of squared differences of activations.
        style_weight: of the squared differences of Gram matrices, scaled by gram_scale.
        variation_weight: of the total variation of the pixels, on the scale 0 to 255.
        gram_scale: what the squared differences are divided by, 4 N^2 M^2. With picture, N is 3 and M the pixels of the
            picture for every layer, as in the Keras example; with layer, its channels and positions, as in the paper.
        size: length of the longer side in pixels that the content is brought to; as it is, if none is given.
        style_size: the same of the style; that of the content, if none is given.
        start: from the content, or from noise.
        keep_colours: whether only the brightness changes.
        iterations: of 20 evaluations of the loss each, and those that end a line search.
        line_search: strong_wolfe, which keeps the loss from rising, or none, which takes fewer evaluations.
        seed_everything: of random weights, noise and --walk.
        ranges: what --walk draws from: KEY=LOW:HIGH, KEY=log:LOW:HIGH or KEY=A,B,C; style_layers.NAME is a share.
    """

    content: str
    style: str
    content_layers: dict[str, float]
    style_layers: dict[str, float]
    network: NetworkSettings = field(default_factory=NetworkSettings)
    content_weight: float = 1.0
    style_weight: float = 100.0
    variation_weight: float = 10.0
    gram_scale: Literal["picture", "layer"] = "picture"
    size: int | None = None
    style_size: int | None = None
    start: Literal["content", "noise"] = "content"
    keep_colours: bool = False
    iterations: int = 50
    line_search: Literal["strong_wolfe", "none"] = "strong_wolfe"
    seed_everything: int = 42
    ranges: list[str] = field(default_factory=list)


def gram(features: Tensor) -> Tensor:
    """Products of channels ``(C, C)``, summed over the positions of a map ``(1, C, h, w)``."""
    vectors = features.flatten(2)[0]
    return vectors @ vectors.T


def total_variation(pixels: Tensor) -> Tensor:
    """Sum of ``(dx^2 + dy^2)^1.25`` over an image ``(1, C, H, W)``, without its last row and column."""
    corner = pixels[:, :, :-1, :-1]
    down, right = pixels[:, :, 1:, :-1] - corner, pixels[:, :, :-1, 1:] - corner
    return (down.square() + right.square()).pow(1.25).sum()


class StyleTransfer:
    """Restyles one picture; iterate over it for the picture at the start and after each iteration.

    Args:
        backbone: the network that looks.
        content: float32 RGB ``(1, 3, H, W)``, 0..255, on the device of the network.
        style: the same of any size. Its Gram matrices are scaled to as many positions as the content has.
        settings: see there.

    Raises:
        ValueError: a setting is out of its range, there is no such layer, a picture is too small for one, or memory
            is not enough.
    """

    def __init__(self, backbone: Backbone, content: Tensor, style: Tensor, settings: StyleSettings) -> None:
        _check(settings)
        self.backbone, self.settings, self.content = backbone, settings, content
        self.layers = list({**settings.content_layers, **settings.style_layers})
        for picture, layers in ((content, self.layers), (style, list(settings.style_layers))):
            survey = backbone.survey(*picture.shape[2:], layers)
            remedy = "take a smaller --size (and --style_size)"
            refuse_too_little_memory(survey, *picture.shape[2:], str(picture.device), remedy)
        with torch.no_grad():
            self.wanted_maps = backbone.maps(content, self.layers)
            style_maps = backbone.maps(style, list(settings.style_layers))
            self.wanted_grams = {
                name: gram(each) * (self.wanted_maps[name][0, 0].numel() / each[0, 0].numel())
                for name, each in style_maps.items()
            }

    def __iter__(self) -> Iterator[Step]:
        """The start, then one iteration of L-BFGS after the other."""
        settings = self.settings
        pixels = self._start().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [pixels],
            max_iter=EVALUATIONS,
            max_eval=EVALUATIONS,
            history_size=HISTORY,
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe" if settings.line_search == "strong_wolfe" else None,
        )

        def closure(factor: float = 1.0) -> Tensor:
            optimizer.zero_grad()
            loss = factor * torch.stack(list(self.terms(pixels).values())).sum()
            loss.backward()
            return loss

        closure()
        slope = pixels.grad.abs().mean().item()
        scaled = partial(closure, 1 / slope if slope > 0 else 1.0)  # L-BFGS of torch takes small slopes for flat ones

        yield self._step(0, pixels)
        for number in range(1, settings.iterations + 1):
            optimizer.step(scaled)
            yield self._step(number, pixels)

    def terms(self, pixels: Tensor) -> dict[str, Tensor]:
        """Content, style and variation of an image ``(1, 3, H, W)``, 0..255, each times its weight."""
        settings = self.settings
        maps = self.backbone.maps(pixels, self.layers)
        content = sum(
            share * (maps[name] - self.wanted_maps[name]).square().sum()
            for name, share in settings.content_layers.items()
        )
        style = sum(
            share * (gram(maps[name]) - self.wanted_grams[name]).square().sum() / self._scale(maps[name])
            for name, share in settings.style_layers.items()
        )
        return {
            "content": torch.as_tensor(settings.content_weight * content, device=pixels.device),
            "style": torch.as_tensor(settings.style_weight * style, device=pixels.device),
            "variation": settings.variation_weight * total_variation(pixels),
        }

    def _scale(self, features: Tensor) -> float:
        """``4 N^2 M^2``, see ``gram_scale``."""
        _, channels, height, width = self.content.shape if self.settings.gram_scale == "picture" else features.shape
        return 4.0 * channels**2 * (height * width) ** 2

    def _start(self) -> Tensor:
        if self.settings.start == "content":
            return self.content.clone(memory_format=torch.contiguous_format)  # as L-BFGS needs it
        generator = torch.Generator().manual_seed(self.settings.seed_everything)
        return 255 * torch.rand(self.content.shape, generator=generator).to(self.content.device)

    @torch.no_grad()
    def _step(self, number: int, pixels: Tensor) -> Step:
        terms = {name: term.item() for name, term in self.terms(pixels).items()}
        shown = with_colours_of(self.content, pixels) if self.settings.keep_colours else pixels.clone()
        return Step(number, 1, terms, shown)


def with_colours_of(content: Tensor, pixels: Tensor) -> Tensor:
    """The brightness of one image ``(1, 3, H, W)``, 0..255, with the colours of another: Y, Cb and Cr of BT.601.

    Gatys et al., Preserving Color in Neural Artistic Style Transfer, arXiv 1606.05897.
    """
    weights = torch.tensor([0.299, 0.587, 0.114], device=pixels.device).view(1, 3, 1, 1)
    return content + ((pixels - content) * weights).sum(dim=1, keepdim=True)


def _check(settings: StyleSettings) -> None:
    weights = (settings.content_weight, settings.style_weight, settings.variation_weight)
    if not any((*settings.content_layers.values(), *settings.style_layers.values())):
        raise ValueError("--content_layers and --style_layers name no layer with a share other than 0; name one")
    if min(weights) < 0:
        raise ValueError("--content_weight, --style_weight and --variation_weight must be at least 0")
    if settings.iterations < 1:
        raise ValueError("--iterations must be at least 1")
