"""Pictures for people: from files, from the data that a run was tested on, and as a sheet of many."""

import io
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from callbacks import run_folder
from callbacks.whole_file import whole_file
from datamodules import ImageDataModule
from datamodules.manifest import MANIFEST
from datamodules.picture_files import files_below, fit, is_picture, loaded
from sections import built

MOST = 2048  # pictures on a sheet, eight in a line: matplotlib draws no file of more than 65 535 pixels a side


def picture(source: Path | bytes, size: int | None) -> np.ndarray:
    """A picture file or its bytes as data sets store it, uint8 RGB ``(size, size, 3)``; without a size, ``(H, W, 3)``.

    Raises:
        ValueError: it cannot be read; says why.
    """
    return fit(loaded(io.BytesIO(source) if isinstance(source, bytes) else source), size)


def named_picture(file: Path, size: int | None) -> np.ndarray:
    """The same of a file, which an error names.

    Raises:
        ValueError: it cannot be read; says which and why.
    """
    try:
        return picture(file, size)
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def opened(path: Path) -> Image.Image:
    """A picture file at its own size: upright, 8 bits a channel, grey or RGB (L, RGB), with alpha if any (LA, RGBA).

    Raises:
        ValueError: it cannot be read, or has more than 8 bits; says why.
    """
    image = loaded(path, eight_bits=True)
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    return image.convert((mode + "A") if image.has_transparency_data else mode)


def profile_of(image: Image.Image, mode: str) -> dict[str, bytes]:
    """Its ICC profile as Pillow's ``info`` of a picture that is made from it.

    Args:
        mode: of that picture: L, LA, RGB or RGBA. A profile of other colours, as of CMYK, is left out.
    """
    profile = image.info.get("icc_profile") or b""
    fits = profile[16:20] == (b"RGB " if mode.startswith("RGB") else b"GRAY")  # ICC.1:2022, 7.2.6
    return {"icc_profile": profile} if fits else {}


def listed(places: Sequence[str]) -> list[str]:
    """Files as they are named, and all pictures below folders, told by their suffix.

    Raises:
        ValueError: a folder holds none.
    """
    found = []
    for place in places:
        if not Path(place).is_dir():
            found.append(place)
            continue
        inside = list(filter(is_picture, files_below(Path(place))))
        if not inside:
            raise ValueError(f"the folder {place} holds no picture")
        found += map(str, inside)
    return found


def refuse_to_replace(out: Path, places: Sequence[str]) -> None:
    """Refuse to write where a picture is that was named to be looked at.

    Raises:
        ValueError: it is one of them, or an existing picture that no tool has drawn, as where the name of the output
            is left out.
    """
    drawn = out.suffix.lower() == ".png" or not is_picture(out)
    if out.resolve() in {Path(place).resolve() for place in places} or (out.exists() and not drawn):
        raise ValueError(f"{out} would be replaced; name a new file to write, and then the pictures")


def tested_pictures(run: Path, rows: Sequence[int], split: str) -> tuple[np.ndarray, list[str]]:
    """Stored pictures uint8 ``(N, H, W, 3)`` of these rows of the test split that a run's configuration names.

    And their files, as they are called in the folder of the raw ones, or else ``row 7``.

    Args:
        split: the checksum of the pictures that were tested, see ``callbacks.prediction_store.Predictions``.

    Raises:
        FileNotFoundError: they are not packed there.
        ValueError: others are.
    """
    data = data_of(run)
    if data.checksum_of("test") != split:
        raise ValueError(f"{data.folder} holds other pictures than {run} was tested on; test it again")
    files = data.files("test")
    return data.splits["test"].__getitems__(rows)[0].numpy(), [files[row] if files else f"row {row}" for row in rows]


def data_of(run: Path) -> ImageDataModule:
    """The packed data set that a run's configuration names.

    Raises:
        FileNotFoundError: it is not packed there.
    """
    data = built(ImageDataModule, "data", run_folder.settings_of(run)["data"])
    if not (data.folder / MANIFEST).exists():
        raise FileNotFoundError(
            f"{data.folder} is not there, which holds the pictures of {run}; a root that is relative "
            f"counts from the working folder, and main.py with --run {shlex.quote(str(run))} packs them again"
        )
    data.prepare_data()
    data.setup("test")
    return data


def require_folder(out: Path) -> None:
    """Refuse to write where there is no folder.

    Raises:
        FileNotFoundError: names it.
    """
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {out.parent} is not there; make it, or write {out.name} elsewhere")


def require_new_folder(out: Path) -> None:
    """Refuse to write many files where some are; nothing is made yet.

    Raises:
        FileExistsError: it holds something, or is a file.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is not an empty folder; name one that is empty or not there yet")


def require_room(count: int) -> None:
    """Refuse a sheet that is too large for a file.

    Raises:
        ValueError: it would have too many pictures.
    """
    if count > MOST:
        raise ValueError(f"a sheet of {count} pictures is too large; at most {MOST} fit, so draw fewer at a time")


def draw(
    images: Sequence[np.ndarray], titles: Sequence[str], heading: str, out: Path, columns: int | None = None
) -> None:
    """A sheet of pictures as a file: RGB uint8 ``(H, W, 3)``, or one channel of any range ``(H, W)``.

    Raises:
        FileNotFoundError: the file's folder is not there.
        ValueError: there are too many.
    """
    require_folder(out)
    require_room(len(images))
    columns = columns or int(np.ceil(np.sqrt(len(images))))
    lines = -(-len(images) // columns)
    longest = max((len(title.splitlines()) for title in titles), default=0)
    height = 1.8 + 0.13 * max(0, longest - 2)  # inches of a picture with its title, of which two lines are the rule
    figure = Figure(figsize=(1.6 * columns, height * lines + 0.6), layout="constrained")
    figure.suptitle(heading, parse_math=False)
    for number, (image, title) in enumerate(zip(images, titles, strict=True), start=1):
        axes = figure.add_subplot(lines, columns, number)
        axes.imshow(image, cmap="gray", interpolation="nearest")
        texts = [line if len(line) <= 20 else line[:19] + "…" for line in title.splitlines()]
        axes.set_title("\n".join(texts), fontsize=8, parse_math=False)
        axes.set_axis_off()
    save(figure, out)


def save(figure: Figure, out: Path) -> None:
    """A drawing as a file of the kind that its ending names, PNG if none does.

    Raises:
        OSError: the disk refuses it; nothing of the file remains.
    """
    with whole_file(out.resolve()) as partial:
        figure.savefig(partial, format=out.suffix[1:] or "png", dpi=100)
