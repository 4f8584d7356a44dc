"""Data sets, one a file; shards.py is the format, pack.py writes it, base.py loads it."""

from datamodules.base import ImageDataModule
from datamodules.batch_augment import BatchAugment
from datamodules.cifar10 import CIFAR10
from datamodules.digits import Digits
from datamodules.dogs_vs_cats import DogsVsCats
from datamodules.flowers17 import Flowers17
from datamodules.image_folder import ImageFolder
from datamodules.keras_affine import KerasAffine
from datamodules.mnist import MNIST
from datamodules.pasted_objects import PastedCIFAR10, PastedDigits
from datamodules.photograph_pairs import PhotographPairs
from datamodules.tiny_imagenet import TinyImageNet

__all__ = [
    "CIFAR10",
    "MNIST",
    "BatchAugment",
    "Digits",
    "DogsVsCats",
    "Flowers17",
    "ImageDataModule",
    "ImageFolder",
    "KerasAffine",
    "PastedCIFAR10",
    "PastedDigits",
    "PhotographPairs",
    "TinyImageNet",
]
