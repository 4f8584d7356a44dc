"""What is measured of synthesis is work that is done: gradients of a picture."""

import pytest
import torch

from benchmarks import synthesis
from lightning_modules import MiniVGGNet
from synthesis.backbone import Backbone
from synthesis.style import StyleTransfer


def test_what_is_measured_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    mini = Backbone(MiniVGGNet(10, 32), torch.zeros(1, 3, 1, 1), torch.full((1, 3, 1, 1), 1 / 255))
    loss, gradient = synthesis.dreaming(mini, {"net.1.4": 1.0}, 40)()
    assert loss > 0
    assert gradient.shape == (1, 3, 40, 40)
    evaluated: list[torch.Tensor] = []
    terms = StyleTransfer.terms
    monkeypatch.setattr(StyleTransfer, "terms", lambda self, pixels: evaluated.append(pixels) or terms(self, pixels))
    synthesis.restyling(mini, "net.1.4", synthesis.MINI_VGG_NET, 40)()
    assert evaluated[0].grad.abs().sum() > 0
