"""The next step, from a run's own files: bias, variance, data mismatch or an overfit validation split.

python tools/diagnose.py RUN [--human 0.05] [--measure] [--train-val FOLDER] [--data.root FOLDER]
python tools/diagnose.py --transfer --images 5000 --similar yes

The training error in a run's history is that of augmented pictures, with dropout, while weights change: the true one is
smaller, and bias and variance cannot be told apart. --measure asks the best checkpoint about training pictures as they
are, a stratified sample of 5 000 at most.

--train-val FOLDER tells data mismatch from variance, where validation has pictures of another kind than training. It
holds pictures of the same kind as the training pictures, that were not trained on, in a subfolder for each class. Or it
is the folder of a test of the same network, by main.py test --run RUN --name train-val --data.source OTHER
--data.root ANOTHER, which normalises them with the mean of the set that they are in. Without
--train-val, validation minus training is called variance: the validation split is cut from the training pictures,
unless the data set has one of its own.

Differences below two standard errors of these numbers of pictures are not called findings. Flags like --data.root
change the run's data section, if its packed set has moved.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks import run_folder
from diagnosis.errors import errors_of
from diagnosis.gaps import Cause, Gap, Measured, largest
from diagnosis.remedies import longer, remedies
from diagnosis.run import Run
from diagnosis.transfer import transfer
from terminal import command_line, plainly, screen

CAUSES: dict[str, Cause] = {  # of what an error exceeds the one named by
    "wanted": "bias",
    "training": "variance",
    "training-validation": "data mismatch",
    "validation": "overfitting to the validation split",
}
FOUND = {
    "bias": "the network does not even fit the pictures that it learns from, so more of them would not help",
    "variance": "it names the pictures that it has seen far better than new ones of the same kind",
    "data mismatch": "it copes with new pictures of the training's kind, but validation has others",
    "overfitting to the validation split": "what was chosen by the validation split is worse on the test's pictures",
}


def gaps_of(wanted: float, errors: Sequence[Measured]) -> list[Gap]:
    """Each error beside the one before it."""
    row = [Measured("wanted", wanted, None), *errors]
    return [Gap(CAUSES[before.of], before, after) for before, after in pairwise(row)]


def table_of(gaps: Sequence[Gap]) -> Table:
    """A line for each error, with what it exceeds the line above by."""
    table = Table("error", caption="± is two standard errors; points are the difference from the line above")
    for heading in ("%", "pictures", "points", "±"):
        table.add_column(heading, justify="right")
    table.add_column("gap")
    table.add_column("from")
    wanted = gaps[0].before
    table.add_row(wanted.of, f"{100 * wanted.error:.2f}", "", "", "", "", "--human" if wanted.error else "assumed")
    for gap in gaps:
        error = "≤ " * gap.after.at_most + f"{100 * gap.after.error:.2f}"
        name = gap.cause if gap.found else f"no {gap.cause} found"
        if gap.after.at_most:
            name += ", at most"
        elif gap.before.at_most:
            name = f"{gap.cause}, at least" if gap.found else f"{gap.cause} cannot be told"
        points = f"{100 * gap.size:+.2f}", f"{100 * gap.margin:.2f}"
        table.add_row(gap.after.of, error, str(gap.after.pictures), *points, name, gap.after.origin)
    return table


def notes_on(run: Run, errors: Sequence[Measured], assumed: bool) -> Iterator[str]:
    """What the table's errors are not."""
    if assumed:
        yield "The error wanted is assumed to be 0; --human 0.05 says what people, or the best network, get wrong."
    if errors[0].at_most:
        yield (
            f"The training error is an upper bound: it was measured under {', '.join(run.hardships)}, while "
            "the weights changed. Bias and variance are separable only by --measure."
        )
    if not run.manifest:
        yield f"{run.data.folder} is not here: numbers of pictures are estimates (--data.root FOLDER)."
    if run.data.validate_on_test:
        yield "Validation was on the test split: whether choices were fitted to it cannot be seen."
    if errors[-1].of != "test":
        yield f"It was not tested: python main.py test --run {shlex.quote(str(run.folder))}"


def next_step(run: Run, gaps: Sequence[Gap]) -> str:
    """One paragraph: the largest gap, and what to try, in order."""
    gap, certain = largest(gaps)
    if gap is None:
        advice = longer(run.settings)
        more = f" {advice[0].upper()}{advice[1:]}." if "still falling" in run.signs else ""
        whole = Gap("variance", gaps[0].before, gaps[-1].after)
        if whole.found:
            return (
                f"No gap exceeds two standard errors, yet the error of {whole.after.of} is {100 * whole.size:.1f} "
                "points more than wanted: these are too few pictures to say where that arises. Take more of them for "
                f"validation (--data.val_fraction) and for the test.{more}"
            )
        return (
            "No gap exceeds two standard errors: the network is as good as wanted, as far as so many pictures can "
            f"tell. Ask for less error (--human), or test on more pictures to see smaller differences.{more}"
        )
    trained_on = run.pictures("train")
    steps = remedies(gap.cause, run.settings, run.signs, trained_on)
    size = f"{100 * gap.size:.1f} points between {gap.before.of} and {gap.after.of}"
    if certain:
        text = f"The largest gap is {gap.cause}, {size}: {FOUND[gap.cause]}."
    else:
        text = (
            f"The largest gap is {size} at most, but how much of the error is bias (the network cannot fit what it "
            "learns from) and how much variance (it fits only that) cannot be told, as the training error is an upper "
            f"bound. First measure it: python tools/diagnose.py {shlex.quote(str(run.folder))} --measure."
        )
        if gap.cause == "bias":
            sooner = steps[: "still falling" in run.signs]
            against = remedies("variance", run.settings, run.signs, trained_on)
            steps = [
                *sooner,
                f"if it stays near the other errors (bias): {steps[len(sooner)]}",
                f"if it is far below them (variance): {against[0]}",
            ]
    text += " Then try, in this order: " if not certain else " Try, in this order: "
    text += "; ".join(f"({number}) {step}" for number, step in enumerate(steps, start=1)) + "."
    if "overfits" in run.signs:
        text += " The curves agree that it overfits: validation loss rises while training loss falls."
    others = sorted((other for other in gaps if other.found and other is not gap), key=lambda other: -other.size)
    if others and certain:
        text += f" The next largest is {others[0].cause}, {100 * others[0].size:.1f} points."
    return text


def ill(run: Run) -> str | None:
    """What is wrong with a training that is no training, and what to do first."""
    experiment = shlex.quote(str(run.folder / run_folder.CONFIG))
    doctor = f"python tools/doctor.py {experiment} shows in a minute whether data and network can learn at all"
    rate = run.settings.learning_rate
    lower = f"a third or a tenth of the learning rate (--model.optimizer.lr{f' {rate / 10:g}' if rate else ''})"
    if "diverges" in run.signs:
        what = "The loss became no number" if run.stopped_by_loss else "The training loss does not fall"
        return (
            f"{what}: the learning rate is too high, and gaps between errors mean nothing yet. Try, in this order: (1) "
            f"{lower}; (2) --trainer.gradient_clip_val 1; (3) a warm-up (--trainer.callbacks+=callbacks.CosineDecay "
            f"--trainer.callbacks.warmup 0.05); (4) {doctor}."
        )
    if "does not learn" in run.signs:
        return (
            f"It does not learn: training accuracy is that of chance among {run.classes} classes, and gaps between "
            f"errors mean nothing yet. Try, in this order: (1) {doctor}; (2) {lower}, or one ten times as high; (3) "
            "look whether labels and pictures belong together (tools/shards.py)."
        )
    return None


def error_rate(text: str) -> float:
    """A share of wrong answers."""
    with suppress(ValueError):
        if 0 <= (value := float(text)) < 1:
            return value
    raise argparse.ArgumentTypeError(f"{text} is no share of wrong answers; 5 % are 0.05")


def main() -> None:
    """Print the errors of a run, and one paragraph on what to do next."""
    parser = command_line(__doc__)
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="folder of a run, tested or not")
    parser.add_argument("--human", type=error_rate, metavar="ERROR", help="the error wanted, 0 to 1 (default 0)")
    parser.add_argument("--measure", action="store_true", help="measure the training error, on pictures as they are")
    parser.add_argument("--train-val", type=Path, metavar="FOLDER", help="unseen pictures of the training's kind")
    parser.add_argument("--transfer", action="store_true", help="how to use a pretrained network")
    parser.add_argument("--images", type=int, help="with --transfer: number of training pictures")
    parser.add_argument("--similar", choices=["yes", "no"], help="with --transfer: are they like the network's")
    arguments, flags = parser.parse_known_args()
    console = screen()
    if arguments.transfer:
        if arguments.run or flags or not arguments.images or arguments.images < 1 or not arguments.similar:
            parser.error("--transfer takes --images NUMBER and --similar yes or no, and no run")
        console.print(transfer(arguments.images, arguments.similar == "yes"))
        return
    if not arguments.run:
        parser.error("name the folder of a run, or --transfer")
    with plainly():
        run = Run(arguments.run, flags)
        if paragraph := ill(run):
            console.print(paragraph)
            return
        errors = errors_of(run, arguments.measure, arguments.train_val)
        gaps = gaps_of(arguments.human or 0.0, errors)
        console.print(table_of(gaps))
        for note in notes_on(run, errors, arguments.human is None):
            console.print(note)
        console.print()
        console.print(next_step(run, gaps))


if __name__ == "__main__":
    main()
