"""SRCNN: the published layers, the right part of the picture, and a network that learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn

from datamodules import Digits
from lightning_modules import SRCNN


def identity(channels: int) -> SRCNN:
    """A network that gives its input's middle."""
    network = SRCNN(channels)
    first, second, third = (module for module in network.net if isinstance(module, nn.Conv2d))
    for module in (first, second, third):
        nn.init.zeros_(module.weight)
    for channel in range(channels):
        first.weight.data[channel, channel, 4, 4] = 1
        second.weight.data[channel, channel] = 1
        third.weight.data[channel, channel, 2, 2] = 1
    return network


@pytest.mark.parametrize(("channels", "parameters"), [(1, 8_129), (3, 20_099)])
def test_layers_are_those_of_the_paper(channels: int, parameters: int) -> None:
    network = SRCNN(channels)
    assert network(torch.rand(2, channels, 33, 33)).shape == (2, channels, 21, 21)
    assert network(torch.rand(1, channels, 40, 57)).shape == (1, channels, 28, 45)
    # 9x9 to 64 channels, 1x1 to 32, 5x5, and their biases, counted by hand
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_weights_are_he_normal_and_biases_zero() -> None:
    torch.manual_seed(0)
    for module in SRCNN(3).net:
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.06)
            assert not module.bias.any()


def test_outputs_may_be_negative() -> None:
    """A ReLU at the end could leave a channel black for ever."""
    torch.manual_seed(0)
    assert (SRCNN(3)(torch.rand(8, 3, 33, 33)) < 0).any()


def test_steps_compare_the_middle() -> None:
    interpolated, originals = torch.rand(2, 4, 3, 33, 33)
    outputs = identity(3).training_step((interpolated, originals), 0)
    middle = slice(6, 27)
    torch.testing.assert_close(outputs["enlarged"], interpolated[..., middle, middle])
    torch.testing.assert_close(outputs["interpolated"], interpolated[..., middle, middle])
    torch.testing.assert_close(outputs["targets"], originals[..., middle, middle])
    error = (interpolated - originals)[..., middle, middle].numpy()
    assert outputs["loss"].item() == pytest.approx(np.mean(error**2), rel=1e-5)
    assert not outputs["enlarged"].requires_grad


def test_a_pixel_depends_on_thirteen_by_thirteen() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 1, 33, 33, requires_grad=True)
    SRCNN(1)(image)[0, 0, 10, 4].backward()
    rows, columns = image.grad[0, 0].nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 22, 4, 16)


def test_it_learns_to_sharpen() -> None:
    torch.manual_seed(0)
    originals = torch.rand(4, 1, 33, 33).round() / 2 + 0.25
    interpolated = nn.functional.avg_pool2d(originals, 3, stride=1, padding=1, count_include_pad=False)
    network = SRCNN(1)
    optimizer = network.configure_optimizers()
    before = identity(1).training_step((interpolated, originals), 0)["loss"].item()
    for _ in range(60):
        loss = network.training_step((interpolated, originals), 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.8 * before


def test_pictures_without_a_pair_are_refused(shards: Path, tmp_path: Path) -> None:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, use_distributed_sampler=False, **quiet)
    with pytest.raises(ValueError, match=r"which Digits has not; take datamodules\.PhotographPairs"):
        trainer.fit(SRCNN(3), datamodule=Digits(root=str(shards)))
