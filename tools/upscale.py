"""Enlarge pictures by a trained super-resolution network, or measure how near it comes to the originals.

python tools/upscale.py NETWORK PICTURES [PICTURES ...] [--out FOLDER]
python tools/upscale.py NETWORK [PICTURES ...] --evaluate [--format table]

NETWORK is a run's folder or a checkpoint; PICTURES are files or folders (with all below them), of any sizes. Of each
NAME two files are written, the network's NAME-x2.png and, to compare, NAME-x2-bicubic.png.

With --evaluate each picture is shrunk first, enlarged again, and compared with itself: PSNR and SSIM of the luminance
(BT.601, 16 .. 235) without a border as wide as the factor, as in the literature. Without PICTURES these are the
photographs that NETWORK, a run's folder, has held out for its test. Ctrl + c or SIGTERM ends it with the figures until
then.
"""

import argparse
import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from statistics import mean
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks.whole_file import whole_file
from datamodules import PhotographPairs
from pictures import data_of, listed, opened
from predictor import default_device
from terminal import at_least, command_line, plainly, screen
from upscaler import Comparison, Upscaler, compare


def names_of(places: Sequence[str], out: Path, factor: int) -> dict[str, Path]:
    """Where each picture's enlargement is written, below ``out`` as it lies below the folder that was named.

    Raises:
        ValueError: two would have the same name, or one that of a picture.
    """
    names: dict[str, Path] = {}
    owners: dict[Path, str] = {}
    for place in places:
        base = Path(place) if Path(place).is_dir() else Path(place).parent
        for picture in listed([place]):
            inside = Path(picture).relative_to(base)
            name = out / inside.with_name(f"{inside.stem}-x{factor}.png")
            if picture != (owner := owners.setdefault(name, picture)):
                raise ValueError(
                    f"{owner} and {picture} would both become {name}; enlarge one of them to another --out"
                )
            names[picture] = name
    inputs = {Path(picture).resolve() for picture in names}
    for picture, name in names.items():
        if replaced := next((path for path in (name, bicubic(name)) if path.resolve() in inputs), None):
            raise ValueError(f"the enlargement of {picture} would replace the picture {replaced}; choose another --out")
    return names


def bicubic(name: Path) -> Path:
    """Where the bicubic enlargement lies, beside the network's."""
    return name.with_stem(f"{name.stem}-bicubic")


def enlarge(upscaler: Upscaler, picture: str, name: Path, progress: Callable[[float], None]) -> None:
    """Write a picture's two enlargements."""
    for image, path in zip(upscaler.enlarge(opened(Path(picture)), progress), (name, bicubic(name)), strict=True):
        with whole_file(path) as partial:
            image.save(partial, format="PNG")


def held_out(run: Path, upscaler: Upscaler) -> list[str]:
    """The photographs of a run's test split.

    Raises:
        ValueError: they are not what the network was kept from.
    """
    if not run.is_dir():
        raise ValueError(f"{run} is no run's folder, which would say what its test photographs are; name PICTURES")
    data = data_of(run)
    if not isinstance(data, PhotographPairs) or data.folder.name != upscaler.packed_set:
        raise ValueError(f"{run} was not trained on the photographs that its configuration names; name PICTURES")
    return [str(path) for path in data.photographs("test")]


def each(
    places: Sequence[str], work: Callable[[str, Callable[[float], None]], Comparison | None]
) -> Iterator[Comparison | str | None]:
    """What the work gives for each picture, or in words why it cannot be read, while a bar shows how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("enlarging", total=len(places))
        for number, place in enumerate(places, start=1):
            try:
                yield work(place, lambda share: progress.advance(bar, share))
            except ValueError as error:
                yield f"error: {place} cannot be enlarged: {error}"
            progress.update(bar, completed=number)


def write(found: Sequence[Comparison], factor: int, form: str, file: TextIO) -> None:
    """A table with the means, CSV or JSON."""
    rows = [asdict(comparison) for comparison in found]
    if form == "json":
        finite = [{name: None if value == math.inf else value for name, value in row.items()} for row in rows]
        json.dump(finite, file, indent=1, allow_nan=False)  # JSON has no infinity
        file.write("\n")
    elif form == "csv":
        writer = csv.DictWriter(file, [field.name for field in fields(Comparison)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        table = Table(f"picture, x{factor}", "PSNR bicubic", "network", "gain, dB", "SSIM bicubic", "network")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in found:
            table.add_row(row.picture, *figures(row), end_section=row is found[-1])
        names = [field.name for field in fields(Comparison)][1:]
        means = Comparison(f"mean of {len(found)}", *(mean(row[name] for row in rows) for name in names))
        table.add_row(means.picture, *figures(means))
        screen(file).print(table)


def figures(row: Comparison) -> list[str]:
    """The cells of a line."""
    psnr = [f"{value:.2f}" for value in (row.psnr_bicubic, row.psnr, row.psnr - row.psnr_bicubic)]
    return [*psnr, f"{row.ssim_bicubic:.4f}", f"{row.ssim:.4f}"]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = command_line(__doc__)
    top.add_argument("network", metavar="NETWORK")
    top.add_argument("pictures", metavar="PICTURES", nargs="*")
    top.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="default: the current folder")
    top.add_argument("--factor", type=int, help="refuse a network that was trained for another one")
    top.add_argument(
        "--tile", type=at_least(1), default=256, help="pixels that are computed at a time, squared (default 256)"
    )
    top.add_argument("--evaluate", action="store_true", help="measure, and write no pictures")
    top.add_argument("--format", choices=["table", "csv", "json"], default="table", help="of the measurements")
    top.add_argument("--device", default=default_device())
    return top


def run(arguments: argparse.Namespace) -> list[str]:
    """Enlarge or measure; what could not be done, a line each."""
    upscaler = Upscaler.load(arguments.network, arguments.device, arguments.tile)
    if arguments.factor not in (None, upscaler.factor):
        raise ValueError(
            f"the network was trained for x{upscaler.factor}; leave out --factor, or take one that was trained with "
            f"--data.upscale_factor {arguments.factor}"
        )
    results: list[Comparison | str | None] = []
    if arguments.evaluate:
        places = listed(arguments.pictures) or held_out(Path(arguments.network), upscaler)
        try:
            for result in each(places, lambda picture, progress: compare(upscaler, picture, progress)):
                results.append(result)
        finally:  # after ctrl + c or an error too: many pictures may have taken hours
            if found := [result for result in results if isinstance(result, Comparison)]:
                write(found, upscaler.factor, arguments.format, sys.stdout)
                if len(results) < len(places):
                    print(f"ended after {len(results)} of {len(places)} pictures", file=sys.stderr)
    else:
        names = names_of(arguments.pictures, arguments.out, upscaler.factor)
        results += each(list(names), lambda picture, progress: enlarge(upscaler, picture, names[picture], progress))
    return [result for result in results if isinstance(result, str)]


def main() -> None:
    """Tell by the exit code whether every picture could be enlarged."""
    top = parser()
    arguments = top.parse_intermixed_args()  # PICTURES may come after an option
    if not arguments.pictures and not arguments.evaluate:
        top.error("name the pictures to enlarge")
    with plainly(memory="take a smaller --tile"):
        failed = run(arguments)
        for line in failed:
            print(line, file=sys.stderr)
        sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
