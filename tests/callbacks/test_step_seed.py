"""Random numbers of a step follow from seed, epoch, batch and process alone."""

from types import SimpleNamespace

import pytest
import torch

from callbacks import StepSeed


def drawn(
    monkeypatch: pytest.MonkeyPatch, seed: int = 1, epoch: int = 0, batch: int = 0, rank: int = 0
) -> torch.Tensor:
    monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank, strategy=strategy)
    callback = StepSeed()
    callback.on_fit_start(trainer, None)
    torch.rand(5)  # what was drawn before does not matter
    callback.on_train_batch_start(trainer, None, None, batch)
    return torch.nn.functional.dropout(torch.ones(64))


def test_the_same_place_draws_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.equal(drawn(monkeypatch, 3, 2, 7, 1), drawn(monkeypatch, 3, 2, 7, 1))


@pytest.mark.parametrize("other", [{"seed": 2}, {"epoch": 1}, {"batch": 1}, {"rank": 1}, {"epoch": 11}, {"batch": 11}])
def test_every_other_place_draws_otherwise(monkeypatch: pytest.MonkeyPatch, other: dict[str, int]) -> None:
    assert not torch.equal(drawn(monkeypatch), drawn(monkeypatch, **other))
