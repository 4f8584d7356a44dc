"""The page of results, made from records alone: published figures beside ours."""

import re
import shlex
import statistics
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby, pairwise, zip_longest
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml

from callbacks.provenance import abbreviated
from datamodules import ImageDataModule
from fit_and_test import is_classifier

PUBLISHED = re.compile(r"Published(?: with (--[^:]+))?: (.*?)\.?$", re.MULTILINE)
FIGURE = re.compile(r"([\d.]+) % (test|validation) accuracy")
SAME_EXPERIMENT = re.compile(  # flags beside which a published figure still says what to expect
    r"--(data\.(validate_on_test|resident)|trainer\.(accelerator|devices|num_nodes|strategy|precision))\b"
    r"|--trainer\.callbacks\+[= ]callbacks\.(ChannelsLast|Compile)$"
)
TOLD_ELSEWHERE = ("config", "then", "seed_everything", "trainer.max_epochs", "trainer.limit_train_batches")

Record = dict[str, Any]


def without_seed(record: Record) -> str:
    """The command that runs with other seeds share."""
    return re.sub(r" --seed_everything[ =]\d+", "", record["command"])


def flags_of(command: str) -> Iterator[tuple[str, str]]:
    """The name of each flag, with a ``+`` where it appends to a list, and the flag with its value as it was typed."""
    words = shlex.split(command)
    for word, following in pairwise([*words, "--"]):
        if word.startswith("--"):
            name, equals, _ = word.removeprefix("--").partition("=")
            yield name, shlex.join([word] if equals or following.startswith("--") else [word, following])


def page(records: list[Record], experiments: list[Path], more: list[str]) -> str:
    """Markdown: every experiment with the figure that its file quotes and the records there are; then ``more``."""
    lines = [
        "# Results",
        "",
        "Made by `python tools/reproduce.py` from the records in [docs/records](records); no figure is typed by hand.",
        "Test accuracy is measured once, on the checkpoint that validation chose. Where a command has",
        "`--data.validate_on_test true`, as the published runs, the test split validates: nothing is chosen by it, and",
        "the checkpoint of the last epoch is tested. The deviation is that over the seeds; of one seed, that of a",
        "share of so many test pictures. Where less was trained than the experiment says, in epochs, pictures or",
        "classes, that is in bold. Flags that a run had besides are named in its row, and in bold the settings of the",
        "experiment's file that have changed since, or that were not recorded. A difference is stated where none of",
        "these makes another experiment of it. Of CIFAR-10 the checksums of the published files are known: where the",
        "pictures are not proved to come from them, that is in bold too. Copies that were compressed again have lost",
        "something, and the difference includes what that costs.",
        "",
        "| experiment | published | ours | difference | top-5 | epochs | pictures | images/s | time | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    curves = []
    for experiment in experiments:
        text = experiment.read_text(encoding="utf-8")
        settings = yaml.safe_load(text)
        if not is_classifier(settings) or "EnsembleClassifier" in text:  # see below
            continue
        recipe = partial(recipe_of, settings)
        mine = sorted((r for r in records if r["experiment"] == experiment.stem), key=recipe)
        figures = figures_of(text)
        for (command, *_), runs in groupby(mine, recipe):
            group, flags = list(runs), flags_with_figure(figures, command)
            lines.append(row(group, figures[flags], settings, flags))
            for record in group:
                curves += ["", *curve(record)]
        had = {flags_with_figure(figures, record["command"]) for record in mine}
        for flags, figure in figures.items():
            if flags not in had:
                lines.append(f"| {experiment.stem}{f' `{flags}`' * bool(flags)} | {figure} | no record | | | | | | | |")
    return "\n".join([*lines, *more, "", "## Records", *curves, ""])


def ensembles(records: list[Record], experiments: Path) -> list[str]:
    """The table of ensembles: their members differ by their seeds alone."""
    lines = [
        "",
        "## Ensembles",
        "",
        "The mean of the members' probabilities (`tools/train_ensemble.py`); the deviation is that over the members.",
        "",
        "| members | published | one, test accuracy | the best | the ensemble | gain over the best | epochs | record |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for record in records:
        accuracies = list(record["members"].values())
        experiment = yaml.safe_load((experiments / f"{record['experiment']}.yaml").read_text(encoding="utf-8"))
        whole = experiments / f"ensemble_{record['experiment'].partition('_')[2]}.yaml"
        cells = [
            f"{len(accuracies)} of {record['experiment']}{other_files(record)}",
            figures_of(whole.read_text(encoding="utf-8"))[""] if whole.exists() else "",
            f"{100 * record['mean']:.2f} % ± {100 * statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else "",
            f"{100 * max(accuracies):.2f} %",
            f"**{100 * record['ensemble']:.2f} %**",
            f"{100 * (record['ensemble'] - max(accuracies)):+.2f}",
            trained(record, experiment["trainer"]["max_epochs"]),
            f"[{record['name']}](records/ensembles/{identity(record)}.json)"
            + changed(record)
            + changed_since(record, experiment),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines if records else []


def linear(records: dict[str, Record], experiments: Path) -> list[str]:
    """The table of linear classifiers on the features of a network that was trained on something else.

    Args:
        records: by the names of their files.
        experiments: folder of the files that quote a published figure, for records of the same name.
    """
    figures = {
        f"{file.stem}.linear.json": figures_of(file.read_text(encoding="utf-8"))[""]
        for file in sorted(experiments.glob("features_*.yaml"))
    }
    lines = [
        "",
        "## Linear classifiers on features",
        "",
        "Logistic regression on what a layer of a trained network gives (`tools/extract_features.py`,",
        "`tools/train_linear.py`); C by cross-validation on the training rows. The deviation is that of a share of so",
        "many test pictures.",
        "",
        "| features | published | layer | pixels | values | training pictures | C | test rank-1 | rank-5 | record |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, record in records.items():
        features, test = record["features"], record["test"]
        deviation = (test["rank1"] * (1 - test["rank1"]) / test["samples"]) ** 0.5
        cells = [
            f"{features['backbone']} on {features['data'].rpartition('.')[2]}",
            figures.get(name, "none"),
            features["layer"],
            str(features["input_size"]),
            str(features["shape"][1]),
            str(record["training_samples"]),
            f"{record['C']:g}",
            f"**{100 * test['rank1']:.2f} %** ± {100 * deviation:.1f}",
            f"{100 * test['rank5']:.2f} %" if test["rank5"] else "",
            f"[{Path(name).stem}](records/linear/{name})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for name in sorted(figures.keys() - records.keys()):
        lines.append(f"| {name.partition('.')[0]} | {figures[name]} | no record | | | | | | | |")
    return lines


def trained(record: Record, planned: int) -> str:
    """The epochs of a run, in bold where they, or their batches, are fewer than the experiment says."""
    share = record["config"]["trainer"]["limit_train_batches"]
    if record["epochs"] >= planned and not share:
        return str(record["epochs"])
    return f"**shortened: {record['epochs']} of {planned}{f', of {share} batches' * bool(share)}**"


def figures_of(experiment: str) -> dict[str, str]:
    """The published figures that an experiment's file quotes, by the flags that they are of; its own is of none."""
    return {flags or "": figure for flags, figure in PUBLISHED.findall(experiment.replace("\n# ", "\n"))}


def flags_with_figure(figures: dict[str, str], command: str) -> str:
    """The flags in a command that have a published figure."""
    return next((flags for flags in figures if flags and f" {flags} " in f"{command} "), "")


def row(runs: list[Record], quoted: str, experiment: dict[str, Any], flags: str = "") -> str:
    """A line of the table, of runs that differ by their seeds.

    Args:
        quoted: the published figure.
        flags: that it is of.
    """
    record, samples = runs[0], runs[0]["metrics"]["samples"]
    planned, official = experiment["trainer"]["max_epochs"], data_set(record).official_samples
    pictures = sum(record["samples"].values())
    if record["config"]["data"]["init_args"]["validate_on_test"]:
        pictures -= record["samples"]["val"]
    epochs, few = trained(record, planned), bool(official) and pictures < 0.99 * official
    since = changed_since(record, experiment)
    others = [typed for typed in told_flags(record) if typed not in flags and not SAME_EXPERIMENT.match(typed)]
    comparable = epochs == str(planned) and not few and not since and not others
    figure = FIGURE.search(quoted)
    on_validation = bool(figure) and figure[2] == "validation"
    values = [run["validation"]["val/top1"] if on_validation else run["metrics"]["test/top1"] for run in runs]
    mean = statistics.mean(values)
    if len(values) > 1:
        deviation = statistics.stdev(values)
    else:
        deviation = (mean * (1 - mean) / (record["samples"]["val"] if on_validation else samples)) ** 0.5
    speeds = [run["images_per_second"] for run in runs if run["images_per_second"]]  # early runs have none
    cells = [
        record["experiment"],
        quoted,
        f"**{100 * mean:.2f} %** ± {100 * deviation:.1f}" + " in validation" * on_validation,
        f"{100 * mean - float(figure[1]):+.2f}" if figure and comparable else "",
        f"{100 * statistics.mean(run['metrics']['test/top5'] for run in runs):.2f} %"
        if "test/top5" in record["metrics"]
        else "",
        epochs,
        (f"**{pictures} of {official}{few_classes(record)}**" if few else f"{pictures}") + other_files(record),
        f"{statistics.median(speeds):.0f}" if speeds else "",
        f"{statistics.mean(run['seconds'] for run in runs) / 60:.0f} min",
        f"{len(runs)}: "
        + ", ".join(f"[{run['name']}](records/{identity(run)}.json)" for run in runs)
        + changed(record)
        + since,
    ]
    return f"| {' | '.join(cells)} |"


def changed(record: Record) -> str:
    """The settings that a command gives besides how much is trained."""
    flags = told_flags(record)
    return f" with `{' '.join(flags)}`" if flags else ""


def told_flags(record: Record) -> list[str]:
    """The flags of a run that no other column tells, as they were typed."""
    return [typed for name, typed in flags_of(record["command"]) if name not in TOLD_ELSEWHERE]


def recipe_of(experiment: dict[str, Any], record: Record) -> tuple[str, str, str]:
    """What the runs of a row share."""
    return without_seed(record), changed_since(record, experiment), other_files(record)


def changed_since(record: Record, experiment: dict[str, Any]) -> str:
    """The settings of an experiment's file, as it is, that a run had not, for all that its command says."""
    file = {section: experiment[section] for section in ("model", "data", "trainer") if section in experiment}
    given = [*(name for name, _ in flags_of(record["command"])), "trainer.max_epochs"]
    if "lr" in given:
        given.append("model.optimizer.lr")
    longer = [name.removesuffix("+") for name in given if name.endswith("+")]
    names = dict.fromkeys(name.replace(".init_args", "") for name in unlike(file, record["config"], longer))
    names = [name for name in names if not any(name == flag or name.startswith(f"{flag}.") for flag in given)]
    return f", **before {', '.join(f'`{name}`' for name in names)}**" if names else ""


def unlike(asked: Any, had: Any, longer: Sequence[str] = (), name: str = "") -> Iterator[str]:
    """Names of what is asked for in a configuration that has something else there, or nothing.

    Args:
        longer: names of the lists to which the configuration may add.
    """
    if isinstance(asked, dict):
        had = {str(key): value for key, value in had.items()} if isinstance(had, dict) else {}
        for key, value in asked.items():
            yield from unlike(value, had.get(str(key)), longer, f"{name}.{key}".lstrip("."))
    elif isinstance(asked, list) and isinstance(had, list) and (len(asked) == len(had) or name in longer):
        for one, other in zip_longest(asked, had[: len(asked)]):
            yield from unlike(one, other, longer, name)
    elif asked != had:
        yield name


def few_classes(record: Record) -> str:
    """How many classes there were, if not all."""
    classes, official = record.get("classes"), data_set(record).official_classes  # early runs do not say
    return f", {classes} of {official} classes" if classes and official and classes < official else ""


def other_files(record: Record) -> str:
    """What is known of the pictures where the data set's files have checksums, and these were not found."""
    official = record.get("official")  # early records do not say
    if official or not data_set(record).official_files:
        return ""
    return ", **files not checked**" if official is None else ", **not the published files**"


def data_set(record: Record) -> type[ImageDataModule]:
    """What a run was trained on."""
    return resolve_name(record["config"]["data"]["class_path"])


def curve(record: Record) -> list[str]:
    """How a record was made, and its learning curve."""
    versions, commit = record["versions"], abbreviated(record["commit"])
    return [
        f"### {record['experiment']}, {record['name']}",
        "",
        f"`python {record['command']}`",
        "",
        f"Seed {record['seed']}; {record['hardware']}; processes: {record['processes']}; precision: "
        f"{record['precision']}; torch {versions['torch']}, pytorch-lightning {versions['pytorch-lightning']}; "
        f"commit {commit}.",
        "",
        f"![Loss and accuracy over the epochs](records/{identity(record)}.png)",
    ]


def identity(record: Record) -> str:
    """File name of a record, without its ending."""
    return f"{record['experiment']}-{record['name']}"
