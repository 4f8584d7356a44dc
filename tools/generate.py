"""Make pictures with a trained DCGAN, and score them with a classifier of real ones.

python tools/generate.py NETWORK --out digits.png [--count 256] [--seed 0] [--classes 3 7] [--walk 16]
python tools/generate.py NETWORK --folder pictures --count 1000        one file a picture, in a new folder
python tools/generate.py NETWORK --score CLASSIFIER [CLASSIFIER ...]   what classifiers say of them, to standard output
python tools/generate.py RUN --score CLASSIFIER --compare              and whether they are copies of training pictures

NETWORK and CLASSIFIER are runs' folders or checkpoints. Only a conditional network knows classes: it makes all in turn,
or those that --classes names, and the score has an accuracy. Of any network the score says which classes there are, how
sure the classifier is and, of two or more classifiers, how often they agree. --compare needs the data of the run: a
network that has learned by heart makes pictures nearer to the training pictures than those of the test are.
"""

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks.montage import montage
from datamodules.picture_files import fit
from lightning_modules import DCGAN
from lightning_modules.saved import saved_network
from pictures import data_of, require_folder, require_new_folder
from predictor import Predictor
from terminal import at_least, command_line, plainly

PRESENT = 0.01  # share of the pictures from which on a class counts as there
SURE = 0.9


def asked_for(names: Sequence[str], classes: Sequence[str], network: DCGAN) -> list[int]:
    """The classes of that name.

    Raises:
        ValueError: the network knows none, or not that one; names near ones.
    """
    if not network.conditional:
        raise ValueError("this network does not know classes; one that is trained with --model.conditional true does")
    for name in names:
        if name not in classes:
            near = difflib.get_close_matches(name, classes, n=5, cutoff=0.3) or classes[:5]
            raise ValueError(f"there is no class {name!r}; near are {', '.join(near)}")
    return [list(classes).index(name) for name in names]


def walked(noise: Tensor, steps: int) -> Tensor:
    """From each vector of noise ``(N, D)`` to the next, in as many steps: ``(N * steps, D)``."""
    shares = torch.arange(steps)[:, None] / steps
    return torch.cat([start + shares * (end - start) for start, end in zip(noise, noise.roll(-1, 0), strict=True)])


def score(predictors: Sequence[Predictor], pictures: np.ndarray, labels: np.ndarray | None) -> dict[str, Any]:
    """What classifiers say of pictures uint8 ``(N, H, W, 3)``, the figures being those of the first.

    ``accuracy`` is there only with labels ``(N,)``, ``agreement`` only with two classifiers or more.
    """
    rows = [probabilities(predictor, pictures) for predictor in predictors]
    surest, said = rows[0].max(axis=1), np.stack([each.argmax(axis=1) for each in rows])
    shares = np.bincount(said[0], minlength=rows[0].shape[1]) / len(pictures)
    found = {
        "pictures": len(pictures),
        "classes_present": int((shares >= PRESENT).sum()),
        "shares": {name: round(float(share), 4) for name, share in zip(predictors[0].classes, shares, strict=True)},
        "balance": round(float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum() / np.log(len(shares))), 4),
        "mean_probability": round(float(surest.mean()), 4),
        "sure": round(float((surest >= SURE).mean()), 4),
    }
    if len(predictors) > 1:
        found["agreement"] = round(float((said == said[0]).all(axis=0).mean()), 4)
    if labels is not None:
        found["accuracy"] = round(float((said[0] == labels).mean()), 4)
    return found


def comparison(pictures: np.ndarray, train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """How far pictures uint8 ``(N, H, W, 3)`` lie apart: root mean square differences of pixels, 0 to 255.

    ``to_training``: from a generated picture to the nearest training picture, on average; ``test_to_training``: the
    same of real ones that were not trained on; ``from_training``: from a training picture to the nearest generated one,
    which is large where kinds of pictures are left out.
    """
    generated, train, test = (torch.from_numpy(each).float().flatten(1) for each in (pictures, train, test))
    pairs = {"to_training": (generated, train), "test_to_training": (test, train), "from_training": (train, generated)}
    return {name: round(nearest(*pair), 2) for name, pair in pairs.items()}


def nearest(pictures: Tensor, others: Tensor) -> float:
    """Mean distance of pictures ``(N, D)`` to the nearest of others ``(M, D)``, as root mean square of a pixel."""
    parts = [torch.cdist(part, others).amin(dim=1) for part in pictures.split(1024)]
    return float(torch.cat(parts).mean() / pictures.shape[1] ** 0.5)


def probabilities(predictor: Predictor, pictures: np.ndarray) -> np.ndarray:
    """float32 ``(N, C)``, of pictures that are brought to the size that the classifier knows."""
    size = predictor.stored_size
    fitted = [fit(Image.fromarray(picture), size) for picture in pictures]
    return np.concatenate([predictor.probabilities(fitted[at : at + 256]) for at in range(0, len(fitted), 256)])


def main() -> None:
    """Generate, then write or score."""
    parser = command_line(__doc__)
    parser.add_argument("network", metavar="NETWORK")
    parser.add_argument("--count", type=at_least(1), default=256, help="pictures (default 256)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    parser.add_argument("--classes", nargs="+", default=[], metavar="CLASS", help="those to make, in turn")
    parser.add_argument(
        "--walk", type=at_least(1), default=1, metavar="STEPS", help="from one picture to the next in so many"
    )
    parser.add_argument("--out", type=Path, help="a montage of all")
    parser.add_argument("--folder", type=Path, help="each as a file of a new folder: 00000-CLASS.png, or 00000.png")
    parser.add_argument("--score", nargs="+", default=[], metavar="CLASSIFIER")
    parser.add_argument("--compare", action="store_true", help="with the real pictures of the run")
    arguments = parser.parse_args()
    if not (arguments.out or arguments.folder or arguments.score):
        parser.error("say what to do with the pictures: --out FILE, --folder FOLDER or --score CLASSIFIER")
    if arguments.compare and not arguments.score:
        parser.error("--compare adds to the figures of --score CLASSIFIER; give both")
    with plainly():
        if arguments.folder:
            require_new_folder(arguments.folder)
        if arguments.out:
            require_folder(arguments.out)
        network, preprocessing = saved_network(arguments.network, DCGAN)
        classes = preprocessing["classes"]
        predictors = [Predictor.load(place) for place in arguments.score]
        if network.conditional and any(predictor.classes != classes for predictor in predictors):
            raise ValueError(f"the classes of the classifier are not those of the network: {', '.join(classes)}")
        if any(predictor.classes != predictors[0].classes for predictor in predictors):
            raise ValueError("the classifiers have other classes than each other, so they cannot agree on one")
        count = arguments.count * arguments.walk
        named = asked_for(arguments.classes, classes, network) if arguments.classes else range(len(classes))
        labels = torch.tensor(named)[torch.arange(count) // arguments.walk % len(named)]
        pictures = network.generate(walked(network.noise(arguments.count, arguments.seed), arguments.walk), labels)
        write(pictures.numpy(), [classes[label] for label in labels] * network.conditional, arguments)
        if predictors:
            known = labels.numpy() if network.conditional else None
            found = score(predictors, pictures.numpy(), known)
            if arguments.compare:
                splits = data_of(Path(arguments.network)).splits
                real = (splits[split].__getitems__(range(len(splits[split])))[0].numpy() for split in ("train", "test"))
                found |= comparison(pictures.numpy(), *real)
            print(json.dumps(found, indent=1))


def write(pictures: np.ndarray, names: Sequence[str], arguments: argparse.Namespace) -> None:
    """The files that are asked for, of pictures uint8 ``(N, H, W, 3)`` and, where they are known, their classes."""
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures):
            stem = f"{number:05d}" + (f"-{names[number]}" if names else "")
            Image.fromarray(picture).save(arguments.folder / f"{stem}.png")
    if arguments.out:
        columns = arguments.walk if arguments.walk > 1 else int(np.ceil(np.sqrt(len(pictures))))
        Image.fromarray(montage(pictures, columns)).save(arguments.out)


if __name__ == "__main__":
    main()
