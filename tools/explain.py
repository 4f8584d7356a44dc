"""Why a network says what it says, and how far it can be trusted.

python tools/explain.py gradcam NETWORK FILE.png PICTURES [PICTURES ...] [--layer NAME] [--class NAME]
python tools/explain.py mistakes RUN FILE.png [--count 24]
python tools/explain.py calibration RUN FILE.png [--bins 15]

gradcam lays over each picture where the evidence for a class lies: for the most probable class, unless one is named
(Selvaraju et al. 2017, Grad-CAM, https://arxiv.org/abs/1610.02391). mistakes draws the wrong predictions that the
network was surest of; calibration compares confidence and accuracy, with the expected calibration error (Guo et al.
2017, https://arxiv.org/abs/1706.04599). Both read what the run's last test has stored.
"""

import sys
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks.prediction_store import Predictions
from lightning_modules.layer_output import last_map, map_of, recorded
from pictures import draw, listed, named_picture, refuse_to_replace, require_folder, require_room, save, tested_pictures
from predictor import Predictor
from terminal import at_least, command_line, plainly


def grad_cam(predictor: Predictor, layer: str, image: np.ndarray, label: int | None) -> tuple[int, float, np.ndarray]:
    """Where the evidence lies for a class, or for the most probable one.

    Args:
        layer: its name; one that gives a map.
        image: uint8 ``(S, S, 3)``.

    Returns:
        The class, its probability, and the evidence float32 ``(H, W)`` of the layer's map, from 0 to 1; zero where
        nothing in it speaks for the class.

    Raises:
        ValueError: there is no such layer (names near ones), or it gives no map.
    """
    with torch.enable_grad(), recorded(predictor.network, layer) as outputs:
        logits = predictor.network(predictor.normalized(torch.tensor(image[None])))[0]
        seen = map_of(outputs, layer)
        chosen = int(logits.argmax()) if label is None else label
        (gradient,) = torch.autograd.grad(logits[chosen], seen)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    evidence = (weights * seen).sum(dim=1)[0].relu().detach()
    return chosen, logits.softmax(dim=0)[chosen].item(), (evidence / evidence.max().clamp(min=1e-12)).numpy()


def overlaid(image: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """A picture uint8 ``(S, S, 3)`` under the colours of the evidence ``(H, W)``, scaled to its size."""
    scaled = cv2.resize(evidence, image.shape[1::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1)
    colours = 255 * matplotlib.colormaps["inferno"](scaled)[..., :3]
    return (0.45 * image + 0.55 * colours).astype(np.uint8)


def draw_grad_cam(predictor: Predictor, layer: str, label: int | None, places: list[str], out: Path) -> list[str]:
    """The overlays as a sheet; what could not be read."""
    images, titles, failed = [], [], []
    require_room(2 * len(places))
    for place in places:
        try:
            image = named_picture(Path(place), predictor.stored_size)
        except ValueError as error:
            failed.append(str(error))
            continue
        chosen, probability, evidence = grad_cam(predictor, layer, image, label)
        images += [image, overlaid(image, evidence)]
        titles += [Path(place).name, f"{predictor.classes[chosen]}\n{100 * probability:.1f} %"]
    if images:
        draw(images, titles, f"Evidence in {layer}", out, columns=min(8, len(images)))
    return failed


def draw_mistakes(run: Path, count: int, out: Path) -> str:
    """The wrong predictions with the greatest probabilities; how many there are in all, and the files of these."""
    tested = Predictions.load(run)
    wrong = tested.surest_mistakes()
    if not len(wrong):
        return f"none of {len(tested.rows)} predictions is wrong: nothing to draw"
    chosen = wrong[:count]
    said, confidence = tested.probabilities[chosen].argmax(axis=1), tested.probabilities[chosen].max(axis=1)
    titles = [
        f"{tested.names[label]}\nsaid: {tested.names[answer]}\n{100 * sure:.1f} %"
        for label, answer, sure in zip(tested.labels[chosen], said, confidence, strict=True)
    ]
    images, files = tested_pictures(run, tested.rows[chosen], tested.split)
    told = "".join(f"  {file}: {', '.join(title.splitlines())}\n" for file, title in zip(files, titles, strict=True))
    draw(images, titles, f"{len(chosen)} of {len(wrong)} mistakes, the surest first", out, columns=min(8, len(chosen)))
    return f"{told}{len(chosen)} of {len(wrong)} mistakes among {len(tested.rows)}: {out}"


def reliability(tested: Predictions, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Pictures, mean confidence and accuracy of each bin of confidence ``(bins,)``, and the calibration error.

    Bins are of equal width; means of an empty one are nan. The error is the mean distance between confidence and
    accuracy, weighted by pictures (Guo et al. 2017, equation 3).
    """
    confidence, right = tested.probabilities.max(axis=1).astype(np.float64), tested.right()
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts, sure, hits = (np.bincount(places, weights, bins) for weights in (None, confidence, right))
    with np.errstate(invalid="ignore"):
        return counts, sure / counts, hits / counts, float(np.abs(sure - hits).sum() / len(right))


def draw_reliability(run: Path, bins: int, out: Path) -> str:
    """Accuracy and number of pictures over confidence."""
    tested = Predictions.load(run)
    if not np.isfinite(tested.probabilities).all():
        raise ValueError(f"{run} has probabilities that are no numbers; they have no calibration")
    require_folder(out)
    counts, sure, accuracy, error = reliability(tested, bins)
    figure = Figure(figsize=(5.5, 6.5), dpi=100, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    middles = (np.arange(bins) + 0.5) / bins
    upper.plot([0, 1], [0, 1], "--", color="grey", label="perfect calibration")
    upper.bar(middles, accuracy, 1 / bins, color="tab:blue", edgecolor="white", label="accuracy")
    upper.plot(sure, accuracy, "o", color="black", markersize=4, label="mean confidence of the bin")
    upper.set(ylabel="accuracy", ylim=(0, 1), title=f"Expected calibration error {100 * error:.2f} %")
    upper.legend(loc="upper left")
    lower.bar(middles, counts, 1 / bins, color="tab:grey", edgecolor="white")
    lower.set(xlabel="confidence", ylabel="pictures", xlim=(0, 1))
    save(figure, out)
    mean, right = tested.probabilities.max(axis=1).mean(), tested.right().mean()
    tendency = "over" if mean > right else "under"
    return (
        f"expected calibration error {100 * error:.2f} %; mean confidence {100 * mean:.2f} %, accuracy "
        f"{100 * right:.2f} %: {tendency}confident by {100 * abs(mean - right):.2f} points: {out}"
    )


def main() -> None:
    """Run one of the three."""
    parser = command_line(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    cam = commands.add_parser("gradcam", help="where the evidence lies", allow_abbrev=False)
    cam.add_argument("network", metavar="NETWORK", help="a run's folder, a checkpoint or a .safetensors file")
    cam.add_argument("out", metavar="FILE.png", type=Path)
    cam.add_argument("pictures", metavar="PICTURES", nargs="+", help="files or folders")
    cam.add_argument("--layer", help="the last one whose map has more than one place if not given")
    cam.add_argument("--class", dest="label", help="the most probable one of each picture if not given")
    for name, purpose, option, default, told in (
        ("mistakes", "the wrong predictions it was surest of", "count", 24, "pictures"),
        ("calibration", "confidence and accuracy compared", "bins", 15, "bins"),
    ):
        command = commands.add_parser(name, help=purpose, allow_abbrev=False)
        command.add_argument("run", metavar="RUN", type=Path, help="folder of a tested run")
        command.add_argument("out", metavar="FILE.png", type=Path)
        command.add_argument(f"--{option}", type=at_least(1), default=default, help=f"{told} (default {default})")
    arguments = parser.parse_args()
    failed: list[str] = []
    with plainly():
        refuse_to_replace(arguments.out, [])
        if arguments.command == "mistakes":
            print(draw_mistakes(arguments.run, arguments.count, arguments.out))
        elif arguments.command == "calibration":
            print(draw_reliability(arguments.run, arguments.bins, arguments.out))
        else:
            predictor = Predictor.load(arguments.network)
            if arguments.label is not None and arguments.label not in predictor.classes:
                raise ValueError(f"there is no class {arguments.label}; there are {', '.join(predictor.classes)}")
            label = None if arguments.label is None else predictor.classes.index(arguments.label)
            layer = arguments.layer or last_map(predictor.network)
            places = listed(arguments.pictures)
            refuse_to_replace(arguments.out, places)
            failed = draw_grad_cam(predictor, layer, label, places, arguments.out)
            if len(failed) < len(places):
                print(f"evidence in {layer} for {len(places) - len(failed)} of {len(places)} pictures: {arguments.out}")
        if failed:
            sys.exit("\n".join(f"error: {each}" for each in failed))


if __name__ == "__main__":
    main()
