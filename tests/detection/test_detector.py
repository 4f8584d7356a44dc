"""A classifier as a detector: both paths, and networks for which one of them is refused."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detection import Detector, Settings
from detection.convolutional import TOLERANCE, Convolutional
from detection.layers import sliding
from lightning_modules import Classifier, MiniVGGNet, UnpaddedNet
from predictor import Predictor


class Chain(Classifier):
    """Layers in a row for pictures of 16 pixels, its BatchNorm statistics and affine maps no trivial ones."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(num_classes=5, image_size=16)
        self.net = nn.Sequential(*layers)


def mixed(network: Classifier) -> Classifier:
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 2, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.3, generator=generator)
    return network.eval()


def predictor(network: Classifier, size: int = 16, names: str = "abcde", shift: Tensor | None = None) -> Predictor:
    shift = torch.full((1, 3, 1, 1), 120.0) if shift is None else shift
    preprocessing = {"classes": list(names), "stored_size": size, "input_size": size}
    return Predictor(
        mixed(network), {**preprocessing, "shift": shift, "scale": torch.full((1, 3, 1, 1), 1 / 60)}
    ).eval()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def stem(channels: int = 8) -> list[nn.Module]:
    return [nn.Conv2d(3, channels, 3, stride=2), nn.ReLU(), nn.BatchNorm2d(channels)]


CHAINS = {  # 16 pixels become 7x7
    "linear": (2, [*stem(), nn.Flatten(), nn.Linear(8 * 49, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5)]),
    "pooled": (2, [*stem(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, 5)]),
    "adaptive that changes nothing": (2, [*stem(), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(8 * 49, 5)]),
    "pool over the whole map": (2, [*stem(), nn.MaxPool2d(7), nn.Flatten(), nn.Linear(8, 5)]),
    "no linear layer": (2, [*stem(5), nn.AdaptiveAvgPool2d(1), nn.Flatten()]),
    "nested": (4, [nn.Sequential(*stem()), nn.Sequential(nn.MaxPool2d(2), nn.Flatten()), nn.Linear(72, 5)]),
    "pixels left out": (5, [nn.Conv2d(3, 4, 2, stride=5), nn.Flatten(), nn.Linear(36, 5)]),  # 3 of 16
}


@pytest.mark.parametrize("name", CHAINS)
def test_one_pass_gives_the_logits_of_all_windows(name):
    torch.manual_seed(0)
    stride, layers = CHAINS[name]
    network = predictor(Chain(*layers))
    convolution = Convolutional(network, 16)
    assert convolution.stride == stride
    picture = torch.from_numpy(noise(16 + 3 * stride + 1, 16 + 3 * stride - 1))
    found = convolution(picture)
    assert found.shape == (4, 3, 5)
    for row in range(4):
        for column in range(3):
            window = picture[stride * row :, stride * column :][:16, :16]
            normalized = ((window.float() - 120) / 60).permute(2, 0, 1)[None]
            torch.testing.assert_close(found[row, column][None], network.network(normalized), atol=1e-5, rtol=1e-4)


def test_the_network_itself_is_not_changed():
    layers = CHAINS["pool over the whole map"][1]
    network = Chain(*layers)
    sliding(network, 16)
    assert network.net[3].stride == 7
    assert isinstance(network.net[-1], nn.Linear)


@pytest.mark.parametrize("tile", [1, 16, 23, 37, 1000])
@pytest.mark.parametrize("step", [4, 8])
def test_tiles_give_what_the_whole_picture_gives(step, tile):
    convolution = Convolutional(predictor(UnpaddedNet(5, 16)), 16)
    picture = torch.from_numpy(noise(35, 49))
    assert convolution.stride == 2  # of its first pool; the second sees all that is left of a window
    whole = convolution(picture)[:: step // 2, :: step // 2][: (35 - 16) // step + 1, : (49 - 16) // step + 1]
    tiled = convolution.logits_of_windows(picture, step, tile)
    torch.testing.assert_close(tiled, whole)
    assert tiled.shape[:2] == ((35 - 16) // step + 1, (49 - 16) // step + 1)


def both(network: Predictor, **settings: object) -> list[Detector]:
    return [Detector(network, Settings(**settings, path=path)) for path in ("windows", "convolutional")]


def test_both_paths_find_the_same_boxes():
    torch.manual_seed(0)
    network = predictor(UnpaddedNet(5, 16))
    slow, fast = both(network, step=4, factor=1.3, probability=0.25, batch_size=7, tile=40)
    for alone, together in zip(slow.detect(noise(61, 50)), fast.detect(noise(61, 50)), strict=True):
        assert len(alone) > 10
        assert torch.equal(alone.corners, together.corners)
        assert torch.equal(alone.labels, together.labels)
        torch.testing.assert_close(alone.probabilities, together.probabilities, atol=1e-5, rtol=0)


class Bright(Classifier):
    """Class 1 where all of a window is bright, class 2 where its left half is, else class 0."""

    def __init__(self) -> None:
        super().__init__(num_classes=3, image_size=8)
        self.net = nn.Flatten()

    def forward(self, images: Tensor) -> Tensor:
        """Logits far apart."""
        left, right = (images[..., half].mean(dim=(1, 2, 3)) for half in (slice(0, 4), slice(4, 8)))
        both, one = ((left > 0.9) & (right > 0.9)).float(), ((left > 0.9) & (right <= 0.9)).float()
        return 8 * torch.stack([1 - both - one, both, one], dim=1)


def bright(**settings: object) -> Detector:
    preprocessing = {"classes": ["nothing", "square", "edge"], "stored_size": 8, "input_size": 8}
    scaled = {"shift": torch.zeros(1, 3, 1, 1), "scale": torch.full((1, 3, 1, 1), 1 / 255)}
    return Detector(Predictor(Bright(), {**preprocessing, **scaled}), Settings(step=4, **settings))


def test_objects_of_two_sizes_are_found_where_they_are():
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[8:16, 4:12] = 255
    picture[16:32, 40:56] = 255
    before, after = bright(factor=2.0, background=["nothing", "edge"], overlap=0.1).detect(picture)
    assert len(before) == 1 + 9 + 1  # nine small windows inside the large square
    assert [4.0, 8.0, 12.0, 16.0] in after.corners.tolist()
    assert [40.0, 16.0, 56.0, 32.0] in before.corners.tolist()
    assert set(after.labels.tolist()) == {1}


def test_background_is_never_reported():
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[8:16, 8:16] = 255
    assert set(bright().detect(picture)[0].labels.tolist()) == {0, 1, 2}
    assert set(bright(background=["nothing"]).detect(picture)[0].labels.tolist()) == {1, 2}
    assert len(bright(background=["nothing", "edge", "square"]).detect(picture)[1]) == 0


@pytest.mark.parametrize(("probability", "found"), [(0.5, 1), (1.0, 0)])
def test_the_probability_is_a_threshold(probability, found):
    picture = np.zeros((8, 8, 3), np.uint8)
    assert len(bright(probability=probability).detect(picture)[0]) == found


def test_a_probability_that_is_just_reached_is_enough():
    picture = np.zeros((8, 8, 3), np.uint8)
    (reached,) = bright().detect(picture)[0].probabilities.tolist()
    assert len(bright(probability=reached).detect(picture)[0]) == 1
    assert len(bright(probability=np.nextafter(np.float32(reached), np.float32(1)).item()).detect(picture)[0]) == 0


def test_windows_of_another_size_are_scaled_to_the_input():
    picture = np.zeros((48, 48, 3), np.uint8)
    picture[16:32, 16:32] = 255
    _, after = bright(window=16, factor=4.0, background=["nothing", "edge"]).detect(picture)
    assert after.corners.tolist() == [[16.0, 16.0, 32.0, 32.0]]


def test_padding_is_found_out_and_auto_takes_windows():
    detector = Detector(predictor(MiniVGGNet(5, 16)), Settings(step=4))
    assert detector.convolution is None
    assert "windows: the network gives a window within a picture other logits than alone" in detector.path
    assert "its layer net.0.0 pads what it is given" in detector.path


def test_padding_that_changes_nothing_is_no_reason():
    torch.manual_seed(0)
    layers = [nn.MaxPool2d(2, padding=1, ceil_mode=True), *stem(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    assert "pads" in Detector(predictor(Chain(*layers, nn.Linear(8, 5))), Settings(step=4)).path
    layers = [nn.Conv2d(3, 8, 1, padding=0), *stem()[1:], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    detector = Detector(predictor(Chain(*layers)), Settings(step=3))
    assert detector.convolution.stride == 1
    assert detector.convolution.difference < TOLERANCE / 10
    assert "convolutional: logits differ" in detector.path


@pytest.mark.parametrize(("share", "path"), [(0.0, "convolutional: "), (0.005, "windows: ")])
def test_padding_that_changes_a_thousandth_is_a_reason(share, path):
    padded = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    padded.weight.data.fill_(share)
    padded.weight.data[..., 1, 1] = 1 + torch.arange(5)[:, None]
    network = predictor(Chain(padded, nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert Detector(network, Settings(step=4)).path.startswith(path)


class Residual(nn.Module):
    """A layer with a way around it."""

    def forward(self, x: Tensor) -> Tensor:
        """Twice a part of it."""
        return x + x.relu()


def test_layers_of_ones_own_may_be_in_the_chain():
    torch.manual_seed(0)
    layers = [*stem(), Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    assert Convolutional(predictor(Chain(*layers)), 16).stride == 2


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([*stem(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 5)], "adaptive pool to several values"),
        ([*stem(), nn.Flatten(), nn.LayerNorm(392), nn.Linear(392, 5)], "LayerNorm among its linear layers"),
        ([*stem(), nn.Flatten(), nn.BatchNorm1d(392), nn.Linear(392, 5)], "BatchNorm1d among its linear layers"),
        ([*stem(), nn.Flatten()], "does not end in one row of logits"),
        ([nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(3, 5)], "one answer"),
    ],
)
def test_what_cannot_slide_says_so(layers, words):
    network = predictor(Chain(*layers))
    with pytest.raises(ValueError, match=f"the convolutional path is not possible: the network .*{words}"):
        Detector(network, Settings(step=4, path="convolutional"))
    assert "windows: the network" in Detector(network, Settings(step=4)).path


def test_other_windows_and_a_mean_image_need_windows():
    network = predictor(UnpaddedNet(5, 16))
    assert "to which windows of 24 have to be scaled" in Detector(network, Settings(step=4, window=24)).path
    network = predictor(UnpaddedNet(5, 16), shift=torch.rand(1, 3, 16, 16))
    assert "mean image" in Detector(network, Settings(step=4)).path


def test_the_step_must_suit_the_stride():
    network = predictor(UnpaddedNet(5, 32), size=32)
    with pytest.raises(ValueError, match="stride of 4, so the step can be 4, 8, 12, 16 and so on, not 6"):
        Detector(network, Settings(step=6, path="convolutional"))
    assert "not 6" in Detector(network, Settings(step=6)).path


def test_an_unknown_class_names_near_ones():
    with pytest.raises(ValueError, match="--background squares is no class of this network; such are square"):
        bright(background=["squares"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"path": "convolutional"}, "--tile 512 takes less"), ({"path": "windows"}, "--batch_size 32 takes less")],
)
def test_too_little_memory_says_what_takes_less(settings, words, monkeypatch):
    detector = Detector(predictor(UnpaddedNet(5, 16)), Settings(step=4, **settings))

    def forward(*_: object) -> Tensor:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    with pytest.raises(ValueError, match=f"memory is not enough for so much at a time; {words}"):
        detector.detect(noise(40, 40))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("factor", 1.0, "factor is 1.0; it must be greater than 1"),
        ("step", 0, "step is 0; it must be at least 1"),
        ("resize", -5, "resize is -5; it must be at least 1"),
        ("probability", 0.0, "probability is 0.0; it must lie above 0"),
        ("overlap", 1.5, "overlap is 1.5; it must lie between 0 and 1"),
    ],
)
def test_settings_out_of_range(name, value, words):
    with pytest.raises(ValueError, match=words):
        Settings(**{name: value})


def test_settings_at_the_ends_of_their_range():
    for overlap in (0, 1):
        assert Settings(probability=1, overlap=overlap, step=1, tile=1).overlap == overlap
