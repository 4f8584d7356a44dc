"""The maps of layers: one pass for all of them, the network's own normalisation, sizes known beforehand."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from lightning_modules import TorchvisionModel
from synthesis import backbone as module
from synthesis.backbone import Backbone, refuse_too_little_memory
from synthesis.networks import NetworkSettings, backbone_of


class Fails(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise ArithmeticError("nobody needs this layer")


def plain(network: nn.Module) -> Backbone:
    return Backbone(network, torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1))


def on_meta(architecture: str, **arguments: bool) -> Backbone:
    with torch.device("meta"):
        return plain(models.get_model(architecture, weights=None, **arguments))


def test_layers_of_one_pass_that_ends_after_the_last() -> None:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)]
    network = nn.Sequential(convolutions[0], nn.ReLU(inplace=True), convolutions[1], Fails())
    passes: list[int] = []
    network[0].register_forward_hook(lambda *_: passes.append(1))
    images = torch.randn(1, 3, 9, 8)
    maps = plain(network).maps(images, ["2", "0"])
    assert len(passes) == 1
    first = F.conv2d(images, convolutions[0].weight, convolutions[0].bias)
    assert torch.equal(maps["0"], first)  # and not what the next layer, which works in place, leaves of it
    assert torch.allclose(maps["2"], F.conv2d(first.relu(), convolutions[1].weight, convolutions[1].bias), atol=1e-6)
    with pytest.raises(ArithmeticError):
        plain(network).maps(images, ["3"])


def test_a_layer_that_is_used_twice_gives_its_first_output() -> None:
    twice = nn.ReLU()
    network = nn.Sequential(twice, nn.Conv2d(3, 3, 1), twice, nn.Conv2d(3, 3, 1))
    images = torch.randn(1, 3, 4, 4)
    assert torch.equal(plain(network).maps(images, ["0", "3"])["0"], images.relu())


def test_gradients_reach_the_picture_alone_and_evaluation_is_on() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 2, 1)).train()
    images = torch.randn(1, 3, 5, 5, requires_grad=True)
    plain(network).maps(images, ["2"])["2"].sum().backward()
    assert images.grad is not None
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network[0].num_batches_tracked == 0


def test_pixels_are_normalised_a_mean_image_by_its_mean_colour() -> None:
    network = nn.Sequential(nn.Identity())
    mean_image = torch.arange(12.0).view(1, 3, 2, 2)  # mean colours 1.5, 5.5, 9.5
    eyes = Backbone(network, mean_image, torch.full((1, 3, 1, 1), 0.5))
    seen = eyes.maps(torch.full((1, 3, 5, 7), 100.0), ["0"])["0"]
    assert seen.shape == (1, 3, 5, 7)
    assert seen[0, :, 4, 6].tolist() == [49.25, 47.25, 45.25]


def test_torchvision_networks_get_the_normalisation_of_their_weights() -> None:
    eyes = backbone_of(NetworkSettings("squeezenet1_1"))
    black, white = (
        (each - eyes.shift) * eyes.scale for each in (torch.zeros(1, 3, 1, 1), torch.full((1, 3, 1, 1), 255.0))
    )
    assert black.flatten().tolist() == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    assert white.flatten().tolist() == pytest.approx([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225])
    eyes = backbone_of(NetworkSettings("googlenet"))
    assert ((torch.tensor([0.0, 255.0]) - eyes.shift[0, 0, 0]) * eyes.scale[0, 0, 0]).tolist() == pytest.approx([-1, 1])


def test_weights_from_caffe_get_pixels_less_a_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchvisionModel, "load_pretrained", lambda self: None)
    monkeypatch.setattr(TorchvisionModel, "published", models.VGG16_Weights.__members__)
    eyes = backbone_of(NetworkSettings("squeezenet1_1", "IMAGENET1K_FEATURES"))
    black = (0 - eyes.shift) * eyes.scale
    assert black.flatten().tolist() == pytest.approx([-123, -117, -104], abs=0.01)
    assert (eyes.scale == 1).all()


def test_average_pools_take_the_place_of_maximum_pools() -> None:
    images = 255 * torch.rand(1, 3, 40, 40)
    both = {}
    for average in (False, True):
        torch.manual_seed(0)
        maps = backbone_of(NetworkSettings("squeezenet1_1", average_pools=average)).maps(
            images, ["net.features.1", "net.features.2"]
        )
        both[average] = maps["net.features.2"]
        pool = F.avg_pool2d if average else F.max_pool2d
        assert torch.allclose(both[average], pool(maps["net.features.1"], 3, 2, ceil_mode=True))
    assert not torch.allclose(both[False], both[True])
    with pytest.raises(ValueError, match="no layer of maximum pooling"):
        backbone_of(NetworkSettings("convnext_tiny", average_pools=True))


def test_a_survey_tells_the_sizes_of_maps() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 5, 5, padding=2), Fails())
    shapes = plain(network).survey(30, 41, ["2", "0"]).shapes
    maps = plain(network).maps(torch.zeros(1, 3, 30, 41), ["2", "0"])
    assert (
        shapes == {"0": (4, 14, 20), "2": (5, 14, 20)} == {name: tuple(each.shape[1:]) for name, each in maps.items()}
    )


def test_the_layers_of_deepdream_are_those_of_keras() -> None:
    """Keras' InceptionV3 gives these maps of 299 pixels, mixed0 to mixed10, as its source says beside each."""
    keras = [(256, 35), (288, 35), (288, 35), *[(768, 17)] * 5, (1280, 8), (2048, 8), (2048, 8)]
    eyes = on_meta("inception_v3", aux_logits=False, init_weights=False)
    blocks = [name for name, _ in eyes.network.named_children() if name.startswith("Mixed")]
    shapes = eyes.survey(299, 299, blocks).shapes
    assert [shapes[name] for name in blocks] == [(channels, side, side) for channels, side in keras]
    assert (blocks[2], blocks[3]) == ("Mixed_5d", "Mixed_6a")


def test_the_layers_of_style_transfer_are_those_of_keras() -> None:
    """Counted as Keras names them: blocks end in a pool, a convolution is named with its ReLU."""
    block, convolution, names = 1, 0, {}
    for index, layer in enumerate(on_meta("vgg19").network.features):
        if isinstance(layer, nn.MaxPool2d):
            block, convolution = block + 1, 0
        elif isinstance(layer, nn.ReLU):
            convolution += 1
            names[f"block{block}_conv{convolution}"] = index
    assert len(names) == 16
    assert [names[f"block{number}_conv1"] for number in range(1, 6)] == [1, 6, 11, 20, 29]
    assert names["block4_conv2"] == 22


def test_what_cannot_be_is_said() -> None:
    vgg = on_meta("vgg11")
    with pytest.raises(ValueError, match=r"no layer 'features\.40'; near are .*features\.4"):
        vgg.survey(64, 64, ["features.40"])
    with pytest.raises(ValueError, match="classifier.0 gives no feature map"):
        vgg.survey(64, 64, ["classifier.0"])
    with pytest.raises(
        ValueError, match="a picture of 20x9 pixels does not pass the network .* features.20; take a larger"
    ):
        vgg.survey(9, 20, ["features.20"])
    with pytest.raises(ValueError, match="name a network"):
        backbone_of(NetworkSettings())


def test_too_little_memory_is_noticed_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    survey = on_meta("vgg11").survey(1000, 2000, ["features.2"])
    assert survey.bytes > 4 * (2 * 64 * 1000 * 2000 + 64 * 500 * 1000)  # at least the outputs
    monkeypatch.setattr(module, "free_memory", lambda: survey.bytes - 1)
    with pytest.raises(
        ValueError, match="memory is not enough: 2000x1000 pixels need about .* GB are free; so do less"
    ):
        refuse_too_little_memory(survey, 1000, 2000, "cpu", "so do less")
    monkeypatch.setattr(module, "free_memory", lambda: survey.bytes)
    refuse_too_little_memory(survey, 1000, 2000, "cpu", "so do less")


def test_what_torch_holds_for_later_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for name, value in (("mem_get_info", (50, 1000)), ("memory_reserved", 400), ("memory_allocated", 150)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: asked.append(device) or value)
    refuse_too_little_memory(module.Survey({}, 300), 10, 10, "cuda:1", "")
    with pytest.raises(ValueError, match="memory is not enough"):
        refuse_too_little_memory(module.Survey({}, 301), 10, 10, "cuda:1", "")
    assert set(asked) == {"cuda:1"}
