"""The table of a network's layers."""

from collections.abc import Callable
from pathlib import Path

import main
from tools import inspect_model

PROJECT = Path(main.__file__).parent

FINE_TUNER = """
seed_everything: 42
model:
  class_path: lightning_modules.FineTuner
  init_args:
    backbone:
      class_path: lightning_modules.MiniVGGNet
      init_args: {num_classes: 5, image_size: 16}
    hidden: 12
data:
  class_path: datamodules.Digits
  init_args: {image_size: 16}
trainer:
  max_epochs: 3
  callbacks:
    - class_path: callbacks.Unfreeze
      init_args: {frozen: [net.body], unfrozen: {2: [net.body.1]}}
"""


def test_layers_shapes_parameters_and_what_is_frozen(call: Callable, tmp_path: Path) -> None:
    (tmp_path / "tuner.yaml").write_text(FINE_TUNER)
    done = call(inspect_model, tmp_path / "tuner.yaml")
    assert done.status == 0, done.err
    convolutions = [9 * a * b + b for a, b in ((3, 32), (32, 32), (32, 64), (64, 64))]
    body = sum(convolutions) + 2 * (32 + 32 + 64 + 64)
    hidden, last = 64 * 4 * 4 * 12 + 12, 12 * 10 + 10
    title, *lines = done.out.strip().splitlines()
    total, training = (f"{n:,}".replace(",", " ") for n in (body + hidden + last, hidden + last))
    assert title.strip() == f"FineTuner: {total} parameters, {training} of them train"
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    by_name = {row[1]: row for row in rows}
    assert [row[0] for row in rows] == [str(number) for number in range(len(rows))]
    assert by_name["net.body.0.0"][2:] == ["Conv2d", "32x16x16", "896", "frozen"]
    assert by_name["net.body.1.7"][2:] == ["Dropout", "64x4x4", "", ""]
    assert by_name["net.head.0"][2:] == ["Flatten", "1024", "", ""]
    assert by_name["net.head.1"][2:] == ["Linear", "12", f"{hidden:,}".replace(",", " "), "trains"]
    assert by_name["net.head.4"][2:] == ["Linear", "10", str(last), "trains"]


def test_mistakes_are_named(call: Callable, tmp_path: Path) -> None:
    assert "no experiment's YAML file" in call(inspect_model, tmp_path / "none.yaml").err
    assert "give an experiment's YAML file, or a run's folder" in call(inspect_model).err
    assert "a DCGAN is no classifier" in call(inspect_model, PROJECT / "experiments/dcgan_digits.yaml").err
    wrong = tmp_path / "tuner.yaml"
    wrong.write_text(FINE_TUNER.replace("[net.body]", "[net.boddy]"))
    refused = call(inspect_model, wrong)
    assert refused.status == 1
    assert "no module 'net.boddy'" in refused.err
