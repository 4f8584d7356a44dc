"""Name what pictures show, by a trained network: its checkpoint alone says how they are prepared.

python tools/predict.py NETWORK PICTURES [PICTURES ...] [--top 5] [--format table]

NETWORK is a run's folder, a checkpoint or a .safetensors file; PICTURES are files, folders (with all below them but
folders that are links), or - for the bytes of one picture from standard input. A picture that cannot be read is named
on standard error and the others are still predicted; the exit code is 1 then.
"""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import indent
from typing import TextIO

import numpy as np
from rich.table import Column, Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from pictures import listed, picture
from predictor import Predictor, default_device
from terminal import at_least, command_line, plainly, screen

Prediction = dict[str, str | list[dict[str, str | float]]]


def read(place: str, size: int) -> np.ndarray | ValueError:
    """The picture, uint8 ``(size, size, 3)``, or why there is none."""
    try:
        return picture(sys.stdin.buffer.read() if place == "-" else Path(place), size)
    except ValueError as error:
        return error


def predictions(predictor: Predictor, places: Sequence[str], top: int, batch_size: int) -> Iterator[Prediction]:
    """For each picture ``picture`` and its ``top`` classes, or ``error``."""
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(places), batch_size):
            batch = places[start : start + batch_size]
            pictures = list(threads.map(read, batch, [predictor.stored_size] * len(batch)))
            readable = [each for each in pictures if isinstance(each, np.ndarray)]
            rows = iter(predictor.probabilities(readable) if readable else [])
            for place, each in zip(batch, pictures, strict=True):
                if isinstance(each, ValueError):
                    yield {"picture": place, "error": str(each)}
                    continue
                row = next(rows)
                best = np.argsort(-row, kind="stable")[:top]
                classes = [{"class": predictor.classes[c], "probability": round(float(row[c]), 6)} for c in best]
                yield {"picture": place, "classes": classes}


def noting(found: Iterable[Prediction], failed: list[Prediction]) -> Iterator[Prediction]:
    """The same predictions; those of pictures that cannot be read are put down as well."""
    for each in found:
        if "error" in each:
            failed.append(each)
        yield each


def write(found: Iterable[Prediction], form: str, file: TextIO) -> None:
    """A table or CSV with a line for each picture and class, or JSON; all but the table as the predictions come."""
    if form == "json":
        file.write("[")
        for number, each in enumerate(found):
            file.write("," * bool(number) + "\n" + indent(json.dumps(each, indent=1), " "))
        file.write("\n]\n")
        return
    rows = (
        (each["picture"], rank, choice["class"], choice["probability"])
        for each in found
        for rank, choice in enumerate(each.get("classes", []), start=1)
    )
    if form == "csv":
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["picture", "rank", "class", "probability"])
        writer.writerows((place, rank, name, f"{probability:.6f}") for place, rank, name, probability in rows)
        return
    table = Table(Column("picture", overflow="fold"), "class", Column("probability %", justify="right"))
    for place, rank, name, probability in rows:
        table.add_row(place if rank == 1 else "", name, f"{100 * probability:.2f}")
    screen(file).print(table)


def main() -> None:
    """Predict, write, and tell by the exit code whether every picture could be read."""
    parser = command_line(__doc__)
    parser.add_argument("network", metavar="NETWORK")
    parser.add_argument("pictures", metavar="PICTURES", nargs="+")
    parser.add_argument(
        "--top", type=at_least(1), default=5, help="classes of each picture, most probable first (default 5)"
    )
    parser.add_argument("--format", choices=["table", "json", "csv"], default="table")
    parser.add_argument("--batch_size", type=at_least(1), default=64, help="pictures at a time (default 64)")
    parser.add_argument("--device", default=default_device())
    arguments = parser.parse_args()
    with plainly():
        places = listed(arguments.pictures)
        predictor = Predictor.load(arguments.network).to(arguments.device)
        failed: list[Prediction] = []
        found = predictions(predictor, places, arguments.top, arguments.batch_size)
        write(noting(found, failed), arguments.format, sys.stdout)
        for each in failed:
            print(f"error: {each['picture']} cannot be read: {each['error']}", file=sys.stderr)
        sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
