"""The one LightningDataModule that every data set extends: from raw pictures to normalised batches."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from datamodules.archive import extract
from datamodules.augmentation import AugmentedPictures, Transform, transformed_size
from datamodules.batch_augment import BatchAugment
from datamodules.batches import Batches
from datamodules.download import download
from datamodules.geometry import resize_matrices, resize_matrix, ten_crops, warp_on_device, with_mirrored
from datamodules.jpeg import Encoding
from datamodules.loader import Batch, BatchLoader, worker_loader
from datamodules.manifest import FORMAT_VERSION, MANIFEST, Manifest, remedy, verify
from datamodules.memory import free_memory
from datamodules.normalization import Kind, Normalization
from datamodules.pack import pack
from datamodules.raw_files import RawFiles
from datamodules.resident import RowsOnly, copied
from datamodules.samples import Samples, Windows
from datamodules.sampling import Blocks, ShuffledKeys, equal_shares, whole_batches
from datamodules.shards import ShardDataset
from datamodules.splits import Splitting

Views = Literal["one", "flip", "ten_crop"]

logger = logging.getLogger("litvision")


class ImageDataModule(LightningDataModule):
    """Pictures of one data set, packed once into shards and read by whole batches.

    A data set is a subclass that names itself, its classes and its stored size, and says in ``read`` how its official
    files become samples. Batches are ``(images, labels)``: on the device float ``(B, 3, H, W)`` normalised and int64
    ``(B,)``.

    Args:
        root: folder of the packed sets; downloads go to its subfolder ``raw``.
        source: folder with the raw files, which are then not downloaded.
        image_size: height and width of the stored pictures in pixels; the data set's own by default.
        val_fraction: share of the training samples kept for validation, stratified; the data set's own by default.
        test_fraction: share of all samples kept for testing, stratified, in a data set without an official test split;
            the data set's own by default.
        validate_on_test: train on all training samples and validate on the test split, as many published runs did; an
            official validation split is left out then.
        split_seed: seed of the stratified splits and of the stored order of the training rows.
        folds: for cross-validation: stratified parts of all samples that would train or validate, of which one
            validates; val_fraction and an official validation split then have no effect.
        fold: which one, from 1. Each fold is a packed set of its own.
        encoding: how pictures are stored: ``raw`` pixels, or ``jpeg``, about a tenth of their size at 256 pixels and
            slower to read; the data set's own by default.
        jpeg_quality: 1 to 100.
        skip_broken: leave out pictures that cannot be read, naming them, instead of stopping; the data set's own by
            default.
        batch_size: training samples in a step over all processes; evaluation reads as many in each process.
        normalization: see ``Normalization``.
        transforms: albumentations transforms of the training pictures, applied one by one on the CPU.
        batch_augment: augmentation of whole training batches, after the transforms.
        shuffle: order of the training rows: ``full``, a permutation of all; ``blocks``, one shard or a few at a time,
            for a set that memory cannot hold; ``auto``, blocks where the rows take more than half the free memory.
        views: what test and predict average the probabilities of: ``one``, the picture alone; ``flip``, also its mirror
            image; ``ten_crop``, corners and centre of the stored picture, and their mirror images (Krizhevsky et al.
            2012, section 4.1).
        resident: keep the stored pictures on the GPU, for a set that fits its memory; a CPU reads them where they are.
        num_workers: loader processes; by default none without transforms, else one a core, four at most. Without
            processes, threads make the batches.
    """

    name: str
    classes: Sequence[str]
    official_samples: int | None = None  # in all splits of the whole data set; None where there is no such number
    official_classes: int | None = None  # the same of classes, where only the files tell which there are
    default_image_size: int
    default_val_fraction = 0.1
    default_test_fraction = 0.25
    default_skip_broken = False
    raw_folder: str | None = None  # folder of the official download; None where a package brings the pictures
    raw_file: str | tuple[str, ...] = ""  # a file or folder in it that proves it is there; one of several that do
    url: str = ""
    checksum: str = ""
    official_files: Mapping[str, str] = {}  # checksums of the raw files, where they are known
    default_encoding: Encoding = "raw"
    image_channels = 3  # C of what reaches the network
    windows: Windows | None = None  # what packing cuts out of a picture; a picture is one row without them

    def __init__(
        self,
        root: str = "data",
        source: str | None = None,
        image_size: int | None = None,
        val_fraction: float | None = None,
        test_fraction: float | None = None,
        validate_on_test: bool = False,
        split_seed: int = 42,
        folds: int | None = None,
        fold: int | None = None,
        encoding: Encoding | None = None,
        jpeg_quality: int = 90,
        skip_broken: bool | None = None,
        batch_size: int = 64,
        normalization: Kind = "standardize",
        transforms: list[Transform] | None = None,
        batch_augment: BatchAugment | None = None,
        shuffle: Literal["auto", "full", "blocks"] = "auto",
        views: Views = "one",
        resident: bool = False,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if image_size is not None and image_size < 1:
            raise ValueError(f"image_size is {image_size}; it must be at least 1")
        val_fraction = self.default_val_fraction if val_fraction is None else val_fraction
        test_fraction = self.default_test_fraction if test_fraction is None else test_fraction
        if not 1 <= jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality is {jpeg_quality}; it must lie between 1 and 100")
        if resident and transforms:
            raise ValueError("resident pictures are on the GPU, where transforms cannot be applied; take batch_augment")
        self.root, self.source = Path(root), Path(source) if source else None
        self.image_size = image_size or self.default_image_size
        self.val_fraction, self.test_fraction, self.validate_on_test = val_fraction, test_fraction, validate_on_test
        self.split_seed, self.folds, self.fold = split_seed, folds, fold
        self._splitting = Splitting(val_fraction, test_fraction, validate_on_test, split_seed, folds, fold)
        self.encoding, self.jpeg_quality = encoding or self.default_encoding, jpeg_quality
        self.skip_broken = self.default_skip_broken if skip_broken is None else skip_broken
        self.batch_size = batch_size
        self.normalization = normalization
        self.transforms = transforms or []
        self.batch_augment = batch_augment
        self.shuffle = shuffle
        self.views = views
        self.resident = resident
        self.num_workers = min(4, os.cpu_count() or 1) * bool(self.transforms) if num_workers is None else num_workers
        self.splits: dict[str, ShardDataset] = {}
        self._window: int | None = None  # shards that are shuffled together, once that is decided
        self._on_device: dict[str, tuple[Tensor, Tensor]] = {}

    def read(self, raw: Path) -> dict[str, Samples]:
        """Samples of the official splits: ``train`` alone, or with ``val`` and ``test``; ``raw`` is their folder."""
        raise NotImplementedError

    def read_classes(self, raw: Path) -> list[str]:
        """Names of the classes, in a data set where only its files tell (see ``classes_of_files``)."""
        raise NotImplementedError

    def fetch(self, folder: Path) -> None:
        """Download the official files, those of an archive if a data set says no more, to ``folder / raw_folder``."""
        archive = download(self.url, self.checksum, folder)
        extract(archive, folder / self.raw_folder)
        archive.unlink()

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.classes)

    @property
    def input_size(self) -> int:
        """Height and width of the pictures that reach the network, in pixels.

        Training pictures get it by their transforms; those of evaluation are scaled to it.
        """
        size = transformed_size(self.transforms, self.image_size)
        return self.batch_augment.output_size(size) if self.batch_augment else size

    @property
    def raw_files(self) -> RawFiles:
        """The files that it is made from."""
        proofs = (self.raw_file,) if isinstance(self.raw_file, str) else self.raw_file
        fetch = self.fetch if self.url else None
        return RawFiles(self.name, self.root, self.source, self.raw_folder, proofs, fetch, self.official_files)

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
            **({"folds": self.folds, "fold": self.fold} if self.folds else {}),
            **({"encoding": "jpeg", "jpeg_quality": self.jpeg_quality} if self.encoding == "jpeg" else {}),
        }

    @property
    def folder(self) -> Path:
        """Folder of the packed set: its name carries a hash of the recipe."""
        digest = hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode()).hexdigest()
        return self.root / f"{self.name}-{digest[:12]}"

    @property
    def preprocessing(self) -> dict[str, Any]:
        """All that turns a picture into the network's input, and its output into a name; known after ``setup``."""
        return {
            "classes": list(self.classes),
            "stored_size": self.image_size,
            "input_size": self.input_size,
            "shift": self._normalize.shift.cpu(),
            "scale": self._normalize.scale.cpu(),
            "packed_set": self.folder.name,
            "normalization": self.normalization,
        }

    def files(self, split: str) -> list[str]:
        """The raw file of each row of a split, as it is called from the folder of all; none where that is not known."""
        named = Manifest.load(self.folder).row_files
        return json.loads((self.folder / named.file).read_text(encoding="utf-8"))[split] if named else []

    def checksum_of(self, split: str) -> str:
        """The same for the same pictures in the same order, whatever the recipe of the set they are in."""
        shards = Manifest.load(self.folder).splits[split]
        return hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()

    def prepare_data(self) -> None:
        """Pack the data set if that has not been done, else prove that the shards are what was packed."""
        if not (self.folder / MANIFEST).exists():
            raw = self.raw_files.provide()
            if self.raw_folder is not None and self.root.resolve().is_relative_to(raw.resolve()):
                raise ValueError(
                    f"the packed set would go to {self.root}, which lies in {raw}, where its pictures come from; "
                    "choose another --data.root"
                )
            splits, files = self._splitting.complete(self.read(raw)), self.raw_files.fingerprint(raw)
            with suppress(FileExistsError):  # another process has packed it meanwhile
                pack(
                    self.folder,
                    self.name,
                    self.classes,
                    self.recipe,
                    splits,
                    self.image_size,
                    source_files=files,
                    official=self.raw_files.are_published(raw),
                    encoding=self.encoding,
                    jpeg_quality=self.jpeg_quality,
                    skip_broken=self.skip_broken,
                    windows=self.windows,
                    raw=raw,
                )
        manifest = self._manifest()
        if manifest.official is False:
            logger.warning(
                "the pictures of %s come from other files than the published ones (checksums differ): figures cannot "
                "be compared with published ones",
                self.name,
            )
        if self.source and (raw := self.raw_files.find()) and self.raw_files.fingerprint(raw) != manifest.source_files:
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
        if self.normalization == "mean_image" and self.input_size != self.image_size:
            raise ValueError(
                f"normalization mean_image has {self.image_size} pixels and the network's input {self.input_size}; "
                "take channel_mean"
            )
        if self.views == "ten_crop" and self.input_size >= self.image_size:
            raise ValueError(
                f"ten crops of {self.input_size} pixels need larger stored pictures than {self.image_size}; raise "
                "image_size, or take views flip"
            )
        self._normalize = Normalization(self.normalization, self.folder, manifest)
        if stage == "fit" and self.batch_size % self.trainer.world_size:
            raise ValueError(f"batch_size {self.batch_size} does not divide among {self.trainer.world_size} processes")
        if stage == "fit" and self.batch_size > len(self.splits["train"]):
            raise ValueError(f"batch_size {self.batch_size} exceeds the {len(self.splits['train'])} training samples")

    def state_dict(self) -> dict[str, Any]:
        """How rows are shuffled, so that a run that continues with other free memory keeps its order."""
        return {"shuffle": self.shuffle, "window": self._window}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the order of an interrupted run."""
        if self.shuffle == "auto":
            self.shuffle = state_dict["shuffle"]
        if self.shuffle == state_dict["shuffle"]:
            self._window = state_dict.get("window")

    def train_dataloader(self) -> BatchLoader | DataLoader:
        """Shuffled, augmented batches; the last incomplete one is dropped."""
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        train, augment = self.splits["train"], self.batch_augment
        keys = ShuffledKeys(len(train), self.batch_size, run_seed(), rank, world_size, self._blocks(train))
        # In a continued run, Lightning starts loader processes before it calls set_epoch.
        keys.set_epoch(*self._position(len(keys) // (self.batch_size // world_size)))
        pictures = AugmentedPictures(train, self.transforms, run_seed()) if self.transforms else train
        size = transformed_size(self.transforms, self.image_size)
        if not self._on_cpu:
            batches = RowsOnly(len(train)) if self.resident else Batches(pictures, size, pinned=self._pinned)
        elif augment:
            matrices = partial(augment.matrices, run_seed(), size=size)
            normalize = None if augment.changes_colours else self._loaders_normalization
            batches = Batches(pictures, self.input_size, matrices, augment.border, augment.interpolation, normalize)
        else:
            batches = Batches(pictures, size, normalization=self._loaders_normalization)
        return self._loader(batches, BatchSampler(keys, self.batch_size // world_size, drop_last=True))

    def val_dataloader(self) -> BatchLoader | DataLoader:
        """Every validation sample once, in stored order."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> BatchLoader | DataLoader:
        """Every test sample once, in stored order."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> BatchLoader | DataLoader:
        """The test split."""
        return self._evaluation_loader("test")

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Augment and normalise on the device, into the module's precision; loaders may have done a part of it.

        Where test or predict look at several views V of a picture, images are ``(B, V, 3, H, W)``.
        """
        images, labels, keys = batch
        augment = self.batch_augment if self.trainer.training else None
        views = self.views if self._split_in_use == "test" else "one"
        if images.dtype == torch.int64:  # rows of pictures that are on the device
            images, labels = (tensor[images] for tensor in self._resident_split(images.device))
        if images.dtype == torch.uint8:
            if augment and not self._on_cpu:
                matrices = augment.matrices(run_seed(), keys, images.shape[1])
                images = warp_on_device(images, matrices, self.input_size, augment.border, augment.interpolation)
            elif views == "ten_crop":
                images = ten_crops(images, self.input_size)
            elif not self.trainer.training and images.shape[1] != self.input_size:
                matrix = resize_matrix(images.shape[1], self.input_size)
                images = warp_on_device(images, matrix[None], self.input_size, "replicate")
            if augment and augment.changes_colours:
                images = augment.colours(images, run_seed(), keys)
            if views == "flip":
                images = with_mirrored(images)
            images = self._normalize(images, self.trainer.lightning_module.dtype)
            if views != "one":
                images = images.unflatten(0, (len(labels), -1))
        if augment:
            images, labels = augment.erase_and_mix(images, labels, run_seed(), keys, self.num_classes)
        return images, labels

    def _resident_split(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Pictures and labels of the split in use, copied to the device when they are first needed."""
        split = self._split_in_use
        if split not in self._on_device:
            self._on_device[split] = copied(self.splits[split], device)
        return self._on_device[split]

    def _evaluation_loader(self, split: str) -> BatchLoader | DataLoader:
        pictures, world_size = self.splits[split], self.trainer.world_size
        batch_size = min(self.batch_size, len(pictures) // world_size)  # no process may be left without a batch
        if not batch_size:
            raise ValueError(f"{world_size} processes cannot share the {len(pictures)} samples of the {split} split")
        if self.resident and not self._on_cpu:
            batches = RowsOnly(len(pictures))
        elif not self._on_cpu or (split == "test" and self.views != "one"):
            batches = Batches(pictures, self.image_size, pinned=self._pinned)
        elif self.input_size != self.image_size:
            matrices = partial(resize_matrices, self.image_size, self.input_size)
            batches = Batches(pictures, self.input_size, matrices, normalization=self._loaders_normalization)
        else:
            batches = Batches(pictures, self.image_size, normalization=self._loaders_normalization)
        sharded = isinstance(self.trainer.strategy, (FSDPStrategy, ModelParallelStrategy))
        dealt_out = equal_shares if sharded else whole_batches
        return self._loader(batches, dealt_out(len(pictures), batch_size, self.trainer.global_rank, world_size))

    def _loader(self, batches: Batches, batch_sampler: BatchSampler | list[list[int]]) -> BatchLoader | DataLoader:
        if self.num_workers and not self.trainer.predicting:  # Lightning would draw the rows of a DataLoader anew there
            return worker_loader(batches, batch_sampler, self.num_workers, pin_memory=not self._on_cpu)
        # transforms are Python objects with a state of their own: one thread
        transformed = isinstance(getattr(batches, "pictures", None), AugmentedPictures)
        threads = 1 if transformed else min(4, os.cpu_count() or 1)
        return BatchLoader(batches.__getitems__, batch_sampler, threads)

    @property
    def _split_in_use(self) -> str:
        if self.trainer.training:
            return "train"
        return "val" if self.trainer.validating or self.trainer.sanity_checking else "test"

    @property
    def _on_cpu(self) -> bool:
        return self.trainer.strategy.root_device.type == "cpu"

    @property
    def _pinned(self) -> bool:
        return self.trainer.strategy.root_device.type == "cuda" and not self.num_workers

    @property
    def _loaders_normalization(self) -> Normalization | None:
        """What threads normalise with. Processes hand over bytes, a quarter of the floats."""
        in_float32 = self.trainer.lightning_module.dtype == torch.float32
        return self._normalize if in_float32 and not self.num_workers else None

    def _position(self, batches: int) -> tuple[int, int]:
        """The epoch in which training begins, and how many of its batches an interrupted run has seen."""
        loop = self.trainer.fit_loop
        epochs, seen = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current.processed
        if epochs.ready == epochs.processed:
            return epochs.processed, 0
        return (epochs.processed, seen) if seen < batches else (epochs.processed + 1, 0)

    def _blocks(self, train: ShardDataset) -> Blocks | None:
        """How far rows are shuffled: what the first process finds memory for, or an interrupted run had found."""
        if self.shuffle != "full" and not self._window:
            free = free_memory()
            window = max(1, free // 4 // (train.bytes // len(train.sizes)))
            mode = self.shuffle
            if mode == "auto":
                mode = "blocks" if train.bytes > free / 2 else "full"
            self.shuffle, self._window = self.trainer.strategy.broadcast((mode, window if mode == "blocks" else None))
            if self._window and self.trainer.is_global_zero:
                logger.info(
                    "the training rows take %.1f GB, memory has %.1f GB left: rows are shuffled %d of %d shards at a "
                    "time (--data.shuffle full for all)",
                    train.bytes / 1e9,
                    free / 1e9,
                    min(self._window, len(train.sizes)),
                    len(train.sizes),
                )
        if self.shuffle == "full":
            return None
        train.max_maps = self._window + 1
        return Blocks(train.sizes, self._window)

    def _manifest(self) -> Manifest:
        manifest = Manifest.load(self.folder)
        if manifest.recipe != self.recipe:
            keys = sorted(key for key in self.recipe if manifest.recipe.get(key) != self.recipe[key])
            differences = ", ".join(f"{key} {manifest.recipe.get(key)} instead of {self.recipe[key]}" for key in keys)
            raise ValueError(f"{self.folder} was packed by another recipe ({differences}); {remedy(self.folder)}")
        return manifest


def classes_of_files(data: ImageDataModule) -> list[str]:
    """Classes that only the files of a data set tell: those of the packed set, or else of the raw files."""
    if (data.folder / MANIFEST).exists():
        return Manifest.load(data.folder).classes
    return data.read_classes(data.raw_files.provide())


def run_seed() -> int:
    """The seed of the run: what seed_everything was given, else torch's own."""
    return int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed() % 2**63))
