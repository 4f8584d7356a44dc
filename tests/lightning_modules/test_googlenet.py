"""GoogLeNet against torchvision's network and the loss of its paper."""

import math
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from lightning_modules import GoogLeNet


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def auxiliary_parameters(num_classes: int) -> int:
    """A 1x1 convolution to 128 channels with its BatchNorm, a hidden layer of 1024, the logits; after 4a and 4d."""
    hidden, logits = 4 * 4 * 128 * 1024 + 1024, 1024 * num_classes + num_classes
    return sum(channels * 128 + 2 * 128 + hidden + logits for channels in (512, 528))


@pytest.mark.parametrize(("num_classes", "auxiliary"), [(1000, False), (1000, True), (10, False), (10, True)])
def test_parameter_count(num_classes, auxiliary):
    with torch.device("meta"):
        model = GoogLeNet(num_classes, 224, auxiliary)
    published = models.GoogLeNet_Weights.IMAGENET1K_V1.meta["num_params"]  # without auxiliary classifiers
    expected = published - (1000 - num_classes) * (1024 + 1) + auxiliary * auxiliary_parameters(num_classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("auxiliary", [True, False])
def test_logits_are_those_of_torchvision(auxiliary, images):
    model = GoogLeNet(7, 32, auxiliary).eval()
    theirs = models.GoogLeNet(7, aux_logits=auxiliary, init_weights=False).eval()
    theirs.load_state_dict(model.net.state_dict())
    with torch.no_grad():
        logits = model(images)
        assert logits.shape == (3, 7)
        assert torch.equal(logits, theirs(images))
        assert model.train()(images).shape == (3, 7)
    assert not model.net.transform_input


def test_initial_weights_are_those_of_the_authors():
    """Of deviation 0.01, whatever the size of a layer; torch's own would go by its inputs."""
    torch.manual_seed(0)
    for module in GoogLeNet(7, 32).modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            # The deviation of n normal draws is itself uncertain by 1 / sqrt(2n).
            allowed = 5 / math.sqrt(2 * module.weight.numel())
            assert module.weight.std().item() == pytest.approx(0.01, rel=allowed)


def test_building_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GoogLeNet(7, 32)


@pytest.mark.parametrize(
    "labels", [torch.tensor([0, 3, 6]), torch.tensor([[0.25, 0.75, 0, 0, 0, 0, 0], [1.0] + [0] * 6, [0] * 6 + [1.0]])]
)
def test_auxiliary_losses_weigh_0_3_each(labels, images):
    model = GoogLeNet(7, 32, label_smoothing=0.1)
    theirs = models.GoogLeNet(7, aux_logits=True, init_weights=False)
    theirs.load_state_dict(model.net.state_dict())
    torch.manual_seed(5)  # of the dropout
    outputs = theirs(images)

    def loss(logits: Tensor) -> Tensor:
        targets = labels if labels.is_floating_point() else F.one_hot(labels, 7).float()
        return -((0.9 * targets + 0.1 / 7) * logits.log_softmax(dim=1)).sum(dim=1).mean()

    expected = loss(outputs.logits) + 0.3 * (loss(outputs.aux_logits1) + loss(outputs.aux_logits2))
    torch.manual_seed(5)
    step = model.training_step((images, labels), 0)
    torch.testing.assert_close(step["loss"], expected)
    assert torch.equal(step["logits"], outputs.logits)


def test_gradients_reach_the_auxiliary_classifiers(images):
    model = GoogLeNet(7, 32)
    model.training_step((images, torch.tensor([0, 3, 6])), 0)["loss"].backward()
    auxiliary = [parameter for name, parameter in model.named_parameters() if ".aux" in name]
    assert len(auxiliary) == 2 * 7  # kernel, BatchNorm's two, two linear layers
    assert all(parameter.grad.any() for parameter in auxiliary)


def test_evaluation_ignores_the_auxiliary_classifiers(images):
    model, labels = GoogLeNet(7, 32).eval(), torch.tensor([0, 3, 6])
    before = model.validation_step((images, labels), 0)
    for name, parameter in model.named_parameters():
        if ".aux" in name:
            nn.init.constant_(parameter, torch.nan)
    after = model.validation_step((images, labels), 0)
    assert torch.equal(before["logits"], after["logits"])
    torch.testing.assert_close(after["loss"], F.cross_entropy(after["logits"], labels))


def test_smallest_size():
    model = GoogLeNet(7, 15)
    images = torch.randn(2, 3, 15, 15)
    assert model.training_step((images, torch.tensor([0, 1])), 0)["loss"].isfinite()
    with pytest.raises(RuntimeError, match="too small"):
        model(images[:, :, :14, :14])
    with pytest.raises(ValueError, match="at least 15, not 14"):
        GoogLeNet(7, 14)
