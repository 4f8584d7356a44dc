"""Peers of our loader that bring a package of their own, each written as its documentation has it.

| package | licence | release | what is measured |
| --- | --- | --- | --- |
| litdata | Apache 2.0 | 0.2.76, September 2026 | arrays in its chunks, StreamingDataLoader; albumentations |
| webdataset | BSD 3-clause | 1.0.2, June 2025 | the files of ImageFolder in tar shards, DataLoader; albumentations |
| nvidia-dali | Apache 2.0 | 2.4.0, October 2026 | arrays through external_source, its own operators on the CPU |
| ffcv | Apache 2.0 | 1.0.2, March 2023 | raw pictures in its own file, its own operators |

FFCV ships no affine map: here it gets one, compiled by numba like its own operators. A random crop of a fixed size is
its random resized crop with one area and one ratio.
"""

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import astuple
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.loader_peers import Augmented, Batches, Output, Peer, endless_rows, one_thread, prepared
from benchmarks.loader_workloads import BATCH, Pictures, make
from datamodules.geometry import random_keras_matrices

# litdata


def prepare_litdata(pictures: Pictures) -> None:
    """Chunks of 64 MB."""
    from litdata import optimize

    def write(path: Path) -> None:
        sample = partial(litdata_sample, pictures)
        optimize(sample, list(range(len(pictures))), str(path), chunk_bytes="64MB", num_workers=1, start_method="fork")

    make(pictures.folder / "litdata", write)


def litdata_sample(pictures: Pictures, row: int) -> dict[str, np.ndarray | int]:
    """One sample as litdata stores it."""
    return {"image": pictures.images[row], "label": int(pictures.labels[row])}


def litdata(pictures: Pictures, output: Output, workers: int) -> Batches:
    """Its own dataset and loader."""
    from litdata import StreamingDataLoader, StreamingDataset

    class Transformed(StreamingDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            sample = super().__getitem__(index)
            return augment(sample["image"]), sample["label"]

    augment = Augmented(pictures, output)
    dataset = Transformed(str(pictures.folder / "litdata"), shuffle=True, drop_last=True)
    loader = StreamingDataLoader(
        dataset,
        batch_size=BATCH,
        num_workers=workers,
        worker_init_fn=one_thread,
        persistent_workers=workers > 0,
        drop_last=True,
    )
    while True:
        yield from loader


# webdataset

SHARDS = 8


def prepare_webdataset(pictures: Pictures) -> None:
    """Files and labels in tar shards."""

    def write(folder: Path) -> None:
        folder.mkdir()
        files = sorted((pictures.folder / "files").glob("*/*"), key=lambda path: path.name)
        for number in range(SHARDS):
            with tarfile.open(folder / f"{number:03d}.tar", "w") as shard:
                for path in files[number::SHARDS]:
                    shard.add(path, path.name)
                    label = str(int(path.parent.name)).encode()
                    entry = tarfile.TarInfo(f"{path.stem}.cls")
                    entry.size = len(label)
                    shard.addfile(entry, BytesIO(label))

    make(pictures.folder / "tar", write)


def webdataset(pictures: Pictures, output: Output, workers: int) -> Batches:
    """Tar shards drawn without end, a shuffle buffer, Pillow."""
    import webdataset as wds

    shards = sorted(str(path) for path in (pictures.folder / "tar").glob("*.tar"))
    dataset = (
        wds.WebDataset(shards, resampled=True, shardshuffle=False)
        .shuffle(1000)
        .decode("rgb8")
        .to_tuple("jpg;png", "cls")
        .map_tuple(Augmented(pictures, output), int)
    )
    yield from DataLoader(dataset, BATCH, num_workers=workers, worker_init_fn=one_thread)


# DALI


def dali(pictures: Pictures, output: Output, threads: int) -> Batches:
    """Rows gathered by numpy, everything else by its operators."""
    from nvidia.dali import fn, math, pipeline_def, types

    workload = pictures.workload

    @pipeline_def(batch_size=BATCH, num_threads=threads, device_id=None, prefetch_queue_depth=2)
    def pipeline() -> tuple:
        batches = dali_source(pictures)
        types_layouts = [(types.UINT8, "HWC"), (types.INT64, ""), (types.FLOAT, "")][: 3 if workload.affine else 2]
        dtypes, layouts = (list(column) for column in zip(*types_layouts, strict=True))
        images, labels, *matrices = fn.external_source(
            lambda: next(batches), num_outputs=len(dtypes), dtype=dtypes, layout=layouts, batch=True
        )
        if matrices:
            images = fn.warp_affine(
                images, matrix=matrices[0], interp_type=types.INTERP_LINEAR
            )  # replicates the border
        if workload.pad:
            corner = fn.random.uniform(range=(-workload.pad, workload.pad + 0.999), shape=2)
            corner = fn.cast(math.floor(corner), dtype=types.INT32)
            size = (workload.size, workload.size)
            images = fn.slice(images, corner, size, axis_names="HW", out_of_bounds_policy="pad", fill_values=0)
        normalise = {"dtype": types.UINT8, "output_layout": "HWC"}
        if output == "float32":
            normalise = {"dtype": types.FLOAT, "mean": pictures.mean.tolist(), "std": pictures.std.tolist()}
        images = fn.crop_mirror_normalize(
            images,
            crop=(workload.size, workload.size),
            crop_pos_x=fn.random.uniform(range=(0, 1)),
            crop_pos_y=fn.random.uniform(range=(0, 1)),
            mirror=fn.random.coin_flip(),
            **normalise,
        )
        return images, labels

    built = pipeline()
    built.build()
    while True:
        images, labels = (torch.from_dlpack(result.as_tensor()) for result in built.run())
        yield images, labels


def dali_source(pictures: Pictures) -> Iterator[tuple[np.ndarray, ...]]:
    """Images and labels of one batch after the other, and the matrices of an affine map."""
    rng = np.random.default_rng(0)
    affine, size = pictures.workload.affine, pictures.workload.stored
    for rows in endless_rows(len(pictures)):
        batch = pictures.images[rows], pictures.labels[rows]
        if affine:
            batch = *batch, random_keras_matrices(rng, BATCH, astuple(affine), size).astype(np.float32)
        yield batch


# FFCV


def prepare_ffcv(pictures: Pictures) -> None:
    """Raw pictures in its own format."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    class Rows:
        def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
            return np.array(pictures.images[row]), int(pictures.labels[row])

        def __len__(self) -> int:
            return len(pictures)

    def write(path: Path) -> None:
        fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
        DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(Rows())

    make(pictures.folder / "pictures.beton", write)


def ffcv(pictures: Pictures, output: Output, threads: int) -> Batches:
    """Its own loader, decoders and operators, in random order."""
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, RandomTranslate, Squeeze, ToTensor, ToTorchImage

    workload = pictures.workload
    if workload.size < workload.stored:
        area = (workload.size / workload.stored) ** 2
        steps = [RandomResizedCropRGBImageDecoder((workload.size, workload.size), (area, area), (1, 1))]
    else:
        steps = [SimpleRGBImageDecoder()]
    if workload.pad:
        steps.append(RandomTranslate(workload.pad))
    if workload.affine:
        steps.append(ffcv_affine(pictures))
    steps.append(RandomHorizontalFlip(0.5))
    if output == "float32":
        steps.append(NormalizeImage(pictures.mean, pictures.std, np.float32))
    pipelines = {
        "image": [*steps, ToTensor(), ToTorchImage(convert_back_int16=False)],
        "label": [IntDecoder(), ToTensor(), Squeeze(1)],
    }
    path = str(pictures.folder / "pictures.beton")
    loader = Loader(path, BATCH, threads, order=OrderOption.RANDOM, drop_last=True, pipelines=pipelines)
    while True:
        yield from loader


def ffcv_affine(pictures: Pictures) -> Any:
    """An operator that warps each picture linearly, with replicated border."""
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler
    from ffcv.pipeline.operation import Operation
    from ffcv.pipeline.state import State

    affine, size = pictures.workload.affine, pictures.workload.size
    rotation, shift, shear, zoom = np.deg2rad(affine.rotation), affine.shift, affine.shear, affine.zoom
    centre = (size - 1) / 2

    class RandomAffine(Operation):
        def generate_code(self) -> Callable:
            together = Compiler.get_iterator()

            def warp(images, out):
                for i in together(len(images)):
                    angle, lean = np.random.uniform(-rotation, rotation), np.random.uniform(-shear, shear)
                    zoom_x, zoom_y = np.random.uniform(1 - zoom, 1 + zoom), np.random.uniform(1 - zoom, 1 + zoom)
                    shift_x, shift_y = size * np.random.uniform(-shift, shift), size * np.random.uniform(-shift, shift)
                    for y in range(size):
                        for x in range(size):
                            across, down = (x - centre) * zoom_x, (y - centre) * zoom_y
                            across, down = across + shift_x, down * np.cos(lean) - across * np.sin(lean) + shift_y
                            u = centre + np.cos(angle) * across + np.sin(angle) * down
                            v = centre - np.sin(angle) * across + np.cos(angle) * down
                            u, v = min(max(u, 0.0), size - 1.0), min(max(v, 0.0), size - 1.0)
                            left, top = int(u), int(v)
                            right, bottom = min(left + 1, size - 1), min(top + 1, size - 1)
                            u, v = u - left, v - top
                            for c in range(3):
                                upper = images[i, top, left, c] * (1 - u) + images[i, top, right, c] * u
                                lower = images[i, bottom, left, c] * (1 - u) + images[i, bottom, right, c] * u
                                out[i, y, x, c] = np.uint8(upper * (1 - v) + lower * v + 0.5)
                return out

            warp.is_parallel = True
            return warp

        def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
            return previous_state, AllocationQuery(previous_state.shape, previous_state.dtype)

    return RandomAffine()


LITDATA, WEBDATASET, DALI, FFCV = "litdata", "webdataset", "nvidia-dali-cuda130", "ffcv"
PACKAGED = (
    Peer(LITDATA, "litdata, albumentations", "litdata", prepare_litdata, litdata, (0, 2), "worker", LITDATA),
    Peer(WEBDATASET, "webdataset, albumentations", "tar", prepare_webdataset, webdataset, (0, 2), "worker", WEBDATASET),
    Peer("dali", "DALI on the CPU", "images.npy", prepared, dali, (1, 2), "thread", DALI),
    Peer(FFCV, "FFCV", "pictures.beton", prepare_ffcv, ffcv, (1, 2), "thread", FFCV),
)
