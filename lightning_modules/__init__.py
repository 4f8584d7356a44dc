"""Architectures, one a file, all of them a ``Classifier``."""

from lightning_modules.base import Classifier
from lightning_modules.cifar_resnet import CifarResNet
from lightning_modules.mini_vggnet import MiniVGGNet
from lightning_modules.resnet import ResNet

__all__ = ["CifarResNet", "Classifier", "MiniVGGNet", "ResNet"]
