"""Style transfer against formulas by hand: Gram matrices, their scale, total variation, colours."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from synthesis.backbone import Backbone
from synthesis.style import StyleSettings, StyleTransfer, gram, total_variation, with_colours_of

SETTINGS = StyleSettings("", "", {"1": 1.0}, {"1": 1.0}, iterations=6)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 6, 3))


def picture(seed: int, height: int = 21, width: int = 31) -> Tensor:
    return 255 * torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def transfer(settings: StyleSettings, content: Tensor, style: Tensor, net: nn.Module | None = None) -> StyleTransfer:
    shift, scale = torch.full((1, 3, 1, 1), 100.0), torch.full((1, 3, 1, 1), 0.02)
    return StyleTransfer(Backbone(net or network(), shift, scale), content, style, settings)


def test_gram_by_hand() -> None:
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [-1.0, 2.0]]]])
    assert gram(features).tolist() == [[30.0, 7.0], [7.0, 6.0]]


def test_total_variation_by_hand() -> None:
    assert total_variation(torch.tensor([[[[1.0, 4.0], [5.0, 99.0]]]])).item() == pytest.approx(25**1.25)
    pixels = np.random.default_rng(0).uniform(0, 255, (3, 5, 4))
    wanted = sum(
        ((pixels[c, y + 1, x] - pixels[c, y, x]) ** 2 + (pixels[c, y, x + 1] - pixels[c, y, x]) ** 2) ** 1.25
        for c in range(3)
        for y in range(4)
        for x in range(3)
    )
    assert total_variation(torch.tensor(pixels)[None]).item() == pytest.approx(wanted)


@pytest.mark.parametrize("scale", ["picture", "layer"])
def test_terms_by_hand(scale: str) -> None:
    net, content, style, pixels = network(), picture(1), picture(2), picture(3)
    shares = {"1": 0.25, "2": 0.75}
    settings = replace(
        SETTINGS,
        content_layers={"2": 0.5},
        style_layers=shares,
        content_weight=3.0,
        style_weight=7.0,
        variation_weight=0.5,
        gram_scale=scale,
    )
    terms = transfer(settings, content, style, net).terms(pixels)

    def maps(image: Tensor) -> dict[str, np.ndarray]:
        first = net[1](net[0]((image - 100) * 0.02))
        return {"1": first[0].detach().numpy(), "2": net[2](first)[0].detach().numpy()}

    here, of_content, of_style = maps(pixels), maps(content), maps(style)
    assert terms["content"].item() == pytest.approx(1.5 * ((here["2"] - of_content["2"]) ** 2).sum(), rel=1e-4)
    wanted = 0.0
    for name, share in shares.items():
        grams = [np.einsum("ahw,bhw->ab", each[name], each[name]) for each in (here, of_style)]
        channels, height, width = (3, 21, 31) if scale == "picture" else here[name].shape
        wanted += 7 * share * ((grams[0] - grams[1]) ** 2).sum() / (2 * channels * height * width) ** 2
    assert terms["style"].item() == pytest.approx(wanted, rel=1e-4)
    assert terms["variation"].item() == pytest.approx(0.5 * total_variation(pixels).item())


def test_a_style_of_another_size_counts_by_position() -> None:
    pointwise = nn.Sequential(nn.Identity(), nn.Conv2d(3, 4, 1))
    content = picture(1)
    repeated = content.repeat(1, 1, 2, 3)  # the same style on six times the area
    assert transfer(SETTINGS, content, repeated, pointwise).terms(content)["style"].item() == pytest.approx(0, abs=1e-6)
    assert transfer(SETTINGS, content, picture(2), pointwise).terms(content)["style"].item() > 1e-3


@pytest.mark.parametrize("search", ["strong_wolfe", "none"])
@pytest.mark.parametrize("start", ["content", "noise"])
def test_the_loss_falls(start: str, search: str) -> None:
    settings = replace(SETTINGS, start=start, line_search=search, style_weight=1e4, variation_weight=1e-5)
    done = list(transfer(settings, picture(1), picture(2)))
    losses = [step.loss for step in done]
    assert len(done) == 7
    assert losses[-1] < 0.5 * losses[0]
    assert all(after <= before for before, after in pairwise(losses))
    assert (done[0].losses["content"] == 0) == (start == "content")


def test_all_weights_times_a_number_change_nothing() -> None:
    settings = replace(SETTINGS, style_weight=1e4, variation_weight=1e-5, iterations=3)
    small = replace(settings, content_weight=1e-9, style_weight=1e-5, variation_weight=1e-14)
    *_, last = transfer(settings, picture(1), picture(2))
    *_, of_small = transfer(small, picture(1), picture(2))
    assert of_small.loss == pytest.approx(1e-9 * last.loss, rel=0.1)


def test_a_start_from_noise_follows_from_the_seed() -> None:
    first, again, other = (
        next(iter(transfer(replace(SETTINGS, start="noise", seed_everything=seed), picture(1), picture(2)))).pixels
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0 <= first.min() < 5 < 250 < first.max() <= 255


def test_colours_are_kept_and_brightness_is_not() -> None:
    content, pixels = picture(1), picture(2)
    mixed = with_colours_of(content, pixels)

    def planes(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        red, green, blue = image[0]
        brightness = 0.299 * red + 0.587 * green + 0.114 * blue
        return brightness, blue - brightness, red - brightness

    assert torch.allclose(planes(mixed)[0], planes(pixels)[0], atol=1e-3)
    for colour in (1, 2):
        assert torch.allclose(planes(mixed)[colour], planes(content)[colour], atol=1e-3)
    *_, last = transfer(replace(SETTINGS, keep_colours=True, style_weight=1e4), content, pixels)
    assert torch.allclose(planes(last.pixels)[1], planes(content)[1], atol=1e-3)
    assert not torch.allclose(planes(last.pixels)[0], planes(content)[0], atol=1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"content_layers": {}, "style_layers": {}}, "name no layer"),
        ({"content_layers": {"0": 0.0}, "style_layers": {"0": 0.0}}, "other than 0"),
        ({"iterations": 0}, "--iterations must be at least 1"),
        ({"style_weight": -1.0}, "must be at least 0"),
        ({"style_layers": {"3": 1.0}}, "no layer '3'"),
    ],
)
def test_what_cannot_be_is_said(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        transfer(replace(SETTINGS, **changes), picture(1), picture(2))


def test_content_alone_asks_nothing_of_the_style() -> None:
    settings = replace(SETTINGS, content_layers={"2": 1.0}, style_layers={}, start="noise")
    first, *_, last = transfer(settings, picture(1), picture(2, 1, 1))
    assert last.losses["content"] < first.losses["content"]


def test_a_picture_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="a picture of 4x3 pixels does not pass the network"):
        transfer(replace(SETTINGS, style_layers={"2": 1.0}), picture(1), picture(2, 3, 4))


def test_a_style_picture_needs_to_pass_the_layers_of_the_style_alone() -> None:
    small = picture(2, 3, 4)  # passes layer 1, and not layer 2
    settings = replace(SETTINGS, content_layers={"2": 1.0}, style_weight=1e4, variation_weight=0)
    done = list(transfer(settings, picture(1), small))
    assert done[-1].losses["style"] < done[0].losses["style"]


def test_content_alone_looks_at_no_style() -> None:
    refuses = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 19 * 29, 2))  # another size than 21x31
    settings = replace(SETTINGS, content_layers={"0": 1.0}, style_layers={}, start="noise", variation_weight=0)
    done = list(transfer(settings, picture(1), picture(2, 9, 8), refuses))
    assert done[-1].losses["content"] < 0.1 * done[0].losses["content"]
    assert done[-1].losses["style"] == 0
