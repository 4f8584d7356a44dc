"""Make pictures whose contents are known: test pictures of a data set, pasted onto made backgrounds.

python tools/paste.py FOLDER [--objects Digits] [--pictures 100] [--seed 1] [--sides 32 96] [--most 4]

FOLDER gets 000.png and so on, of 320x240 pixels, and boxes.json, which says what is where, for tools/detect.py --truth.
Digits are pasted as ink, pictures of CIFAR10 as they are.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

import datamodules
from callbacks.whole_file import write_json
from datamodules.pasted import SIZE, Scene, scene
from datamodules.samples import Samples
from pictures import require_new_folder
from terminal import at_least, command_line, plainly

TRUTH = "boxes.json"


def tested(data: datamodules.ImageDataModule) -> Samples:
    """Pictures uint8 ``(N, S, S, 3)`` of the test split, and their labels."""
    data.prepare_data()
    data.setup("test")
    images, labels, *_ = data.splits["test"].__getitems__(range(len(data.splits["test"])))
    return Samples(images.numpy(), labels.numpy())


def write(folder: Path, scenes: list[Scene], classes: list[str], settings: dict[str, object]) -> None:
    """Pictures and what is in them.

    Raises:
        FileExistsError: something is there already.
    """
    require_new_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for number, made in enumerate(scenes):
        name = f"{number:03d}.png"
        Image.fromarray(made.picture).save(folder / name)
        boxes = [
            {"box": corners, "class": classes[label]}
            for corners, label in zip(made.corners.tolist(), made.labels, strict=True)
        ]
        pictures.append({"file": name, "boxes": boxes})
    write_json({"made_with": settings, "pictures": pictures}, folder / TRUTH)


def main() -> None:
    """Make them."""
    parser = command_line(__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--objects", choices=["Digits", "CIFAR10"], default="Digits", help="data set (default Digits)")
    parser.add_argument("--pictures", type=at_least(1), default=100, help="how many (default 100)")
    parser.add_argument("--seed", type=at_least(0), default=1, help="of all that is random (default 1)")
    parser.add_argument("--sides", type=int, nargs=2, default=[32, 96], help="of objects in pixels (default 32 96)")
    parser.add_argument("--most", type=at_least(1), default=4, help="objects in a picture, one at least (default 4)")
    parser.add_argument("--root", default="data", help="folder of packed data (default data)")
    parser.add_argument("--source", help="folder with the raw files of the data set")
    arguments = parser.parse_args()
    if not 8 <= arguments.sides[0] <= arguments.sides[1] <= min(SIZE):
        parser.error(f"--sides must rise and lie between 8 and {min(SIZE)}")
    with plainly():
        data = getattr(datamodules, arguments.objects)(root=arguments.root, source=arguments.source)
        objects, rng = tested(data), np.random.default_rng(arguments.seed)
        opaque = arguments.objects != "Digits"
        scenes = [
            scene(objects, rng, tuple(arguments.sides), arguments.most, opaque) for _ in range(arguments.pictures)
        ]
        settings = {name: getattr(arguments, name) for name in ("objects", "seed", "sides", "most")}
        write(arguments.folder, scenes, list(data.classes), settings)
        print(f"{arguments.folder}: {len(scenes)} pictures with {sum(len(each.labels) for each in scenes)} objects")


if __name__ == "__main__":
    main()
