"""Records and the results page: made from runs, nothing typed."""

import copy
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import comparison
import main
import results
from callbacks.prediction_store import PROBABILITIES, Predictions
from fit_and_test import experiment_file, is_classifier, is_trained
from tools import reproduce, train_ensemble

PROJECT = Path(main.__file__).parent
QUICK = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


def call(folder: Path, *args: str) -> str:
    """The tool in this process; the error that ends it, if one does."""
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(io.StringIO()) as errors:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["tools/reproduce.py", "--docs", str(folder / "docs"), *args])
        try:
            reproduce.main()
        except SystemExit as ended:
            return f"{ended.code} {errors.getvalue()}"
    return ""


def rows(folder: Path, experiment: str) -> list[list[str]]:
    page = (folder / "docs/results.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith(f"| {experiment} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def folder(commands: list[Sequence[str]], shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the digits were trained for one epoch with two seeds."""
    folder = tmp_path_factory.mktemp("reproduced")
    seeds = ["--seeds", "1", "2", "--name", "short"]
    assert call(folder, "--experiment", "quickstart_digits", *seeds, "--data.root", str(shards), *QUICK) == ""
    return folder


def test_two_seeds_become_a_row(folder: Path, shards: Path) -> None:
    ((name, figure, ours, difference, _, epochs, pictures, speed, _, seeds),) = rows(folder, "quickstart_digits")
    metrics = [
        json.loads((folder / f"runs/quickstart_digits/short-seed{seed}/report/metrics.json").read_text())
        for seed in (1, 2)
    ]
    first, second = (100 * values["test/top1"] for values in metrics)
    mean, deviation = (first + second) / 2, abs(first - second) / 2**0.5
    assert (name, figure) == ("quickstart_digits", "none")
    assert ours == f"**{mean:.2f} %** ± {deviation:.1f}"
    assert (difference, epochs, pictures) == ("", "**shortened: 1 of 8**", "1797")
    assert float(speed) > 0
    assert seeds.startswith("2: [short-seed1]")
    assert seeds.endswith(" with `--trainer.accelerator cpu`")  # the epochs are told elsewhere
    page = (folder / "docs/results.md").read_text()
    assert "Seed 1;" in page
    assert "Seed 2;" in page
    trained = [
        yaml.safe_load(path.read_text()) for path in (PROJECT / "experiments").rglob("*.yaml") if is_trained(path)
    ]
    others = sum(map(is_classifier, trained)) - 2  # this one, and the ensemble, which has no row
    flags = 5  # with a published figure of their own: depths of resnet56_cifar10, ten crops of alexnet_dogs_vs_cats
    assert "dcgan" not in page
    features = 2  # of networks that torchvision has trained
    assert page.count("no record") == others + flags + features
    (cells,) = rows(folder, "resnet56_cifar10 `--model.depth 110`")
    assert cells[1:3] == ["93.57 % test accuracy (the best of five; on average 93.39 %)", "no record"]
    for seed in (1, 2):
        record = (folder / f"docs/records/quickstart_digits-short-seed{seed}.json").read_text()
        assert not any(str(place) in record + page for place in (shards, PROJECT, folder))
        assert json.loads(record)["config"]["model"]["class_path"] == "lightning_modules.MiniVGGNet"
        assert (folder / f"docs/records/quickstart_digits-short-seed{seed}.png").exists()


def test_given_again_it_trains_nothing(folder: Path, commands: list[Sequence[str]], shards: Path) -> None:
    commands.clear()
    flags = ["--seeds", "2", "--name", "short", "--data.root", str(shards), *QUICK]
    assert call(folder, "--experiment", "quickstart_digits", *flags) == ""
    assert commands == []
    refused = call(folder, "--experiment", "quickstart_digits", *flags, "--model.weight_decay", "0")
    assert "short-seed2 was begun with model.init_args.weight_decay 0.0005, not 0.0;" in refused


def test_an_interrupted_run_is_finished(folder: Path, shards: Path) -> None:
    flags = ["--data.root", str(shards), *QUICK]
    config = ["--config", str(PROJECT / "experiments/quickstart_digits.yaml"), "--name", "cut-seed3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main.run_command(["fit", *config, "--seed_everything", "3", *flags])
    flags[flags.index("1")] = "2"
    assert call(folder, "--experiment", "quickstart_digits", "--seeds", "3", "--name", "cut", *flags) == ""
    sessions = json.loads((folder / "runs/quickstart_digits/cut-seed3/sessions.json").read_text())
    assert [(s["first_epoch"], s["last_epoch"]) for s in sessions] == [(1, 1), (2, 2)]
    os.remove(folder / "docs/records/quickstart_digits-cut-seed3.json")


def test_views_are_tested_without_another_training(folder: Path, commands: list[Sequence[str]]) -> None:
    commands.clear()
    run = "runs/quickstart_digits/short-seed1"
    assert call(folder, "--record", run, "--views", "flip") == ""
    assert [arguments[0] for arguments in commands] == ["test"]
    one, flip = (
        json.loads((folder / f"docs/records/quickstart_digits-short-seed1{views}.json").read_text())
        for views in ("", "-flip")
    )
    assert flip["metrics"] == json.loads((folder / f"{run}-flip/report/metrics.json").read_text())
    assert flip["metrics"]["test/loss"] != one["metrics"]["test/loss"]
    assert flip["command"] == one["command"] + " --data.views flip"
    assert flip["config"]["data"]["init_args"].pop("views") == "flip"
    assert one["config"]["data"]["init_args"].pop("views") == "one"
    told = ("metrics", "command", "name")
    assert {key: flip[key] for key in flip if key not in told} == {key: one[key] for key in one if key not in told}
    alone, both = rows(folder, "quickstart_digits")
    assert both[-1].startswith("2: [short-seed1]")
    assert alone[-1].startswith("1: [short-seed1-flip]")
    assert alone[-1].endswith("--data.views flip`")
    for record in (folder / "docs/records").glob("*-flip.*"):
        record.unlink()
    assert "short-seed1-flip is not a run" in call(folder, "--record", f"{run}-flip", "--views", "flip")
    assert "--views is for the runs" in call(folder, "--table", "--views", "flip")


def test_views_of_a_run_from_before_there_were_views(folder: Path, commands: list[Sequence[str]]) -> None:
    run = folder / "runs/quickstart_digits/early-seed1"
    shutil.copytree(folder / "runs/quickstart_digits/short-seed1", run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config["data"]["init_args"]["views"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert call(folder, "--record", str(run), "--views", "flip") == ""
    record = json.loads((folder / "docs/records/quickstart_digits-early-seed1-flip.json").read_text())
    assert record["config"]["data"]["init_args"]["views"] == "flip"
    for record in (folder / "docs/records").glob("*-early-*"):
        record.unlink()


def test_views_in_the_flags_are_refused_before_a_training(folder: Path, commands: list[Sequence[str]]) -> None:
    commands.clear()
    flags = ["--name", "both", "--views", "flip", "--data.views", "ten_crop", *QUICK]
    assert "leave out --data.views" in call(folder, "--experiment", "quickstart_digits", *flags)
    assert commands == []


def test_an_ensemble_has_a_row(folder: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    tool = ["train_ensemble.py", "quickstart_digits", "--name", "short", "--seeds", "1", "2"]
    monkeypatch.setattr(sys, "argv", [*tool, "--data.root", str(shards), *QUICK])
    train_ensemble.main()
    assert call(folder, "--record", "runs/quickstart_digits/short-ensemble") == ""
    one, other = (
        json.loads((folder / f"runs/quickstart_digits/short-seed{seed}/report/metrics.json").read_text())["test/top1"]
        for seed in (1, 2)
    )
    figures = json.loads((folder / "runs/quickstart_digits/short-ensemble/report/ensemble.json").read_text())
    together = figures["ensemble"]
    ((_, _, mean, best, ensemble, gain, epochs, link),) = rows(folder, "2 of quickstart_digits")
    assert mean == f"{50 * (one + other):.2f} % ± {100 * abs(one - other) / 2**0.5:.2f}"
    assert (best, ensemble) == (f"{100 * max(one, other):.2f} %", f"**{100 * together:.2f} %**")
    assert gain == f"{100 * (together - max(one, other)):+.2f}"
    assert epochs == "**shortened: 1 of 8**"
    assert link.endswith("quickstart_digits-short-ensemble.json) with `--trainer.accelerator cpu`")
    record = json.loads((folder / "docs/records/ensembles/quickstart_digits-short-ensemble.json").read_text())
    fewer = copy.deepcopy(record)
    fewer["samples"]["train"] -= 1000
    (line,) = results.ensembles([fewer], PROJECT / "experiments")[-1:]
    assert line.startswith("| 2 of quickstart_digits, **797 of 1797** |")
    assert (record["changed"], record["seeds"]) == ([], [1, 2])
    file = folder / "runs/quickstart_digits/short-seed2/sessions.json"
    kept = file.read_text()
    sessions = json.loads(kept)
    sessions[0]["changed"] = {"model.init_args.optimizer.init_args.lr": [0.1, 0.01]}
    file.write_text(json.dumps(sessions))
    member = reproduce.ensemble_record(folder / "runs/quickstart_digits/short-ensemble")
    file.write_text(kept)
    (line,) = results.ensembles([member], PROJECT / "experiments")[-1:]
    assert "**`model.optimizer.lr` changed in training**" in line
    metrics = folder / "runs/quickstart_digits/short-seed2/report/metrics.json"
    whole = metrics.read_text()
    metrics.write_text(json.dumps(json.loads(whole) | {"test/top1": other + 1 / 450}))  # one picture
    told = call(folder, "--record", "runs/quickstart_digits/short-ensemble")
    metrics.write_text(whole)
    assert "short-seed2 was tested anew since" in told
    record["config"]["data"]["init_args"]["normalization"] = "unit"
    assert results.ensembles([record], PROJECT / "experiments")[-1].endswith(", **before `data.normalization`** |")


def test_a_linear_classifier_has_a_row(folder: Path, tmp_path: Path) -> None:
    features = {"backbone": "vgg16", "data": "datamodules.flowers17.Flowers17", "layer": "net.features.30"}
    features |= {"input_size": 224, "shape": [1360, 25088], "weights": str(tmp_path / "vgg16.pth")}
    test = {"samples": 340, "rank1": 0.75, "rank5": 0.9, "by_class": {}}
    description = {"C": 0.1, "training_samples": 918, "features": features, "test": test}
    (tmp_path / "vgg16.linear.json").write_text(json.dumps(description))
    assert call(folder, "--record", str(tmp_path / "vgg16.linear.json")) == ""
    (cells,) = rows(folder, "vgg16 on Flowers17")
    assert cells[1:-1] == ["none", "net.features.30", "224", "25088", "918", "0.1", "**75.00 %** ± 2.3", "90.00 %"]
    (announced,) = rows(folder, "features_vgg16_flowers17")
    assert announced[1:3] == ["92.06 % test accuracy (rank-5 99.41 %)", "no record"]
    shutil.copy(tmp_path / "vgg16.linear.json", tmp_path / "features_vgg16_flowers17.linear.json")
    assert call(folder, "--record", str(tmp_path / "features_vgg16_flowers17.linear.json")) == ""
    assert rows(folder, "features_vgg16_flowers17") == []
    published = [cells[1] for cells in rows(folder, "vgg16 on Flowers17")]
    assert published == ["92.06 % test accuracy (rank-5 99.41 %)", "none"]
    assert str(tmp_path) not in (folder / "docs/records/linear/vgg16.linear.json").read_text()
    for rank5, told in ((0.0, "0.00 %"), (None, "")):  # of few classes there is none
        line = results.linear({"a": description | {"test": test | {"rank5": rank5}}}, PROJECT / "experiments")[9]
        assert line.split("|")[9].strip() == told
    for other in ("{}", "[1]"):
        (tmp_path / "other.json").write_text(other)
        assert "was not written by tools/train_linear.py" in call(folder, "--record", str(tmp_path / "other.json"))


def test_settings_that_have_changed_since_are_named(folder: Path) -> None:
    record = json.loads((folder / "docs/records/quickstart_digits-short-seed1.json").read_text())
    file = yaml.safe_load(experiment_file("quickstart_digits").read_text())
    assert comparison.changed_since(record, file) == ""
    file["model"]["init_args"]["weight_decay"] = 0.25
    file["model"]["init_args"]["pool_dropout"] = 0.5  # the record has another
    file["data"]["init_args"]["normalization"] = "unit"
    file["trainer"]["accelerator"] = "gpu"  # a flag of the run said otherwise
    told = ", **before `model.weight_decay`, `model.pool_dropout`, `data.normalization`**"
    assert comparison.changed_since(record, file) == told
    record["epochs"], planned = file["trainer"]["max_epochs"], "90.00 % test accuracy"
    assert results.row([record], planned, file).endswith(f" with `--trainer.accelerator cpu`{told} |")
    assert results.row([record], planned, file).split("|")[4].strip() == ""  # no difference to another recipe's figure


def test_a_whole_row(folder: Path) -> None:
    runs = []
    for seed, top1, top5, speed, seconds in (
        (1, 0.70, 0.90, 100, 60),
        (2, 0.72, 0.90, 110, 60),
        (3, 0.76, 0.96, 300, 240),
    ):
        run = json.loads((folder / "docs/records/quickstart_digits-short-seed1.json").read_text())
        run |= {"name": f"seed{seed}", "epochs": 8, "images_per_second": speed, "seconds": seconds}
        run |= {"command": f"main.py fit --seed_everything {seed} --data.validate_on_test true"}
        run["metrics"] |= {"test/top1": top1, "test/top5": top5}
        run["samples"] = {"train": 1347, "val": 450, "test": 450}  # those that validate are those that test
        run["config"]["data"]["init_args"]["validate_on_test"] = True
        runs.append(run)
    links = ", ".join(f"[seed{seed}](records/quickstart_digits-seed{seed}.json)" for seed in (1, 2, 3))
    experiment = {"trainer": {"max_epochs": 8}}
    assert results.row(runs, "70.5 % test accuracy", experiment) == (
        "| quickstart_digits | 70.5 % test accuracy | **72.67 %** ± 3.1 | +2.17 | 92.00 % | 8 | 1797 | 110 | 2 min "
        f"| 3: {links} with `--data.validate_on_test true` |"
    )
    for change, told in (({"epochs": 7}, "7 of 8"), ({"epochs": 9}, None)):
        (difference, _, epochs) = results.row([runs[0] | change], "70.5 % test accuracy", experiment).split("|")[4:7]
        assert difference.strip() == ""  # to another length of training
        assert epochs.strip() == (f"**shortened: {told}**" if told else "9")
    runs[0]["config"]["trainer"]["limit_train_batches"] = 0.5
    difference, _, epochs = results.row([runs[0]], "70.5 % test accuracy", experiment).split("|")[4:7]
    assert (difference.strip(), epochs.strip()) == ("", "**shortened: 8 of 8, of 0.5 batches**")


def test_a_callback_that_a_flag_adds_is_named_and_changes_no_recipe(folder: Path) -> None:
    record = json.loads((folder / "docs/records/quickstart_digits-short-seed1.json").read_text())
    file = yaml.safe_load(experiment_file("quickstart_digits").read_text())
    file["trainer"]["callbacks"] = [{"class_path": "callbacks.PolyDecay", "init_args": {"power": 2.0}}]
    added = {"class_path": "callbacks.ChannelsLast"}
    record["config"]["trainer"]["callbacks"] = [*copy.deepcopy(file["trainer"]["callbacks"]), added]
    flags = "--trainer.callbacks+=callbacks.ChannelsLast --trainer.precision=bf16-mixed"
    record["command"] = f"main.py fit --seed_everything 1 {flags} --trainer.max_epochs 1"
    assert comparison.changed(record) == f" with `{flags}`"
    assert comparison.changed_since(record, file) == ""
    file["trainer"]["callbacks"][0]["init_args"]["power"] = 1.0
    assert comparison.changed_since(record, file) == ", **before `trainer.callbacks.power`**"
    record["command"] = "main.py fit"
    assert comparison.changed_since(record, file) == ", **before `trainer.callbacks`**"


def test_the_short_flag_of_the_learning_rate_is_no_change_of_the_file(folder: Path) -> None:
    record = json.loads((folder / "docs/records/quickstart_digits-short-seed1.json").read_text())
    file = yaml.safe_load(experiment_file("quickstart_digits").read_text())
    record["config"]["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 0.123
    assert comparison.changed_since(record, file) == ", **before `model.optimizer.lr`**"
    record["command"] += " --lr 0.123"
    assert comparison.changed_since(record, file) == ""


def test_runs_of_another_recipe_have_a_row_of_their_own(folder: Path) -> None:
    one, other = (
        json.loads((folder / f"docs/records/quickstart_digits-short-seed{seed}.json").read_text()) for seed in (1, 2)
    )
    other["config"]["data"]["init_args"]["normalization"] = "unit"
    text = results.page([one, other], [experiment_file("quickstart_digits")], [])
    first, second = (line for line in text.splitlines() if line.startswith("| quickstart_digits |"))
    assert "1: [short-seed1]" in first
    assert "1: [short-seed2]" in second
    assert "before `data.normalization`" in second


def test_whole_and_scaled_down_runs_and_those_to_come_have_tables_of_their_own(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "quickstart_digits.yaml"
    figures = "# Published: 70.5 % test accuracy.\n# Published with --model.pool_dropout 0.5: 71 % test accuracy.\n"
    file.write_text(figures + experiment_file("quickstart_digits").read_text().replace("# Published: none", "#"))
    short = json.loads((folder / "docs/records/quickstart_digits-short-seed1.json").read_text())
    fewer = copy.deepcopy(short) | {"name": "fewer", "epochs": 8, "command": short["command"] + " --some flag"}
    fewer["samples"]["train"] -= 1000
    text = results.page(
        [short, fewer, copy.deepcopy(short) | {"name": "whole", "epochs": 8, "command": "fit"}], [file], []
    )
    whole, scaled_down, missing = (
        [line for line in section.splitlines() if line.startswith("| quickstart_digits")]
        for section in text.split("\n## ")[1:4]
    )
    assert len(whole) == 1
    assert "[whole]" in whole[0]
    assert sorted(name in line for line in scaled_down for name in ("[short-seed1]", "[fewer]")) == [0, 0, 1, 1]
    assert missing == ["| quickstart_digits `--model.pool_dropout 0.5` | 71 % test accuracy | no record |"]
    assert "## Whole runs" in (nothing := results.page([], [file], []))
    assert nothing.count("\nNone.\n") == 2


def test_short_runs_are_not_averaged_with_whole_ones(folder: Path) -> None:
    short = json.loads((folder / "docs/records/quickstart_digits-short-seed1.json").read_text()) | {"command": "fit"}
    whole = copy.deepcopy(short) | {"name": "whole", "epochs": 8, "command": "fit --seed_everything 2"}
    fewer = copy.deepcopy(whole) | {"name": "fewer"}
    fewer["samples"]["train"] -= 1000
    text = results.page([whole, short, fewer], [experiment_file("quickstart_digits")], [])
    lines = [line for line in text.splitlines() if line.startswith("| quickstart_digits |")]
    assert sorted(line.split("|")[10].split(":")[0].strip() for line in lines) == ["1", "1", "1"]
    assert sum("[whole]" in line for line in text.partition("## Scaled down")[0].splitlines()) == 1


def test_schedules_are_compared_by_their_epochs() -> None:
    """JSON has no numbers for keys."""
    rates = {"trainer": {"callbacks": [{"init_args": {"rates": {1: 0.1, 51: 0.01}}}]}}
    record = {"command": "fit", "config": json.loads(json.dumps(rates))}
    assert comparison.changed_since(record, rates) == ""
    rates["trainer"]["callbacks"][0]["init_args"]["rates"][51] = 0.02
    assert comparison.changed_since(record, rates) == ", **before `trainer.callbacks.rates.51`**"


def test_difference_and_subset(folder: Path) -> None:
    record = json.loads((folder / "docs/records/quickstart_digits-short-seed1.json").read_text())
    record["metrics"]["test/top1"], record["validation"]["val/top1"], record["epochs"] = 0.75, 0.25, 8
    experiment = {"trainer": {"max_epochs": 8}}
    assert "| 70.5 % test accuracy | **75.00 %** ± 2.0 | +4.50 |" in results.row(
        [record], "70.5 % test accuracy", experiment
    )
    record["validation"]["val/top5"] = 0.5
    assert "**25.00 %** ± 3.7 in validation | -45.50 | 50.00 % |" in results.row(
        [record], "70.5 % validation accuracy", experiment
    )
    fewer = copy.deepcopy(record)
    fewer["samples"]["train"] -= 1000
    assert "| **797 of 1797** |" in results.row([fewer], "70.5 % test accuracy", experiment)
    assert "4.50" not in results.row([fewer], "70.5 % test accuracy", experiment)
    assert fewer["classes"] == 10
    fewer["config"]["data"]["class_path"] = "datamodules.TinyImageNet"
    assert "| **797 of 110000, 10 of 200 classes** |" in results.row([fewer], "none", experiment)


def test_a_flag_excuses_only_its_own_setting() -> None:
    record = {"command": "main.py fit --model.depth 2", "config": {"model": {"init_args": {"depth": 2}}}}
    file = {"model": {"init_args": {"depth": 1, "depth_wise": True}}}
    assert comparison.changed_since(record, file) == ", **before `model.depth_wise`**"


def test_flags_that_columns_tell_are_told_once() -> None:
    flags = "--seed_everything 1 --trainer.max_epochs 3 --trainer.limit_train_batches 0.1 --then test"
    assert comparison.changed({"command": f"main.py fit {flags}", "experiment": "a"}) == ""
    for seed in ("--seed_everything 12", "--seed_everything=12"):
        assert comparison.without_seed({"command": f"main.py fit --lr 1 {seed} --then test"}) == (
            "main.py fit --lr 1 --then test"
        )


def test_pictures_of_other_files_are_told(folder: Path) -> None:
    record = json.loads((folder / "docs/records/quickstart_digits-short-seed1.json").read_text())
    assert record.pop("official") is None  # digits come with a package

    def pictures(**told: bool | None) -> str:
        return results.row([record | told], "none", {"trainer": {"max_epochs": 8}}).split("|")[7].strip()

    assert pictures() == pictures(official=None) == "1797"
    record["config"]["data"]["class_path"] = "datamodules.CIFAR10"
    record["samples"] = {"train": 45000, "val": 5000, "test": 10000}
    assert pictures() == pictures(official=None) == "60000, **files not checked**"
    assert pictures(official=False) == "60000, **not the published files**"
    assert pictures(official=True) == "60000"
    text = results.page([record, record | {"official": True}], [experiment_file("quickstart_digits")], [])
    assert sum(line.startswith("| quickstart_digits |") for line in text.splitlines()) == 2  # not averaged
    record |= {"members": {"a": 0.5, "b": 0.6}, "mean": 0.55, "ensemble": 0.7, "official": False}
    assert (
        "of quickstart_digits, **not the published files** |"
        in results.ensembles([record], experiment_file("quickstart_digits").parent)[-1]
    )


def test_a_record_is_made_without_the_pictures(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "runs/quickstart_digits/moved"
    shutil.copytree(folder / "runs/quickstart_digits/short-seed1", run)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["data"]["init_args"]["root"] = str(tmp_path / "gone")
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    assert reproduce.record_of(run)["official"] is None


def test_a_record_is_of_all_sessions_and_of_the_tested_epoch(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs/quickstart_digits/twice"
    shutil.copytree(folder / "runs/quickstart_digits/short-seed1", run)
    (session,) = json.loads((run / "sessions.json").read_text())
    (first,) = json.loads((run / "history.json").read_text())
    sessions = [session | {"seconds": 10.4, "hardware": "a"}, session | {"seconds": 20.3, "hardware": "b"}]
    history = [first | {"epoch": epoch, "val/top1": top1} for epoch, top1 in ((1, 0.9), (2, 0.4), (3, 0.5))]
    timings = [{"images_per_second": speed} for speed in (100, 110, 300)]
    for name, content in (("sessions", sessions), ("history", history), ("timings", timings)):
        (run / f"{name}.json").write_text(json.dumps(content))
    record = reproduce.record_of(run)
    assert (record["epochs"], record["seconds"], record["images_per_second"]) == (3, 31, 110)
    assert (record["hardware"], record["precision"]) == ("a, then b", session["precision"])
    assert (record["validation"]["epoch"], record["validation"]["val/top1"]) == (1, 0.9)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["init_args"]["validate_on_test"] = True  # nothing is chosen: the last checkpoint is tested
    config["data"]["init_args"]["num_workers"] = 7  # which is of the machine, as is a folder
    config["trainer"]["default_root_dir"] = "/mine"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    replace(Predictions.load(run), epoch=3).save(run / PROBABILITIES)
    record = reproduce.record_of(run)
    assert record["validation"]["val/top1"] == 0.5
    assert "num_workers" not in record["config"]["data"]["init_args"]
    assert "default_root_dir" not in record["config"]["trainer"]


def test_a_run_of_no_experiment_has_no_row(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "runs/quickstart_digits/short-seed1", tmp_path / "runs/run/own")
    assert "there is no experiments/run.yaml" in call(tmp_path, "--record", str(tmp_path / "runs/run/own"))
    assert not list((tmp_path / "docs/records").iterdir())


def test_a_run_that_was_trained_on_since_its_test_is_not_recorded(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs/quickstart_digits/longer"
    shutil.copytree(folder / "runs/quickstart_digits/short-seed1", run)
    (first,) = json.loads((run / "history.json").read_text())
    (run / "history.json").write_text(json.dumps([first, {**first, "epoch": 2, "val/top1": 1.0}]))
    with pytest.raises(ValueError, match="longer was trained on since its test"):
        reproduce.record_of(run)


@pytest.mark.parametrize(
    ("flags", "stated"),
    [
        ("--data.validate_on_test true --trainer.precision bf16-mixed", True),
        ("--trainer.callbacks+=callbacks.ChannelsLast --trainer.devices 2", True),
        ("--trainer.callbacks+=callbacks.EMA", False),
        ("--data.image_size 64", False),
        ("--model.depth 20", True),
        ("--model.depth=20", True),
        ("--model.init_args.depth 20", True),
        ("--data.init_args.validate_on_test=true", True),
        ("--config experiments/quickstart_digits.yaml", True),
        ("--config clip.yaml --config experiments/quickstart_digits.yaml", False),
        ("--ckpt_path other/last.ckpt", False),
        ("--model.depth 20 --lr 0.2", False),
        ("--model.depth 44", False),
    ],
)
def test_a_difference_is_stated_where_flags_make_no_other_experiment(folder: Path, flags: str, stated: bool) -> None:
    record = json.loads((folder / "docs/records/quickstart_digits-short-seed1.json").read_text())
    record["metrics"]["test/top1"], record["epochs"] = 0.75, 8
    record["command"] = f"main.py fit --seed_everything 1 {flags}"
    line = results.row([record], "70.5 % test accuracy", {"trainer": {"max_epochs": 8}}, "--model.depth 20")
    assert ("| +4.50 |" in line) == stated


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            "--config /some/where/experiments/a.yaml --data.source /pictures --then test --name b",
            "--config experiments/a.yaml --then test",
        ),
        (
            "'--data.source=/my pictures' -c a.yaml --data.root '/my sets' --debug --data.batch_size 8",
            "--config a.yaml --data.batch_size 8",
        ),
        ("--config='/my own/experiments/a.yaml' --lr 1", "--config experiments/a.yaml --lr 1"),
        ("--debug -c experiments/a.yaml --data.init_args.root /mine", "--config experiments/a.yaml"),
        ("--config all_my_experiments/a.yaml", "--config all_my_experiments/a.yaml"),
        *[
            (same, same)
            for same in (
                "--config a.yaml --config experiments/b.yaml",
                "--config a.yaml --ckpt_path x/last.ckpt",
                "--trainer.max_epochs 1 --config b.yaml --trainer.max_epochs 2",
                "--trainer.callbacks+=callbacks.A --trainer.callbacks.decay 1 --trainer.callbacks+=callbacks.B "
                "--trainer.callbacks.decay 2",
            )
        ],
    ],
)
def test_commands_name_no_folder_of_a_machine(typed: str, told: str) -> None:
    assert reproduce.command_of([{"command": f"main.py fit {typed}"}]) == f"main.py fit {told}"


def test_flags_of_later_sessions_are_of_the_run() -> None:
    first = {"command": "main.py fit --config experiments/a.yaml --trainer.max_epochs 1 --name b"}
    again = {"command": "main.py fit --run runs/a/b --seed_everything 7", "changed": {}}
    flags = "--trainer.max_epochs 8 --trainer.gradient_clip_val 0.1 --trainer.callbacks+=callbacks.EMA"
    other = {"command": f"main.py fit --continue runs/a/b --ckpt_path p.ckpt {flags}", "changed": {"a": [1, 8]}}
    told = reproduce.command_of([first, again, other])
    assert told == f"main.py fit --config experiments/a.yaml {flags}"


def test_flags_typed_otherwise_later_are_told_once() -> None:
    """A configuration after flags would outdo them, and so would ``--lr`` the rate that was given after it."""
    first = {"command": "main.py fit --config /a/experiments/a.yaml --lr 0.1 --data.batch_size 8 --data.root /a/data"}
    moved = {"command": "main.py fit --config=/b/experiments/a.yaml --lr 0.1", "changed": {"data.root": ["/a", "/b"]}}
    slower = {"command": "main.py fit --continue r --model.optimizer.lr 0.01", "changed": {"lr": [0.1, 0.01]}}
    told = "main.py fit --config experiments/a.yaml --lr 0.1 --data.batch_size 8"
    assert reproduce.command_of([first, moved]) == told
    assert reproduce.command_of([first, moved, slower]) == told.replace(" --lr 0.1", "") + " --model.optimizer.lr 0.01"


def test_settings_that_changed_in_training_are_told(folder: Path) -> None:
    run = folder / "runs/quickstart_digits/short-seed1"
    sessions = json.loads((run / "sessions.json").read_text())
    kept = json.dumps(sessions)
    assert reproduce.record_of(run)["changed"] == []
    sessions[0]["changed"] = {"data.init_args.root": ["a", "b"], "trainer.limit_train_batches": [0.1, 1.0]}
    try:
        (run / "sessions.json").write_text(json.dumps(sessions))
        record = reproduce.record_of(run) | {"epochs": 8}
    finally:
        (run / "sessions.json").write_text(kept)
    experiment = {"trainer": {"max_epochs": 8}}
    cells = results.row([record], "70.5 % test accuracy", experiment).split("|")
    assert cells[4].strip() == ""
    assert "**`trainer.limit_train_batches` changed in training**" in cells[10]
    assert comparison.recipe_of(experiment, record) != comparison.recipe_of(experiment, record | {"changed": []})


@pytest.mark.parametrize("name", ["limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches"])
def test_fewer_batches_are_no_whole_run(folder: Path, name: str) -> None:
    record = json.loads((folder / "docs/records/quickstart_digits-short-seed1.json").read_text()) | {"epochs": 8}
    experiment = {"trainer": {"max_epochs": 8}}
    for limit, whole in ((None, True), (0, True), (1.0, True), (0.1, False), (1, False), (20, False)):
        record["config"]["trainer"][name] = limit
        assert comparison.is_whole(record, experiment) == whole
        told = comparison.trained(record | {"epochs": 3}, 8)
        part = f", of {limit} batches" * (name == "limit_train_batches" and not whole)
        assert told == f"**shortened: 3 of 8{part}**"


def test_an_experiment_may_be_ended_by_steps(folder: Path) -> None:
    record = json.loads((folder / "docs/records/quickstart_digits-short-seed1.json").read_text())
    experiment = {"trainer": {"max_steps": 100}}
    record["config"]["trainer"]["max_steps"] = 100
    cells = results.row([record], "70.5 % test accuracy", experiment).split("|")
    assert cells[6].strip() == "1"
    assert cells[4].strip()  # a difference
    assert comparison.is_whole(record, experiment)
    record["config"]["trainer"]["limit_train_batches"] = 0.5
    assert results.row([record], "none", experiment).split("|")[6].strip() == "**shortened: 1, of 0.5 batches**"


def test_a_figure_in_validation_beside_a_run_that_had_none(folder: Path) -> None:
    record = json.loads((folder / "docs/records/quickstart_digits-short-seed1.json").read_text()) | {"epochs": 8}
    record["validation"] = {"epoch": 8, "val/top1": None}
    cells = results.row([record], "70 % validation accuracy", {"trainer": {"max_epochs": 8}}).split("|")
    assert cells[3].strip().startswith(f"**{100 * record['metrics']['test/top1']:.2f} %** ±")
    assert (cells[4].strip(), "in validation" in cells[3]) == ("", False)


def test_one_seed_twice_is_no_deviation_over_seeds(folder: Path) -> None:
    record = json.loads((folder / "docs/records/quickstart_digits-short-seed1.json").read_text())
    text = results.page([record, record | {"name": "again"}], [experiment_file("quickstart_digits")], [])
    lines = [line for line in text.splitlines() if line.startswith("| quickstart_digits |")]
    assert [line.split("|")[10].strip()[:2] for line in lines] == ["1:", "1:"]
    records = [record, record | {"name": "again"}, record | {"name": "short-seed2", "seed": 2}]
    text = results.page(records, [experiment_file("quickstart_digits")], [])
    lines = [line for line in text.splitlines() if line.startswith("| quickstart_digits |")]
    assert [line.split("|")[10].strip()[:2] for line in lines] == ["2:", "1:"]
    assert 0 < lines[0].find("[short-seed1]") < lines[0].find("[short-seed2]")
    assert "[again]" in lines[1]


def test_runs_with_other_flags_are_not_averaged_wherever_their_records_are(folder: Path) -> None:
    one = json.loads((folder / "docs/records/quickstart_digits-short-seed1.json").read_text())
    other = one | {"name": "other", "seed": 3, "command": f"{one['command']} --lr 0.05"}  # which the file says as well
    records = [one, other, one | {"name": "short-seed2", "seed": 2}]
    text = results.page(records, [experiment_file("quickstart_digits")], [])
    lines = [line for line in text.splitlines() if line.startswith("| quickstart_digits |")]
    assert sorted(line.split("|")[10].strip()[:2] for line in lines) == ["1:", "2:"]
    assert ["[other]" in line for line in lines] == ["1: [other]" in line for line in lines]


def test_a_mean_is_of_runs_that_all_have_it(folder: Path) -> None:
    record = json.loads((folder / "docs/records/quickstart_digits-short-seed1.json").read_text()) | {"epochs": 8}
    record["metrics"] |= {"test/top1": 0.5, "test/top5": 0.75}
    record |= {"validation": {"val/top1": 0.25}, "images_per_second": 100}
    early = record | {"validation": {"val/top1": None}, "metrics": record["metrics"] | {"test/top1": 0.75}}
    early["images_per_second"] = early["metrics"]["test/top5"] = None
    cells = results.row([record, early], "70 % validation accuracy", {"trainer": {"max_epochs": 8}}).split("|")
    assert [cell.strip() for cell in cells[3:6]] == ["**62.50 %** ± 17.7", "", ""]  # of the test, beside no figure
    assert cells[8].strip() == "100"


def test_numbers_are_read_as_the_command_line_reads_them(folder: Path, tmp_path: Path) -> None:
    record = json.loads((folder / "docs/records/quickstart_digits-short-seed1.json").read_text())
    assert record["config"]["model"]["init_args"]["weight_decay"] == 0.0005
    text = experiment_file("quickstart_digits").read_text()
    assert "weight_decay: 0.0005" in text
    file = tmp_path / "quickstart_digits.yaml"
    file.write_text(text.replace("weight_decay: 0.0005", "weight_decay: 5e-4"))
    assert "**before" not in results.page([record], [file], [])


def test_what_the_tool_gives_is_refused_among_the_flags(folder: Path) -> None:
    for flags in (["--seed_everything", "7"], ["--config=my.yaml"], ["--then", "validate"], ["--run", "runs/a/b"]):
        told = call(folder, "--experiment", "quickstart_digits", *flags)
        assert f"leave out {flags[0].partition('=')[0]}: this tool gives it to each run itself" in told


@pytest.mark.parametrize(("lost", "few"), [(600, False), (601, True)])
def test_a_hundredth_of_the_pictures_may_be_lost(folder: Path, lost: int, few: bool) -> None:
    record = json.loads((folder / "docs/records/quickstart_digits-short-seed1.json").read_text())
    record["config"]["data"]["class_path"] = "datamodules.CIFAR10"
    record["samples"] = {"train": 45000 - lost, "val": 5000, "test": 10000}
    assert comparison.has_few_pictures(record) == few


def test_ensembles_have_the_figure_of_their_own_members(folder: Path) -> None:
    record = json.loads((folder / "docs/records/quickstart_digits-short-seed1.json").read_text())
    record |= {"members": {"a": 0.5, "b": 0.6}, "mean": 0.55, "ensemble": 0.7}
    for experiment, figure in (("minivggnet_cifar10", " 84 % test accuracy "), ("resnet_cifar10", "  ")):
        line = results.ensembles([record | {"experiment": experiment}], PROJECT / "experiments")[-1]
        assert line.split("|")[2] == figure


def test_published_figures_of_flags() -> None:
    text = (
        "# A network.\n# Published: 9 % test accuracy.\n# Published with --model.depth 20: 8 % test accuracy.\nx: 1\n"
    )
    figures = comparison.figures_of(text)
    assert figures == {"": "9 % test accuracy", "--model.depth 20": "8 % test accuracy"}
    assert comparison.flags_with_figure(figures, "main.py fit") == ""
    assert comparison.flags_with_figure(figures, "main.py fit --model.depth 20 --a b") == "--model.depth 20"
    assert comparison.flags_with_figure(figures, "main.py fit --a b --model.depth 20") == "--model.depth 20"
    assert comparison.flags_with_figure(figures, "main.py fit --model.depth 200") == ""
    assert comparison.flags_with_figure(figures, "main.py fit --model.depth=20 --a b") == "--model.depth 20"
    assert comparison.flags_with_figure(figures, "main.py fit --model.init_args.depth=20") == "--model.depth 20"
    assert comparison.figures_of("# It names no figure.\nx: 1\n") == {"": "none"}
    of_both = {"": "none", "--model.depth 20 --data.views ten_crop": "7 % test accuracy"}
    assert comparison.flags_with_figure(of_both, "main.py fit --model.depth 20") == ""
    assert comparison.flags_with_figure(of_both, "main.py fit --data.views ten_crop --model.depth 20") != ""


def test_what_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed_everything: 1\n")
    for args, words in (
        (["--record", str(tmp_path)], "sessions.json is missing"),
        (["--experiment", "nothing"], "there is no experiments/nothing.yaml"),
        (["--experiment", "dcgan_digits"], "trains no classifier"),
        (["--table", "--trainer.max_epochs", "3"], "unknown: --trainer.max_epochs"),
    ):
        assert words in call(tmp_path, *args)
    script = [sys.executable, str(PROJECT / "tools/reproduce.py"), "--record", str(tmp_path / "none")]
    refused = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path)
    assert refused.returncode
    assert "config.yaml is missing" in refused.stderr


def test_settings_of_a_tool_are_no_experiment_to_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experiments").mkdir()
    for name, text in {"trained": "model: {}\ntrainer: {}\n", "of_a_tool": "window: 32\nmodel: a.ckpt\n"}.items():
        (tmp_path / f"experiments/{name}.yaml").write_text(text)
    monkeypatch.setattr("fit_and_test.PROJECT", tmp_path)
    assert experiment_file("trained") == tmp_path / "experiments/trained.yaml"
    with pytest.raises(ValueError, match="experiments/of_a_tool.yaml holds the settings of a tool"):
        experiment_file("of_a_tool")
    with pytest.raises(FileNotFoundError, match="there is no experiments/missing.yaml"):
        experiment_file("missing")
