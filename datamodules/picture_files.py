"""Picture files of any format: which lie below a folder, and what they show, upright."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

LEFT_BY_DESKTOPS = ("thumbs.db", "desktop.ini")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # how EXIF's orientation is made upright


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, in the order of their names, but for hidden ones and those that desktops leave.

    The folder itself may be a link; below it, links to folders are not followed.
    """
    return sorted(Path(entry.path) for entry in entries_below(folder))


def entries_below(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """The same in any order, as the system lists them; links that lead nowhere are left out."""
    try:
        listing = os.scandir(folder)
    except PermissionError:
        return
    with listing as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from entries_below(entry.path)
                continue
            there = os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()
            if there and entry.name.lower() not in LEFT_BY_DESKTOPS:
                yield entry


def is_picture(path: Path) -> bool:
    """Whether a file has the suffix of a format that Pillow reads, and not only writes, as PDF."""
    return Image.registered_extensions().get(path.suffix.lower()) in {*Image.OPEN, "MPO"}  # read as JPEG


def loaded(source: Path | BinaryIO, eight_bits: bool = False) -> Image.Image:
    """A picture, decoded and upright.

    Args:
        eight_bits: refuse more bits a channel, which Pillow would cut off from a picture in colours.

    Raises:
        ValueError: it cannot be read; says why.
        MemoryError: it is too large for the memory that is free.
    """
    try:
        with Image.open(source) as image:
            if eight_bits and _is_deep(image):
                raise ValueError("it has more than 8 bits a channel, which would be lost; save it with 8 bits")
            image.load()
            if image.mode == "P" and image.palette is None:
                raise ValueError("its palette is missing")
            return _turned(image)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise ValueError("it is no picture, or of an unknown format") from None
    except Exception as error:  # whatever a decoder raises of a damaged file
        raise ValueError(getattr(error, "strerror", None) or str(error) or type(error).__name__) from error


def _is_deep(image: Image.Image) -> bool:
    """Whether the file of a picture that is not decoded yet has more than 8 bits a channel."""
    if image.mode.startswith(("I", "F")):
        return True
    codings = [str(arguments) for *_, arguments in image.tile]
    if image.format == "PPM":
        return any(int(number) > 255 for coding in codings for number in re.findall(r"\d+", coding))
    return any(re.search(r"(?<!BGR);16", coding) for coding in codings)  # BGR;16 has 5 or 6 bits a channel


def _turned(image: Image.Image) -> Image.Image:
    """The picture as its EXIF data turn it; as it is, where they cannot be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # the pixels are whole
        return image
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def fit(image: Image.Image, size: int | None) -> np.ndarray:
    """RGB picture ``(size, size, 3)``: shorter side scaled to ``size`` (antialiased bicubic), centre kept.

    Without a size it stays as large as it is: ``(H, W, 3)``.
    """
    image = rgb(image)
    if size is None or image.size == (size, size):
        return np.asarray(image)
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def rgb(image: Image.Image) -> Image.Image:
    """The picture in 8-bit RGB: on white, where it is transparent.

    Of 16 bits these are the upper eight, where Pillow would cut off all above 255; a picture of which no value needs
    more than eight is taken as it is.

    Raises:
        ValueError: its values are no integers of up to 16 bits.
    """
    if image.mode == "F":
        raise ValueError("its values are floating-point numbers; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its values have more than 16 bits; save it with 8 or 16 bits")
        image = Image.fromarray((values >> 8 if values.max() > 255 else values).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
