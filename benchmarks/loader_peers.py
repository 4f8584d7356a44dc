"""Our loader, and those that need no package besides ours.

A loader yields batches of 128 without end, in random order. Float batches are ``(B, 3, H, W)`` or ``(B, H, W, 3)``,
normalised by channel mean and deviation; uint8 batches are as they would go to a GPU.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the network for a newer version

import albumentations as A
import cv2
import h5py
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from scipy import ndimage
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.loader_workloads import BATCH, Pictures, Workload, make
from datamodules import BatchAugment, ImageDataModule, KerasAffine
from datamodules.augmentation import Transform
from datamodules.batches import Batches as WholeBatches
from datamodules.geometry import random_keras_matrices
from datamodules.samples import Samples
from datamodules.stand_in_trainer import seen_by_a_trainer

Output = Literal["float32", "uint8"]
Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Peer:
    """A loader.

    Args:
        reads: file or folder of its pictures, in the folder of the workload's.
        prepare: makes that.
        batches: images and labels without end, by so many workers.
        workers: numbers of processes or threads to try; the fastest is measured.
        unit: what ``workers`` counts, for the title of the row.
        distribution: the package that it needs besides ours.
        whole: it gives whole pictures, neither cropped nor normalised.
    """

    name: str
    title: str
    reads: str
    prepare: Callable[[Pictures], None]
    batches: Callable[[Pictures, Output, int], Batches]
    workers: tuple[int, ...]
    unit: Literal["worker", "thread", ""]
    distribution: str | None = None
    outputs: tuple[Output, ...] = ("float32", "uint8")
    whole: bool = False


# Ours


class Measured(ImageDataModule):
    """A workload's pictures as a data set of this project, all of them in the training split."""

    name = "measured"

    def __init__(
        self,
        pictures: Pictures,
        batch_augment: BatchAugment | None = None,
        transforms: list[Transform] | None = None,
        num_workers: int = 0,
    ) -> None:
        self.pictures = pictures
        self.classes = [str(label) for label in range(pictures.labels.max() + 1)]
        super().__init__(
            root=str(pictures.folder / "shards"),
            image_size=pictures.workload.stored,
            batch_size=BATCH,
            batch_augment=batch_augment,
            transforms=transforms,
            shuffle="full",
            num_workers=num_workers,
        )
        seen_by_a_trainer(self)

    def read(self, raw: Path) -> dict[str, Samples]:
        """The whole set; validation and test are not measured."""
        few = Samples(self.pictures.images[:1], self.pictures.labels[:1])
        return {"train": Samples(self.pictures.images, self.pictures.labels), "val": few, "test": few}


def prepare_ours(pictures: Pictures) -> None:
    """Pack the shards."""
    Measured(pictures).prepare_data()


def batch_augment_of(workload: Workload) -> BatchAugment:
    """What the workload does to a picture, for whole batches."""
    if affine := workload.affine:
        return BatchAugment(
            flip=0.5, rotation=affine.rotation, shift=affine.shift, shear=affine.shear, zoom=affine.zoom
        )
    return BatchAugment(crop=workload.size, padding=workload.pad, border="zeros", flip=0.5)


def ours(pictures: Pictures, output: Output, workers: int) -> Batches:
    """The training loader with augmentation of whole batches, epoch by epoch."""
    workload = pictures.workload
    augment = batch_augment_of(workload)
    data = Measured(pictures, augment)
    data.setup("fit")
    loader = data.train_dataloader()
    loader.threads = workers
    if output == "uint8":
        matrices = partial(augment.matrices, 0, size=workload.stored)
        loader.make = WholeBatches(data.splits["train"], workload.size, matrices, augment.border).__getitems__
    for epoch in count():
        loader.batch_sampler.sampler.set_epoch(epoch)
        for batch in loader:
            yield data.on_after_batch_transfer(batch, 0) if output == "float32" else batch[:2]


def ours_one_by_one(pictures: Pictures, output: Output, workers: int) -> Batches:
    """The training loader with albumentations, and what follows it on the device."""
    workload = pictures.workload
    if affine := workload.affine:
        transforms = [KerasAffine(affine.rotation, affine.shift, affine.shear, affine.zoom)]
    else:
        transforms = [*[A.Pad(workload.pad)] * bool(workload.pad), A.RandomCrop(workload.size, workload.size)]
    data = Measured(pictures, transforms=[*transforms, A.HorizontalFlip()], num_workers=workers)
    data.setup("fit")
    if output == "uint8":
        data.trainer.lightning_module.dtype = torch.uint8  # leaves normalisation to the device
    loader = data.train_dataloader()
    for epoch in count():
        loader.batch_sampler.sampler.set_epoch(epoch)
        for batch in loader:
            yield data.on_after_batch_transfer(batch, 0) if output == "float32" else batch[:2]


# What several peers share


class Endless(Sampler[int]):
    """Rows in random order, epoch after epoch: worker processes never start anew."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng(0)
        while True:
            yield from rng.permutation(self.rows).tolist()


def endless_rows(rows: int) -> Iterator[np.ndarray]:
    """Rows of one batch after the other, int64 ``(B,)``, in random order."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(rows)
        yield from order[: rows // BATCH * BATCH].reshape(-1, BATCH)


def endless_loader(dataset: Dataset, rows: int, workers: int) -> Batches:
    """Batches of a DataLoader."""
    yield from DataLoader(dataset, BATCH, sampler=Endless(rows), num_workers=workers, worker_init_fn=one_thread)


def one_thread(worker_id: int) -> None:
    """Keep a worker process on its own core."""
    cv2.setNumThreads(0)


def torchvision_transform(pictures: Pictures, output: Output) -> v2.Transform:
    """What is done to one picture, in transforms v2, which cannot replicate the border: theirs is black."""
    workload = pictures.workload
    if affine := workload.affine:
        zoom, shear = (1 - affine.zoom, 1 + affine.zoom), np.rad2deg(affine.shear)
        shift = (affine.shift, affine.shift)
        change = v2.RandomAffine(affine.rotation, shift, zoom, shear, interpolation=v2.InterpolationMode.BILINEAR)
    else:
        change = v2.RandomCrop(workload.size, workload.pad or None)
    steps = [v2.ToImage(), change, v2.RandomHorizontalFlip()]
    if output == "float32":
        mean, std = (pictures.mean / 255).tolist(), (pictures.std / 255).tolist()
        steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    return v2.Compose([*steps, v2.ToPureTensor()])


def albumentations_transform(pictures: Pictures, output: Output) -> A.Compose:
    """What is done to one picture, in albumentations."""
    workload = pictures.workload
    if affine := workload.affine:
        shift, shear = (-affine.shift, affine.shift), np.rad2deg(affine.shear)
        change = A.Affine(
            scale=(1 - affine.zoom, 1 + affine.zoom),
            translate_percent=shift,
            rotate=(-affine.rotation, affine.rotation),
            shear={"x": (-shear, shear), "y": (0, 0)},
            border_mode=cv2.BORDER_REPLICATE,
            p=1,
        )
        steps = [change, A.HorizontalFlip()]
    else:
        crop = A.RandomCrop(workload.size, workload.size)
        steps = [*[A.Pad(workload.pad)] * bool(workload.pad), crop, A.HorizontalFlip()]
    if output == "float32":
        steps.append(A.Normalize((pictures.mean / 255).tolist(), (pictures.std / 255).tolist()))
    return A.Compose([*steps, ToTensorV2()])


class Augmented:
    """An albumentations transform that draws other numbers in each worker process."""

    def __init__(self, pictures: Pictures, output: Output) -> None:
        self.compose, self.seeded = albumentations_transform(pictures, output), False

    def __call__(self, image: np.ndarray) -> Tensor:
        """A picture ``(H, W, 3)`` to a tensor ``(3, H, W)``."""
        if not self.seeded:
            self.compose.set_random_seed(torch.initial_seed() % 2**32)
            self.seeded = True
        return self.compose(image=image)["image"]


# torchvision


def prepared(pictures: Pictures) -> None:
    """Arrays and files are there for all."""


def image_folder(pictures: Pictures, output: Output, workers: int) -> Batches:
    """Files in class folders, decoded by Pillow."""
    dataset = ImageFolder(pictures.folder / "files", torchvision_transform(pictures, output))
    return endless_loader(dataset, len(dataset), workers)


class ArraysInMemory(Dataset):
    """Pictures in memory, with a transform of each."""

    def __init__(self, pictures: Pictures, transform: v2.Transform) -> None:
        self.images, self.labels, self.transform = np.array(pictures.images), pictures.labels, transform

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(self.images[row]), self.labels[row]


def in_memory(pictures: Pictures, output: Output, workers: int) -> Batches:
    """Arrays in memory: nothing is read or decoded."""
    return endless_loader(ArraysInMemory(pictures, torchvision_transform(pictures, output)), len(pictures), workers)


# HDF5 as it was, and is, often used

BOOK_BYTES = 2 * 2**30  # of a file that holds eight bytes for each of a picture's


def prepare_book(pictures: Pictures) -> None:
    """Pictures as float64, the type that Python's ``float`` gives a dataset."""

    def write(path: Path) -> None:
        rows = min(len(pictures), BOOK_BYTES // (8 * pictures.images[0].size))
        with h5py.File(path, "w") as file:
            images = file.create_dataset("images", (rows, *pictures.images.shape[1:]), dtype="float")
            for start in range(0, rows, BATCH):
                images[start : start + BATCH] = pictures.images[start : min(start + BATCH, rows)]
            file.create_dataset("labels", data=pictures.labels[:rows])

    make(pictures.folder / "book.h5", write)


def book(pictures: Pictures, output: Output, workers: int) -> Batches:
    """Slices of a float64 dataset in stored order, and a Python loop over the pictures of a batch."""
    rng = np.random.default_rng(0)
    with h5py.File(pictures.folder / "book.h5", "r") as file:
        while True:
            for start in range(0, len(file["labels"]) - BATCH + 1, BATCH):
                images = file["images"][start : start + BATCH]
                labels = file["labels"][start : start + BATCH]
                images = np.array([book_picture(image, pictures, rng) for image in images], dtype="float32")
                yield torch.from_numpy(images), torch.from_numpy(labels)


def book_picture(image: np.ndarray, pictures: Pictures, rng: np.random.Generator) -> np.ndarray:
    """One picture float64 ``(H, W, 3)``: changed, flipped at random, normalised."""
    workload = pictures.workload
    if affine := workload.affine:
        (matrix,) = random_keras_matrices(rng, 1, astuple(affine), workload.stored)
        linear, offset = matrix[::-1, 1::-1], matrix[::-1, 2]  # scipy counts rows first, then columns
        planes = [ndimage.affine_transform(image[:, :, c], linear, offset, order=1, mode="nearest") for c in range(3)]
        image = np.stack(planes, axis=-1)
    else:
        if workload.pad:
            image = np.pad(image, ((workload.pad, workload.pad), (workload.pad, workload.pad), (0, 0)))
        top, left = rng.integers(0, len(image) - workload.size + 1, 2)
        image = image[top : top + workload.size, left : left + workload.size]
    if rng.random() < 0.5:
        image = np.fliplr(image)
    return (image - pictures.mean) / pictures.std


def prepare_h5py(pictures: Pictures) -> None:
    """Pictures as uint8, contiguous."""

    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("images", data=pictures.images)
            file.create_dataset("labels", data=pictures.labels)

    make(pictures.folder / "pictures.h5", write)


class Hdf5Rows(Dataset):
    """One row at a time; each process opens the file for itself."""

    def __init__(self, path: Path, transform: Augmented) -> None:
        self.path, self.transform, self.file = path, transform, None

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        if self.file is None:
            self.file = h5py.File(self.path, "r")
            self.images, self.labels = self.file["images"], self.file["labels"]
        return self.transform(self.images[row]), self.labels[row]


def h5py_rows(pictures: Pictures, output: Output, workers: int) -> Batches:
    """Rows of an HDF5 dataset, one at a time."""
    dataset = Hdf5Rows(pictures.folder / "pictures.h5", Augmented(pictures, output))
    return endless_loader(dataset, len(pictures), workers)


# The limit


def gather(pictures: Pictures, output: Output, workers: int) -> Batches:
    """Nothing but the copy of each row from the map into one buffer."""
    images = np.empty((BATCH, *pictures.images.shape[1:]), np.uint8)
    for rows in endless_rows(len(pictures)):
        np.take(pictures.images, rows, axis=0, out=images, mode="clip")
        yield torch.from_numpy(images), torch.from_numpy(pictures.labels[rows])


OURS = Peer("ours", "ours, whole batches", "shards", prepare_ours, ours, (1, 2), "thread")
WITHOUT_PACKAGE = (
    Peer("ours_one_by_one", "ours, albumentations", "shards", prepare_ours, ours_one_by_one, (0, 2), "worker"),
    Peer("image_folder", "torchvision ImageFolder, transforms v2", "files", prepared, image_folder, (2,), "worker"),
    Peer("in_memory", "arrays in memory, transforms v2", "images.npy", prepared, in_memory, (2,), "worker"),
    Peer(
        "book",
        "float64 HDF5, slices in order, Python loop",
        "book.h5",
        prepare_book,
        book,
        (0,),
        "",
        outputs=("float32",),
    ),
    Peer("h5py", "h5py row by row, albumentations", "pictures.h5", prepare_h5py, h5py_rows, (0, 2), "worker"),
    Peer("gather", "limit: plain gather of the same bytes", "images.npy", prepared, gather, (0,), "", whole=True),
)
