"""Windows of photographs in low and in high resolution, for super-resolution (Dong et al. 2015, arXiv 1501.00092)."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.base import ImageDataModule, classes_of_files
from datamodules.loader import Batch
from datamodules.pair_windows import CHANNELS, STRIDE, Colour, PairWindows
from datamodules.picture_files import files_below, is_picture
from datamodules.samples import Samples

FACTORS = (2, 3, 4)
WINDOW = 33  # pixels

logger = logging.getLogger("litvision")


class PhotographPairs(ImageDataModule):
    """Pairs cut from the photographs of any folder, of any sizes: a window that was shrunk and enlarged, and itself.

    Each photograph is cropped to a multiple of the factor, shrunk and enlarged again (bicubic), and cut into windows of
    33x33 pixels, 14 pixels apart. On the device a batch is ``(interpolated, originals)``, both float ``(B, C, 33, 33)``
    in 0 .. 1. In the packed set a pair is one row, its planes one after the other; the label is the number of the
    photograph, all windows of which are in one split.

    Photographs that are smaller than a window are left out.

    Args:
        root: see ``ImageDataModule``.
        source: folder of the photographs, with all below it.
        upscale_factor: 2, 3 or 4.
        colour: ``rgb``, or ``luminance``: the Y of BT.601, full range.
        windows_per_photograph: at most so many of each, drawn at random; all of a photograph of 340x256 are 352.
        val_fraction: share of the photographs that validate.
        test_fraction: share of the photographs that test.
        split_seed: of the splits, the stored order of the photographs and the choice of windows.
        skip_broken: leave out photographs that cannot be read, naming them, instead of stopping.
        batch_size: windows in a step over all processes.
        shuffle: see ``ImageDataModule``.
        resident: see ``ImageDataModule``.
        num_workers: see ``ImageDataModule``.
    """

    raw_folder = ""

    def __init__(
        self,
        root: str = "data",
        source: str | None = None,
        upscale_factor: int = 2,
        colour: Colour = "rgb",
        windows_per_photograph: int = 64,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 42,
        skip_broken: bool = False,
        batch_size: int = 128,
        shuffle: Literal["auto", "full", "blocks"] = "auto",
        resident: bool = False,
        num_workers: int = 0,
    ) -> None:
        if upscale_factor not in FACTORS:
            raise ValueError(f"upscale_factor is {upscale_factor}; photographs are enlarged by 2, 3 or 4")
        if windows_per_photograph < 1:
            raise ValueError(f"windows_per_photograph is {windows_per_photograph}; it must be at least 1")
        if not val_fraction + test_fraction < 1:
            raise ValueError(f"val_fraction {val_fraction} and test_fraction {test_fraction} leave nothing to train on")
        super().__init__(
            root=root,
            source=source,
            image_size=WINDOW,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            encoding="raw",
            skip_broken=skip_broken,
            batch_size=batch_size,
            normalization="unit",
            shuffle=shuffle,
            resident=resident,
            num_workers=num_workers,
        )
        self.upscale_factor, self.colour, self.image_channels = upscale_factor, colour, CHANNELS[colour]
        self.windows_per_photograph = windows_per_photograph
        self.windows = PairWindows(upscale_factor, colour, windows_per_photograph, split_seed)

    @property
    def name(self) -> str:
        """Of the folder."""
        if self.source is None:
            raise ValueError("PhotographPairs reads the folder that source names; give it with --data.source FOLDER")
        return f"{self.source.resolve().name}-x{self.upscale_factor}"

    @cached_property
    def classes(self) -> list[str]:
        """The photographs, as paths below ``source``, sorted: what labels are numbers of."""
        return classes_of_files(self)

    @property
    def recipe(self) -> dict[str, Any]:
        """With the folder's path, as two folders may have the same name."""
        return {
            **super().recipe,
            "source": str(self.source.resolve()),
            "channels": self.windows.channels,
            "upscale_factor": self.upscale_factor,
            "colour": self.colour,
            "windows_per_photograph": self.windows_per_photograph,
            "stride": STRIDE,
        }

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What a network needs to know of its inputs besides its weights."""
        return {
            "classes": [],
            "input_size": self.input_size,
            "image_channels": self.image_channels,
            "upscale_factor": self.upscale_factor,
            "colour": self.colour,
            "packed_set": self.folder.name,
        }

    def read_classes(self, raw: Path) -> list[str]:
        """The photographs that are large enough, in the order of their names."""
        found = list(filter(is_picture, files_below(raw)))
        if not found:
            raise ValueError(
                f"{raw} holds no photographs; --data.source names a folder with pictures in it or below it"
            )
        large = [path for path in found if self._is_large(path)]
        if not large:
            raise ValueError(
                f"all {len(found)} pictures below {raw} are smaller than a window of {WINDOW}x{WINDOW} pixels; "
                "--data.source names a folder with larger ones"
            )
        if len(large) < len(found):
            logger.info("%s: %d pictures are smaller than a window and are left out", raw, len(found) - len(large))
        return [path.relative_to(raw).as_posix() for path in large]

    def read(self, raw: Path) -> dict[str, Samples]:
        """Whole photographs for training, validation and testing, at random."""
        total = len(self.classes)
        val, test = (max(1, round(total * share)) for share in (self.val_fraction, self.test_fraction))
        if val + test >= total:
            raise ValueError(f"{raw} holds {total} photographs that can be used; at least 3 are needed, one a split")
        order = np.random.default_rng(self.split_seed).permutation(total)
        parts = np.split(order, [test, test + val])
        return {
            split: Samples([raw / self.classes[number] for number in np.sort(part)], np.sort(part))
            for split, part in zip(("test", "val", "train"), parts, strict=True)
        }

    def photographs(self, split: str) -> list[Path]:
        """The photographs whose windows are in a split of the packed set; known after ``setup``."""
        return [self.source / self.classes[number] for number in np.unique(self.splits[split].labels)]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """``(interpolated, originals)``, float ``(B, C, 33, 33)`` in 0 .. 1 and the module's precision."""
        pairs, rows, _ = batch
        if pairs.dtype == torch.int64:  # rows of pictures that are on the device
            pairs = self._resident_split(pairs.device)[0][rows]
        planes = pairs.permute(0, 3, 1, 2).float().div_(255).to(self.trainer.lightning_module.dtype)
        interpolated, originals = planes.split(self.image_channels, dim=1)
        return interpolated, originals

    @property
    def _loaders_normalization(self) -> None:
        """Loaders hand over bytes: a pair is no picture, and is scaled by 255 alone."""

    def _is_large(self, path: Path) -> bool:
        """Whether it has a window; what cannot be read is left to packing, which says why."""
        try:
            with Image.open(path) as image:
                return min(image.size) // self.upscale_factor * self.upscale_factor >= WINDOW
        except Exception:  # see ``picture_files.loaded``
            return True
