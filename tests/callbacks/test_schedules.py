"""Schedules against their closed form, torch's own schedulers, and themselves after a resume."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, MultiStepLR, PolynomialLR
from torch.utils.data import DataLoader, TensorDataset

from callbacks import CosineDecay, InverseTimeDecay, PolyDecay, Schedule, SnapshotEnsemble, StepSchedule

STEPS = 3


class Line(LightningModule):
    """A model of one weight in two parameter groups, the second of which has a tenth of the rate."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = [{"params": [self.layer.weight]}, {"params": [self.layer.bias], "rate_factor": 0.1}]
        return torch.optim.SGD(groups, lr=0.5, momentum=0.9)


class Recorder(Callback):
    """The rate of each step, as the optimizer had it in its first group."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        rate, other = (group["lr"] for group in optimizer.param_groups)
        assert other == pytest.approx(0.1 * rate)
        self.rates.append(rate)


def fit(schedule: Schedule, epochs: int, folder: Path, checkpoint: Path | None = None, **flags: int) -> list[float]:
    recorder = Recorder()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[schedule, recorder],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **flags,
    )
    trainer.fit(Line(), DataLoader(TensorDataset(torch.ones(STEPS, 1))), ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return recorder.rates


def torch_rates(make: Callable[[torch.optim.Optimizer], LRScheduler], steps: int, each: int) -> list[float]:
    """Rates of torch's scheduler, stepped after ``each`` optimizer steps."""
    optimizer = Line().configure_optimizers()
    scheduler, rates = make(optimizer), []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % each == 0:
            scheduler.step()
    return rates


def test_poly_decay_by_epoch(tmp_path: Path) -> None:
    rates = fit(PolyDecay(power=2), 4, tmp_path)
    assert rates == pytest.approx([0.5 * (1 - epoch / 4) ** 2 for epoch in range(4) for _ in range(STEPS)])
    assert rates == pytest.approx(torch_rates(lambda o: PolynomialLR(o, 4, power=2), 4 * STEPS, STEPS))


def test_poly_decay_by_step(tmp_path: Path) -> None:
    rates = fit(PolyDecay(interval="step"), 4, tmp_path)
    assert rates == pytest.approx([0.5 * (1 - step / 12) for step in range(12)])
    assert rates == pytest.approx(torch_rates(lambda o: PolynomialLR(o, 12, power=1), 12, 1))


def test_step_schedule(tmp_path: Path) -> None:
    rates = fit(StepSchedule({3: 0.05, 4: 0.005}), 5, tmp_path)
    assert rates[::STEPS] == [0.5, 0.5, 0.05, 0.005, 0.005]  # epochs count from 1
    assert rates == pytest.approx(torch_rates(lambda o: MultiStepLR(o, [2, 3], gamma=0.1), 5 * STEPS, STEPS))


def test_inverse_time_decay(tmp_path: Path) -> None:
    rates = fit(InverseTimeDecay(0.25), 3, tmp_path)
    assert rates == pytest.approx([0.5 / (1 + 0.25 * step) for step in range(9)])
    assert rates == pytest.approx(torch_rates(lambda o: LambdaLR(o, lambda step: 1 / (1 + 0.25 * step)), 9, 1))


def test_cosine_decay(tmp_path: Path) -> None:
    rates = fit(CosineDecay(), 4, tmp_path)
    assert rates == pytest.approx(torch_rates(lambda o: CosineAnnealingLR(o, 12), 12, 1))


def test_cosine_decay_after_a_warm_up(tmp_path: Path) -> None:
    rates = fit(CosineDecay(warmup=0.25), 4, tmp_path)  # 3 of 12 steps
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert rates[3:] == pytest.approx([0.25 * (1 + math.cos(math.pi * step / 9)) for step in range(9)])


SCHEDULES = [PolyDecay(), PolyDecay(interval="step"), StepSchedule({2: 0.1, 4: 0.01}), InverseTimeDecay(0.1)]


def test_snapshots_restart_the_cosine_and_keep_each_end(tmp_path: Path) -> None:
    rates = fit(SnapshotEnsemble(cycles=3), 4, tmp_path)
    assert rates == pytest.approx(3 * torch_rates(lambda o: CosineAnnealingLR(o, 4), 4, 1))
    kept = [torch.load(tmp_path / f"checkpoints/snapshot-{cycle}.ckpt", weights_only=True) for cycle in (1, 2, 3)]
    assert [checkpoint["global_step"] for checkpoint in kept] == [4, 8, 12]
    assert len({checkpoint["state_dict"]["layer.bias"].item() for checkpoint in kept}) == 3


def test_snapshots_where_steps_do_not_divide_and_gradients_accumulate(tmp_path: Path) -> None:
    schedule = SnapshotEnsemble(cycles=5)
    rates = fit(schedule, 4, tmp_path, accumulate_grad_batches=2)  # 8 steps: cycles of 1, 2, 1, 2, 2
    assert rates == pytest.approx([0.5, 0.5, 0.25, 0.5, 0.5, 0.25, 0.5, 0.25])
    steps = [torch.load(tmp_path / f"checkpoints/snapshot-{cycle}.ckpt")["global_step"] for cycle in range(1, 6)]
    assert steps == [1, 3, 4, 6, 8]


@pytest.mark.parametrize("schedule", [*SCHEDULES, CosineDecay(warmup=0.3), SnapshotEnsemble(cycles=4)])
def test_a_resumed_run_goes_on_along_the_curve_of_its_new_length(schedule: Schedule, tmp_path: Path) -> None:
    whole = fit(schedule, 5, tmp_path)
    fit(schedule, 2, tmp_path)  # decays to its own end, which is not the longer run's
    assert fit(schedule, 5, tmp_path, checkpoint=tmp_path / "2.ckpt") == whole[2 * STEPS :]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PolyDecay(power=0), "power is 0"),
        (lambda: StepSchedule({}), "rates is empty"),
        (lambda: StepSchedule({0: 0.1}), "epochs count from 1"),
        (lambda: StepSchedule({2: -0.1}), "must be positive"),
        (lambda: InverseTimeDecay(-1), "must not be negative"),
        (lambda: CosineDecay(warmup=1), "from 0 to less than 1"),
        (lambda: SnapshotEnsemble(cycles=0), "cycles is 0"),
    ],
)
def test_impossible_settings(make: Callable[[], Schedule], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("schedule", [PolyDecay(), CosineDecay(), SnapshotEnsemble()])
def test_decay_without_an_end_is_refused(schedule: Schedule, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_epochs"):
        fit(schedule, -1, tmp_path)


def test_more_snapshots_than_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="6 steps, which do not make 7 cycles"):
        fit(SnapshotEnsemble(cycles=7), 2, tmp_path)


def test_steps_are_those_of_the_optimizer(tmp_path: Path) -> None:
    rates = fit(PolyDecay(interval="step"), 4, tmp_path, accumulate_grad_batches=2)
    assert rates == pytest.approx([0.5 * (1 - step / 8) for step in range(8)])  # three batches are two steps


def test_training_for_a_number_of_steps(tmp_path: Path) -> None:
    rates = fit(PolyDecay(interval="step"), -1, tmp_path, max_steps=5)
    assert rates == pytest.approx([0.5 * (1 - step / 5) for step in range(5)])
    assert fit(StepSchedule({2: 0.1}), -1, tmp_path, max_steps=5) == [0.5] * 3 + [0.1] * 2


def test_a_run_that_goes_on_with_fewer_steps_an_epoch_is_as_far_on_the_curve(tmp_path: Path) -> None:
    fit(CosineDecay(), 2, tmp_path)
    rates = fit(CosineDecay(), 4, tmp_path, checkpoint=tmp_path / "2.ckpt", limit_train_batches=2)
    assert rates == pytest.approx([0.25 * (1 + math.cos(math.pi * (2 * 2 + step) / (4 * 2))) for step in range(4)])


def test_max_steps_are_of_all_optimizers_together(tmp_path: Path) -> None:
    class Two(Line):
        """As generative adversarial networks are trained."""

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.rates: list[list[float]] = []

        def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
            for optimizer in self.optimizers():
                self.manual_backward(super().training_step(batch, batch_idx))
                optimizer.step()
                optimizer.zero_grad()
            self.rates.append([optimizer.param_groups[0]["lr"] for optimizer in self.optimizers()])

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return [super(Two, self).configure_optimizers() for _ in range(2)]

    network = Two()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    schedule = PolyDecay(interval="step")
    trainer = Trainer(
        max_epochs=9,
        max_steps=8,
        accelerator="cpu",
        callbacks=[schedule],
        logger=False,
        default_root_dir=tmp_path,
        **quiet,
    )
    trainer.fit(network, DataLoader(TensorDataset(torch.ones(STEPS, 1))))
    for rates in zip(*network.rates, strict=True):
        assert rates == pytest.approx([0.5 * (1 - step / 4) for step in range(4)])
