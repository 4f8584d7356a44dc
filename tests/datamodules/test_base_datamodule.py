"""Loaders, augmentation and normalisation: what reaches the network."""

from pathlib import Path
from types import SimpleNamespace

import albumentations as A
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datamodules import Digits
from datamodules.normalization import Normalization
from datamodules.shards import Manifest

FLIP_AND_TURN = [A.Affine(rotate=(-30, 30), p=1), A.HorizontalFlip(p=0.5)]


def digits(shards: Path, rank: int = 0, world_size: int = 1, epoch: int = 0, **arguments: object) -> Digits:
    """Digits as a trainer of so many processes sees them."""
    data = Digits(root=str(shards), **arguments)
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        lightning_module=SimpleNamespace(dtype=torch.float32),
        fit_loop=SimpleNamespace(epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=epoch))),
    )
    data.prepare_data()
    data.setup("fit")
    return data


def epoch_of(loader: DataLoader, epoch: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    loader.batch_sampler.sampler.set_epoch(epoch)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_change_nothing(shards: Path, workers: int) -> None:
    alone = digits(shards, transforms=FLIP_AND_TURN, num_workers=0).train_dataloader()
    helped = digits(shards, transforms=FLIP_AND_TURN, num_workers=workers).train_dataloader()
    for epoch in (0, 1):  # the second with persistent workers
        for expected, found in zip(epoch_of(alone, epoch), epoch_of(helped, epoch), strict=True):
            assert torch.equal(expected, found)


def test_processes_share_the_global_batches(shards: Path) -> None:
    whole = iter(digits(shards, transforms=FLIP_AND_TURN, num_workers=0).train_dataloader())
    loaders = [digits(shards, r, 2, transforms=FLIP_AND_TURN, num_workers=0).train_dataloader() for r in (0, 1)]
    for (images, labels), *shares in zip(whole, *loaders, strict=True):
        assert torch.equal(images, torch.cat([share[0] for share in shares]))
        assert torch.equal(labels, torch.cat([share[1] for share in shares]))


def test_each_sighting_is_augmented_differently(shards: Path) -> None:
    dataset = digits(shards, transforms=FLIP_AND_TURN, num_workers=0).train_dataloader().dataset
    rows = len(dataset)
    sightings, labels = dataset.__getitems__([5 + epoch * rows for epoch in range(20)])
    assert len({picture.numpy().tobytes() for picture in sightings}) == 20
    assert labels.unique().numel() == 1
    again, _ = dataset.__getitems__([5 + 3 * rows])
    assert torch.equal(again[0], sightings[3])


def test_transforms_draw_independently_of_each_other(shards: Path) -> None:
    """Seeding each transform alike would tie one decision to the other."""
    first, second = A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)
    dataset = digits(shards, transforms=[first, second], num_workers=0).train_dataloader().dataset
    rows = len(dataset)
    pictures, _ = dataset.__getitems__([11 + epoch * rows for epoch in range(400)])
    plain = dataset.shards[11][0]
    variants = [plain, plain.flip(1), plain.flip(0), plain.flip(0, 1)]
    counts = np.array([sum(torch.equal(picture, variant) for picture in pictures) for variant in variants])
    assert counts.sum() == 400
    assert ((counts - 100) ** 2 / 100).sum() < 16.3  # chi squared, 3 degrees of freedom, p = 0.001


def test_a_continued_run_starts_in_its_epoch(shards: Path) -> None:
    loader = digits(shards, num_workers=1, epoch=4).train_dataloader()
    early = next(iter(loader))[1]  # Lightning takes an iterator before it sets the epoch
    assert torch.equal(early, epoch_of(digits(shards, num_workers=0).train_dataloader(), 4)[1][:64])


@pytest.mark.parametrize("split", ["val", "test", "predict"])
def test_evaluation_is_not_augmented_and_in_order(shards: Path, split: str) -> None:
    data = digits(shards, transforms=FLIP_AND_TURN, num_workers=0)
    images, labels = zip(*getattr(data, f"{split}_dataloader")(), strict=True)
    dataset = data.splits["val" if split == "val" else "test"]
    expected = dataset.__getitems__(list(range(len(dataset))))
    assert torch.equal(torch.cat(images), expected[0])
    assert torch.equal(torch.cat(labels), expected[1])


def test_no_process_is_left_without_an_evaluation_batch(shards: Path) -> None:
    shares = [list(digits(shards, rank, 100, batch_size=100).val_dataloader()) for rank in range(100)]
    assert all(shares)
    assert sum(len(labels) for share in shares for _, labels in share) == 135


def test_transforms_that_leave_different_sizes_are_refused(shards: Path) -> None:
    dataset = digits(shards, transforms=[A.RandomScale(0.5, p=1)], num_workers=0).train_dataloader().dataset
    with pytest.raises(ValueError, match="different sizes"):
        dataset.__getitems__(list(range(8)))


@pytest.mark.parametrize("kind", ["unit", "channel_mean", "mean_image", "standardize"])
def test_normalisation_equals_its_formula(shards: Path, kind: str) -> None:
    data = digits(shards, normalization=kind, num_workers=0)
    train = data.splits["train"].__getitems__(list(range(len(data.splits["train"]))))[0].numpy().astype(np.float64)
    images, _ = next(iter(data.val_dataloader()))
    x = images.numpy().astype(np.float64)
    expected = {
        "unit": x / 255,
        "channel_mean": x - train.mean(axis=(0, 1, 2)),
        "mean_image": x - train.mean(axis=0),
        "standardize": (x - train.mean(axis=(0, 1, 2))) / train.std(axis=(0, 1, 2)),
    }[kind]
    kept = images.clone()
    found, _ = data.on_after_batch_transfer((images, torch.zeros(len(images))), 0)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), expected, atol=1e-4)
    assert torch.equal(images, kept)  # the batch itself is left as it was


def test_bfloat16_is_computed_in_float32_first(shards: Path) -> None:
    folder = Digits(root=str(shards)).folder
    normalize = Normalization("channel_mean", folder, Manifest.load(folder))
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    expected = normalize(images, torch.float32).bfloat16()
    assert torch.equal(normalize(images, torch.bfloat16), expected)
