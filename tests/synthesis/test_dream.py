"""DeepDream against formulas by hand: loss, step, octaves, detail, tiles."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from synthesis.backbone import Backbone
from synthesis.dream import Dream, DreamSettings, loss_of, octave_sizes
from synthesis.step import Step

SETTINGS = DreamSettings("", {"0": 1.0}, octaves=1, iterations=1, max_loss=None)


def dream(network: nn.Module, pixels: Tensor, settings: DreamSettings) -> Dream:
    return Dream(Backbone(network, torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)), pixels, settings)


def steps(network: nn.Module, pixels: Tensor, settings: DreamSettings) -> list[Step]:
    return list(dream(network, pixels, settings))


def weighted_sum(weights: list[float]) -> nn.Module:
    """A layer whose map is a weighted sum of the colours."""
    layer = nn.Conv2d(3, 1, 1, bias=False)
    layer.weight.data = torch.tensor([float(each) for each in weights]).view(1, 3, 1, 1)
    return nn.Sequential(layer)


def picture(height: int, width: int) -> Tensor:
    return 255 * torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_loss_is_the_mean_square_without_the_border() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(1, 4, 9, 7)), rng.normal(size=(1, 2, 5, 6))
    wanted = 2.0 * (a[:, :, 2:7, 2:5] ** 2).mean() + 0.5 * (b[:, :, 2:3, 2:4] ** 2).mean()
    found = loss_of(
        {"a": torch.tensor(a), "b": torch.tensor(b)}, {"a": 2.0, "b": 0.5}, {"a": (4, 9, 7), "b": (2, 5, 6)}
    )
    assert found.item() == pytest.approx(wanted)


def test_a_step_by_hand() -> None:
    weights, pixels = np.array([1.0, -2.0, 0.5]), picture(8, 10)
    (step,) = steps(weighted_sum(list(weights)), pixels, replace(SETTINGS, step=0.25))
    values = pixels[0].numpy().astype(np.float64)
    activations = np.tensordot(weights, values, 1)
    inside = np.zeros((8, 10))
    inside[2:-2, 2:-2] = 1
    assert step.loss == pytest.approx((activations**2 * inside).sum() / 24, rel=1e-5)
    gradient = weights[:, None, None] * activations * inside  # but for a factor, which its mean takes away
    image = values / 127.5 - 1 + 0.25 * gradient / np.abs(gradient).mean()
    assert np.allclose(step.pixels[0].numpy() / 127.5 - 1, image, atol=1e-5)


def test_a_gradient_of_nothing_is_no_step() -> None:
    (step,) = steps(weighted_sum([0, 0, 0]), picture(8, 8), SETTINGS)
    assert torch.allclose(step.pixels, picture(8, 8), atol=1e-4)


def test_octaves_by_hand() -> None:
    assert octave_sizes(100, 151, 3, 1.4) == [(51, 77), (71, 107), (100, 151)]
    assert octave_sizes(64, 48, 1, 2) == [(64, 48)]


def test_octaves_grow_and_their_ends_show_in_the_sizes() -> None:
    found = steps(weighted_sum([1, 1, 1]), picture(40, 60), replace(SETTINGS, octaves=3, octave_scale=2, iterations=2))
    assert [tuple(step.pixels.shape[2:]) for step in found] == [(10, 15)] * 2 + [(20, 30)] * 2 + [(40, 60)] * 2
    assert [(step.number, step.octave) for step in found] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3)]


def test_lost_detail_is_put_back() -> None:
    pixels = picture(40, 60)
    *_, last = steps(weighted_sum([1, 1, 1]), pixels, replace(SETTINGS, octaves=3, step=1e-9))
    assert torch.allclose(last.pixels, pixels, atol=0.01)


def test_an_octave_ends_where_the_loss_is_beyond() -> None:
    pixels = picture(40, 60)
    found = steps(weighted_sum([1, 1, 1]), pixels, replace(SETTINGS, octaves=3, iterations=5, max_loss=0))
    assert [step.octave for step in found] == [1, 2, 3]
    assert torch.allclose(found[-1].pixels, pixels, atol=0.01)
    assert len(steps(weighted_sum([1, 1, 1]), pixels, replace(SETTINGS, octaves=3, iterations=5, max_loss=1e9))) == 15


def test_the_loss_rises() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1))
    settings = replace(SETTINGS, layers={"1": 1.0, "3": 1.0}, octaves=2, iterations=10, step=0.02, jitter=3)
    losses = [step.loss for step in steps(network, picture(40, 40), settings)]
    assert losses[9] > 1.1 * losses[0]
    assert losses[19] > 1.1 * losses[10]


def test_jitter_rolls_the_gradient_back() -> None:
    pixels = torch.full((1, 3, 24, 24), 0.0)
    pixels[:, :, 12, 9] = 200
    dreamed = dream(weighted_sum([1, 1, 1]), pixels, replace(SETTINGS, jitter=5))
    for _ in range(10):
        _, gradient = dreamed.gradient(dreamed.original, 0)
        assert gradient[0].abs().sum(dim=0).nonzero().tolist() == [[12, 9]]
    still = torch.full((1, 3, 24, 24), 9.0)
    moving = dream(weighted_sum([1, 1, 1]), still, replace(SETTINGS, jitter=5))
    borders = {
        tuple(moving.gradient(moving.original, 0)[1][0, 0, :, 12].nonzero().flatten().tolist()) for _ in range(10)
    }
    assert len(borders) > 3  # the border that does not count moves over the picture


def test_tiles_give_the_gradient_of_the_whole_picture() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 5, stride=2), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2))
    pixels = picture(301, 419)
    settings = replace(SETTINGS, layers={"1": 1.0, "2": 3.0}, seed_everything=3)
    whole = dream(network, pixels, settings)
    loss, gradient = whole.gradient(whole.original, 0)
    tiled = dream(network, pixels, replace(settings, tile=128))
    for _ in range(3):
        loss_of_tiles, gradient_of_tiles = tiled.gradient(tiled.original, 0)
        assert torch.allclose(gradient_of_tiles, gradient, atol=1e-4 * gradient.abs().max().item())
        assert loss_of_tiles == pytest.approx(loss, rel=0.25)  # the borders of tiles do not count


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layers": {}}, "names no layer"),
        ({"layers": {"0": 0.0}}, "other than 0"),
        ({"octaves": 0}, "--octaves must be at least 1"),
        ({"octave_scale": 1.0}, "--octave_scale must be above 1"),
        ({"iterations": 0}, "--iterations must be at least 1"),
        ({"step": float("nan")}, "--step must be above 0"),
        ({"jitter": -1}, "--jitter must be at least 0"),
        ({"tile": 100}, "multiple of 32 and at least 128, not 100"),
        ({"octaves": 9}, "4x2 pixels, .* too few for the layer 0: its map of 4x2 is nothing without its border of 2"),
        ({"layers": {"1": 1.0}}, "no layer '1'"),
    ],
)
def test_what_cannot_be_is_said(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        dream(weighted_sum([1, 1, 1]), picture(40, 60), replace(SETTINGS, **changes))
