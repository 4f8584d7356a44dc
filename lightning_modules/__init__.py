"""Architectures, one a file: each a ``Network``, most of them a ``Classifier``."""

from lightning_modules.alexnet import AlexNet
from lightning_modules.base import Classifier
from lightning_modules.cifar_resnet import CifarResNet
from lightning_modules.cifar_vgg import CifarVGG
from lightning_modules.dcgan import DCGAN
from lightning_modules.deeper_googlenet import DeeperGoogLeNet
from lightning_modules.ensemble_classifier import EnsembleClassifier
from lightning_modules.fine_tuner import FineTuner
from lightning_modules.googlenet import GoogLeNet
from lightning_modules.mini_googlenet import MiniGoogLeNet
from lightning_modules.mini_vggnet import MiniVGGNet
from lightning_modules.network import Network
from lightning_modules.resnet import ResNet
from lightning_modules.srcnn import SRCNN
from lightning_modules.torchvision_model import TorchvisionModel
from lightning_modules.unpadded_net import UnpaddedNet

__all__ = [
    "DCGAN",
    "SRCNN",
    "AlexNet",
    "CifarResNet",
    "CifarVGG",
    "Classifier",
    "DeeperGoogLeNet",
    "EnsembleClassifier",
    "FineTuner",
    "GoogLeNet",
    "MiniGoogLeNet",
    "MiniVGGNet",
    "Network",
    "ResNet",
    "TorchvisionModel",
    "UnpaddedNet",
]
