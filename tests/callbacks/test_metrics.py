"""Loss and top-k accuracy: counted by hand, by scikit-learn, and over whole epochs."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from sklearn.metrics import log_loss, top_k_accuracy_score
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import AdversarialMeans, MeanLoss, TopKAccuracy
from lightning_modules import Classifier


def hits(logits: list[list[float]], labels: list, *ks: int) -> list[int]:
    sums = TopKAccuracy(ks).sums({"logits": torch.tensor(logits), "labels": torch.tensor(labels)})
    return [int(sums[f"top{k}"]) for k in ks]


def test_by_hand() -> None:
    logits = [[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 5.0, 4.0]]
    assert hits(logits, [0, 1, 2, 2], 1, 2, 3) == [1, 3, 4]


def test_of_equal_logits_the_lower_class_comes_first_as_in_numpy() -> None:
    logits = np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 2.0], [2.0, 0.0, 2.0]])
    assert logits.argmax(axis=1).tolist() == [0, 1, 0]
    assert hits(logits.tolist(), [0, 1, 0], 1) == [3]
    assert hits(logits.tolist(), [1, 2, 2], 1, 2) == [0, 3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_is_a_miss(bad: float) -> None:
    assert hits([[bad] * 3, [5.0, bad, 0.0], [5.0, 0.0, 0.0]], [0, 0, 0], 1, 3) == [1, 1]


def test_mixed_labels_count_by_their_largest_share() -> None:
    assert hits([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]], [[0.7, 0.3, 0.0], [0.2, 0.2, 0.6]], 1, 2) == [1, 1]


def test_generator_and_discriminator_by_hand() -> None:
    real, generated, fooled = torch.tensor([2.0, -1.0]), torch.tensor([-3.0, -0.5]), torch.tensor([0.0, 1.0])
    sums = AdversarialMeans().sums({"real": real, "generated": generated, "fooled": fooled})
    assert sums["discriminator"] == 1.5  # three of four pictures, two of them a sample
    ones, zeros = torch.ones(2), torch.zeros(2)
    entropy = partial(F.binary_cross_entropy_with_logits, reduction="sum")
    torch.testing.assert_close(sums["generator_loss"], entropy(fooled, ones))
    torch.testing.assert_close(sums["discriminator_loss"], (entropy(real, ones) + entropy(generated, zeros)) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_scikit_learn(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    # a permutation of distinct values in each row: no ties, in any precision
    logits = torch.stack([torch.randperm(7, generator=generator) for _ in range(500)]).to(dtype)
    labels = torch.randint(0, 7, (500,), generator=generator)
    sums = TopKAccuracy((1, 2, 5, 9)).sums({"logits": logits, "labels": labels})
    assert set(sums) == {"top1", "top2", "top5"}  # there is no top 9 of 7
    for k in (1, 2, 5):
        assert int(sums[f"top{k}"]) == top_k_accuracy_score(labels, logits.float(), k=k, normalize=False)


def test_rank_1_and_rank_5_are_measured_unless_told_otherwise() -> None:
    sums = TopKAccuracy().sums({"logits": torch.arange(12.0).reshape(2, 6), "labels": torch.tensor([1, 0])})
    assert {name: int(hits) for name, hits in sums.items()} == {"top1": 0, "top5": 1}


@pytest.mark.parametrize("ks", [(), (0,), (1, -5)])
def test_impossible_ks(ks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least"):
        TopKAccuracy(ks)


class Linear(Classifier):
    """Logits are the input."""

    def __init__(self) -> None:
        super().__init__(5, 1, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.0))
        self.net = torch.nn.Linear(5, 5, bias=False)
        torch.nn.init.eye_(self.net.weight)


def test_means_are_over_samples_not_batches(tmp_path: Path) -> None:
    """Ten samples in batches of four: the last, of two, counts half as much as a mean over batches would have it."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(10, 5, generator=generator) * 3, torch.randint(0, 5, (10,), generator=generator)
    loader = DataLoader(TensorDataset(logits, labels), batch_size=4)
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[MeanLoss(), TopKAccuracy((1, 2, 6))],
        num_sanity_val_steps=1,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Linear(), loader, loader)
    trained = dict(trainer.callback_metrics)
    trainer.test(Linear(), loader, verbose=False)
    probabilities = logits.double().softmax(dim=1)
    for stage, metrics in (("train", trained), ("val", trained), ("test", trainer.callback_metrics)):
        assert metrics[f"{stage}/loss"].item() == pytest.approx(
            log_loss(labels, probabilities, labels=range(5)), rel=1e-6
        )
        for k in (1, 2):
            expected = top_k_accuracy_score(labels, probabilities, k=k, labels=range(5))
            assert metrics[f"{stage}/top{k}"].item() == pytest.approx(expected, abs=1e-12)
        assert f"{stage}/top6" not in metrics
