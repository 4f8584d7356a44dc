"""A record beside its experiment's file: what was trained less, or otherwise, than the file says now."""

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest
from pkgutil import resolve_name
from typing import Any

from datamodules import ImageDataModule

PUBLISHED = re.compile(r"Published(?: with (--[^:]+))?: (.*?)\.?$", re.MULTILINE)
FIGURE = re.compile(r"([\d.]+) % (test|validation) accuracy")
SAME_EXPERIMENT = re.compile(  # flags beside which a published figure still says what to expect
    r"--(data\.(validate_on_test|resident)|trainer\.(accelerator|devices|num_nodes|strategy|precision))\b"
    r"|--trainer\.callbacks\+[= ]callbacks\.(ChannelsLast|Compile)$"
)
FEWER_BATCHES = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches")
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


def trained(record: Record, planned: int) -> str:
    """The epochs of a run, in bold where they, or their batches, are fewer than the experiment says."""
    if not is_shortened(record, planned):
        return str(record["epochs"])
    share = record["config"]["trainer"].get("limit_train_batches")
    return f"**shortened: {record['epochs']} of {planned}{f', of {share} batches' * bool(share)}**"


def is_shortened(record: Record, planned: int) -> bool:
    """Whether there were fewer epochs, or fewer batches in them."""
    return record["epochs"] < planned or any(record["config"]["trainer"].get(name) for name in FEWER_BATCHES)


def figures_of(experiment: str) -> dict[str, str]:
    """The published figures that an experiment's file quotes, by the flags that they are of; its own is of none."""
    return {flags or "": figure for flags, figure in PUBLISHED.findall(experiment.replace("\n# ", "\n"))}


def flags_with_figure(figures: dict[str, str], command: str) -> str:
    """The flags in a command that have a published figure."""
    given = values_of(command)
    return next((flags for flags in figures if flags and values_of(flags) <= given), "")


def values_of(command: str) -> set[tuple[str, str]]:
    """The names and values of the flags in a command, however they were typed."""
    return {(name, typed.removeprefix(f"--{name}")[1:]) for name, typed in flags_of(command)}


def is_whole(record: Record, experiment: dict[str, Any]) -> bool:
    """Whether a run had all that the experiment's file says."""
    return not is_shortened(record, experiment["trainer"]["max_epochs"]) and not has_few_pictures(record)


def has_few_pictures(record: Record) -> bool:
    """Whether clearly fewer than the data set has; some are lost where those that cannot be read are left out."""
    official = data_set(record).official_samples
    return bool(official) and pictures_of(record) < 0.99 * official


def pictures_of(record: Record) -> int:
    """How many there were, in all splits."""
    samples = record["samples"]
    twice = samples["val"] if record["config"]["data"]["init_args"]["validate_on_test"] else 0
    return sum(samples.values()) - twice


def changed(record: Record) -> str:
    """The settings that a command gives besides how much is trained."""
    flags = told_flags(record)
    return f" with `{' '.join(flags)}`" if flags else ""


def told_flags(record: Record) -> list[str]:
    """The flags of a run that no other column tells, as they were typed."""
    return [typed for name, typed in flags_of(record["command"]) if name not in TOLD_ELSEWHERE]


def recipe_of(experiment: dict[str, Any], record: Record) -> tuple[str, str, str, str, int]:
    """What the runs of a row share."""
    length = trained(record, experiment["trainer"]["max_epochs"])
    return without_seed(record), changed_since(record, experiment), other_files(record), length, pictures_of(record)


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
