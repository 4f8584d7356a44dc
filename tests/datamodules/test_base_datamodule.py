"""Loaders, augmentation and normalisation: what reaches the network."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import albumentations as A
import numpy as np
import pytest
import torch
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy, Strategy

from datamodules import BatchAugment, Digits
from datamodules.base import run_seed
from datamodules.manifest import Manifest
from datamodules.normalization import Normalization

FLIP_AND_TURN = [A.Affine(rotate=(-30, 30), p=1), A.HorizontalFlip(p=0.5)]


def digits(
    shards: Path, rank: int = 0, world_size: int = 1, epoch: int = 0, seen: int = 0, **arguments: object
) -> Digits:
    """Digits as a trainer of so many processes sees them, which stopped after some batches of an epoch."""
    data = Digits(root=str(shards), **arguments)
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        is_global_zero=rank == 0,
        strategy=SimpleNamespace(root_device=torch.device("cpu"), broadcast=lambda decided: decided),
        lightning_module=SimpleNamespace(dtype=torch.float32),
        training=True,
        validating=False,
        sanity_checking=False,
        predicting=False,
        fit_loop=SimpleNamespace(
            epoch_progress=SimpleNamespace(current=SimpleNamespace(ready=epoch + bool(seen), processed=epoch)),
            epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(processed=seen))),
        ),
    )
    data.prepare_data()
    data.setup("fit")
    return data


def epoch_of(data: Digits, epoch: int = 0, loader: Iterable | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """What reaches the network."""
    loader = loader or data.train_dataloader()
    loader.batch_sampler.sampler.set_epoch(epoch)
    images, labels = zip(*(data.on_after_batch_transfer(batch, 0) for batch in loader), strict=True)
    return torch.cat(images), torch.cat(labels)


AUGMENTATIONS = [
    {"transforms": FLIP_AND_TURN},
    {"batch_augment": BatchAugment(crop=28, padding=2, flip=0.5, rotation=20)},
    {"batch_augment": BatchAugment(crop=28, flip=0.5, brightness=0.3, mixup=0.2, cutmix=1.0)},
    {"transforms": FLIP_AND_TURN, "batch_augment": BatchAugment(padding=3, erasing=0.5)},
    {},
]


@pytest.mark.parametrize("arguments", AUGMENTATIONS)
@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_change_nothing(shards: Path, workers: int, arguments: dict[str, object]) -> None:
    alone, helped = (digits(shards, num_workers=count, **arguments) for count in (0, workers))
    loader = helped.train_dataloader()
    for epoch in (0, 1):  # the second with persistent workers
        images, labels = epoch_of(alone, epoch)
        helped_images, helped_labels = epoch_of(helped, epoch, loader)
        torch.testing.assert_close(helped_images, images, rtol=0, atol=1e-5)
        assert torch.equal(helped_labels, labels)


@pytest.mark.parametrize("arguments", AUGMENTATIONS[:2])
def test_processes_share_the_global_batches(shards: Path, arguments: dict[str, object]) -> None:
    whole = digits(shards, num_workers=0, **arguments).train_dataloader()
    loaders = [digits(shards, rank, 2, num_workers=0, **arguments).train_dataloader() for rank in (0, 1)]
    for (images, labels, _), *shares in zip(whole, *loaders, strict=True):
        assert torch.equal(images, torch.cat([share[0] for share in shares]))
        assert torch.equal(labels, torch.cat([share[1] for share in shares]))


@pytest.mark.parametrize("arguments", AUGMENTATIONS)
def test_an_interrupted_epoch_goes_on_where_it_stopped(shards: Path, arguments: dict[str, object]) -> None:
    whole = epoch_of(digits(shards, num_workers=0, **arguments), 2)
    data = digits(shards, epoch=2, seen=5, num_workers=0, **arguments)
    loader = data.train_dataloader()
    assert len(loader) == len(whole[0]) // 64  # that of a whole epoch: Lightning counts on from the sixth batch
    rest = epoch_of(data, 2, loader)
    assert torch.equal(rest[0], whole[0][5 * 64 :])
    assert torch.equal(rest[1], whole[1][5 * 64 :])
    following = epoch_of(data, 3, loader)
    assert torch.equal(following[0], epoch_of(digits(shards, num_workers=0, **arguments), 3)[0])


def test_an_epoch_whose_last_batch_was_seen_is_over(shards: Path) -> None:
    data = digits(shards, epoch=2, seen=len(digits(shards).train_dataloader()))
    keys = data.train_dataloader().batch_sampler.sampler
    assert (keys.epoch, keys.skipped) == (3, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"transforms": FLIP_AND_TURN},
        {"batch_augment": BatchAugment(flip=0.5)},
        {"batch_augment": BatchAugment(brightness=0.3)},
        {"batch_augment": BatchAugment(erasing=0.5)},
    ],
)
def test_order_and_augmentation_are_those_of_the_runs_seed(
    shards: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, object]
) -> None:
    def epoch(seed: str) -> tuple[list[int], torch.Tensor]:
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        data = digits(shards, batch_size=101, num_workers=0, **arguments)  # twelve batches, and no row is dropped
        batches = list(data.train_dataloader())
        keys = np.concatenate([keys for _, _, keys in batches])
        images = torch.cat([data.on_after_batch_transfer(batch, 0)[0] for batch in batches])
        return keys.tolist(), images[keys.argsort()]

    (keys, images), (other_keys, other_images), (again_keys, again_images) = map(epoch, "121")
    assert keys == again_keys
    assert torch.equal(images, again_images)
    assert keys != other_keys
    assert sorted(keys) == sorted(other_keys)
    assert not torch.equal(images, other_images)


def test_each_sighting_is_augmented_differently(shards: Path) -> None:
    dataset = digits(shards, transforms=FLIP_AND_TURN, num_workers=1).train_dataloader().dataset
    rows = len(dataset)
    sightings, labels, _ = dataset.__getitems__([5 + epoch * rows for epoch in range(20)])
    assert len({picture.numpy().tobytes() for picture in sightings}) == 20
    assert labels.unique().numel() == 1
    again, _, _ = dataset.__getitems__([5 + 3 * rows])
    assert torch.equal(again[0], sightings[3])


def test_transforms_draw_independently_of_each_other(shards: Path) -> None:
    """Seeding each transform alike would tie one decision to the other."""
    first, second = A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)
    dataset = digits(shards, transforms=[first, second], num_workers=1).train_dataloader().dataset
    rows = len(dataset)
    pictures, _, _ = dataset.__getitems__([11 + epoch * rows for epoch in range(400)])
    plain = dataset.pictures.shards[11][0]
    variants = [plain, plain.flip(1), plain.flip(0), plain.flip(0, 1)]
    counts = np.array([sum(torch.equal(picture, variant) for picture in pictures) for variant in variants])
    assert counts.sum() == 400
    assert ((counts - 100) ** 2 / 100).sum() < 16.3  # chi squared, 3 degrees of freedom, p = 0.001


def test_a_continued_run_starts_in_its_epoch(shards: Path) -> None:
    loader = digits(shards, num_workers=1, epoch=4).train_dataloader()
    early = next(iter(loader))[1]  # Lightning takes an iterator before it sets the epoch
    assert torch.equal(early, epoch_of(digits(shards, num_workers=0), 4)[1][:64])


@pytest.mark.parametrize("split", ["val", "test", "predict"])
def test_evaluation_is_not_augmented_and_in_order(shards: Path, split: str) -> None:
    augment = BatchAugment(padding=4, flip=0.5, brightness=0.5, erasing=1.0, mixup=1.0)
    data = digits(shards, transforms=FLIP_AND_TURN, batch_augment=augment, num_workers=1)
    plain = digits(shards, num_workers=1)
    data.trainer.training = plain.trainer.training = False
    batches = list(getattr(data, f"{split}_dataloader")())
    for batch in batches:
        for found, expected in zip(*(each.on_after_batch_transfer(batch, 0) for each in (data, plain)), strict=True):
            assert torch.equal(found, expected)
    images, labels, rows = zip(*batches, strict=True)
    dataset = data.splits["val" if split == "val" else "test"]
    expected = dataset.__getitems__(list(range(len(dataset))))
    assert torch.equal(torch.cat(images), expected[0])
    assert torch.equal(torch.cat(labels), expected[1])
    assert np.concatenate(rows).tolist() == list(range(len(dataset)))


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_pictures_are_scaled_to_what_the_network_takes(shards: Path, workers: int) -> None:
    data = digits(shards, batch_augment=BatchAugment(crop=24), num_workers=workers, normalization="unit")
    assert data.input_size == 24
    data.trainer.training = False
    images, _ = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    stored = data.splits["val"].__getitems__(range(64))[0].permute(0, 3, 1, 2).float()
    expected = torch.nn.functional.interpolate(stored, (24, 24), mode="bilinear", align_corners=False) / 255
    assert (images - expected).abs().max() < 5 / 255


def test_the_input_size_is_what_transforms_make(shards: Path) -> None:
    assert digits(shards, transforms=[A.RandomCrop(20, 20)]).input_size == 20
    with pytest.raises(ValueError, match="20x16"):
        _ = digits(shards, transforms=[A.RandomCrop(20, 16)]).input_size
    with pytest.raises(ValueError, match="mean_image has 32 pixels and the network's input 20"):
        digits(shards, transforms=[A.RandomCrop(20, 20)], normalization="mean_image")


def test_rows_are_shuffled_in_blocks_where_memory_is_small(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.base.free_memory", lambda: 2**20)
    data = digits(shards)
    sampler = data.train_dataloader().batch_sampler.sampler
    assert sampler.blocks.window == 1
    assert data.splits["train"].max_maps == 2
    monkeypatch.setattr("datamodules.base.free_memory", lambda: 2**40)
    assert digits(shards).train_dataloader().batch_sampler.sampler.blocks is None
    data = digits(shards, shuffle="blocks")
    window = 2**40 / 4 / data.splits["train"].bytes  # of one shard: they may take a quarter of the memory
    assert data.train_dataloader().batch_sampler.sampler.blocks.window == int(window)


def test_blocks_are_the_same_in_all_processes_and_in_a_continued_run(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = digits(shards).splits["train"].bytes
    monkeypatch.setattr("datamodules.base.free_memory", lambda: int(1.5 * shard))
    first = digits(shards, 0, 2)
    first.train_dataloader()
    decided = first.shuffle, first._window
    assert decided == ("blocks", 1)
    monkeypatch.setattr("datamodules.base.free_memory", lambda: 40 * shard)
    second = digits(shards, 1, 2)
    second.trainer.strategy.broadcast = lambda its_own: decided
    assert second.train_dataloader().batch_sampler.sampler.blocks.window == 1
    for asked in ("auto", "blocks"):
        continued = digits(shards, shuffle=asked)
        continued.load_state_dict(first.state_dict())
        assert continued.train_dataloader().batch_sampler.sampler.blocks.window == 1
    whole = digits(shards, shuffle="full")
    whole.load_state_dict(first.state_dict())
    assert whole.train_dataloader().batch_sampler.sampler.blocks is None


def test_no_process_is_left_without_an_evaluation_batch(shards: Path) -> None:
    shares = [list(digits(shards, rank, 100, batch_size=100).val_dataloader()) for rank in range(100)]
    assert all(shares)
    assert sum(len(labels) for share in shares for _, labels, _ in share) == 135


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_processes_evaluate_as_many_batches_where_weights_are_sharded(
    shards: Path, monkeypatch: pytest.MonkeyPatch, strategy: type[Strategy]
) -> None:
    monkeypatch.setattr(strategy, "root_device", torch.device("cpu"))
    shares = []
    for rank in range(4):
        data = digits(shards, rank, 4, batch_size=32)
        data.trainer.strategy = strategy()
        shares.append(list(data.val_dataloader()))
    assert [len(share) for share in shares] == [2, 2, 2, 2]  # whole batches of 32 would be 2, 1, 1 and 1
    assert sorted(row for share in shares for _, _, rows in share for row in rows) == list(range(135))


def test_a_batch_that_does_not_divide_among_the_processes_is_refused(shards: Path) -> None:
    with pytest.raises(ValueError, match="batch_size 64 does not divide among 3 processes"):
        digits(shards, 0, 3)


def test_a_batch_larger_than_the_training_split_is_refused(shards: Path) -> None:
    assert len(digits(shards, batch_size=1212).train_dataloader()) == 1
    with pytest.raises(ValueError, match="batch_size 1213 exceeds the 1212 training samples"):
        digits(shards, batch_size=1213)


def test_without_a_seed_of_the_run_torchs_own_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    assert run_seed() == 5
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert run_seed() == 7


@pytest.mark.parametrize("arguments", [{}, {"batch_augment": BatchAugment(flip=0.5)}])
def test_networks_in_bfloat16_get_bfloat16(shards: Path, arguments: dict[str, object]) -> None:
    data = digits(shards, num_workers=0, **arguments)
    data.trainer.lightning_module.dtype = torch.bfloat16
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert data.on_after_batch_transfer(next(iter(loader)), 0)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("on_cpu", [True, False])
def test_whole_batches_are_augmented_at_the_size_that_transforms_leave(
    shards: Path, monkeypatch: pytest.MonkeyPatch, on_cpu: bool
) -> None:
    monkeypatch.setattr(Digits, "_on_cpu", on_cpu)
    monkeypatch.setattr(Digits, "_pinned", False)
    augments = {"transforms": [A.CenterCrop(20, 20)], "batch_augment": BatchAugment(flip=1.0)}
    data = digits(shards, num_workers=0, normalization="unit", **augments)
    batch = next(iter(data.train_dataloader()))
    images, _ = data.on_after_batch_transfer(batch, 0)
    stored = data.splits["train"].__getitems__(batch[2])[0]  # in the first epoch, keys are rows
    torch.testing.assert_close(images, stored[:, 6:26, 6:26].flip(2).permute(0, 3, 1, 2) / 255)


def test_transforms_that_leave_different_sizes_are_refused(shards: Path) -> None:
    dataset = digits(shards, transforms=[A.RandomScale(0.5, p=1)], num_workers=1).train_dataloader().dataset
    with pytest.raises(ValueError, match="different sizes"):
        dataset.__getitems__(list(range(8)))


@pytest.mark.parametrize("kind", ["unit", "channel_mean", "mean_image", "standardize", "imagenet", "symmetric"])
def test_normalisation_equals_its_formula(shards: Path, kind: str) -> None:
    data = digits(shards, normalization=kind, num_workers=1)
    train = data.splits["train"].__getitems__(list(range(len(data.splits["train"]))))[0].numpy().astype(np.float64)
    images, labels, rows = next(iter(data.val_dataloader()))
    x = images.numpy().astype(np.float64)
    expected = {
        "unit": x / 255,
        "channel_mean": x - train.mean(axis=(0, 1, 2)),
        "mean_image": x - train.mean(axis=0),
        "standardize": (x - train.mean(axis=(0, 1, 2))) / train.std(axis=(0, 1, 2)),
        "imagenet": (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
        "symmetric": x / 255 * 2 - 1,
    }[kind]
    kept = images.clone()
    found, _ = data.on_after_batch_transfer((images, labels, rows), 0)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), expected, atol=1e-4)
    assert torch.equal(images, kept)  # the batch itself is left as it was
    by_threads, _, _ = next(iter(digits(shards, normalization=kind, num_workers=0).val_dataloader()))
    torch.testing.assert_close(by_threads, found, rtol=0, atol=1e-4)


def test_a_constant_channel_becomes_0(shards: Path) -> None:
    folder = Digits(root=str(shards)).folder
    manifest = replace(Manifest.load(folder), channel_mean=[7.0, 100.0, 100.0], channel_std=[0.0, 50.0, 50.0])
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    images[..., 0] = 7
    found = Normalization("standardize", folder, manifest)(images, torch.float32)
    assert torch.equal(found[:, 0], torch.zeros(4, 32, 32))
    assert found.isfinite().all()


def test_bfloat16_is_computed_in_float32_first(shards: Path) -> None:
    folder = Digits(root=str(shards)).folder
    normalize = Normalization("channel_mean", folder, Manifest.load(folder))
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    expected = normalize(images, torch.float32).bfloat16()
    assert torch.equal(normalize(images, torch.bfloat16), expected)


@pytest.mark.parametrize(
    ("augment", "alike"),
    [
        (BatchAugment(crop=28, padding=3, flip=0.5, border="zeros"), 1),
        (BatchAugment(shift=0.1, flip=0.5, interpolation="nearest"), 1),
        (BatchAugment(rotation=20, interpolation="nearest"), 0.98),  # between two pixels, rounding decides
        (BatchAugment(crop=24, flip=0.5, brightness=0.3, erasing=0.5, mixup=0.2, cutmix=1.0), 1),
    ],
)
@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_augmented_on_the_device_are_those_of_the_processor(
    shards: Path, monkeypatch: pytest.MonkeyPatch, workers: int, resident: bool, augment: BatchAugment, alike: float
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    images, labels = epoch_of(digits(shards, batch_augment=augment, num_workers=0), 1)
    monkeypatch.setattr(Digits, "_on_cpu", False)
    monkeypatch.setattr(Digits, "_pinned", False)
    data = digits(shards, batch_augment=augment, num_workers=workers, resident=resident)
    device_images, device_labels = epoch_of(data, 1)
    assert ((device_images - images).abs() < 1e-4).float().mean() >= alike
    torch.testing.assert_close(device_labels, labels, rtol=0, atol=1e-6)


@pytest.mark.parametrize("arguments", [{}, {"batch_augment": BatchAugment(erasing=0.5, mixup=0.2)}])
@pytest.mark.parametrize("workers", [0, 1])
def test_resident_pictures_are_the_same(
    shards: Path, monkeypatch: pytest.MonkeyPatch, workers: int, arguments: dict[str, object]
) -> None:
    monkeypatch.setattr(Digits, "_on_cpu", False)
    monkeypatch.setattr(Digits, "_pinned", False)
    fetched, resident = (
        digits(shards, resident=resident, num_workers=workers, **arguments) for resident in (False, True)
    )
    for epoch in (0, 1):
        for one, other in zip(epoch_of(fetched, epoch), epoch_of(resident, epoch), strict=True):
            assert torch.equal(one, other)
    for stage in ("val", "test"):
        batches = []
        for data in (fetched, resident):
            data.trainer.training, data.trainer.validating, data.trainer.sanity_checking = False, stage == "val", False
            loader = getattr(data, f"{stage}_dataloader")()
            batches.append([data.on_after_batch_transfer(batch, 0) for batch in loader])
        assert len(batches[0]) == len(batches[1])
        for pair in zip(*batches, strict=True):
            for one, other in zip(*pair, strict=True):
                assert torch.equal(one, other)
    assert {split: len(images) for split, (images, _) in resident._on_device.items()} == {
        split: len(dataset) for split, dataset in resident.splits.items()
    }


@pytest.mark.parametrize("views", ["flip", "ten_crop"])
@pytest.mark.parametrize("resident", [False, True])
def test_only_test_pictures_have_several_views(
    shards: Path, monkeypatch: pytest.MonkeyPatch, resident: bool, views: str
) -> None:
    monkeypatch.setattr(Digits, "_on_cpu", False)
    monkeypatch.setattr(Digits, "_pinned", False)
    data = digits(shards, views=views, resident=resident, num_workers=0, batch_augment=BatchAugment(crop=24))
    for stage in ("training", "sanity_checking", "validating", "testing"):
        for name in ("training", "sanity_checking", "validating"):
            setattr(data.trainer, name, name == stage)
        split = {"training": "train", "testing": "test"}.get(stage, "val")
        images, labels = data.on_after_batch_transfer(next(iter(getattr(data, f"{split}_dataloader")())), 0)
        several = {"flip": (2,), "ten_crop": (10,)}[views] if split == "test" else ()
        assert images.shape == (64, *several, 3, 24, 24)
        if split != "train":
            assert labels.tolist() == data.splits[split].labels[:64].tolist()


def test_resident_pictures_have_no_transforms() -> None:
    with pytest.raises(ValueError, match="take batch_augment"):
        Digits(resident=True, transforms=FLIP_AND_TURN)


def test_one_thread_is_for_transforms_alone(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    data = digits(shards, transforms=FLIP_AND_TURN, num_workers=0)
    assert data.train_dataloader().threads == 1
    assert data.val_dataloader().threads == 3
    data = digits(shards, transforms=FLIP_AND_TURN, num_workers=2)
    data.trainer.training, data.trainer.predicting = False, True
    assert data.predict_dataloader().threads == 3
