"""Tiny ImageNet: 200 classes of ImageNet at 64x64 pixels, 500 training and 50 validation pictures each (Stanford)."""

from functools import cached_property
from pathlib import Path

import numpy as np

from datamodules.base import ImageDataModule, classes_of_files
from datamodules.samples import Samples

TEST_PER_CLASS = 50


class TinyImageNet(ImageDataModule):
    """The official validation split validates; as the official test labels are secret, 50 a class of train test."""

    name = "tiny_imagenet"
    official_samples = 110_000
    official_classes = 200
    default_image_size = 64
    raw_folder = "tiny-imagenet-200"
    raw_file = "wnids.txt"
    url = "https://cs231n.stanford.edu/tiny-imagenet-200.zip"
    checksum = "md5:90528d7ca1a48142e341f4ef8d21d0de"

    @cached_property
    def classes(self) -> list[str]:
        """In words, in the order of wnids.txt: a copy with fewer classes than 200 has fewer lines there."""
        return classes_of_files(self)

    def read_classes(self, raw: Path) -> list[str]:
        """The first of each class's synonyms in words.txt that no other class begins with, else all of them."""
        lines = (line.split("\t") for line in (raw / "words.txt").read_text(encoding="utf-8").splitlines())
        words = {wnid: synonyms for wnid, synonyms in lines}
        names = [words[wnid] for wnid in wnids(raw)]
        first = [name.split(", ")[0] for name in names]
        return [short if first.count(short) == 1 else name for short, name in zip(first, names, strict=True)]

    def read(self, raw: Path) -> dict[str, Samples]:
        """Training pictures by folder; validation pictures as val_annotations.txt assigns them."""
        number = {wnid: label for label, wnid in enumerate(wnids(raw))}
        train, test = [], []
        rng = np.random.default_rng(self.split_seed)
        for wnid, label in number.items():
            files = sorted((raw / "train" / wnid / "images").iterdir())
            if len(files) <= TEST_PER_CLASS:
                raise ValueError(
                    f"{raw / 'train' / wnid} has {len(files)} pictures, of which {TEST_PER_CLASS} are to test"
                )
            held_out = set(rng.choice(len(files), TEST_PER_CLASS, replace=False).tolist())
            for place, file in enumerate(files):
                (test if place in held_out else train).append((file, label))
        annotations = (line.split("\t") for line in (raw / "val/val_annotations.txt").read_text().splitlines())
        val = [(raw / "val/images" / file, number[wnid]) for file, wnid, *_ in annotations]
        return {
            split: Samples([file for file, _ in rows], np.array([label for _, label in rows]))
            for split, rows in (("train", train), ("val", val), ("test", test))
        }


def wnids(raw: Path) -> list[str]:
    """WordNet numbers of the classes."""
    return (raw / "wnids.txt").read_text().split()
