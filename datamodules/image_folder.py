"""Any folder of pictures with a subfolder for each class."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import ImageDataModule, classes_of_files
from datamodules.picture_files import files_below, is_picture
from datamodules.samples import Samples

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}  # by the names of their folders, in small letters

logger = logging.getLogger("litvision")


class ImageFolder(ImageDataModule):
    """``source/<class>/*``, or ``source/{train,val,test}/<class>/*``; splits that are missing are held out of train.

    Training, Validation and Testing name the splits as well.

    A class's folder may have subfolders; it may be a link, these may not. Pictures may have any size and any format
    that Pillow reads; hidden files and those with another suffix are left out.
    """

    default_image_size = 64
    raw_folder = ""

    @property
    def name(self) -> str:
        """Of the folder."""
        if self.source is None:
            raise ValueError("ImageFolder reads the folder that source names; give it with --data.source FOLDER")
        return self.source.resolve().name

    @property
    def recipe(self) -> dict[str, Any]:
        """With the folder's path, as two folders may have the same name."""
        return {**super().recipe, "source": str(self.source.resolve())}

    @cached_property
    def classes(self) -> list[str]:
        """Names of the subfolders, sorted."""
        return classes_of_files(self)

    def read_classes(self, raw: Path) -> list[str]:
        """The classes of the training pictures."""
        classes = sorted(folder.name for folder in subfolders(split_folders(raw)["train"]))
        if not classes:
            raise ValueError(f"{raw} has no subfolders; it needs one for each class, with its pictures")
        for name in classes:
            if not is_text(name):
                raise ValueError(f"the class {name!a} in {raw} is named by bytes that are not UTF-8; rename its folder")
        return classes

    def read(self, raw: Path) -> dict[str, Samples]:
        """Pictures of each split, class by class, in the order of their names."""
        return {split: self._read_split(split, folder) for split, folder in split_folders(raw).items()}

    def _read_split(self, split: str, folder: Path) -> Samples:
        present = {path.name for path in subfolders(folder)}
        if not present:
            raise ValueError(f"{folder} has no subfolders; it needs those of its classes, or move it elsewhere")
        unknown = sorted(present - set(self.classes))
        if unknown:
            raise ValueError(f"{folder / unknown[0]} is a class without training pictures")
        files, labels, others = [], [], 0
        for label, name in enumerate(self.classes):
            found = files_below(folder / name) if name in present else []  # of other splits than train
            pictures = list(filter(is_picture, found))
            if not pictures and split == "train":
                raise ValueError(f"{folder / name} holds no pictures; remove it or fill it")
            others += len(found) - len(pictures)
            files += pictures
            labels += [label] * len(pictures)
        if others:
            logger.info("%s: %d files are no pictures and are left out", folder, others)
        return Samples(files, np.array(labels, np.int64))


def is_text(name: str) -> bool:
    """Whether a file's name is text, and not bytes of another encoding, which Python keeps as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def split_folders(raw: Path) -> dict[str, Path]:
    """Folder of each split; the whole folder is ``train`` where there are no splits.

    Raises:
        ValueError: there is no train split, a split has two folders, or there are folders of splits and others.
    """
    splits: dict[str, Path] = {}
    others = []
    for folder in sorted(subfolders(raw)):
        split = SPLITS.get(folder.name.lower())
        if split is None:
            others.append(folder)
        elif split in splits:
            raise ValueError(f"{splits[split]} and {folder} would both be the {split} split; put them into one folder")
        else:
            splits[split] = folder
    if others and len(splits) > 1:
        raise ValueError(f"{others[0]} lies beside folders of splits, and is none; move it elsewhere")
    if others or not splits:  # a single class may be called train, too
        return {"train": raw}
    if "train" not in splits:
        raise ValueError(f"{raw} has the splits {', '.join(sorted(splits))}, but no folder train")
    return splits


def subfolders(folder: Path) -> list[Path]:
    """Those that are not hidden.

    Raises:
        ValueError: a link leads nowhere, and may have been one.
    """
    shown = [path for path in folder.iterdir() if path.name[0] != "."]
    for path in shown:
        if path.is_symlink() and not path.exists():
            raise ValueError(f"{path} is a link that leads nowhere; mend it, or remove it")
    return [path for path in shown if path.is_dir()]
