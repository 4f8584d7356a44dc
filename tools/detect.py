"""Find objects in pictures of any size with a classifier: image pyramid, sliding windows, non-maximum suppression.

python tools/detect.py NETWORK PICTURES [PICTURES ...] --config experiments/detection.yaml [--probability 0.75 ...]
python tools/detect.py NETWORK FOLDER --config experiments/detection_digits.yaml --truth FOLDER/boxes.json

NETWORK is a run's folder, a checkpoint or a .safetensors file; PICTURES are files and folders, with all below them. The
folder --out gets detections.json, and of each picture its boxes before and after those that overlap are left out; a
search that ctrl + c, SIGTERM or an error ends leaves what it found until then.
--truth says what is in the pictures, as tools/paste.py writes it, and prints the average precision.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks.whole_file import whole_file, write_json
from cli import require_settings
from detection import Boxes, Detector, Settings
from detection.drawing import drawn
from detection.evaluation import Score, known_boxes, score
from messages import Help, of_settings
from pictures import listed, picture
from predictor import Predictor, default_device
from terminal import plainly, screen

Found = dict[str, object]


def parser() -> ArgumentParser:
    """Flags, and the keys of a YAML file."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=Help, exit_on_error=False, allow_abbrev=False, default_env=False
    )
    parser.add_argument("network", metavar="NETWORK", type=str)
    parser.add_argument("pictures", metavar="PICTURES", type=str, nargs="+")
    parser.add_argument("--config", action="config", help="a YAML file of settings; flags after it override them")
    parser.add_class_arguments(Settings, None)
    parser.add_argument("--out", type=str, default="detections", help="folder to write")
    parser.add_argument("--draw", type=bool, default=True, help="write pictures too")
    parser.add_argument("--truth", type=str, default=None, help="JSON file that says what is in the pictures")
    parser.add_argument("--device", type=str, default=default_device(), help="of torch")
    return parser


def detections(detector: Detector, places: list[str], out: Path, draw: bool) -> Iterator[tuple[Found, Boxes | None]]:
    """For each picture what detections.json says of it, and its boxes; of one that cannot be searched, why."""
    names = detector.predictor.classes
    for number, place in enumerate(places):
        try:
            image = picture(Path(place), None)
            before, after = detector.detect(image)
        except ValueError as error:
            yield {"file": place, "error": str(error)}, None
            continue
        boxes = [
            {"box": [round(value, 3) for value in corners], "class": names[label], "probability": round(probability, 6)}
            for corners, label, probability in zip(
                after.corners.tolist(), after.labels.tolist(), after.probabilities.tolist(), strict=True
            )
        ]
        size = {"width": image.shape[1], "height": image.shape[0]}
        yield {"file": place, **size, "boxes_before": len(before), "boxes": boxes}, after
        if draw:  # what the disk may refuse, after what was found
            for name, some in (("before", before), ("after", after)):
                with whole_file(out / f"{number:03d}-{Path(place).stem}-{name}.png") as partial:
                    drawn(image, some, names, labelled=some is after).save(partial, format="PNG")


def table(found: list[Found]) -> Table:
    """A line for each box, the most probable of a picture first."""
    table = Table("picture", "class")
    for heading in ("probability %", "left", "top", "right", "bottom"):
        table.add_column(heading, justify="right")
    for each in found:
        name = f"{each['file']} ({each['boxes_before']} before)"
        for box in each["boxes"] or [{"class": "nothing", "box": []}]:
            probability = f"{100 * box['probability']:.1f}" if box["box"] else ""
            table.add_row(name, box["class"], probability, *(f"{value:.0f}" for value in box["box"]))
            name = ""
    return table


def precision(boxes: dict[str, Boxes], known: dict[str, Boxes], classes: list[str]) -> Score:
    """That of the boxes of pictures by their files, beside what is known of pictures by the names of those."""
    return score(list(boxes.values()), [known[Path(place).name] for place in boxes], classes)


def told(result: Score) -> str:
    """Average precision for people."""
    if result.mean is None:
        return f"no object is in the pictures, so there is no average precision; {result.boxes} boxes"
    lines = [
        f"mean average precision at an overlap of 0.5: {result.mean:.4f}",
        f"{result.found} of {result.objects} objects have a box of their class; {result.boxes} boxes",
    ]
    lines += [f"  {low:5.1f} to {high:5.1f} pixels, {n} objects: {value:.4f}" for low, high, n, value in result.sides]
    return "\n".join(lines)


def run() -> list[Found]:
    """Search all pictures; those that could not be."""
    command = parser().parse_args()
    for file in command.config or []:
        require_settings(Path(file))
    settings = Settings(**{field.name: command[field.name] for field in fields(Settings)})
    places = listed(command.pictures)
    detector = Detector(Predictor.load(command.network).to(command.device), settings)
    names, known = detector.predictor.classes, {}
    if command.truth:
        import_module("pycocotools")  # if it is missing, one wants to know before the search
        known = known_boxes(Path(command.truth), names)
        if strangers := [place for place in places if Path(place).name not in known]:
            raise ValueError(f"--truth does not say what is in {strangers[0]}")
        names_of_files = [Path(place).name for place in places]
        if twice := next((name for name in names_of_files if names_of_files.count(name) > 1), None):
            raise ValueError(f"--truth tells pictures by the names of their files, and two are called {twice}")
    print(f"path {detector.path}")
    out = Path(command.out)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "detections.json"
    record: dict[str, object] = {
        "network": command.network,
        "classes": names,
        "settings": {**asdict(settings), "window": detector.window},
        "path": detector.path,
    }
    results: list[tuple[Found, Boxes | None]] = []
    try:
        for result in detections(detector, places, out, command.draw):
            results.append(result)
    finally:  # ctrl + c, a full disk, and later a score that fails: a search may have taken hours
        if results:
            record |= {"pictures": [each for each, _ in results], "not_searched": places[len(results) :]}
            write_json(record, file)
            if len(results) < len(places):
                print(f"ended after {len(results)} of {len(places)} pictures: {file}", file=sys.stderr)
    found = [each for each, _ in results if "error" not in each]
    screen().print(table(found))
    if command.truth and found:
        boxes = {each["file"]: kept for each, kept in results if "error" not in each}
        result = precision(boxes, known, names)
        write_json(record | {"score": asdict(result)}, file)
        print(told(result))
    print(f"{len(found)} pictures searched: {file}")
    return [each for each, _ in results if "error" in each]


def main() -> None:
    """Tell by the exit code whether every picture could be searched."""
    with plainly(extra="detection"):
        try:
            failed = run()
        except argparse.ArgumentError as error:
            raise ValueError(of_settings(error, parser())) from error
        for each in failed:
            print(f"error: {each['file']} cannot be searched: {each['error']}", file=sys.stderr)
        sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
