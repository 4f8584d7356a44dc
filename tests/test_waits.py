"""What a GPU does of a step, seen without one, on tensors that have a device and no values: nothing waits for it."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from callbacks import EMA, MeanLoss, TopKAccuracy
from callbacks.epoch_means import joined
from datamodules import BatchAugment
from datamodules.geometry import warp_on_device
from detection.layers import sliding
from lightning_modules import MiniVGGNet

GPU = torch.device("cuda")
KEYS = np.arange(8)


class Waits(TorchDispatchMode):
    """Notes copies that wait until the device is done with all before them; reading a value is an error by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = str(func)
        if name.startswith("aten._to_copy") and args[0].device != out.device and not (kwargs or {}).get("non_blocking"):
            self.found.append(f"{name} from {args[0].device} to {out.device}")
        return out


def waits(step: Callable[[], object]) -> list[str]:
    with Waits() as waiting:
        step()
    return waiting.found


@pytest.fixture(autouse=True)
def no_values(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors of any device have none here. Only with a GPU does torch know what grid_sample gives there."""
    monkeypatch.setattr(F, "grid_sample", lambda planes, grid, *_, **__: planes.new_zeros(*planes.shape[:2], 32, 32))
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def outputs() -> dict[str, Tensor]:
    labels = torch.zeros(8, dtype=torch.int64, device=GPU)
    return {"loss": torch.zeros((), device=GPU), "logits": torch.zeros(8, 10, device=GPU), "labels": labels}


def test_a_wait_is_seen() -> None:
    assert waits(lambda: torch.tensor([1.0, 2.0], device=GPU))
    with pytest.raises(DataDependentOutputException):
        waits(lambda: bool(torch.zeros(2, device=GPU).any()))
    assert not waits(lambda: torch.ones(2).to(GPU, non_blocking=True))


def test_augmentation() -> None:
    colours = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1}
    augment = BatchAugment(padding=4, flip=0.5, rotation=10, erasing=0.3, mixup=0.2, cutmix=1.0, **colours)

    def step() -> None:
        images = torch.zeros(8, 32, 32, 3, dtype=torch.uint8, device=GPU)
        images = warp_on_device(images, augment.matrices(1, KEYS, 32), 32, "zeros")
        images = augment.colours(images, 1, KEYS).permute(0, 3, 1, 2)
        mixed, labels = augment.erase_and_mix(images, outputs()["labels"], 1, KEYS, 10)
        assert (mixed.device.type, labels.device.type) == ("cuda", "cuda")

    assert waits(step) == []


def test_metrics() -> None:
    for metric in (MeanLoss(), TopKAccuracy()):
        assert waits(lambda metric=metric: metric.sums(joined([outputs() for _ in range(16)]))) == []


def test_averages_of_the_weights() -> None:
    with GPU:
        network = MiniVGGNet(10, 32)
    trainer, ema = Trainer(logger=False, accelerator="cpu"), EMA()
    ema.on_train_start(trainer, network)
    ema.steps = -1  # a step has ended
    assert waits(lambda: ema.on_train_batch_end(trainer, network, None, None, 0)) == []


def test_a_network_that_slides_stays_on_its_device() -> None:
    with GPU:
        network = MiniVGGNet(10, 32)
    assert {tensor.device.type for tensor in sliding(network.eval(), 32).state_dict().values()} == {"cuda"}
