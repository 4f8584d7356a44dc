"""One page over a run or many: figures, learning curves, settings that differ, confusions, the surest mistakes.

python tools/report.py RUN [RUN ...] [--out report.html]

The page is one file that needs nothing else and no network. What a run has not written yet is named on it.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

sys.path.insert(0, str(Path(__file__).parent.parent))

import charts
from callbacks.provenance import abbreviated, differences
from callbacks.training_monitor import SCORES, curve
from callbacks.whole_file import whole_file
from charts import Chart, Curve, chart
from evaluation import SMALL, Tested, evaluate, mistakes
from fit_and_test import NO_MATTER
from messages import message
from pictures import require_folder
from run_record import RunRecord, chosen_epoch
from terminal import command_line, plainly

ABSENT = "\N{EN DASH}"


@dataclass
class Section:
    """A run on the page: its record, its test if there was one, and what is written above it."""

    record: RunRecord
    validation: float | None
    tested: Tested | None = None
    title: str = ""

    @property
    def test(self) -> float | None:
        """The score on the test split."""
        return self.record.metrics.get(f"test/{self.record.score.metric}")

    @property
    def deviation(self) -> float | None:
        """That of a share of so many test pictures: binomial, of one run; None where the score is no share."""
        samples = self.record.metrics.get("samples") if self.record.classifies else None
        return (self.test * (1 - self.test) / samples) ** 0.5 if samples and self.test is not None else None


def section(run: Path) -> Section:
    """A run's part of the page, without its probabilities; what cannot be read is added to what is missing."""
    record = RunRecord.load(run)
    epoch = chosen_epoch(record.history, record.validates_on_test) if record.history else {}
    validation = epoch.get(f"val/{record.score.metric}")
    if not record.predictions:
        return Section(record, validation)
    tested = evaluate(record.predictions)
    try:
        tested.mistakes = mistakes(record.folder, record.predictions)
    except Exception as error:  # the configuration names any class, and its data may lie anywhere
        record.missing.append(f"The pictures cannot be shown: {message(error).removeprefix('error: ')}.")
    record.predictions = replace(record.predictions, probabilities=record.predictions.probabilities[:0].copy())
    return Section(record, validation, tested)


def titles(records: Sequence[RunRecord]) -> list[str]:
    """The shortest names that tell the runs apart."""
    for spell in (lambda run: run.name, lambda run: f"{run.experiment}/{run.name}"):
        names = [spell(record) for record in records]
        if len(set(names)) == len(names):
            return names
    return [str(record.folder) for record in records]


def learning_curves(sections: Sequence[Section]) -> list[Chart]:
    """Loss and scores of all runs, as far as they were measured."""
    drawn = []
    scores = [(f"{score.title}, {score.unit}", score.metric, score.factor) for score in SCORES]
    for title, metric, scale in (("Loss", "loss", 1), *scores):
        curves = []
        for number, each in enumerate(sections):
            for stage, label in (("train", "training"), ("val", "validation")):
                epochs, values = curve(each.record.history, f"{stage}/{metric}")
                points = [(epoch, scale * value) for epoch, value in zip(epochs, values, strict=True)]
                curves.append(Curve(f"{each.title}, {label}", number, stage == "train", points))
        if any(each.points for each in curves):
            drawn.append(chart(title, curves))
    return drawn


def over_seeds(sections: Sequence[Section], differing: set[str]) -> tuple[int, float, float] | None:
    """Number, mean and standard deviation of the test accuracies, where the runs differ by their seed alone."""
    values = [each.test for each in sections if each.test is not None]
    seeds = {each.record.config.get("seed_everything") for each in sections}
    epochs = {each.record.epochs for each in sections}
    if any(each.record.outdated or not each.record.classifies for each in sections):
        return None
    if len(values) < len(sections) or len(values) < 2 or len(seeds) < len(values) or len(epochs) > 1:
        return None
    if differing - {*NO_MATTER, "data.init_args.source", "seed_everything"}:
        return None
    return len(values), statistics.mean(values), statistics.stdev(values)


def percent(share: float | None, digits: int = 2) -> str:
    """Per cent, or a dash for what was not measured."""
    return ABSENT if share is None else f"{100 * share:.{digits}f}"


def duration(seconds: float) -> str:
    """Hours and minutes, or seconds."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds else ABSENT
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def setting(value: Any) -> str:
    """A setting as YAML."""
    return yaml.safe_dump(value, sort_keys=False, default_flow_style=False).removesuffix("\n...\n").strip()


def page(runs: Sequence[Path]) -> str:
    """The page as HTML.

    Raises:
        FileNotFoundError, ValueError: a folder is not a run's.
    """
    sections = [section(run) for run in {run.resolve(): run for run in runs}.values()]
    records = [each.record for each in sections]
    for each, title in zip(sections, titles(records), strict=True):
        each.title = title
    settings = list(differences(*(record.config for record in records)))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "duration": duration, "setting": setting, "abbreviated": abbreviated}
    template = environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    return template.render(
        sections=sections,
        experiments=list(dict.fromkeys(record.experiment for record in records)),
        settings=settings,
        seeds=over_seeds(sections, {name for name, *_ in settings}),
        charts=learning_curves(sections),
        axes=charts,
        small=SMALL,
        absent=ABSENT,
        made=datetime.now(UTC),
    )


def main() -> None:
    """Write the page."""
    parser = command_line(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html")
    arguments = parser.parse_args()
    with plainly():
        require_folder(arguments.out)
        text = page(arguments.runs)
        with whole_file(arguments.out.resolve()) as partial:
            partial.write_text(text, encoding="utf-8")
        print(f"report: {arguments.out} ({arguments.out.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
