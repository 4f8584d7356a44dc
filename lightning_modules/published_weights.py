"""torchvision's pretrained weights: downloaded once, compared with the checksum in their name, and free of code."""

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import Tensor
from torchvision import models

from tensor_file import read_tensors

REMEDY = "or give the path of a file of weights in place of their name"


def published_weights(weights: models.WeightsEnum, architecture: str, auxiliary: bool | None) -> dict[str, Tensor]:
    """The tensors of a network by name, as torchvision's builder has them.

    Args:
        weights: which of the network's.
        architecture: name of the builder.
        auxiliary: whether GoogLeNet and Inception keep their auxiliary classifiers; None for other networks.

    Raises:
        ConnectionError: they cannot be downloaded.
        ValueError: what is there is not what torchvision published, or could run code.
    """
    file = _downloaded(weights.url)
    published = re.search(r"-([0-9a-f]{8,})\.", file.name)
    with file.open("rb") as content:
        if published and not hashlib.file_digest(content, "sha256").hexdigest().startswith(published[1]):
            raise ValueError(f"{file} is not what torchvision published (its checksum differs); delete it")
    read_tensors(file, f"delete it, {REMEDY}")  # refuses code; torchvision itself, which comes next, does not
    arguments = {} if auxiliary is None else {"aux_logits": auxiliary}
    return models.get_model(architecture, weights=weights, **arguments).state_dict()


def _downloaded(url: str) -> Path:
    """The file where torchvision looks for it: under ``TORCH_HOME``."""
    file = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(urlsplit(url).path))
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file))
        except OSError as error:
            raise ConnectionError(
                f"{url} cannot be downloaded ({error}); download it by hand to {file}, {REMEDY}"
            ) from error
    return file
