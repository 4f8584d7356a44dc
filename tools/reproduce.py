"""Train, test and record an experiment; docs/results.md is made from such records and from nothing else.

python tools/reproduce.py --experiment NAME [--seeds 1 2 3] [--name NAME] [flags of main.py]
python tools/reproduce.py --record RUN [RUN ...]     records of runs that are trained and tested already
python tools/reproduce.py --table                    the page alone

With --views ten_crop (or flip), each of the runs is tested and recorded once more, with several views of each picture.
A RUN may also be the folder of an ensemble (runs/EXPERIMENT/ensemble, by tools/train_ensemble.py), or the file
FEATURES.linear.json of tools/train_linear.py. An interrupted command goes on where it stopped when it is given again.
"""

import json
import math
import shlex
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

from callbacks.provenance import SESSIONS
from callbacks.run_folder import CONFIG, METRICS
from callbacks.training_monitor import HISTORY, PICTURE, TIMINGS
from callbacks.whole_file import whole_file, write_json
from comparison import Flag, Record, flags_of, without_seed
from datamodules.base import Views
from datamodules.manifest import Manifest
from fit_and_test import (
    NO_MATTER,
    PROJECT,
    experiment_file,
    is_classifier,
    is_trained,
    refuse,
    runs_of_seeds,
    tested_with_views,
)
from pictures import data_of
from results import ensembles, identity, linear, page
from run_record import chosen_epoch, is_outdated
from terminal import command_line, plainly

ENSEMBLE = "report/ensemble.json"
MACHINE_FACTS = (
    *("data.source", "data.root", "data.num_workers", "trainer.enable_progress_bar"),
    *("name", "resume", "run", "continue", "logger", "debug"),
)


def recorded(what: Path, folder: Path, views: str | None = None) -> None:
    """Write what a run, an ensemble or a linear classifier says of itself to a folder of records.

    Args:
        views: record a run as it is with several views of each test picture.

    Raises:
        FileNotFoundError: the experiment has no file, so that the page would have no row.
        ValueError: see below, or it is no run, but ``views`` are asked for.
    """
    ensemble = (what / ENSEMBLE).exists()
    if views and (ensemble or what.suffix == ".json"):
        raise ValueError(f"{what} is no run, and only runs are tested with --views")
    if what.suffix == ".json":
        write_json(linear_record(what), folder / "linear" / what.name)
        return
    record = ensemble_record(what) if ensemble else record_of(what)
    if views:
        record = with_views(record, what, views)
    experiment_file(record["experiment"])
    place = folder / ("ensembles" if ensemble else "") / f"{identity(record)}.json"
    if not ensemble:
        shutil.copyfile(what / PICTURE, place.with_suffix(".png"))
    write_json(record, place)


def linear_record(description: Path) -> Record:
    """What tools/train_linear.py has written, without a machine's folders.

    Raises:
        ValueError: it is something else.
    """
    record = json.loads(description.read_text(encoding="utf-8"))
    if not isinstance(record, dict) or not {"test", "features", "C"} <= record.keys():
        raise ValueError(f"{description} was not written by tools/train_linear.py")
    record["features"]["weights"] = Path(record["features"]["weights"]).name
    record["test"] = {name: record["test"][name] for name in ("samples", "rank1", "rank5")}
    return record


def ensemble_record(folder: Path) -> Record:
    """The figures of an ensemble, and how its members were trained.

    Raises:
        ValueError: a member was tested anew since.
    """
    figures = json.loads((folder / ENSEMBLE).read_text(encoding="utf-8"))
    members = [record_of(folder.with_name(name)) for name in figures["members"]]
    for member, accuracy in zip(members, figures["members"].values(), strict=True):
        if not math.isclose(member["metrics"]["test/top1"], accuracy, abs_tol=1e-6):
            raise ValueError(
                f"{member['name']} was tested anew since {folder} was made; the same train_ensemble.py makes it again"
            )
    shared = ("experiment", "epochs", "commit", "versions", "hardware", "config", "official", "samples", "classes")
    return {
        **figures,
        **{name: members[0][name] for name in shared},
        "name": folder.name,
        "command": without_seed(members[0]),
        "seeds": [member["seed"] for member in members],
        "changed": sorted({name for member in members for name in member["changed"]}),
    }


def record_of(run: Path) -> Record:
    """What a run says of itself.

    Raises:
        ValueError: it was not trained, not tested, or trained on since then, or is no classifier's.
    """
    try:
        config = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
        sessions, history, timings, metrics = (
            json.loads((run / name).read_text(encoding="utf-8")) for name in (SESSIONS, HISTORY, TIMINGS, METRICS)
        )
    except FileNotFoundError as error:
        raise ValueError(f"{run} is not a run that was trained and tested: {error.filename} is missing") from error
    if not is_classifier(config):
        raise ValueError(f"{run} trained no classifier, and the page of results has accuracies alone")
    if is_outdated(run):
        raise ValueError(
            f"{run} was trained on since its test, or another checkpoint was tested; first: python main.py test "
            f"--run {shlex.quote(str(run))}"
        )
    last, settings = sessions[-1], config["data"]["init_args"]
    tested = chosen_epoch(history, settings["validate_on_test"])
    for name in ("source", "root", "num_workers"):
        settings.pop(name, None)
    config["trainer"].pop("default_root_dir", None)
    return {
        "experiment": run.resolve().parent.name,
        "name": run.resolve().name,
        "command": command_of(sessions),
        "seed": config["seed_everything"],
        "epochs": history[-1]["epoch"],
        "metrics": metrics,
        "validation": {name: tested.get(name) for name in ("epoch", "val/top1", "val/top5", "val/loss")},
        "seconds": round(sum(session["seconds"] for session in sessions)),
        "images_per_second": statistics.median(timing["images_per_second"] for timing in timings),
        **{name: last[name] for name in ("samples", "commit", "versions", "processes")},
        **{name: ", then ".join(dict.fromkeys(s[name] for s in sessions)) for name in ("hardware", "precision")},
        "classes": last.get("classes"),  # early runs do not say
        "official": is_official(run),
        "changed": sorted(
            {name for session in sessions for name in session.get("changed") or ()}.difference(
                NO_MATTER, ["data.init_args.source"]
            )
        ),
        "config": config,
    }


def with_views(record: Record, run: Path, views: str) -> Record:
    """A run's record, as if the run had been trained with these views: they change nothing but its test.

    Raises:
        ValueError: the run has views of its own.
        subprocess.CalledProcessError: the test failed.
    """
    settings = record["config"]["data"]["init_args"]
    if settings.get("views", "one") != "one":  # early runs do not say
        raise ValueError(f"{run} looks at {settings['views']} itself; --views is for runs that look at one view")
    settings["views"] = views
    folder = tested_with_views(run, views)
    return record | {
        "name": folder.name,
        "command": f"{record['command']} --data.views {views}",
        "metrics": json.loads((folder / METRICS).read_text(encoding="utf-8")),
    }


def is_official(run: Path) -> bool | None:
    """Whether a run's pictures come from the published files; None where that is not known, or they are gone."""
    try:
        return Manifest.load(data_of(run).folder).official
    except FileNotFoundError:
        return None


def command_of(sessions: Sequence[dict[str, Any]]) -> str:
    """The command that gives the same run on another machine: the first one, with the flags that changed it later."""
    flags: list[Flag] = []
    for number, session in enumerate(sessions):
        if number and not session.get("changed"):
            continue
        left_out = {*MACHINE_FACTS, "ckpt_path"} if number else MACHINE_FACTS
        had = {(flag.name, flag.value) for flag in flags}
        given = (on_any_machine(flag) for flag in flags_of(session["command"]) if flag.name not in left_out)
        new = [flag for flag in given if (flag.name, flag.value) not in had]
        outdone = {flag.name for flag in new if flag.name != "config" and not flag.name.endswith("+")}
        flags = [*(flag for flag in flags if flag.name not in outdone), *new]
    return " ".join(["main.py fit", *(flag.typed for flag in flags)])


def on_any_machine(flag: Flag) -> Flag:
    """A flag as it is, but an experiment without the folder of the project."""
    folder, experiments, file = flag.value.rpartition("experiments/")
    if flag.name == "config" and experiments and folder[-1:] in ("", "/"):
        return Flag("config", experiments + file, shlex.join(["--config", experiments + file]))
    return flag


def main() -> None:
    """Reproduce or record what is asked for, then rebuild the page."""
    parser = command_line(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--experiment", metavar="NAME", help="of a file in experiments/")
    what.add_argument("--record", nargs="+", type=Path, default=[], metavar="RUN", help="folder of a tested run")
    what.add_argument("--table", action="store_true", help="only rebuild the page")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42], metavar="SEED")
    parser.add_argument("--name", help="of the runs; the seed is appended")
    parser.add_argument(
        "--views", choices=get_args(Views)[1:], help="test and record once more, with several views of each picture"
    )
    parser.add_argument("--docs", type=Path, default=PROJECT / "docs", help="where records/ and results.md are")
    arguments, flags = parser.parse_known_args()
    if flags and not arguments.experiment:
        parser.error(f"unknown: {' '.join(flags)}")
    if arguments.views and arguments.table:
        parser.error("--views is for the runs of --experiment or --record")
    folder = arguments.docs / "records"
    folder.mkdir(parents=True, exist_ok=True)
    with plainly():
        runs = arguments.record
        if arguments.experiment:
            if arguments.views:
                refuse(flags, "--data.views")
            runs = runs_of_seeds(experiment_file(arguments.experiment), arguments.seeds, arguments.name, flags)
        for run in runs:
            recorded(run, folder)
            if arguments.views:
                recorded(run, folder, arguments.views)
        runs, members, classifiers = (
            {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(place.glob("*.json"))}
            for place in (folder, folder / "ensembles", folder / "linear")
        )
        for name, record in {**runs, **members}.items():
            try:
                experiment_file(record["experiment"])  # without it, there would be no row
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{error}, of which {name} is a record; move that elsewhere") from error
        experiments = PROJECT / "experiments"
        more = [*ensembles(list(members.values()), experiments), *linear(classifiers, experiments)]
        text = page(list(runs.values()), sorted(filter(is_trained, experiments.rglob("*.yaml"))), more)
        with whole_file(arguments.docs / "results.md") as partial:
            partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
