"""The one LightningDataModule that every data set extends: from raw pictures to normalised batches."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset

from datamodules.augmentation import AugmentedDataset, Transform
from datamodules.download import download, extract
from datamodules.normalization import Kind, Normalization
from datamodules.pack import Samples, fingerprint, pack
from datamodules.sampling import EveryRowOnce, ShuffledKeys
from datamodules.shards import FORMAT_VERSION, MANIFEST, Manifest, ShardDataset, remedy, verify


class ImageDataModule(LightningDataModule):
    """Pictures of one data set, packed once into shards and read by whole batches.

    A data set is a subclass that names itself, its classes and its stored size, and says in ``read`` how its official
    files become samples. Batches are ``(images, labels)``: on the device float ``(B, 3, H, W)`` normalised and int64
    ``(B,)``.

    Args:
        root: folder of the packed sets; downloads go to its subfolder ``raw``.
        source: folder with the raw files, which are then not downloaded.
        image_size: height and width of the stored pictures in pixels; the data set's own by default.
        val_fraction: share of the training samples kept for validation, stratified.
        test_fraction: share of all samples kept for testing, stratified, in a data set without an official test split.
        validate_on_test: train on all training samples and validate on the test split, as many published runs did.
        split_seed: seed of the stratified splits and of the stored order of the training rows.
        batch_size: training samples in a step over all processes; evaluation reads as many in each process.
        normalization: see ``Normalization``.
        transforms: albumentations transforms of the training pictures, applied one by one on the CPU.
        num_workers: loader processes; by default none without transforms, else one a core, four at most.
    """

    name: str
    classes: Sequence[str]
    default_image_size: int
    raw_folder: str | None = None  # folder of the official download; None where a package brings the pictures
    raw_file: str = ""  # a file in it that proves it is there
    url: str = ""
    checksum: str = ""

    def __init__(
        self,
        root: str = "data",
        source: str | None = None,
        image_size: int | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.25,
        validate_on_test: bool = False,
        split_seed: int = 42,
        batch_size: int = 64,
        normalization: Kind = "standardize",
        transforms: list[Transform] | None = None,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
            if not 0 < fraction < 1:
                raise ValueError(f"{name} is {fraction}; it must lie between 0 and 1")
        self.root, self.source = Path(root), Path(source) if source else None
        self.image_size = image_size or self.default_image_size
        self.val_fraction, self.test_fraction, self.validate_on_test = val_fraction, test_fraction, validate_on_test
        self.split_seed = split_seed
        self.batch_size = batch_size
        self.normalization = normalization
        self.transforms = transforms or []
        self.num_workers = min(4, os.cpu_count() or 1) * bool(self.transforms) if num_workers is None else num_workers
        self.splits: dict[str, ShardDataset] = {}

    def read(self, raw: Path) -> dict[str, Samples]:
        """Samples of the official splits: ``train`` alone, or with ``test``; ``raw`` is the folder of the raw files."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.classes)

    @property
    def recipe(self) -> dict[str, Any]:
        """All that decides the content of the packed set besides the pictures."""
        return {
            "format_version": FORMAT_VERSION,
            "dataset": self.name,
            "image_size": self.image_size,
            "val_fraction": self.val_fraction,
            "test_fraction": self.test_fraction,
            "validate_on_test": self.validate_on_test,
            "split_seed": self.split_seed,
        }

    @property
    def folder(self) -> Path:
        """Folder of the packed set: its name carries a hash of the recipe."""
        digest = hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode()).hexdigest()
        return self.root / f"{self.name}-{digest[:12]}"

    def prepare_data(self) -> None:
        """Pack the data set if that has not been done, else prove that the shards are what was packed."""
        if not (self.folder / MANIFEST).exists():
            raw = self._find_raw() or self._download()
            splits, files = self._split(self.read(raw)), self._fingerprint(raw)
            with suppress(FileExistsError):  # another process has packed it meanwhile
                pack(self.folder, self.name, self.classes, self.recipe, splits, self.image_size, files)
        manifest = self._manifest()
        if self.source and (raw := self._find_raw()) and self._fingerprint(raw) != manifest.source_files:
            raise ValueError(f"{self.folder} was packed from other files than {raw} holds; {remedy(self.folder)}")
        verify(self.folder, manifest)

    def setup(self, stage: str) -> None:
        """Open the shards and the normalisation."""
        if self.splits:
            return
        manifest = self._manifest()
        self.splits = {
            split: ShardDataset([self.folder / shard.file for shard in shards])
            for split, shards in manifest.splits.items()
        }
        self._normalize = Normalization(self.normalization, self.folder, manifest)
        if stage == "fit" and self.batch_size % self.trainer.world_size:
            raise ValueError(f"batch_size {self.batch_size} does not divide among {self.trainer.world_size} processes")
        if stage == "fit" and self.batch_size > len(self.splits["train"]):
            raise ValueError(f"batch_size {self.batch_size} exceeds the {len(self.splits['train'])} training samples")

    def train_dataloader(self) -> DataLoader:
        """Shuffled, augmented batches; the last incomplete one is dropped."""
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        train, seed = self.splits["train"], run_seed()
        keys = ShuffledKeys(len(train), self.batch_size, seed, rank, world_size)
        # In a continued run, Lightning starts loader processes before it calls set_epoch.
        keys.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)
        batches = BatchSampler(keys, self.batch_size // world_size, drop_last=True)
        return self._loader(AugmentedDataset(train, self.transforms, seed), batches)

    def val_dataloader(self) -> DataLoader:
        """Every validation sample once, in stored order."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader:
        """Every test sample once, in stored order."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader:
        """The test split."""
        return self._evaluation_loader("test")

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Normalise on the device, into the module's precision."""
        images, labels = batch
        return self._normalize(images, self.trainer.lightning_module.dtype), labels

    def _evaluation_loader(self, split: str) -> DataLoader:
        dataset, world_size = self.splits[split], self.trainer.world_size
        batch_size = min(self.batch_size, len(dataset) // world_size)  # no process may be left without a batch
        if not batch_size:
            raise ValueError(f"{world_size} processes cannot share the {len(dataset)} samples of the {split} split")
        rows = EveryRowOnce(len(dataset), batch_size, self.trainer.global_rank, world_size)
        return self._loader(dataset, BatchSampler(rows, batch_size, drop_last=False))

    def _loader(self, dataset: Dataset, batch_sampler: BatchSampler) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=batch_sampler,
            collate_fn=_whole_batch,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            worker_init_fn=_one_thread,
        )

    def _manifest(self) -> Manifest:
        manifest = Manifest.load(self.folder)
        if manifest.recipe != self.recipe:
            keys = sorted(key for key in self.recipe if manifest.recipe.get(key) != self.recipe[key])
            differences = ", ".join(f"{key} {manifest.recipe.get(key)} instead of {self.recipe[key]}" for key in keys)
            raise ValueError(f"{self.folder} was packed by another recipe ({differences}); {remedy(self.folder)}")
        return manifest

    def _find_raw(self) -> Path | None:
        """Folder of the raw files, in ``source`` or where a download puts them."""
        if self.raw_folder is None:
            return self.root
        base = self.source or self.root / "raw" / self.raw_folder
        return next((place for place in (base, base / self.raw_folder) if (place / self.raw_file).exists()), None)

    def _fingerprint(self, raw: Path) -> str:
        return fingerprint(raw) if self.raw_folder else ""

    def _download(self) -> Path:
        if self.source or not self.url:
            raise FileNotFoundError(
                f"{self.source or self.root} does not hold {self.raw_folder}/{self.raw_file}, which {self.name} "
                f"is made from; point source at its raw files{', or leave it out to download them' * bool(self.url)}"
            )
        raw = self.root / "raw"
        archive = download(self.url, self.checksum, raw)
        extract(archive, raw / self.raw_folder)
        archive.unlink()
        return self._find_raw() or raw / self.raw_folder

    def _split(self, official: dict[str, Samples]) -> dict[str, Samples]:
        """Complete the official splits by stratified ones, and shuffle the stored order of the training rows."""
        splits = dict(official)
        if "test" not in splits:
            splits["train"], splits["test"] = self._divide(splits["train"], self.test_fraction)
        if self.validate_on_test:
            splits["val"] = splits["test"]
        elif "val" not in splits:
            splits["train"], splits["val"] = self._divide(splits["train"], self.val_fraction)
        order = np.random.default_rng(self.split_seed).permutation(len(splits["train"]))
        return {"train": splits["train"].take(order), "val": splits["val"], "test": splits["test"]}

    def _divide(self, samples: Samples, fraction: float) -> tuple[Samples, Samples]:
        """Two stratified parts, the second with the given share."""
        try:
            kept, taken = train_test_split(
                np.arange(len(samples)), test_size=fraction, stratify=samples.labels, random_state=self.split_seed
            )
        except ValueError as error:
            raise ValueError(f"{self.name} cannot be split with a share of {fraction} a class: {error}") from error
        return samples.take(kept), samples.take(np.sort(taken))


def run_seed() -> int:
    """The seed of the run: what seed_everything was given, else torch's own."""
    return int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed() % 2**63))


def _whole_batch(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Collate nothing: the dataset returns whole batches."""
    return batch


def _one_thread(worker_id: int) -> None:
    """Keep each loader process on its own core."""
    cv2.setNumThreads(0)
