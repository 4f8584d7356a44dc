"""A run that stops in the middle of an epoch and goes on there ends where an uninterrupted one does."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import albumentations as A
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from torch import nn

from callbacks import LastCheckpoint, SnapshotEnsemble, WholeCheckpointIO, with_those_of_every_run
from callbacks.checkpoint_io import newest_whole
from callbacks.last_checkpoint import Paused
from callbacks.prediction_store import PredictionStore
from datamodules import BatchAugment, Digits
from lightning_modules import Classifier

STEPS = 1212 // 128  # an epoch


class Small(Classifier):
    """A network with everything that must be restored: weights, running statistics, dropout."""

    def __init__(self, image_size: int) -> None:
        super().__init__(10, image_size, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9))
        layers = [nn.Flatten(), nn.LazyLinear(32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10)]
        self.net = nn.Sequential(*layers)
        self.net(torch.zeros(2, 3, image_size, image_size))


class Stop(Callback):
    """Saves a checkpoint after some step, and ends the run there."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(f"{trainer.default_root_dir}/stopped.ckpt")
            raise KeyboardInterrupt


class Watch(Callback):
    """Fingerprints of the batches that reach the network, by step."""

    def __init__(self) -> None:
        self.seen: dict[int, float] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: tuple, batch_idx: int) -> None:
        assert batch_idx == trainer.global_step % STEPS
        self.seen[trainer.global_step] = batch[0].double().sum().item()


class End(Callback):
    """Ends the training after some step, as a limit of its time does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        trainer.should_stop = trainer.global_step >= self.step


def fit(
    folder: Path,
    shards: Path,
    *callbacks: Callback,
    ckpt_path: str | None = None,
    limits: dict[str, float] | None = None,
    **arguments: object,
) -> Trainer:
    seed_everything(3, verbose=False)
    data = Digits(root=str(shards), batch_size=128, **arguments)
    trainer = Trainer(
        **({"max_epochs": 3} | (limits or {})),
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[WholeCheckpointIO()],
        callbacks=with_those_of_every_run(list(callbacks), "", ""),
    )
    with suppress(SystemExit):  # how Lightning ends after an interruption
        trainer.fit(Small(data.input_size), datamodule=data, ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("stop", [4, STEPS - 1, STEPS, STEPS + 1, 2 * STEPS + 5])
def test_weights_batches_and_history_are_the_same(tmp_path: Path, shards: Path, stop: int) -> None:
    augment = BatchAugment(crop=16, padding=2, flip=0.5, mixup=0.2)
    arguments = {"batch_augment": augment, "transforms": [A.Affine(rotate=(-20, 20), p=1)], "num_workers": 0}
    whole, first, rest = Watch(), Watch(), Watch()
    expected = fit(tmp_path / "whole", shards, whole, **arguments)
    fit(tmp_path / "parts", shards, first, Stop(stop), **arguments)
    found = fit(tmp_path / "parts", shards, rest, ckpt_path=str(tmp_path / "parts" / "stopped.ckpt"), **arguments)
    assert list(rest.seen) == list(range(stop, 3 * STEPS))
    assert first.seen | rest.seen == whole.seen
    for name, weights in expected.lightning_module.state_dict().items():
        assert torch.equal(weights, found.lightning_module.state_dict()[name]), name
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "parts")]
    if stop == STEPS:  # after its last step an epoch is over for Lightning, which does not validate it any more
        del histories[0][0]
    assert histories[0] == histories[1]


def test_with_max_steps_the_next_epoch_follows_the_finished_one(tmp_path: Path, shards: Path) -> None:
    limits = {"max_epochs": 4, "max_steps": 3 * STEPS + 2}
    whole, rest = Watch(), Watch()
    expected = fit(tmp_path / "whole", shards, whole, limits=limits)
    fit(tmp_path / "parts", shards, Stop(STEPS + 3), limits=limits)
    last = str(tmp_path / "parts/checkpoints/last.ckpt")  # of the end of the first epoch
    found = fit(tmp_path / "parts", shards, rest, ckpt_path=last, limits=limits)
    assert list(rest.seen) == list(range(STEPS, 3 * STEPS + 2))
    assert rest.seen.items() <= whole.seen.items()
    for name, weights in expected.lightning_module.state_dict().items():
        assert torch.equal(weights, found.lightning_module.state_dict()[name]), name
    whole, parts = (json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "parts"))
    assert whole == parts


def test_a_training_whose_time_is_over_goes_on_within_the_epoch(tmp_path: Path, shards: Path) -> None:
    whole, first, rest = Watch(), Watch(), Watch()
    expected = fit(tmp_path / "whole", shards, whole)
    fit(tmp_path / "parts", shards, first, End(STEPS + 3))
    assert len(first.seen) == STEPS + 3
    found = fit(tmp_path / "parts", shards, rest, ckpt_path=str(tmp_path / "parts/checkpoints/last.ckpt"))
    assert first.seen | rest.seen == whole.seen
    for name, weights in expected.lightning_module.state_dict().items():
        assert torch.equal(weights, found.lightning_module.state_dict()[name]), name
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "parts")]
    assert histories[0] == histories[1]


@pytest.mark.parametrize(("limits", "stop"), [({"accumulate_grad_batches": 4}, 2), ({"val_check_interval": 5}, STEPS)])
def test_a_training_whose_time_is_over_ends_where_it_can_go_on(
    tmp_path: Path, shards: Path, limits: dict[str, int], stop: int
) -> None:
    """Not between batches whose gradients are added up, nor where validation is next."""

    class Over(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
            trainer.should_stop |= args[2] == 4  # the fifth batch of an epoch

    expected = fit(tmp_path / "whole", shards, limits=limits)
    fit(tmp_path / "parts", shards, Over(), limits=limits)
    last = tmp_path / "parts/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == stop
    found = fit(tmp_path / "parts", shards, ckpt_path=str(last), limits=limits)
    for name, weights in expected.lightning_module.state_dict().items():
        assert torch.equal(weights, found.lightning_module.state_dict()[name]), name
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "parts")]
    assert histories[0] == histories[1]


@pytest.mark.parametrize(("between", "warned"), [(5, True), (3, False), (STEPS, False)])
def test_a_validation_before_the_end_of_an_epoch_is_told(
    tmp_path: Path, shards: Path, caplog: pytest.LogCaptureFixture, between: int, warned: bool
) -> None:
    """The best checkpoint is of the end."""
    fit(tmp_path, shards, limits={"val_check_interval": between, "max_epochs": 1})
    assert ("the last validation comes before the end of an epoch" in caplog.text) == warned


def test_a_wish_to_stop_before_its_time_is_none(tmp_path: Path, shards: Path) -> None:
    """With min_epochs Lightning trains on, and wishes to stop at each step."""
    fit(tmp_path, shards, End(STEPS + 3), limits={"min_epochs": 3})
    last, previous = (
        torch.load(tmp_path / f"checkpoints/{name}.ckpt", weights_only=True)["global_step"]
        for name in ("last", "previous")
    )
    assert (last, previous) == (3 * STEPS, 2 * STEPS)


def test_a_pause_after_the_last_validation_of_an_epoch_waits_for_its_end(tmp_path: Path, shards: Path) -> None:
    class Ask(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
            if trainer.global_step in (3, 5 + 2):
                os.kill(os.getpid(), signal.SIGTERM)

    limits = {"val_check_interval": 5}
    fit(tmp_path / "whole", shards, limits=limits)
    last = str(tmp_path / "parts/checkpoints/last.ckpt")
    for arguments, step in (({}, 3), ({"ckpt_path": last}, STEPS)):
        with pytest.raises(Paused):
            fit(tmp_path / "parts", shards, Ask(), limits=limits, **arguments)
        assert torch.load(last, weights_only=True)["global_step"] == step
    fit(tmp_path / "parts", shards, ckpt_path=last, limits=limits)
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "parts")]
    assert histories[0] == histories[1]


@pytest.mark.parametrize(("asked", "saved"), [(STEPS + 1, 2 * STEPS), (STEPS + 3, 2 * STEPS), (2 * STEPS + 1, None)])
def test_a_pause_waits_for_validations_that_are_counted_over_epochs(
    tmp_path: Path, shards: Path, asked: int, saved: int | None
) -> None:
    """The first comes with the first batch of the second epoch, the other with the second of the third."""

    class Ask(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
            if trainer.global_step == asked:
                os.kill(os.getpid(), signal.SIGTERM)

    limits = {"val_check_interval": STEPS + 1, "check_val_every_n_epoch": None}
    fit(tmp_path / "whole", shards, limits=limits)
    with pytest.raises(Paused):
        fit(tmp_path / "parts", shards, Ask(), limits=limits)
    last = str(tmp_path / "parts/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == (saved or asked)
    fit(tmp_path / "parts", shards, ckpt_path=last, limits=limits)
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "parts")]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("limits", [{"limit_val_batches": 0, "max_epochs": 1}, {"max_steps": 4}, {"fast_dev_run": 2}])
def test_without_a_validation_the_last_network_is_tested(
    tmp_path: Path, shards: Path, limits: dict[str, float]
) -> None:
    trainer = fit(tmp_path, shards, limits=limits)
    best = torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)
    assert best["global_step"] == trainer.global_step > 0
    store = PredictionStore()
    store.on_load_checkpoint(trainer, trainer.lightning_module, best)
    assert store._epoch == trainer.current_epoch == 1
    if "limit_val_batches" in limits:
        last = str(tmp_path / "checkpoints/last.ckpt")
        fit(tmp_path, shards, limits=limits | {"max_epochs": 2}, ckpt_path=last)
        assert torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)["global_step"] == 2 * STEPS


def test_an_epoch_within_which_a_run_ends_counts(tmp_path: Path, shards: Path) -> None:
    """As where its time is over: the history has that epoch, and so has a validation of its last checkpoint."""

    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
            trainer.should_stop = trainer.global_step > STEPS

    trainer = fit(tmp_path, shards, Stop(), limits={"max_epochs": 5})
    store = PredictionStore()
    last = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    store.on_load_checkpoint(trainer, trainer.lightning_module, last)
    assert STEPS < last["global_step"] < 2 * STEPS
    assert store._epoch == json.loads((tmp_path / "history.json").read_text())[-1]["epoch"] == 2


def test_a_new_folder_gets_a_best_checkpoint_of_its_own(tmp_path: Path, shards: Path) -> None:
    fit(tmp_path / "one", shards, limits={"max_epochs": 2})
    checkpoint = tmp_path / "one/checkpoints/last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    (state,) = (state for name, state in content["callbacks"].items() if name.startswith("BestCheckpoint"))
    state["best_model_score"] = torch.tensor(1.0)  # which no later epoch can beat
    torch.save(content, checkpoint)
    fit(tmp_path / "other", shards, ckpt_path=str(checkpoint))
    assert torch.load(tmp_path / "other/checkpoints/best.ckpt", weights_only=True)["epoch"] == 2
    fit(tmp_path / "one", shards, ckpt_path=str(checkpoint))
    assert torch.load(tmp_path / "one/checkpoints/best.ckpt", weights_only=True)["epoch"] < 2


def test_a_run_does_not_go_on_from_a_snapshot(tmp_path: Path, shards: Path) -> None:
    """It is of the last step of an epoch, before its validation."""

    class Killed(Callback):
        def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.global_step == 2 * STEPS:
                raise KeyboardInterrupt

    fit(tmp_path / "whole", shards, SnapshotEnsemble(cycles=3))
    fit(tmp_path / "parts", shards, SnapshotEnsemble(cycles=3), Killed())
    assert (tmp_path / "parts/checkpoints/snapshot-2.ckpt").exists()
    newest = newest_whole(tmp_path / "parts")
    assert newest == tmp_path / "parts/checkpoints/last.ckpt"
    fit(tmp_path / "parts", shards, SnapshotEnsemble(cycles=3), ckpt_path=str(newest))
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "parts")]
    assert histories[0] == histories[1]


def test_the_state_of_another_optimizer_is_refused(tmp_path: Path, shards: Path) -> None:
    fit(tmp_path, shards, limits={"max_epochs": 1})
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    data = Digits(root=str(shards), batch_size=128)
    for build, words in (
        (torch.optim.Adam, "another optimizer than Adam, with dampening, momentum, nesterov"),
        (lambda groups: torch.optim.SGD([{"params": g} for g in groups], lr=0.1), "1 groups of weights and this one 4"),
    ):
        network = Small(data.default_image_size)
        network.configure_optimizers = lambda build=build, network=network: build(list(network.parameters())[:4])
        torch.save(checkpoint, tmp_path / "last.ckpt")
        trainer = Trainer(
            accelerator="cpu", max_epochs=2, default_root_dir=tmp_path, logger=False, callbacks=[LastCheckpoint()]
        )
        with pytest.raises(ValueError, match=words):
            trainer.fit(network, datamodule=data, ckpt_path=str(tmp_path / "last.ckpt"))
