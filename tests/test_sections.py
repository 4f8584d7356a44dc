"""Objects from sections of a configuration."""

from argparse import ArgumentError

import pytest

from datamodules import Digits, ImageDataModule
from lightning_modules import MiniVGGNet, Network
from sections import built


def test_flags_change_a_section():
    section = {"class_path": "datamodules.Digits", "init_args": {"batch_size": 32, "val_fraction": 0.2}}
    data = built(ImageDataModule, "data", section, ["--data.batch_size=16"])
    assert isinstance(data, Digits)
    assert (data.batch_size, data.val_fraction) == (16, 0.2)


def test_flags_alone():
    assert (
        built(ImageDataModule, "data", None, ["--data", "datamodules.Digits", "--data.batch_size", "8"]).batch_size == 8
    )


def test_numbers_and_callables_stay_what_they_are():
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e-30, "nesterov": False}}
    arguments = {"num_classes": 3, "image_size": 32, "optimizer": optimizer, "weight_decay": 1e-7}
    model = built(Network, "model", {"class_path": "lightning_modules.MiniVGGNet", "init_args": arguments})
    assert isinstance(model, MiniVGGNet)
    assert model.weight_decay == 1e-7
    assert model.optimizer(model.parameters()).param_groups[0]["lr"] == 1e-30


@pytest.mark.parametrize(
    ("section", "flags", "named"),
    [
        (None, [], "data"),
        ({"class_path": "datamodules.Digit"}, [], "Digit"),
        ({"class_path": "lightning_modules.MiniVGGNet"}, [], "ImageDataModule"),
        ({"class_path": "datamodules.Digits"}, ["--data.batchsize", "8"], "batchsize"),
        ({"class_path": "datamodules.Digits", "init_args": {"batch_size": "many"}}, [], "batch_size"),
    ],
)
def test_mistakes_are_named(section, flags, named):
    with pytest.raises(ArgumentError, match=named):
        built(ImageDataModule, "data", section, flags)
