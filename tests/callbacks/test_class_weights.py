"""Weights of classes: by hand, in the loss of training alone, and for any precision."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import ClassWeights
from lightning_modules import SRCNN, Classifier


def small(classes: int = 3) -> Classifier:
    torch.manual_seed(0)
    model = Classifier(classes, 2)
    model.net = nn.Sequential(nn.Flatten(), nn.Linear(12, classes))
    return model


def weighed(model: Classifier, labels: list[int], power: float = 1.0) -> Classifier:
    train = SimpleNamespace(labels=np.array(labels))
    trainer = SimpleNamespace(
        is_global_zero=True,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        datamodule=SimpleNamespace(splits={"train": train}),
    )
    ClassWeights(power).on_train_start(trainer, model)
    return model


def test_classes_have_the_same_say() -> None:
    labels = [0] * 6 + [1] * 2 + [2] * 4
    assert weighed(small(), labels).class_weights.tolist() == pytest.approx([12 / 18, 12 / 6, 12 / 12])
    assert weighed(small(), labels, 0.0).class_weights.tolist() == pytest.approx([1, 1, 1])
    halfway = weighed(small(), labels, 0.5).class_weights
    assert (halfway[1] / halfway[0]).item() == pytest.approx(3**0.5)
    assert halfway[torch.tensor(labels)].mean().item() == pytest.approx(1)


def test_a_class_without_training_pictures_has_no_weight() -> None:
    assert weighed(small(), [0, 0, 0, 2]).class_weights.tolist() == pytest.approx([2 / 3, 0, 2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_training_loss_alone_is_weighed(dtype: torch.dtype) -> None:
    model = weighed(small().to(dtype), [0] * 6 + [1] * 2 + [2] * 4)
    images, labels = torch.randn(4, 3, 2, 2, dtype=dtype), torch.tensor([0, 1, 1, 2])
    each = F.cross_entropy(model(images), labels, reduction="none")
    weights = torch.tensor([2 / 3, 2, 2, 1], dtype=dtype)
    found = model.training_step((images, labels), 0)["loss"]
    torch.testing.assert_close(found, (weights * each).mean())  # as two processes with half of them would have it
    torch.testing.assert_close(model.validation_step((images, labels), 0)["loss"], each.mean())
    mixed = model.training_step((images, F.one_hot(labels, 3).to(dtype)), 0)["loss"]
    torch.testing.assert_close(mixed, (weights * each).mean())


def test_smoothed_labels_keep_the_weight_of_their_picture() -> None:
    model = weighed(small(), [0] * 6 + [1] * 2 + [2] * 4)
    model.label_smoothing = 0.3
    images, labels = torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 1, 2])
    each = F.cross_entropy(model(images), labels, reduction="none", label_smoothing=0.3)
    weights = torch.tensor([2 / 3, 2, 2, 1])
    torch.testing.assert_close(model.training_step((images, labels), 0)["loss"], (weights * each).mean())
    others = labels.flip(0)
    mixed = 0.75 * F.one_hot(labels, 3) + 0.25 * F.one_hot(others, 3)
    second = F.cross_entropy(model(images), others, reduction="none", label_smoothing=0.3)
    expected = (0.75 * weights * each + 0.25 * weights.flip(0) * second).mean()
    torch.testing.assert_close(model.training_step((images, mixed), 0)["loss"], expected)


def test_another_training_of_the_network_is_not_weighed() -> None:
    model = small(2)
    model.optimizer = torch.optim.SGD
    data = LightningDataModule()
    images, labels = torch.randn(4, 3, 2, 2), torch.tensor([0, 0, 0, 1])
    data.splits = {"train": SimpleNamespace(labels=labels.numpy())}
    data.train_dataloader = lambda: DataLoader(TensorDataset(images, labels), batch_size=4)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    Trainer(max_epochs=1, callbacks=[ClassWeights()], **quiet).fit(model, datamodule=data)
    expected = F.cross_entropy(model(images), labels)
    torch.testing.assert_close(model.training_step((images, labels), 0)["loss"], expected)


def test_auxiliary_losses_are_weighed_too() -> None:
    class Auxiliary(Classifier):
        auxiliary_weight = 0.25

        def training_logits(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return self(images), 2 * self(images)

    model = Auxiliary(3, 2, label_smoothing=0.3)
    model.net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    weighed(model, [0] * 6 + [1] * 2 + [2] * 4)
    images, labels = torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 1, 2])
    weights, targets = torch.tensor([2 / 3, 2, 2, 1]), 0.7 * F.one_hot(labels, 3) + 0.1
    own, auxiliary = (-(targets * (n * model(images)).log_softmax(dim=1)).sum(dim=1) for n in (1, 2))
    found = model.training_step((images, labels), 0)["loss"]
    torch.testing.assert_close(found, (weights * (own + 0.25 * auxiliary)).mean())


def test_it_is_for_classifiers() -> None:
    with pytest.raises(ValueError, match="SRCNN has no classes; leave out callbacks.ClassWeights"):
        weighed(SRCNN(3), [0, 1])
    with pytest.raises(ValueError, match="power is -1; it must not be negative"):
        ClassWeights(-1)
