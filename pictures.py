"""Pictures for people: from files, from the data that a run was tested on, and as a sheet of many."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml
from matplotlib.figure import Figure
from PIL import Image, ImageOps, UnidentifiedImageError

from callbacks import run_folder
from datamodules import ImageDataModule
from datamodules.pack import fit
from datamodules.shards import MANIFEST
from sections import built


def picture(source: Path | bytes, size: int | None) -> np.ndarray:
    """A picture file or its bytes as data sets store it, uint8 RGB ``(size, size, 3)``; without a size, ``(H, W, 3)``.

    Raises:
        ValueError: it cannot be read; says why.
    """
    with _readable(source) as image:
        return fit(image, size)


def opened(path: Path) -> Image.Image:
    """A picture file at its own size: upright, 8 bits a channel, grey or RGB (L, RGB), with alpha if any (LA, RGBA).

    Raises:
        ValueError: it cannot be read, or has more than 8 bits; says why.
    """
    with _readable(path) as image:
        if image.mode.startswith(("I", "F")) or any(";16" in str(tile) for tile in image.tile):
            raise ValueError("it has more than 8 bits a channel, which would be lost; save it with 8 bits")
        image = ImageOps.exif_transpose(image)
        mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
        return image.convert((mode + "A") if image.has_transparency_data else mode)


@contextmanager
def _readable(source: Path | bytes) -> Iterator[Image.Image]:
    """A picture file while it is open; why it cannot be read, in plain words."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            yield image
    except UnidentifiedImageError:
        raise ValueError("it is no picture, or of an unknown format") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(getattr(error, "strerror", None) or str(error)) from error


def listed(places: Sequence[str]) -> list[str]:
    """Files as they are named, and all pictures below folders, told by their suffix.

    Raises:
        ValueError: a folder holds none.
    """
    suffixes, found = set(Image.registered_extensions()), []
    for place in places:
        if not Path(place).is_dir():
            found.append(place)
            continue
        inside = sorted(path for path in Path(place).rglob("*") if path.suffix.lower() in suffixes and path.is_file())
        if not inside:
            raise ValueError(f"the folder {place} holds no picture")
        found += map(str, inside)
    return found


def tested_pictures(run: Path, rows: Sequence[int], split: str) -> np.ndarray:
    """Stored pictures uint8 ``(N, H, W, 3)`` of these rows of the test split that a run's configuration names.

    Args:
        split: the checksum of the pictures that were tested, see ``callbacks.prediction_store.Predictions``.

    Raises:
        FileNotFoundError: they are not packed there.
        ValueError: others are.
    """
    data = data_of(run)
    if data.checksum_of("test") != split:
        raise ValueError(f"{data.folder} holds other pictures than {run} was tested on; test it again")
    return data.splits["test"].__getitems__(rows)[0].numpy()


def data_of(run: Path) -> ImageDataModule:
    """The packed data set that a run's configuration names.

    Raises:
        FileNotFoundError: it is not packed there.
    """
    settings = yaml.safe_load(run_folder.config_of(run).read_text(encoding="utf-8"))["data"]
    data = built(ImageDataModule, "data", settings)
    if not (data.folder / MANIFEST).exists():
        raise FileNotFoundError(
            f"{data.folder} is not there, which holds the pictures of {run}; a root that is relative "
            f"counts from the working folder, and main.py with --run {run} packs them again"
        )
    data.prepare_data()
    data.setup("test")
    return data


def draw(
    images: Sequence[np.ndarray], titles: Sequence[str], heading: str, out: Path, columns: int | None = None
) -> None:
    """A sheet of pictures as a file: RGB uint8 ``(H, W, 3)``, or one channel of any range ``(H, W)``.

    Raises:
        FileNotFoundError: the file's folder is not there.
    """
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {out.parent} is not there; make it, or write {out.name} elsewhere")
    columns = columns or int(np.ceil(np.sqrt(len(images))))
    lines = -(-len(images) // columns)
    longest = max((len(title.splitlines()) for title in titles), default=0)
    height = 1.8 + 0.13 * max(0, longest - 2)  # inches of a picture with its title, of which two lines are the rule
    figure = Figure(figsize=(1.6 * columns, height * lines + 0.6), layout="constrained")
    figure.suptitle(heading)
    for number, (image, title) in enumerate(zip(images, titles, strict=True), start=1):
        axes = figure.add_subplot(lines, columns, number)
        axes.imshow(image, cmap="gray", interpolation="nearest")
        texts = [line if len(line) <= 20 else line[:19] + "…" for line in title.splitlines()]
        axes.set_title("\n".join(texts), fontsize=8)
        axes.set_axis_off()
    figure.savefig(out, dpi=100)
