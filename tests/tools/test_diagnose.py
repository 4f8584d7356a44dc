"""The next step from a run's files: made-up runs of each pattern, and a really trained one."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy.stats import linregress
from torch import nn

import main
from datamodules import BatchAugment, Digits
from diagnosis.errors import stratified
from diagnosis.gaps import Gap, Measured, falls, largest, rises, signs, slope_of
from diagnosis.remedies import Settings, remedies
from diagnosis.run import Run
from diagnosis.transfer import transfer
from lightning_modules.saved import saved_network
from tools import diagnose

PROJECT = Path(main.__file__).parent
PLAIN = {"pool_dropout": 0.0, "hidden_dropout": 0.0}
AUGMENT = {"class_path": "datamodules.BatchAugment", "init_args": {"flip": 0.5, "padding": 4}}
FLAT = [1.0, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
FALLING = [2.0, 1.8, 1.6, 1.4, 1.2, 1.0, 0.8, 0.6]
RISING = [1.5, 1.0, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3]
SLOWLY = [1.0, 0.999, 0.998, 0.997, 0.996, 0.995, 0.994, 0.993]

Diagnose = Callable[..., str]


def a_run(
    folder: Path,
    train: float = 0.99,
    val: float = 0.98,
    test: float | None = 0.98,
    network: dict[str, object] = PLAIN,
    data: dict[str, object] | None = None,
    callbacks: Sequence[str] = (),
    losses: Sequence[float | None] = FLAT,
    val_losses: Sequence[float] = FLAT,
    pictures: int = 10_000,
) -> Path:
    """A run on nine tenths of 50 000 pictures, in its last epoch as accurate as said."""
    folder.mkdir()
    model = {"class_path": "lightning_modules.MiniVGGNet", "init_args": network}
    data = {"root": "nowhere", "val_fraction": 0.1, "batch_size": 50, **(data or {})}
    trainer = {"max_epochs": 8, "callbacks": [{"class_path": f"callbacks.{name}"} for name in callbacks]}
    config = {"model": model, "data": {"class_path": "datamodules.CIFAR10", "init_args": data}, "trainer": trainer}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    history = []
    for epoch, (loss, val_loss) in enumerate(zip(losses, val_losses, strict=True), start=1):
        behind = 0.001 * (len(losses) - epoch)
        accuracies = {"train/top1": train - behind, "val/top1": val - behind}
        history.append({"epoch": epoch, "step": 900 * epoch, "train/loss": loss, "val/loss": val_loss, **accuracies})
    (folder / "history.json").write_text(json.dumps(history))
    if test is not None:
        (folder / "report").mkdir()
        (folder / "report/metrics.json").write_text(json.dumps({"samples": pictures, "test/top1": test}))
    return folder


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Diagnose:
    """What the tool prints, in one line; of a refusal the error."""

    def call(*args: object) -> str:
        monkeypatch.setattr(sys, "argv", ["diagnose.py", *map(str, args)])
        try:
            diagnose.main()
        except SystemExit as ended:
            return f"{ended.code} {capsys.readouterr().err}"
        return " ".join(capsys.readouterr().out.split())

    return call


def steps(text: str) -> list[str]:
    """The numbered things to try."""
    return re.split(r"\(\d\) ", text.partition("in this order:")[2])[1:]


def test_high_bias(said: Diagnose, tmp_path: Path) -> None:
    text = said(a_run(tmp_path / "run", 0.60, 0.595, 0.593), "--human", "0.05")
    assert "The largest gap is bias, 35.0 points between wanted and training" in text
    assert "lightning_modules.CifarResNet" in steps(text)[0]
    assert "upper bound" not in text
    assert "assumed" not in text
    braked = {**PLAIN, "weight_decay": 0.0005, "optimizer": {"class_path": "SGD", "init_args": {"lr": 0.03}}}
    text = said(a_run(tmp_path / "braked", 0.60, 0.595, 0.593, braked, callbacks=["PolyDecay"]))
    assert "assumed to be 0" in text
    assert "--model.weight_decay, now 0.0005" in steps(text)[1]
    assert "--model.optimizer.lr, now 0.03" in steps(text)[2]
    assert "CosineDecay" not in text


def test_high_variance(said: Diagnose, tmp_path: Path) -> None:
    text = said(a_run(tmp_path / "run", 0.995, 0.80, 0.795))
    assert "The largest gap is variance, 19.5 points between training and validation" in text
    assert "--data.batch_augment datamodules.BatchAugment --data.batch_augment.padding 4" in steps(text)[0]
    assert "--model.weight_decay 0.0005" in steps(text)[1]
    assert "label_smoothing 0.1" in steps(text)[2]
    assert "callbacks.EMA" in steps(text)[3]


def test_what_is_on_is_made_stronger(said: Diagnose, tmp_path: Path) -> None:
    network = {**PLAIN, "weight_decay": 0.001, "label_smoothing": 0.1}
    data = {"batch_augment": AUGMENT}
    text = said(a_run(tmp_path / "run", 0.995, 0.80, 0.795, network, data, callbacks=["EMA"]))
    assert "is variance" in text
    assert "stronger augmentation than the present flip, padding (--data.batch_augment.mixup 0.2" in steps(text)[0]
    assert "--model.weight_decay 0.003 instead of 0.001" in steps(text)[1]
    assert "label smoothing" not in text
    assert "callbacks.EMA" not in text
    full = {name: 0.1 for name in ("mixup", "cutmix", "erasing", "brightness", "contrast", "saturation")}
    data = {"batch_augment": {"class_path": "datamodules.BatchAugment", "init_args": full}}
    text = said(a_run(tmp_path / "full", 0.995, 0.80, 0.795, network, data))
    assert "greater values of the augmentation that is on" in steps(text)[0]


def test_how_pixels_are_taken_is_no_augmentation(said: Diagnose, tmp_path: Path) -> None:
    """A run's resolved configuration has all arguments, also those that nobody set."""
    nothing = {name: value for name, value in vars(BatchAugment()).items() if not name.startswith("_")}
    assert {nothing["interpolation"], nothing["border"]} == {"linear", "replicate"}
    data = {"batch_augment": {"class_path": "datamodules.BatchAugment", "init_args": nothing}}
    text = said(a_run(tmp_path / "none", 0.995, 0.80, 0.795, data=data))
    assert steps(text)[0].startswith("augmentation, as there is none")
    data["batch_augment"]["init_args"] = {**nothing, "flip": 0.5, "crop": 24}
    text = said(a_run(tmp_path / "some", 0.995, 0.80, 0.795, data=data))
    assert "stronger augmentation than the present crop, flip (" in steps(text)[0]
    full = {name: 0.1 for name in ("mixup", "cutmix", "erasing", "brightness", "contrast", "saturation")}
    data["batch_augment"]["init_args"] = {**nothing, **full}
    text = said(a_run(tmp_path / "full", 0.995, 0.80, 0.795, data=data))
    values = ", ".join(f"{name} 0.1" for name in sorted(full))
    assert f"greater values of the augmentation that is on (--data.batch_augment: {values})" in steps(text)[0]


def test_few_pictures_want_a_pretrained_body(said: Diagnose, tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", 0.995, 0.70, 0.69, data={"batch_size": 1}, pictures=500)
    assert "as 900 pictures are few (lightning_modules.FineTuner" in said(run)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("MiniVGGNet", "FineTuner"))  # which has one
    assert "a pretrained body" not in said(run)


def test_all_that_is_on_is_weighed() -> None:
    mixed = {"batch_augment": {"init_args": {"mixup": 0.2, "flip": 0.5}}, "transforms": ["albumentations.RandomScale"]}
    told = remedies("bias", Settings("FineTuner", {"dropout": 0.5}, mixed, ("Unfreeze",), 8, Path("run")), [], None)
    assert told[0].startswith("let more of the body train")
    assert told[2] == (
        "less of what holds it back (--model.dropout, now 0.5; --data.batch_augment.mixup, now 0.2; the transform "
        "RandomScale), one at a time"
    )
    transformed = Settings("FineTuner", {}, {"transforms": mixed["transforms"]}, (), 8, Path("run"))
    assert remedies("bias", transformed, [], None)[0].startswith("a larger network (a larger backbone")
    new = "--data.batch_augment datamodules.BatchAugment --data.batch_augment."
    stronger = f"stronger augmentation than the present RandomScale ({new}mixup 0.2 or "
    assert remedies("variance", transformed, [], None)[0].startswith(stronger)
    assert f"({new}brightness 0.3 " in remedies("data mismatch", transformed, [], None)[2]


@pytest.mark.parametrize(("rate", "told"), [(0.5, ["dropout"]), (0.0, [])])
def test_dropout_that_no_setting_names_makes_training_harder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float, told: list[str]
) -> None:
    folder = a_run(tmp_path / "a")
    assert Run(folder, []).hardships == []  # nothing but the settings is there
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/best.ckpt").touch()
    monkeypatch.setattr("diagnosis.run.saved_network", lambda path: (nn.Sequential(nn.Dropout2d(rate)), {}))
    assert Run(folder, []).hardships == told


def test_data_mismatch(said: Diagnose, tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", 0.99, 0.80, 0.795)
    other = a_run(tmp_path / "train-val", test=0.97)
    text = said(run, "--train-val", other)
    assert "The largest gap is data mismatch, 17.0 points between training-validation and validation" in text
    assert "collect training pictures of that kind" in text
    assert "The next largest is variance, 2.0 points" in text


def test_overfit_validation_split(said: Diagnose, tmp_path: Path) -> None:
    text = said(a_run(tmp_path / "run", 0.99, 0.98, 0.90))
    assert "is overfitting to the validation split, 8.0 points between validation and test" in text
    assert "--data.val_fraction" in steps(text)[0]


def test_fine_and_within_noise(said: Diagnose, tmp_path: Path) -> None:
    text = said(a_run(tmp_path / "fine", 0.95, 0.949, 0.948), "--human", "0.05")
    assert "No gap exceeds two standard errors: the network is as good as wanted" in text
    assert steps(text) == []
    # small gaps, of which none is more than chance, can add up to one that is
    text = said(a_run(tmp_path / "sum", 0.95, 0.945, 0.940), "--human", "0.05")
    assert "No gap exceeds two standard errors, yet the error of test is 1.0 points more than wanted" in text
    # 3 points are more than chance among 10 000 pictures, and not among 100
    assert "is overfitting to" in said(a_run(tmp_path / "many", 0.95, 0.95, 0.92), "--human", "0.05")
    assert "No gap exceeds" in said(a_run(tmp_path / "few", 0.95, 0.95, 0.92, pictures=100), "--human", "0.05")


def test_margin_is_two_standard_errors() -> None:
    gap = Gap("variance", Measured("training", 0.10, 40_000), Measured("validation", 0.20, 5_000))
    assert gap.margin == pytest.approx(2 * np.sqrt(0.1 * 0.9 / 40_000 + 0.2 * 0.8 / 5_000), rel=0.01)
    assert gap.size == pytest.approx(0.10)
    none_wrong = Gap("bias", Measured("wanted", 0.0, None), Measured("training", 0.0, 20))
    assert 0.05 < none_wrong.margin < 0.25
    assert Measured("test", 0.1, 96).variance == pytest.approx(0.116 * 0.884 / 100)  # 9.6 + 2 wrong of 96 + 4


def test_numbers_of_pictures(said: Diagnose, tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    text = said(run)
    assert "numbers of pictures are estimates" in text
    assert re.search(r"training │ 1.00 │ 45000 .* validation │ 2.00 │ 5000 .* test │ 2.00 │ 10000 ", text)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"]["accumulate_grad_batches"] = 4
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert "training │ 1.00 │ 180000" in said(run)


def test_errors_are_of_the_best_epoch(said: Diagnose, tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", 0.995, 0.80, 0.795)
    history = json.loads((run / "history.json").read_text())
    history[2].update({"train/top1": 0.91, "val/top1": 0.85})
    (run / "history.json").write_text(json.dumps(history))
    text = said(run)
    assert (shown_error(text, "training"), shown_error(text, "validation")) == (9.0, 15.0)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["init_args"]["validate_on_test"] = True  # no epoch is chosen by the test split
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert shown_error(said(run), "training") == 0.5


def test_an_upper_bound_decides_only_what_it_can(said: Diagnose, tmp_path: Path) -> None:
    text = said(a_run(tmp_path / "run", 0.70, 0.75, 0.745, data={"batch_augment": AUGMENT}))
    assert "upper bound: it was measured under batch_augment.flip, batch_augment.padding, while" in text
    assert "First measure it" in text
    assert "--measure" in text
    assert "(bias): a larger network" in steps(text)[0]
    assert "(variance): stronger augmentation" in steps(text)[1]
    falling = a_run(tmp_path / "a run", 0.70, 0.75, 0.745, PLAIN, {"batch_augment": AUGMENT}, (), FALLING, FALLING)
    longer, *others = steps(said(falling))
    assert longer.startswith(f"train longer (python main.py fit --continue '{falling}' --trainer.max_epochs 16)")
    assert f"python tools/diagnose.py '{falling}' --measure" in said(falling)
    assert [each.partition(":")[0].rpartition(" ")[2] for each in others] == ["(bias)", "(variance)"]
    text = said(a_run(tmp_path / "sure", 0.95, 0.75, 0.745, {"hidden_dropout": 0.5, "pool_dropout": 0.0}))
    assert "upper bound: it was measured under hidden_dropout 0.5, while" in text
    assert "The largest gap is variance" in text


@pytest.mark.parametrize(
    ("training", "validation", "test", "cause", "certain"),
    [
        (0.10, 0.12, 0.30, "overfitting to the validation split", True),  # of 18, against 10 and 2
        (0.05, 0.12, 0.20, "overfitting to the validation split", False),  # of 8, but variance may be 12 instead of 7
        (0.10, 0.12, 0.20, "bias", False),
        (0.05, 0.30, 0.31, "variance", True),
    ],
)
def test_what_bias_loses_variance_gains(
    training: float, validation: float, test: float, cause: str, certain: bool
) -> None:
    many = 100_000
    errors = [
        Measured("training", training, many, at_most=True),
        Measured("validation", validation, many),
        Measured("test", test, many),
    ]
    gap, found = largest(diagnose.gaps_of(0.0, errors))
    assert (gap.cause, found) == (cause, certain)
    measured = [Measured("training", training, many), *errors[1:]]
    assert largest(diagnose.gaps_of(0.0, measured))[1]


def test_still_falling(said: Diagnose, tmp_path: Path) -> None:
    text = said(a_run(tmp_path / "run", 0.60, 0.595, 0.593, losses=FALLING, val_losses=FALLING))
    assert "train longer (python main.py fit --continue" in steps(text)[0]
    assert "--trainer.max_epochs 16" in steps(text)[0]
    assert "train longer" not in said(a_run(tmp_path / "flat", 0.60, 0.595, 0.593))


def test_overfits(said: Diagnose, tmp_path: Path) -> None:
    text = said(a_run(tmp_path / "run", 0.995, 0.80, 0.795, losses=FALLING, val_losses=RISING))
    assert "validation loss rises while training loss falls" in text
    assert "fewer epochs" in text
    assert "validation loss rises" not in said(a_run(tmp_path / "flat", 0.995, 0.80, 0.795))


def test_curves_with_noise() -> None:
    rng = np.random.default_rng(0)
    noise = 0.02 * rng.standard_normal(30)
    fast = np.exp(-np.arange(30) / 4)
    assert not falls([*(1 + noise)], 0.02)
    assert not falls([*(0.5 + fast + noise)], 0.02)  # it has arrived
    assert falls([*(1 - 0.02 * np.arange(30) + noise)], 0.02)
    assert rises([*(1 - 0.1 * np.arange(5)), *(0.6 + 0.02 * np.arange(25) + noise[:25])])
    assert not rises([*(0.5 + fast + noise)])
    assert not falls([3.0, 2.0, 1.0], 0.02)  # too few to tell
    assert not falls([*(1 - 0.0005 * np.arange(30))], 0.02)  # steadily, but next to nothing
    assert not falls([1.0] * 10 + [1.0, 0.75, 0.5, 0.3, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2], 0.02)  # it turned
    assert not rises([*(1 - 0.1 * np.arange(5)), *(0.6 + 0.0005 * np.arange(25))])
    assert not rises([1.0, *[0.5] * 8, 0.9])  # one epoch is no rise
    zigzag = 1 - 0.01 * np.arange(20) + 0.02 * (-1.0) ** np.arange(20)
    assert falls([*zigzag], 0.02)  # half of it shows what a quarter would not
    assert falls([*(zigzag / 100)], 0.02)
    assert rises([1.0, *(0.5 + 0.004 * np.arange(9))])  # by 6 % in the end, and less before
    assert rises([1.0, 0.5, 0.54, 0.57, 0.59, 0.6, 0.605, 0.61, 0.612, 0.614])  # from the lowest, though slower since


def test_slope_is_that_of_least_squares() -> None:
    values = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0])
    line = linregress(range(6), values)
    assert slope_of(values) == pytest.approx((line.slope, line.stderr))


@pytest.mark.parametrize(
    ("losses", "val_losses", "expected"),
    [
        (FALLING, FALLING, ["still falling"]),
        (FALLING, FLAT, []),  # more epochs would help training alone
        (FALLING, RISING, ["overfits"]),
        (SLOWLY, SLOWLY, []),  # not worth more epochs
        (SLOWLY, RISING, ["overfits"]),
        (FLAT, RISING, []),  # nor does it fit the training pictures better
        ([1.0, None, *FLAT[2:]], FLAT, ["diverges"]),
    ],
)
def test_signs_are_of_both_curves(losses: list[float | None], val_losses: list[float], expected: list[str]) -> None:
    pairs = zip(losses, val_losses, strict=True)
    history = [{"epoch": n, "train/loss": a, "val/loss": b} for n, (a, b) in enumerate(pairs, start=1)]
    assert signs(history, 10) == expected


def test_overfitting_shows_where_only_some_epochs_validate() -> None:
    history = [{"epoch": n, "train/loss": loss} for n, loss in enumerate(FALLING, start=1)]
    for record, loss in zip(history[1::2], (0.5, 0.8, 0.9, 1.1), strict=True):
        record["val/loss"] = loss
    assert signs(history, 10) == ["overfits"]


def test_what_was_learned_once_is_no_chance() -> None:
    history = [{"epoch": n, "train/loss": 2.0 / n, "train/top1": top1} for n, top1 in ((1, 0.5), (2, 0.1))]
    assert signs(history, 10) == []


@pytest.mark.parametrize(("top1", "expected"), [(0.109, ["does not learn"]), (0.12, [])])
def test_one_epoch_tells_only_whether_it_is_better_than_chance(top1: float, expected: list[str]) -> None:
    assert signs([{"epoch": 1, "train/loss": 2.3, "train/top1": top1}], 10) == expected


def test_diverged(said: Diagnose, tmp_path: Path) -> None:
    network = {**PLAIN, "optimizer": {"class_path": "SGD", "init_args": {"lr": 2.0}}}
    for name, losses in (("none", [*FLAT[:-1], None]), ("up", [*FLAT[:-1], 3.0])):
        text = said(a_run(tmp_path / name, 0.5, 0.5, 0.5, network, losses=losses))
        assert "the learning rate is too high" in text
        assert "--model.optimizer.lr 0.2" in steps(text)[0]
    stopped = a_run(tmp_path / "stopped", test=None)
    log = "2026-01-01 ValueError: the loss is nan in epoch {}, step 7 of 900; checkpoints are those of earlier epochs"
    (stopped / "log.txt").write_text(log.format(9))
    assert "The loss became no number" in said(stopped)
    for epoch in (5, 8):  # it went on from there
        (stopped / "log.txt").write_text(log.format(epoch))
        assert "became no number" not in said(stopped)
    (stopped / "history.json").unlink()
    assert "The loss became no number" in said(stopped)


def test_at_chance(said: Diagnose, tmp_path: Path) -> None:
    text = said(a_run(tmp_path / "run", 0.103, 0.10, 0.10))
    assert "chance among 10 classes" in text
    assert "tools/doctor.py" in steps(text)[0]
    assert "chance" not in said(a_run(tmp_path / "learns", 0.15, 0.15, 0.15))


def test_not_tested_and_validated_on_test(said: Diagnose, tmp_path: Path) -> None:
    run = a_run(tmp_path / "a run", 0.995, 0.80, test=None)
    text = said(run)
    assert f"It was not tested: python main.py test --run '{run}'" in text.replace("- ", "-")
    assert "The largest gap is variance, 19.5 points" in text
    text = said(a_run(tmp_path / "published", 0.995, 0.80, 0.795, data={"validate_on_test": True}))
    assert "Validation was on the test split" in text
    assert "is variance, 20.0 points between training and test" in text


def test_what_is_refused(said: Diagnose, tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    other = a_run(tmp_path / "other", network={**PLAIN, "label_smoothing": 0.1})
    started = a_run(tmp_path / "started")
    (started / "history.json").unlink()
    damaged = a_run(tmp_path / "damaged")
    (damaged / "report/metrics.json").write_text("{")
    for args, words in (
        ((tmp_path,), "is not a run's folder"),
        ((started,), "has no history.json"),
        ((damaged,), "metrics.json is damaged"),
        ((run, "--train-val", run), "is the run itself"),
        ((run, "--train-val", other), "a test of another network"),
        ((run, "--train-val", tmp_path / "nowhere"), "is no folder"),
        ((run, "--measure"), "has no checkpoints/best.ckpt"),
        ((run, "--human", "5"), "--human"),
        ((run, "--human", "1"), "1 is no share of wrong answers"),  # one per cent is 0.01
        ((run, "--mesure"), "mesure"),
        ((), "name the folder of a run"),
        (("--transfer", "--images", "5"), "--similar yes or no"),
    ):
        text = said(*args)
        assert words in text, words
        assert "Traceback" not in text


@pytest.mark.parametrize(
    ("images", "similar", "words"),
    [
        (1_360, "yes", "Extract features and"),
        (1_360, "no", "Extract features from an earlier layer"),
        (50_000, "yes", "Fine-tune:"),
        (50_000, "no", "Train from scratch"),
    ],
)
def test_transfer(said: Diagnose, images: int, similar: str, words: str) -> None:
    text = said("--transfer", "--images", images, "--similar", similar)
    assert words in text
    for file in re.findall(r"(?:tools|experiments)/\w+\.\w+|main\.py", text):
        assert (PROJECT / file).is_file()
    assert text == " ".join(transfer(images, similar == "yes").split())


def test_stratified() -> None:
    labels = np.random.default_rng(0).choice(3, 12_000, p=[0.7, 0.2, 0.1])
    rows = stratified(labels, 5_000)
    assert len(np.unique(rows)) == 5_000
    np.testing.assert_allclose(np.bincount(labels[rows]), np.bincount(labels) * 5_000 / 12_000, atol=1.01)
    assert sorted(stratified(labels[:50], 5_000)) == list(range(50))


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits that is far from done, tested, and tested on another split as train-val."""
    folder = tmp_path_factory.mktemp("trained")
    config = ["--config", str(PROJECT / "experiments/quickstart_digits.yaml"), "--data.root", str(shards)]
    quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        flip = ["--data.batch_augment", "datamodules.BatchAugment", "--data.batch_augment.flip", "0.5"]
        main.run_command(["fit", *config, *quiet, *flip, "--trainer.max_epochs", "1", "--name", "a", "--then", "test"])
        run = ["--run", "runs/quickstart_digits/a", "--name", "train-val"]
        main.run_command(["test", *run, "--data.split_seed", "7"])
    return folder / "runs/quickstart_digits/a"


def shown_error(text: str, of: str) -> float:
    """Of the table, in percent."""
    return float(re.search(rf"│ {of} │ (?:≤ )?([\d.]+) │", text)[1])


def test_measured(said: Diagnose, trained: Path, shards: Path, tmp_path: Path) -> None:
    data = Digits(root=str(shards))
    data.setup("test")
    network, preprocessing = saved_network(trained)
    images, labels = data.splits["train"].__getitems__(range(len(data.splits["train"])))
    inputs = (images.permute(0, 3, 1, 2).float() - preprocessing["shift"]) * preprocessing["scale"]
    with torch.inference_mode():
        wrong = (network(inputs).argmax(dim=1) != labels).double().mean().item()
    for digit in "0123456789":
        (tmp_path / digit).mkdir()
    for row in range(len(data.splits["test"])):
        image, label = data.splits["test"][row]
        Image.fromarray(image.numpy()).save(tmp_path / str(label.item()) / f"{row}.png")
    text = said(trained, "--measure", "--train-val", tmp_path)
    assert shown_error(text, "training") == pytest.approx(100 * wrong, abs=0.006)
    assert shown_error(text, "training-validation") == shown_error(text, "test") > 0
    assert "upper bound" not in text
    assert "≤" not in text
    data_of_its_own = said(trained, "--measure", "--data.root", tmp_path / "data")  # which are packed there
    assert "is not here" not in data_of_its_own
    assert re.search(rf"│ validation │ [\d.]+ │ {len(data.splits['val'])} │", data_of_its_own)
    recorded = said(trained)
    assert shown_error(recorded, "training") > 100 * wrong + 5
    assert "≤" in recorded
    for split, of in (("train", "training"), ("val", "validation")):
        assert re.search(rf"│ {of} │ (?:≤ )?[\d.]+ │ {len(data.splits[split])} │", recorded)


def test_tested_elsewhere(said: Diagnose, trained: Path, shards: Path) -> None:
    place = trained.parent / "train-val"
    figures = json.loads((place / "report/metrics.json").read_text())
    text = said(trained, "--train-val", place)
    assert shown_error(text, "training-validation") == pytest.approx(100 * (1 - figures["test/top1"]), abs=0.006)


def test_what_cannot_be_measured(said: Diagnose, trained: Path, tmp_path: Path) -> None:
    assert "the network was trained on digits-" in said(trained, "--measure", "--data.split_seed", "7")
    (tmp_path / "ten").mkdir()
    assert "ten, which is no class" in said(trained, "--train-val", tmp_path)
    (tmp_path / "ten").rename(tmp_path / "1")
    assert "holds no picture" in said(trained, "--train-val", tmp_path)
    (tmp_path / "1/broken.png").write_text("no picture")
    assert "broken.png cannot be read" in said(trained, "--train-val", tmp_path)
    checkpoint = torch.load(trained / "checkpoints/best.ckpt")
    del checkpoint["preprocessing"]
    old = a_run(tmp_path / "old")
    (old / "checkpoints").mkdir()
    torch.save(checkpoint, old / "checkpoints/best.ckpt")
    assert "lacks preprocessing" in said(old, "--measure")
